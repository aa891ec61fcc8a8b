// at_init.c: masks before training: scores of a model's fresh weights.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "prune/lottery.h"

static int score_magnitude(struct trainer *t, struct model *m, int64_t batches, float *score, struct error *err)
{
    (void)t;
    (void)batches;
    (void)err;
    for (int64_t i = 0; i < m->n_element; i++)
        score[i] = fabsf(m->data[i]);
    return 0;
}

static int score_random(struct trainer *t, struct model *m, int64_t batches, float *score, struct error *err)
{
    (void)batches;
    (void)err;
    mask_random_scores(m, t->seed, "random at initialisation", score);
    return 0;
}

// |w dL/dw| (Lee, Ajanthan and Torr 2019, equation 6).
static int score_snip(struct trainer *t, struct model *m, int64_t batches, float *score, struct error *err)
{
    (void)err;
    trainer_gradient(t, 0, batches);
    for (int64_t i = 0; i < m->n_element; i++)
        score[i] = fabsf(m->data[i] * m->grad[i]);
    return 0;
}

static double norm_of(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

#define STEP_SHARE 3e-4 // of the weights' norm, by which they are moved for a finite difference: few units cross zero, rounding stays small

// w H g: what removing w does to the gradient's flow, to first order (Wang, Zhang and Grosse 2020, equation 8, with the sign by
// which more is kept). H g is a central difference of gradients along g; vectors are left where they are.
static int score_grasp(struct trainer *t, struct model *m, int64_t batches, float *score, struct error *err)
{
    (void)err;
    const size_t bytes = (size_t)m->n_element * sizeof(float);
    float *weight = xmalloc(bytes + 1, "weights"), *along = xmalloc(bytes + 1, "a gradient");
    memcpy(weight, m->data, bytes);
    trainer_gradient(t, 0, batches);
    memcpy(along, m->grad, bytes);
    for (int i = 0; i < m->n_parameter; i++)
        if (!mask_is_cut(m, &m->parameter[i]))
            memset(along + m->parameter[i].offset, 0, (size_t)tensor_count(&m->parameter[i].t) * sizeof *along);
    const double scale = STEP_SHARE * norm_of(weight, m->n_element) / norm_of(along, m->n_element);
    memset(score, 0, bytes);
    for (int sign = 1; sign >= -1; sign -= 2) {
        for (int64_t i = 0; i < m->n_element; i++)
            m->data[i] = weight[i] + (float)(sign * scale) * along[i];
        trainer_gradient(t, 0, batches);
        for (int64_t i = 0; i < m->n_element; i++)
            score[i] += (float)(sign / (2 * scale)) * m->grad[i];
    }
    memcpy(m->data, weight, bytes);
    for (int64_t i = 0; i < m->n_element; i++)
        score[i] *= weight[i];
    free(weight);
    free(along);
    return 0;
}

// y[O] = |w| x (forward), or y[I] = |w|^T x.
static void absolute_product(const struct tensor *w, const double *x, double *y, int transposed)
{
    const int64_t O = w->dim[0], I = w->dim[1];
    memset(y, 0, (size_t)(transposed ? I : O) * sizeof *y);
    for (int64_t o = 0; o < O; o++)
        for (int64_t i = 0; i < I; i++)
            y[transposed ? i : o] += fabs((double)w->data[o * I + i]) * x[transposed ? o : i];
}

// Synaptic saliency: w dR/dw with R = 1^T (product of all |W|) 1 (Tanaka et al. 2020, equation 2). No data is needed. For a chain of
// matrices only.
static int score_synflow(struct trainer *t, struct model *m, int64_t batches, float *score, struct error *err)
{
    (void)t;
    (void)batches;
    if (model_is_language(&m->config))
        return error_set(err, "synflow: the model is no chain of matrices; use it on a multi-layer perceptron (lenet)");
    const int64_t n = m->config.n_layer + 1;
    struct parameter **chain = xcalloc((size_t)n, sizeof *chain, "matrices");
    for (int i = 0; i < m->n_parameter; i++)
        if (mask_is_cut(m, &m->parameter[i]))
            chain[m->parameter[i].layer < 0 ? n - 1 : m->parameter[i].layer] = &m->parameter[i];
    double **in = xcalloc((size_t)n + 1, sizeof *in, "synaptic flow"); // in[l]: into matrix l; in[n]: out of the last
    for (int64_t l = 0; l <= n; l++) {
        const int64_t width = l < n ? chain[l]->t.dim[1] : chain[n - 1]->t.dim[0];
        in[l] = xmalloc((size_t)width * sizeof **in, "synaptic flow");
        for (int64_t i = 0; l == 0 && i < width; i++)
            in[0][i] = 1;
        if (l > 0)
            absolute_product(&chain[l - 1]->t, in[l - 1], in[l], 0);
    }
    double *back = in[n]; // d R / d (what comes out of matrix l)
    for (int64_t i = 0; i < chain[n - 1]->t.dim[0]; i++)
        back[i] = 1;
    memset(score, 0, (size_t)m->n_element * sizeof *score);
    for (int64_t l = n - 1; l >= 0; l--) {
        const struct tensor *w = &chain[l]->t;
        for (int64_t o = 0; o < w->dim[0]; o++)
            for (int64_t i = 0; i < w->dim[1]; i++)
                score[chain[l]->offset + o * w->dim[1] + i] =
                    (float)(fabs((double)w->data[o * w->dim[1] + i]) * in[l][i] * back[o]);
        absolute_product(w, back, in[l], 1); // in[l] has been read
        back = in[l];
    }
    for (int64_t l = 0; l <= n; l++)
        free(in[l]);
    free(in);
    free(chain);
    return 0;
}

const struct at_init at_init_methods[] = {
    {"snip", score_snip, 1},   {"grasp", score_grasp, 1},         {"synflow", score_synflow, 100},
    {"random", score_random, 1}, {"magnitude", score_magnitude, 1}, {NULL, NULL, 0},
};
