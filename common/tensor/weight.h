// weight.h: what ops do with a weight that has a hook. Internal to common/tensor.
#ifndef PDQ_WEIGHT_H
#define PDQ_WEIGHT_H

#include "common/tensor/tape.h"

// The effective values of w [rows, columns]: w->data, or, with a hook, its values, or a copy at the top of the step arena (the
// caller resets the arena to a mark when done with it).
const float *weight_values(struct tape *tape, const struct tensor *w);

// y[N, O] = x[N, I] w^T in f32 with rows of w widened just before they are multiplied, so that no copy of w is held: of stored
// weights, which are read once for all of x and widened in the cache.
void weight_product(struct tape *tape, const struct tensor *w, int64_t N, const float *x, float *y);

// Whether w's hook makes the stored weight's gradient another one than the effective weight's.
int weight_changes_gradient(const struct tensor *w);
// w->grad += the stored weight's gradient, made in place from effective [rows, columns], the effective weight's. Only
// where weight_changes_gradient.
void weight_add_effective(const struct tensor *w, float *effective);
// w->grad += dy[N,O]^T x[N,I], through the hook's backward where there is one.
void weight_add_gradient(struct tape *tape, struct tensor *w, int64_t N, const float *dy, const float *x);
// bias->grad += the sums of dy's columns. dy [N,O].
void bias_add_gradient(struct tensor *bias, int64_t N, const float *dy);

// x [N, I] as r rounds it, at the top of the step arena.
const float *rounded_inputs(struct tape *tape, const struct input_rounding *r, const float *x, int64_t N, int64_t I);

#endif
