// bias.c: see bias.h.
#include "quant/bias.h"

#include <stdlib.h>

#include "common/base/threads.h"
#include "quant/overlay.h"

struct means { // of one kind of input
    double *sum; // [C]
    int64_t n;
};

static void see(void *context, enum layer_input kind, const struct tensor *x)
{
    struct means *m = context;
    const int64_t C = tensor_columns(x), N = tensor_rows(x);
    (void)kind;
    m->n += N;
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < C; c++)
        for (int64_t n = 0; n < N; n++)
            m->sum[c] += (double)x->data[n * C + c];
}

// Every table of weights has a matrix's bias right behind it.
static const struct parameter *bias_of(const struct model *m, const struct parameter *p)
{
    const int64_t spec = p->spec - m->arch->specs;
    if (spec + 1 >= m->arch->n_specs)
        return NULL;
    const struct parameter *next = m->slot[(p->layer + 1) * m->arch->n_specs + spec + 1];
    return next && next->t.n_dim == 1 && tensor_count(&next->t) == tensor_rows(&p->t) && !parameter_is_norm(next) ? next : NULL;
}

static void correct(struct model *changed, const struct parameter *p, const struct parameter *bias, const struct means *x,
                    const struct rounding *how)
{
    const int64_t D = tensor_rows(&p->t), C = tensor_columns(&p->t);
    float *W = xmalloc((size_t)(2 * D * C) * sizeof *W, p->name), *read = W + D * C, *b = overlay_values(changed, bias);
    tensor_read_rows(&p->t, 0, D, W);
    rounding_values(how, W, D, C, read);
    for (int64_t d = 0; d < D; d++) {
        double lost = 0;
        for (int64_t c = 0; c < C; c++)
            lost += ((double)W[d * C + c] - (double)read[d * C + c]) * x->sum[c] / (double)x->n;
        b[d] = (float)((double)b[d] + lost);
    }
    free(W);
}

static int correct_kind(struct model *changed, const struct model *m, struct layer_walk *walk, int layer, enum layer_input kind,
                        const struct rescale_options *o)
{
    struct means x = {0};
    int n = 0;
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i], *bias = p->layer == layer && p->t.n_dim == 2 ? bias_of(m, p) : NULL;
        if (!bias || layer_input_of(p) != kind)
            continue;
        const struct rounding how = o->rounding(o->context, p);
        n++;
        if (!rounding_rounds(&how, tensor_columns(&p->t)))
            continue;
        if (!x.sum) {
            x.sum = xcalloc((size_t)tensor_columns(&p->t), sizeof *x.sum, "means of inputs");
            layer_walk_look(walk, layer, 1U << kind, see, &x);
        }
        correct(changed, p, bias, &x, &how);
    }
    free(x.sum);
    return n;
}

struct model *correct_biases(const struct model *m, const struct walk_text *text, const struct rescale_options *o, struct error *err)
{
    struct model *walked = overlay_new(m), *changed = overlay_new(m);
    struct layer_walk walk;
    int n = 0;
    layer_walk_begin(&walk, walked, text);
    for (int l = 0; l < m->config.n_layer && !interrupted(); l++) {
        overlay_hold_layer(walked, l);
        for (int kind = 0; kind < LAYER_INPUTS; kind++)
            n += correct_kind(changed, m, &walk, l, (enum layer_input)kind, o);
        layer_walk_advance(&walk, l);
        overlay_drop_layer(walked, l);
    }
    layer_walk_end(&walk);
    model_free(walked);
    if (n)
        return changed;
    model_free(changed);
    if (interrupt_check(err) == 0)
        error_set(err, "\"bias_correction\": no matrix of this %s model has a bias that could take it; leave it out", m->config.model_type);
    return NULL;
}
