// score_taylor.c: scores from the gradients of the gates: how much the loss would change if a unit's gate went from 1 to 0.
//
// taylor, to first order: |dL/d gate|, averaged over calibration batches (Michel et al. 2019, eq. 2; Molchanov et al. 2019,
// eq. 9). fisher, to second order with the diagonal Fisher information for the Hessian: mean of (dL/d gate)^2 over single
// sequences (Theis et al. 2018, eq. 6; LeCun et al. 1990): a mean over a batch before squaring would cancel what it measures.
#include <math.h>

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
    (void)err;
    struct sums sums = {out, m, 0};
    calibration_gradients(m, c, see, &sums);
    return 0;
}

int score_fisher(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err)
{
    (void)err;
    struct sums sums = {out, m, 1};
    struct calibration single = *c;
    single.batch = 1;
    calibration_gradients(m, &single, see, &sums);
    return 0;
}
