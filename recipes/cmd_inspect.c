// cmd_inspect.c: `pdq inspect PATH`: shape, parameters, storage types, tokenizer and where a model loads.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/model/safetensors.h"
#include "quant/gguf.h"
#include "quant/gguf_model.h"
#include "recipes/command.h"
#include "recipes/forecast.h"
#include "recipes/open_model.h"
#include "recipes/shape.h"
#include "recipes/weight_errors.h"

struct inspect_options {
    int tensors, gzip, json;
    char *against;
};
#define ROW(name, kind, field) name, kind, offsetof(struct inspect_options, field)
static const struct option table[] = {
    {ROW("tensors", OPTION_BOOL, tensors), "false", 0, 0, NULL, NULL, "list every tensor"},
    {ROW("gzip", OPTION_BOOL, gzip), "false", 0, 0, NULL, NULL,
     "also the weights' size after gzip: how much of it is redundancy"},
    {ROW("against", OPTION_STRING, against), NULL, 0, 0, NULL, "MODEL",
     "also how far each matrix lies from this model's: relative error and largest difference"},
    {ROW("json", OPTION_BOOL, json), "false", 0, 0, NULL, NULL, "print one JSON object and nothing else"},
    {.name = NULL}};
#undef ROW

static void add_tensor(struct json *list, const char *name, const char *type, const int64_t *dim, int n_dim,
                       int64_t bytes) {
    struct json *o = json_object(), *shape = json_array();
    for (int i = 0; i < n_dim; i++)
        json_push(shape, json_from_number((double)dim[i]));
    json_set_string(o, "name", name);
    json_set_string(o, "type", type);
    json_set(o, "shape", shape);
    json_set_number(o, "bytes", (double)bytes);
    json_push(list, o);
}

static int list_safetensors(const char *path, struct json *list, struct error *err) {
    struct safetensors s;
    TRY(safetensors_open(&s, path, err));
    for (int64_t i = 0; i < s.n_tensor; i++) {
        const struct safetensor *t = &s.tensor[i];
        add_tensor(list, t->name, t->dtype_name, t->dim, t->n_dim, t->bytes);
    }
    safetensors_close(&s);
    return 0;
}

static int list_gguf(const char *path, struct json *list, struct json *o, struct error *err) {
    struct gguf g;
    TRY(gguf_open(&g, path, err));
    struct json *keys = json_object();
    for (int64_t i = 0; i < g.n_key; i++) {
        char *text = gguf_key_text(&g.key[i]);
        json_set_string(keys, g.key[i].name, text);
        free(text);
    }
    json_set(o, "keys", keys);
    for (int64_t i = 0; i < g.n_tensor; i++) {
        const struct gguf_tensor *t = &g.tensor[i];
        add_tensor(list, t->name, t->format->name, t->dim, t->n_dim, t->bytes);
    }
    gguf_close(&g);
    return 0;
}

// Bytes and number of tensors by storage type.
static struct json *sum_types(const struct json *list) {
    struct json *o = json_object();
    for (const struct json *t = json_first(list); t; t = json_next(t)) {
        const char *type = json_string(json_get(t, "type"));
        struct json *sum = json_get(o, type);
        if (!sum) {
            json_set(o, type, json_object());
            sum = json_get(o, type);
        }
        json_set_number(sum, "tensors", json_number(json_get(sum, "tensors")) + 1);
        json_set_number(sum, "bytes", json_number(json_get(sum, "bytes")) + json_number(json_get(t, "bytes")));
    }
    return o;
}

static struct json *layers_json(const struct config *c) {
    struct json *list = json_array();
    for (int64_t l = 0; l < c->n_layer; l++) {
        struct json *o = json_object();
        json_set_number(o, "heads", (double)c->layer[l].n_head);
        json_set_number(o, "kv_heads", (double)c->layer[l].n_kv_head);
        json_set_number(o, "ffn", (double)c->layer[l].n_ff);
        json_push(list, o);
    }
    return list;
}

static void add_shape(struct json *o, const struct config *c) {
    json_set_string(o, "type", c->model_type);
    json_set_number(o, "parameters", (double)config_parameters(c));
    json_set_number(o, "layers", (double)c->n_layer);
    json_set_number(o, "hidden", (double)c->hidden);
    json_set_number(o, "head_dim", (double)c->head_dim);
    json_set_number(o, "vocab", (double)c->vocab);
    json_set_number(o, "context", (double)c->context);
    json_set_bool(o, "tied_embeddings", c->tie_embeddings);
    json_set_bool(o, "uniform", config_uniform(c));
    json_set(o, "shape", layers_json(c));
    json_set_number(o, "flops_per_token",
                    model_flops_per_token(c, c->context > 0 && c->context < 512 ? c->context : 512));
}

static int add_gzip(struct json *o, const struct opened *m, struct error *err) {
    int64_t bytes;
    TRY(model_gzip_bytes(m->path, &bytes, err));
    json_set_number(o, "gzip_bytes", (double)bytes);
    return 0;
}

static int add_weight_errors(struct json *o, struct opened *m, const char *against, struct error *err) {
    struct opened from;
    TRY(opened_look(&from, against, 1, err));
    int rc = opened_map(&from, err);
    rc = rc == 0 ? opened_map(m, err) : rc;
    struct json *list = rc == 0 ? weight_errors(m, &from, err) : NULL;
    if (list)
        json_set(o, "weight_errors", list);
    opened_release(&from);
    return list ? 0 : -1;
}

