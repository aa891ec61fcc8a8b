// op_head.h: what the files of the output head share. Internal to common/tensor.
#ifndef PDQ_OP_HEAD_H
#define PDQ_OP_HEAD_H

#include "common/tensor/ops.h"

// to[i] = exp((z[i] - top) / T); returns the sum. to may be z.
double exp_row(const float *z, float *to, int64_t V, float top, float inverse_temperature);
// z[n, V] += bias; NULL: none.
void add_bias(float *z, int64_t n, int64_t V, const struct tensor *bias);
void cap_logits(float *z, int64_t n, int64_t V, double cap); // z = cap tanh(z / cap); cap 0: nothing
// Row n of a teacher's likeliest entries against the student's logits z [V], both at the temperature: returns the divergence (ops.h) and
// leaves `weight` times its gradient with respect to z in to [V].
double head_top_row(const struct head_top *teacher, int64_t n, const float *z, float *to, int64_t V, double temperature, double weight);

// The logits z [V] of one of several teachers, to be summed: log(weight softmax(z / T)), or with mean_logits weight z. scratch [V].
void mean_weigh_row(float *z, float *scratch, int64_t V, double temperature, double weight, int mean_logits);
// sum [V] += other [V], of what they stand for.
void mean_add_row(float *sum, const float *other, int64_t V, int mean_logits);
// The sum becomes logits: softmax(sum / T) is the mean of the probabilities.
void mean_end_row(float *sum, int64_t V, double temperature, int mean_logits);

#endif
