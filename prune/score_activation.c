// score_activation.c: scores from what the output projections (o, down) read: the heads' outputs and the channels.
//
// One pass over the calibration text gathers, for every column x_j of these inputs, sums of |unit|, x_j and x_j^2; the scores
// are combinations of them, with the norms of the projection's column W_j where they look at the weights too. A unit is one
// channel, or the head_dim columns of a head.
#include <math.h>
#include <stdlib.h>

#include "prune/score.h"

struct column_sums { // of one layer's projection
    int64_t units, width;
    double *size, *x, *square; // [units] sum of the unit's L2 norm; [units * width] sums of x and x^2
};

struct gathered {
    struct column_sums *heads, *ff; // [n_layer]
    int64_t n_layer, rows;
};

static struct column_sums sums_new(int64_t units, int64_t width)
{
    const size_t n = (size_t)(units * width);
    double *all = xcalloc((size_t)units + 2 * n, sizeof *all, "calibration");
    return (struct column_sums){units, width, all, all + units, all + units + n};
}

// One thread does a unit over all rows, so the sums have one order.
static void add_rows(struct column_sums *s, const struct tensor *y)
{
    const int64_t N = y ? tensor_rows(y) : 0, C = y ? tensor_columns(y) : 0, width = s->width; // NULL: no such block
#pragma omp parallel for schedule(static)
    for (int64_t u = 0; u < s->units; u++)
        for (int64_t n = 0; n < N; n++) {
            double norm = 0;
            for (int64_t j = u * width; j < (u + 1) * width; j++) {
                const double x = (double)y->data[n * C + j];
                s->x[j] += x;
                s->square[j] += x * x;
                norm += x * x;
            }
            s->size[u] += sqrt(norm);
        }
}

static void see(void *context, const struct taps *taps, int64_t rows)
{
    struct gathered *g = context;
    for (int64_t l = 0; l < g->n_layer; l++) {
        add_rows(&g->heads[l], taps->heads[l]);
        add_rows(&g->ff[l], taps->ff[l]);
    }
    g->rows += rows;
}

static int gather(struct gathered *g, struct model *m, const struct calibration *c, struct error *err)
{
    const int64_t L = m->config.n_layer;
    *g = (struct gathered){.n_layer = L};
    g->heads = xcalloc((size_t)(2 * L), sizeof *g->heads, "calibration");
    g->ff = g->heads + L;
    for (int64_t l = 0; l < L; l++) {
        g->heads[l] = sums_new(m->config.layer[l].n_head, m->config.head_dim);
        g->ff[l] = sums_new(m->config.layer[l].n_ff, 1);
    }
    return calibration_forward(m, c, TAP_HEADS | TAP_FF, see, g, err);
}

static void gathered_release(struct gathered *g)
{
    for (int64_t l = 0; l < g->n_layer; l++) {
        free(g->heads[l].size);
        free(g->ff[l].size);
    }
    free(g->heads);
}

// score[u] of one projection w [D, units * width], from the sums over `rows` rows.
typedef void unit_score(const struct column_sums *s, const struct tensor *w, double rows, double *score);

static int score_inputs(struct model *m, const struct calibration *c, struct prune_scores *out, unit_score *score, struct error *err)
{
    struct gathered g;
    const int rc = gather(&g, m, c, err);
    for (int i = 0; i < m->n_parameter && rc == 0; i++) {
        const struct parameter *p = &m->parameter[i];
        if (p->layer < 0 || p->t.n_dim != 2)
            continue;
        if (p->spec->columns == AXIS_HEADS)
            score(&g.heads[p->layer], &p->t, (double)g.rows, out->head[p->layer]);
        else if (p->spec->columns == AXIS_FF)
            score(&g.ff[p->layer], &p->t, (double)g.rows, out->ff[p->layer]);
    }
    gathered_release(&g);
    return rc;
}

static void mean_size(const struct column_sums *s, const struct tensor *w, double rows, double *score)
{
    (void)w;
    for (int64_t u = 0; u < s->units; u++)
        score[u] = s->size[u] / rows;
}

static void root_mean_square(const struct column_sums *s, const struct tensor *w, double rows, double *score)
{
    (void)w;
    for (int64_t u = 0; u < s->units; u++) {
        for (int64_t j = u * s->width; j < (u + 1) * s->width; j++)
            score[u] += s->square[j] / rows;
        score[u] = sqrt(score[u]);
    }
}

// sum over the unit's columns of variance(x_j) |W_j|^2
static void fluctuation(const struct column_sums *s, const struct tensor *w, double rows, double *score)
{
    const int64_t D = tensor_rows(w), C = tensor_columns(w);
    for (int64_t j = 0; j < C; j++) {
        const double mean = s->x[j] / rows, v = s->square[j] / rows - mean * mean;
        const double variance = v < 0 ? 0 : v; // and NaN stays
        double norm = 0;
        for (int64_t d = 0; d < D; d++)
            norm += (double)w->data[d * C + j] * (double)w->data[d * C + j];
        score[j / s->width] += variance * norm;
    }
}

// sum over the unit's columns of |x_j|_2 sum_i |W_ij|
static void weight_times_input(const struct column_sums *s, const struct tensor *w, double rows, double *score)
{
    const int64_t D = tensor_rows(w), C = tensor_columns(w);
    (void)rows;
    for (int64_t j = 0; j < C; j++) {
        double sum = 0;
        for (int64_t d = 0; d < D; d++)
            sum += fabs((double)w->data[d * C + j]);
        score[j / s->width] += sqrt(s->square[j]) * sum;
    }
}

int score_activation(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err)
{
    return score_inputs(m, c, out, mean_size, err);
}

int score_activation_rms(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err)
{
    return score_inputs(m, c, out, root_mean_square, err);
}

int score_flap(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err)
{
    return score_inputs(m, c, out, fluctuation, err);
}

int score_wanda(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err)
{
    return score_inputs(m, c, out, weight_times_input, err);
}
