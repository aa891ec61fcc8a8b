// op_head_mean.c: several teachers' answers as one row of logits, so that every divergence reads it as it reads one teacher's. The mean of
// probabilities is summed as logarithms: an entry that all teachers find most unlikely keeps its value, where a product of floats would be 0.
#include <math.h>

#include "common/tensor/op_head.h"
#include "common/tensor/vecmath.h"

void mean_weigh_row(float *z, float *scratch, int64_t V, double temperature, double weight, int mean_logits)
{
    const float top = mean_logits ? 0 : vec_max(z, V), factor = (float)(mean_logits ? weight : 1 / temperature);
    const float shift = mean_logits ? 0 : (float)(log(weight) - log(exp_row(z, scratch, V, top, factor)));
#pragma omp simd
    for (int64_t j = 0; j < V; j++)
        z[j] = (z[j] - top) * factor + shift;
}

void mean_add_row(float *sum, const float *other, int64_t V, int mean_logits)
{
    if (mean_logits) {
#pragma omp simd
        for (int64_t j = 0; j < V; j++)
            sum[j] += other[j];
        return;
    }
#pragma omp simd
    for (int64_t j = 0; j < V; j++) { // log(e^a + e^b) = max + log(1 + e^-|a - b|)
        const float a = sum[j], b = other[j];
        sum[j] = (a > b ? a : b) + vec_log(1 + vec_exp(-fabsf(a - b)));
    }
}

void mean_end_row(float *sum, int64_t V, double temperature, int mean_logits)
{
    const float factor = mean_logits ? 1 : (float)temperature;
#pragma omp simd
    for (int64_t j = 0; j < V; j++)
        sum[j] *= factor;
}
