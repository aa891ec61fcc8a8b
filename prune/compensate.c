// compensate.c: after a cut, what the removed units add on average goes into the output projection's bias (FLAP, An et al. 2024, eq.
// 4): b += sum over the removed columns j of W_j mean(x_j), on the calibration text.
//
// A Llama may have biases on its feed-forward projections (mlp_bias), and gets them here, zero on gate and up; a bias on the attention's
// output comes in its config together with biases on q, k and v, which other tools take for full heads only, so it is used where it is
// there and not added.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "prune/score.h"

struct means { // of what each layer's output projections read
    double **heads, **ff; // [n_layer][columns] sums over rows
    const struct config *config;
    int64_t rows;
};

static void add_columns(double *sum, const struct tensor *x)
{
    const int64_t N = x ? tensor_rows(x) : 0, C = x ? tensor_columns(x) : 0;
    for (int64_t n = 0; n < N; n++)
        for (int64_t c = 0; c < C; c++)
            sum[c] += (double)x->data[n * C + c];
}

static void see(void *context, const struct taps *taps, int64_t rows)
{
    struct means *s = context;
    for (int64_t l = 0; l < s->config->n_layer; l++) {
        add_columns(s->heads[l], taps->heads[l]);
        add_columns(s->ff[l], taps->ff[l]);
    }
    s->rows += rows;
}

// The bias beside a projection: its name with .bias for .weight; NULL: it has none.
static struct parameter *bias_of(struct model *m, const char *weight)
{
    char name[96];
    snprintf(name, sizeof name, "%.*s.bias", (int)(strlen(weight) - strlen(".weight")), weight);
    return model_find(m, name);
}

// bias += W (mean of what is not kept)
static void add_removed(const struct parameter *w, const double *sum, double rows, const int64_t *kept, int64_t n_kept, int64_t width,
                        float *bias)
{
    const int64_t D = tensor_rows(&w->t), C = tensor_columns(&w->t);
    unsigned char *stays = xcalloc((size_t)C, 1, "kept columns");
    for (int64_t k = 0; k < n_kept * width; k++)
        stays[kept[k / width] * width + k % width] = 1;
    for (int64_t d = 0; d < D; d++) {
        double b = 0;
        for (int64_t c = 0; c < C; c++)
            if (!stays[c])
                b += (double)w->t.data[d * C + c] * sum[c] / rows;
        bias[d] += (float)b;
    }
    free(stays);
}

// A copy with biases on the feed-forward projections.
static struct model *with_biases(const struct model *cut)
{
    struct config c;
    config_copy(&c, &cut->config);
    c.mlp_bias = 1;
    struct model *out = model_new(&c, 1);
    config_release(&c);
    for (int i = 0; i < cut->n_parameter; i++) {
        const struct parameter *p = &cut->parameter[i];
        memcpy(model_find(out, p->name)->t.data, p->t.data, (size_t)tensor_count(&p->t) * sizeof(float));
    }
    return out;
}

struct model *compensate(struct model *m, const struct model *cut, const struct plan *plan, const struct calibration *c, struct error *err)
{
    const struct config *config = &m->config;
    if (strcmp(config->model_type, "llama") != 0) {
        error_set(err, "prune.compensate: a %s model has no biases on its feed-forward projections; leave it out, or take \"reconstruct\"",
                  config->model_type);
        return NULL;
    }
    struct means s = {.config = config};
    s.heads = xcalloc((size_t)(2 * config->n_layer), sizeof *s.heads, "means");
    s.ff = s.heads + config->n_layer;
    for (int64_t l = 0; l < config->n_layer; l++) {
        s.heads[l] = xcalloc((size_t)(config->layer[l].n_head * config->head_dim), sizeof **s.heads, "means");
        s.ff[l] = xcalloc((size_t)config->layer[l].n_ff, sizeof **s.ff, "means");
    }
    struct model *out = calibration_forward(m, c, TAP_HEADS | TAP_FF, see, &s, err) < 0 ? NULL : with_biases(cut);
    for (int i = 0; i < m->n_parameter && out; i++) {
        const struct parameter *p = &m->parameter[i];
        const int is_heads = p->spec->columns == AXIS_HEADS, is_ff = p->spec->columns == AXIS_FF;
        struct parameter *bias = p->t.n_dim == 2 && (is_heads || is_ff) ? bias_of(out, p->name) : NULL;
        if (!bias)
            continue;
        const struct layer_plan *l = &plan->layer[p->layer];
        add_removed(p, is_heads ? s.heads[p->layer] : s.ff[p->layer], (double)s.rows, is_heads ? l->head : l->ff,
                    is_heads ? l->n_head : l->n_ff, axis_unit(config, p->spec->columns), bias->t.data);
    }
    for (int64_t l = 0; l < config->n_layer; l++) {
        free(s.heads[l]);
        free(s.ff[l]);
    }
    free(s.heads);
    return out;
}
