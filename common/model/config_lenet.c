// config_lenet.c: the config.json of a multi-layer perceptron: see config.h.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/model/config.h"

#define SIZES_MAX 64
#define WIDTH_MAX ((int64_t)1 << 20)

int config_is_lenet(const struct config *c) { return strcmp(c->model_type, "lenet") == 0; }

static int read_sizes(const struct json *list, const char *where, int64_t size[SIZES_MAX], int64_t *n, struct error *err)
{
    *n = list && json_kind(list) == JSON_ARRAY ? json_count(list) : 0;
    if (*n < 3 || *n > SIZES_MAX)
        return error_set(err,
                         "%s: layer_sizes is %s; expected a list of 3 to %d whole numbers: inputs, hidden widths, classes, as "
                         "in [784, 300, 100, 10]",
                         where, list ? json_kind_name(json_kind(list)) : "missing", SIZES_MAX);
    const struct json *v = json_first(list);
    for (int64_t i = 0; i < *n; i++, v = json_next(v)) {
        const double x = json_kind(v) == JSON_NUMBER ? json_number(v) : 0;
        if (x < 1 || x > (double)WIDTH_MAX || x != floor(x))
            return error_set(err, "%s: layer_sizes[%lld]: expected a whole number from 1 to %lld", where, (long long)i,
                             (long long)WIDTH_MAX);
        size[i] = (int64_t)x;
    }
    return 0;
}

int config_lenet_read(struct config *c, const struct json *o, const char *where, struct error *err)
{
    const char *activation, *initializer;
    int64_t size[SIZES_MAX], n;
    TRY(json_get_string(o, where, "hidden_act", "relu", &activation, err));
    if (strcmp(activation, "relu") != 0)
        return error_set(err, "%s: hidden_act \"%s\" is not supported for lenet; expected relu", where, activation);
    TRY(json_get_string(o, where, "initializer", "glorot_normal", &initializer, err));
    c->lecun_init = strcmp(initializer, "lecun_normal") == 0;
    if (!c->lecun_init && strcmp(initializer, "glorot_normal") != 0)
        return error_set(err, "%s: initializer \"%s\" is not supported; expected glorot_normal or lecun_normal", where, initializer);
    TRY(json_get_double(o, where, "image_mean", 0, -1e6, 1e6, &c->image_mean, err));
    TRY(json_get_double(o, where, "image_std", 1, 1e-6, 1e6, &c->image_std, err));
    TRY(read_sizes(json_get(o, "layer_sizes"), where, size, &n, err));
    c->n_layer = n - 2;
    c->hidden = size[0];
    c->vocab = size[n - 1];
    c->bos_id = c->eos_id = -1;
    c->layer = xcalloc((size_t)c->n_layer, sizeof *c->layer, "layer shapes");
    for (int64_t l = 0; l < c->n_layer; l++)
        c->layer[l].n_ff = size[l + 1];
    return 0;
}

struct json *config_lenet_json(const struct config *c)
{
    struct json *o = c->source ? json_copy(c->source) : json_object(), *list = json_array();
    json_push(list, json_from_number((double)c->hidden));
    for (int64_t l = 0; l < c->n_layer; l++)
        json_push(list, json_from_number((double)c->layer[l].n_ff));
    json_push(list, json_from_number((double)c->vocab));
    json_set_string(o, "model_type", c->model_type);
    json_set(o, "layer_sizes", list);
    json_set_string(o, "hidden_act", "relu");
    json_set_number(o, "image_mean", c->image_mean);
    json_set_number(o, "image_std", c->image_std);
    json_set_string(o, "initializer", c->lecun_init ? "lecun_normal" : "glorot_normal");
    return o;
}
