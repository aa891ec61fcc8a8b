// rounding.h: made-up weights, the products of correlated inputs, and what other weights do to the outputs: for tests of what rounds or removes.
#ifndef PDQ_ROUNDING_H
#define PDQ_ROUNDING_H

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/base/random.h"

static inline void fill(float *to, int64_t n, uint64_t seed)
{
    struct random r;
    random_init(&r, seed, "gptq", 0);
    for (int64_t i = 0; i < n; i++)
        to[i] = (float)random_normal(&r);
}

// H [C, C]: sums of x x^T over N correlated inputs, some columns larger than others.
static inline void make_inputs(double *H, int N, int C, uint64_t seed)
{
    float *x = xmalloc((size_t)(N * C) * sizeof *x, "test");
    fill(x, (int64_t)N * C, seed);
    memset(H, 0, (size_t)(C * C) * sizeof *H);
    for (int n = 0; n < N; n++)
        for (int c = 0; c < C; c++)
            x[n * C + c] = (x[n * C + c] + (c ? 0.8f * x[n * C + c - 1] : 0)) * (c % 7 == 3 ? 3 : 1);
    for (int n = 0; n < N; n++)
        for (int i = 0; i < C; i++)
            for (int k = 0; k < C; k++)
                H[i * C + k] += (double)x[n * C + i] * (double)x[n * C + k];
    free(x);
}

// What the squared error of the outputs grows by where V stands in W's place [D, C].
static inline double damage(const float *W, const float *V, const double *H, int64_t D, int64_t C)
{
    double sum = 0;
    for (int64_t d = 0; d < D; d++)
        for (int64_t i = 0; i < C; i++)
            for (int64_t k = 0; k < C; k++)
                sum += ((double)W[d * C + i] - (double)V[d * C + i]) * H[i * C + k] * ((double)W[d * C + k] - (double)V[d * C + k]);
    return sum;
}

#endif
