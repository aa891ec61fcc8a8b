// sparse_gpt.c: see sparse.h.
//
// Columns go from left to right. What a weight that is set to zero takes from the outputs is made up for by the weights to its
// right, as U with H^-1 = U^T U says (Frantar and Alistarh 2023, section 3.2). Which weights go is decided for a block of columns
// at a time, by w^2 / U_jj^2 over the whole block, or for each N:M group when its first column is reached.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/tensor/cholesky.h"
#include "prune/sparse.h"

#define BLOCK 128
#define DAMPING 0.01 // of H's mean diagonal

static int ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static float worth(const float *w, const double *U, int64_t C, int64_t j)
{
    const double v = (double)w[j] / U[j * C + j];
    return (float)(v * v);
}

// The largest score that goes when a share of the block's weights does; negative: none.
static float block_threshold(const struct tensor *w, const double *U, int64_t first, int64_t last, double sparsity)
{
    const int64_t D = tensor_rows(w), C = tensor_columns(w), n = D * (last - first), go = llround(sparsity * (double)n);
    float *score = xmalloc((size_t)n * sizeof *score, "scores");
    for (int64_t d = 0, k = 0; d < D; d++)
        for (int64_t j = first; j < last; j++)
            score[k++] = worth(w->data + d * C, U, C, j);
    qsort(score, (size_t)n, sizeof *score, ascending);
    const float threshold = go > 0 ? score[go - 1] : -1;
    free(score);
    return threshold;
}

// Flags of the `of` weights from j on: 1 goes.
static void choose_group(const float *w, const double *U, int64_t C, int64_t j, int64_t keep, int64_t of, unsigned char *goes)
{
    memset(goes, 0, (size_t)of);
    for (int64_t n = 0; n < of - keep; n++) {
        int64_t worst = -1;
        for (int64_t i = 0; i < of; i++)
            if (!goes[i] && (worst < 0 || worth(w, U, C, j + i) < worth(w, U, C, j + worst)))
                worst = i;
        goes[worst] = 1;
    }
}

// One row, the columns of one block; error [last - first]: what the columns to the right have yet to make up for.
static void prune_row(float *w, const double *U, int64_t C, int64_t first, int64_t last, int64_t keep, int64_t of, float threshold,
                      double *error, unsigned char *goes)
{
    for (int64_t j = first; j < last && !of; j++) // before any of them moves
        goes[j - first] = worth(w, U, C, j) <= threshold;
    for (int64_t j = first; j < last; j++) {
        if (of && j % of == 0)
            choose_group(w, U, C, j, keep, of, goes + j - first);
        const int out = goes[j - first];
        error[j - first] = out ? (double)w[j] / U[j * C + j] : 0;
        if (!out)
            continue;
        w[j] = 0;
        for (int64_t k = j + 1; k < last; k++)
            w[k] -= (float)(error[j - first] * U[j * C + k]);
    }
    for (int64_t j = first; j < last; j++)
        if (error[j - first] != 0)
            for (int64_t k = last; k < C; k++)
                w[k] -= (float)(error[j - first] * U[j * C + k]);
}

int sparse_gpt(struct tensor *w, const double *H, int64_t keep, int64_t of, double sparsity, struct error *err)
{
    const int64_t D = tensor_rows(w), C = tensor_columns(w);
    const int64_t block = of ? BLOCK / of * of : BLOCK;
    double *U = xmalloc((size_t)(C * C) * sizeof *U, "second moments"), mean = 0;
    for (int64_t j = 0; j < C; j++)
        mean += H[j * C + j] / (double)C;
    for (int64_t i = 0; i < C * C; i++)
        U[i] = H[i] + (i % (C + 1) == 0 ? DAMPING * mean : 0);
    if (!(mean > 0) || cholesky_of_inverse(U, C) < 0) {
        free(U);
        return error_set(err, "sparsify: the inputs of %s say nothing (all zero, or not finite) on the calibration text; give other "
                         "text, or another score", w->name);
    }
    for (int64_t first = 0; first < C; first += block) {
        const int64_t last = first + block < C ? first + block : C;
        const float threshold = of ? 0 : block_threshold(w, U, first, last, sparsity);
#pragma omp parallel
        {
            double *error = xmalloc((size_t)block * sizeof *error, "errors");
            unsigned char *goes = xcalloc((size_t)block, 1, "what goes");
#pragma omp for schedule(static)
            for (int64_t d = 0; d < D; d++)
                prune_row(w->data + d * C, U, C, first, last, keep, of, threshold, error, goes);
            free(error);
            free(goes);
        }
    }
    free(U);
    return 0;
}
