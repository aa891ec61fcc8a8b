// sparse_score.c: what single weights are worth.
#include <math.h>

#include "common/base/random.h"
#include "prune/sparse.h"

static void magnitude(const struct sparse_matrix *m, float *score)
{
    for (int64_t i = 0; i < tensor_count(m->w); i++)
        score[i] = fabsf(m->w->data[i]);
}

static void gradient(const struct sparse_matrix *m, float *score)
{
    for (int64_t i = 0; i < tensor_count(m->w); i++)
        score[i] = fabsf(m->w->data[i] * m->gradient[i]);
}

static void wanda(const struct sparse_matrix *m, float *score)
{
    const int64_t C = tensor_columns(m->w);
    for (int64_t i = 0; i < tensor_count(m->w); i++)
        score[i] = fabsf(m->w->data[i]) * (float)sqrt(m->norm[i % C]);
}

static void at_random(const struct sparse_matrix *m, float *score)
{
    for (int64_t i = 0; i < tensor_count(m->w); i++)
        score[i] = (float)random_uniform(m->random);
}

const struct sparse_score sparse_score_table[] = {
    {"magnitude", NEEDS_NOTHING, 0, "|w| (Han et al. 2015, section 3)", magnitude},
    {"gradient", NEEDS_GRADIENTS, 0, "|w dL/dw| on the calibration text (SNIP, Lee et al. 2019, eq. 6)", gradient},
    {"wanda", NEEDS_NORMS, 1, "|w| times the L2 norm of its input, within a row (Sun et al. 2024, eq. 1)", wanda},
    {"sparsegpt", NEEDS_MOMENTS, 0, "w^2 / [H^-1], and the weights that stay make up for those that go (Frantar and Alistarh 2023)", NULL},
    {"random", NEEDS_NOTHING, 0, "the control: uniform numbers from the seed", at_random},
    {0},
};
