// score_weights.c: scores from the weights alone. A unit's tensors are those slices whose axis counts it, as the
// architecture's table says; nothing here knows an architecture.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "prune/score.h"

enum norm { NORM_L1, NORM_L2 };

// Where the scores of an axis's units go; NULL: not an axis that is pruned.
static double *scores_of(struct prune_scores *s, enum axis axis, int layer)
{
    switch (axis) {
    case AXIS_HEADS: return s->head[layer];
    case AXIS_GROUPS: return s->group[layer];
    case AXIS_FF: return s->ff[layer];
    default: return NULL;
    }
}

// sum[u] = sum over unit u's elements of |w| or w^2, units along the rows or the columns.
static void unit_sums(const struct tensor *t, int along_columns, int64_t unit, enum norm norm, double *sum)
{
    const int64_t rows = tensor_rows(t), columns = tensor_columns(t);
    float *row = xmalloc((size_t)columns * sizeof *row, "a row");
    for (int64_t r = 0; r < rows; r++) {
        tensor_read_rows(t, r, 1, row);
        for (int64_t c = 0; c < columns; c++) {
            const double w = (double)row[c];
            sum[(along_columns ? c : r) / unit] += norm == NORM_L1 ? fabs(w) : w * w;
        }
    }
    free(row);
}

static void fill(double *score, int64_t n, double value)
{
    for (int64_t u = 0; u < n; u++)
        score[u] = value;
}

// Adds (or, for the product, multiplies in) every tensor's share.
static void add_tensors(struct model *m, struct prune_scores *out, enum norm norm, int product)
{
    for (int64_t l = 0; product && l < out->n_layer; l++) {
        fill(out->head[l], m->config.layer[l].n_head, 1);
        fill(out->group[l], m->config.layer[l].n_kv_head, 1);
        fill(out->ff[l], m->config.layer[l].n_ff, 1);
    }
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        const enum axis axes[2] = {p->spec->rows, p->spec->columns};
        for (int k = 0; k < 2; k++) {
            double *score = p->layer >= 0 ? scores_of(out, axes[k], p->layer) : NULL;
            if (!score || (product && p->t.n_dim == 1))
                continue;
            const int64_t unit = axis_unit(&m->config, axes[k]), n = axis_size(&m->config, axes[k], p->layer) / unit;
            double *sum = xcalloc((size_t)n, sizeof *sum, "scores");
            unit_sums(&p->t, k == 1, unit, norm, sum);
            for (int64_t u = 0; u < n; u++)
                score[u] = product ? score[u] * sqrt(sum[u]) : score[u] + sum[u];
            free(sum);
        }
    }
}

int score_magnitude(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err)
{
    (void)c, (void)err;
    add_tensors(m, out, NORM_L2, 1);
    return 0;
}

int score_l1(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err)
{
    (void)c, (void)err;
    add_tensors(m, out, NORM_L1, 0);
    return 0;
}

// The squares are summed over heads and group alike, so the root is left out: it changes no order.
int score_l2(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err)
{
    (void)c, (void)err;
    add_tensors(m, out, NORM_L2, 0);
    return 0;
}
