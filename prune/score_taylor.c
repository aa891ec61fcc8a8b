// score_taylor.c: scores from the gradients of the gates: how much the loss would change if a unit's gate went from 1 to 0.
//
// taylor, to first order: |dL/d gate|, averaged over calibration batches (Michel et al. 2019, eq. 2; Molchanov et al. 2019,
// eq. 9). fisher, to second order with the diagonal Fisher information for the Hessian: mean of (dL/d gate)^2 over single
// sequences (Theis et al. 2018, eq. 6; LeCun et al. 1990): a mean over a batch before squaring would cancel what it measures.
//
// loss_change, both terms: -g + h/2 with h the Fisher information of a token's gradient, estimated from sequences' mean gradients as
// seq_len times their variance. The first term is noise in a trained model; in one that earlier steps have damaged it is not, and its
// sign says which units do harm now.
#include <math.h>
#include <stdlib.h>

#include "prune/score.h"

struct sums {
    struct prune_scores *out;
    const struct model *model;
    int squared;
};

static void add(double *score, const float *gradient, int64_t n, int squared)
{
    for (int64_t i = 0; i < n; i++) {
        const double g = (double)gradient[i];
        score[i] += squared ? g * g : fabs(g);
    }
}

static void see(void *context, int64_t layer, const float *heads, const float *ff)
{
    const struct sums *s = context;
    const struct layer_shape *shape = &s->model->config.layer[layer];
    add(s->out->head[layer], heads, shape->n_head, s->squared);
    add(s->out->ff[layer], ff, shape->n_ff, s->squared);
}

int score_taylor(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err)
{
    struct sums sums = {out, m, 0};
    return calibration_gradients(m, c, see, &sums, err);
}

// Sums of the gradients and of their squares, over single sequences.
struct signed_sums {
    struct prune_scores *square, mean;
    const struct model *model;
};

static void see_signed(void *context, int64_t layer, const float *heads, const float *ff)
{
    struct signed_sums *s = context;
    const struct layer_shape *shape = &s->model->config.layer[layer];
    add(s->square->head[layer], heads, shape->n_head, 1);
    add(s->square->ff[layer], ff, shape->n_ff, 1);
    for (int64_t i = 0; i < shape->n_head; i++)
        s->mean.head[layer][i] += (double)heads[i];
    for (int64_t i = 0; i < shape->n_ff; i++)
        s->mean.ff[layer][i] += (double)ff[i];
}

// score: sums of squares; sum: sums.
static void change(double *score, const double *sum, int64_t n, double sequences, double T)
{
    for (int64_t i = 0; i < n; i++) {
        const double mean = sum[i] / sequences, variance = score[i] / sequences - mean * mean;
        score[i] = -mean + T * (variance < 0 ? 0 : variance) / 2;
    }
}

int score_loss_change(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err)
{
    struct signed_sums s = {.square = out, .model = m};
    struct calibration single = *c;
    single.batch = 1;
    prune_scores_init(&s.mean, &m->config);
    const int rc = calibration_gradients(m, &single, see_signed, &s, err);
    const double n = (double)calibration_batches(&single), T = (double)calibration_targets(c);
    for (int64_t l = 0; l < m->config.n_layer && rc == 0; l++) {
        change(out->head[l], s.mean.head[l], m->config.layer[l].n_head, n, T);
        change(out->ff[l], s.mean.ff[l], m->config.layer[l].n_ff, n, T);
    }
    prune_scores_release(&s.mean);
    return rc;
}

int score_fisher(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err)
{
    struct sums sums = {out, m, 1};
    struct calibration single = *c;
    single.batch = 1;
    return calibration_gradients(m, &single, see, &sums, err);
}