static void print_weight_errors(const struct json *list) {
    if (list)
        printf("  %-40s %6s %9s %9s\n", "", "bits", "error", "largest");
    for (const struct json *t = json_first(list); t; t = json_next(t)) {
        const struct json *bits = json_get(t, "bits");
        printf("  %-40s ", json_string(json_get(t, "name")));
        if (bits)
            printf("%6.3f", json_number(bits));
        else
            printf("%6s", "-");
        printf(" %9.6f %9.6f\n", json_number(json_get(t, "relative_error")), json_number(json_get(t, "largest_error")));
    }
}

static void print_types(const struct json *types) {
    for (const struct json *t = json_first(types); t; t = json_next(t))
        printf("  %-6s %5.0f tensors %14.0f bytes\n", json_key(t), json_number(json_get(t, "tensors")),
               json_number(json_get(t, "bytes")));
}

static void print_text(const struct json *o, const struct config *c, int tensors) {
    char shape[SHAPE_TEXT];
    printf("%s: %s, %.3f M parameters, %.0f bytes of weights\n", json_string(json_get(o, "path")), c->model_type,
           (double)config_parameters(c) / 1e6, json_number(json_get(o, "bytes")));
    shape_text(shape, c);
    printf("  %s\n", shape);
    for (int64_t l = 0; l < c->n_layer && !config_uniform(c) && model_is_language(c); l++)
        printf("    layer %ld: %ld/%ld heads, FFN %ld\n", (long)l, (long)c->layer[l].n_head, (long)c->layer[l].n_kv_head,
               (long)c->layer[l].n_ff);
    if (model_is_language(c))
        printf("  vocabulary %ld, context %ld, %s output head, rope base %g\n", (long)c->vocab, (long)c->context,
           c->tie_embeddings ? "tied" : "own", c->rope_theta);
    else
        printf("  %ld classes\n", (long)c->vocab);
    if (json_get(o, "tokenizer"))
        printf("  tokenizer: %s, %.0f tokens\n", json_string(json_get(o, "tokenizer")),
           json_number(json_get(o, "tokens")));
    printf("  hash %s\n", json_string(json_get(o, "hash")));
    print_types(json_get(o, "types"));
    if (json_get(o, "gzip_bytes"))
        printf("  after gzip %.0f bytes\n", json_number(json_get(o, "gzip_bytes")));
    for (const struct json *l = json_first(json_get(o, "loads")); l; l = json_next(l))
        printf("  %s: %s\n", json_key(l), json_string(l));
    for (const struct json *k = json_first(json_get(o, "keys")); k && tensors; k = json_next(k))
        printf("  %s = %s\n", json_key(k), json_string(k));
    for (const struct json *t = json_first(json_get(o, "tensors")); t && tensors; t = json_next(t)) {
        char *dims = json_text(json_get(t, "shape"), 0);
        printf("  %-40s %-6s %s\n", json_string(json_get(t, "name")), json_string(json_get(t, "type")), dims);
        free(dims);
    }
    print_weight_errors(json_get(o, "weight_errors"));
}

static int describe(const struct inspect_options *o, struct opened *m, struct error *err) {
    struct json *object = json_object(), *tensors = json_array();
    char hash[HASH_TEXT] = "";
    json_set_string(object, "path", m->path);
    json_set_string(object, "format", m->is_gguf ? "GGUF" : "Hugging Face");
    add_shape(object, &m->model->config);
    json_set_number(object, "bytes", (double)model_bytes(m->path));
    if (m->tokenizer) {
        json_set_string(object, "tokenizer", path_base(tokenizer_source(m->tokenizer)));
        json_set_number(object, "tokens", (double)tokenizer_size(m->tokenizer));
    }
    json_set(object, "loads", loads_json(&m->model->config, m->is_gguf));
    int status = model_hash(m->path, 0, hash, err);
    json_set_string(object, "hash", hash);
    if (status == 0)
        status = m->is_gguf ? list_gguf(m->path, tensors, object, err) : list_safetensors(m->path, tensors, err);
    json_set(object, "types", sum_types(tensors));
    json_set(object, "tensors", tensors);
    if (status == 0 && o->gzip)
        status = add_gzip(object, m, err);
    if (status == 0 && o->against)
        status = add_weight_errors(object, m, o->against, err);
    if (status == 0 && o->json) {
        if (!o->tensors) {
            json_remove(object, "tensors");
            json_remove(object, "keys");
        }
        char *text = json_text(object, 1);
        puts(text);
        free(text);
    } else if (status == 0) {
        print_text(object, &m->model->config, o->tensors);
    }
    json_free(object);
    return status;
}

static int run(struct call *call, struct error *err) {
    struct opened m;
    if (opened_look(&m, call->words[0], 1, err) < 0)
        return EXIT_FAILED;
    int status = describe(call->options, &m, err);
    opened_release(&m);
    return status < 0 ? EXIT_FAILED : EXIT_FINE;
}

const struct command cmd_inspect = {.name = "inspect",
                                    .arguments = "PATH [--tensors] [--against MODEL] [--json]",
                                    .summary =
                                        "show what a model is: shape, storage types, tokenizer, where it loads",
                                    .table = table,
                                    .size = sizeof(struct inspect_options),
                                    .shared_table = common_option_table,
                                    .shared_size = sizeof(struct common_options),
                                    .min_words = 1,
                                    .max_words = 1,
                                    .run = run};
