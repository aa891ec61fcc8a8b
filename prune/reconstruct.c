// reconstruct.c: after a cut, the output projections take over what the removed units did, as far as the remaining ones can
// say it: least squares on the calibration text, no training.
//
// For one projection W [D, C] with inputs X [N, C], of which the columns K stay, the W' [D, K] that minimizes
// |X W^T - X_K W'^T|^2 + ridge |W'|^2 is W H[:, K] (H[K, K] + ridge)^-1 with H = X^T X (the joint form of the Optimal Brain
// Surgeon's update, Hassibi and Stork 1993; per structure, ZipLM, Kurtic et al. 2023, section 3.1). X is what the uncut model
// feeds the projection, so all layers are done from one pass, each for itself. H is f32 (a product), what is solved is double.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/tensor/cholesky.h"
#include "prune/score.h"

#define RIDGE 1e-3                        // of H's mean diagonal
#define MEMORY_AT_ONCE ((int64_t)1 << 30) // of H's, bytes; more layers take more passes over the text

// One projection that lost columns.
struct projection {
    const struct tensor *whole; // W [D, C]
    struct tensor *cut;         // W' [D, K]
    int64_t layer, *column, C, K;
    int is_heads;
    float *H; // [C, C]
};

struct pass { // the projections of one pass over the text
    struct projection *projection;
    int64_t n;
};

static void see(void *context, const struct taps *taps, int64_t rows)
{
    const struct pass *pass = context;
    for (int64_t i = 0; i < pass->n; i++) {
        const struct projection *p = &pass->projection[i];
        const struct tensor *x = p->is_heads ? taps->heads[p->layer] : taps->ff[p->layer];
        gemm(PRECISION_F32, TRANSPOSED, PLAIN, p->C, p->C, rows, x->data, p->C, x->data, p->C, 1, p->H, p->C);
    }
}

// x L L^T = b for each of the rows b [D, n], in place.
static void solve_rows(const double *L, int64_t n, double *b, int64_t D)
{
#pragma omp parallel for schedule(static)
    for (int64_t d = 0; d < D; d++) {
        double *x = b + d * n;
        for (int64_t i = 0; i < n; i++) {
            for (int64_t k = 0; k < i; k++)
                x[i] -= L[i * n + k] * x[k];
            x[i] /= L[i * n + i];
        }
        for (int64_t i = n - 1; i >= 0; i--) {
            x[i] /= L[i * n + i];
            for (int64_t k = 0; k < i; k++)
                x[k] -= L[i * n + k] * x[i];
        }
    }
}

static int solve(const struct projection *p, struct error *err)
{
    const int64_t C = p->C, K = p->K, D = tensor_rows(p->whole);
    double *A = xmalloc((size_t)(K * K) * sizeof *A, "reconstruction"), mean = 0;
    double *b = xcalloc((size_t)(D * K), sizeof *b, "reconstruction");
    for (int64_t c = 0; c < C; c++)
        mean += (double)p->H[c * C + c] / (double)C;
    for (int64_t i = 0; i < K; i++)
        for (int64_t k = 0; k < K; k++)
            A[i * K + k] = (double)p->H[p->column[i] * C + p->column[k]] + (i == k ? RIDGE * mean : 0);
#pragma omp parallel for schedule(static)
    for (int64_t d = 0; d < D; d++)
        for (int64_t c = 0; c < C; c++)
            for (int64_t k = 0; k < K; k++)
                b[d * K + k] += (double)p->whole->data[d * C + c] * (double)p->H[c * C + p->column[k]];
    int rc = 0;
    if (!(mean > 0) || cholesky(A, K) < 0) {
        rc = error_set(err, "prune.reconstruct: the inputs of layer %ld's %s say nothing (all zero, or not finite) on the "
                       "calibration text; give other text, or leave \"reconstruct\" out", (long)p->layer,
                       p->is_heads ? "o projection" : "down projection");
    } else {
        solve_rows(A, K, b, D);
        for (int64_t i = 0; i < D * K; i++)
            p->cut->data[i] = (float)b[i];
    }
    free(A);
    free(b);
    return rc;
}

// The projections that lost columns; column lists are owned by the result.
static int64_t list_projections(const struct model *m, struct model *cut, const struct plan *plan, struct projection *to)
{
    int64_t n = 0;
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        const int is_heads = p->spec->columns == AXIS_HEADS, is_ff = p->spec->columns == AXIS_FF;
        if (p->t.n_dim != 2 || (!is_heads && !is_ff) || tensor_columns(&p->t) == tensor_columns(&cut->parameter[i].t))
            continue;
        const struct layer_plan *l = &plan->layer[p->layer];
        const int64_t *unit = is_heads ? l->head : l->ff, width = axis_unit(&m->config, p->spec->columns);
        struct projection *q = &to[n++];
        *q = (struct projection){.whole = &p->t, .cut = &cut->parameter[i].t, .layer = p->layer, .is_heads = is_heads,
                                 .C = tensor_columns(&p->t), .K = tensor_columns(&cut->parameter[i].t)};
        q->column = xmalloc((size_t)q->K * sizeof *q->column, "reconstruction");
        for (int64_t k = 0; k < q->K; k++)
            q->column[k] = unit[k / width] * width + k % width;
    }
    return n;
}

// How many of the projections from `first` on are done in one pass: as many as memory is given to.
static int64_t pass_size(const struct projection *p, int64_t n)
{
    int64_t count = 0, bytes = 0;
    while (count < n && (count == 0 || bytes + 4 * p[count].C * p[count].C <= MEMORY_AT_ONCE)) {
        bytes += 4 * p[count].C * p[count].C;
        count++;
    }
    return count;
}

int reconstruct(struct model *m, struct model *cut, const struct plan *plan, const struct calibration *c, struct error *err)
{
    struct projection *all = xcalloc((size_t)m->n_parameter, sizeof *all, "reconstruction");
    const int64_t n = list_projections(m, cut, plan, all);
    int rc = 0;
    for (int64_t first = 0, count; first < n && rc == 0; first += count) {
        count = pass_size(all + first, n - first);
        struct pass pass = {all + first, count};
        for (int64_t i = first; i < first + count; i++)
            all[i].H = xcalloc((size_t)(all[i].C * all[i].C), sizeof *all[i].H, "reconstruction");
        rc = calibration_forward(m, c, TAP_HEADS | TAP_FF, see, &pass, err);
        for (int64_t i = first; i < first + count; i++) {
            rc = rc == 0 ? solve(&all[i], err) : rc;
            free(all[i].H);
        }
    }
    for (int64_t i = 0; i < n; i++)
        free(all[i].column);
    free(all);
    if (rc == 0)
        log_info("prune: %ld output projections made anew by least squares on %ld tokens", (long)n,
                 (long)(calibration_batches(c) * c->batch * c->seq_len));
    return rc;
}
