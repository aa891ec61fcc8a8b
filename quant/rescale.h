// rescale.h: models that compute the same with weights that round better: what a matrix reads is divided by a factor for each channel, the
// matrix's columns are multiplied by it, and the division goes into what is before: a norm, or the matrix whose rows make those channels.
//
//   smooth  SmoothQuant (Xiao et al. 2022): s_j = max|X_j|^alpha / max|W_j|^(1 - alpha) (eq. 4), norms alone; for rounded inputs
//   awq     AWQ (Lin et al. 2023): s_j = mean|X_j|^alpha (eq. 5), alpha the best of a grid, for rounded weights; norms, v -> o, up -> down;
//           and then cuts off weights where that rounds the rest better (section 3.2's clipping)
//
// A layer at a time is held as f32 (and four times its largest matrix, while that is tried); what is left of it are the factors, by which
// values are computed where they are read.
//
// Errors are squared differences of a matrix's outputs on the text: dW (sum of x x^T) dW^T.
#ifndef PDQ_RESCALE_H
#define PDQ_RESCALE_H

#include "common/eval/layer_walk.h"
#include "quant/blocks.h"
#include "quant/int_types.h"

enum rescale_kind { RESCALE_NONE, RESCALE_SMOOTH, RESCALE_AWQ };

struct rounding { // what a matrix is rounded to; neither: it is not
    const struct int_type *ints;
    int64_t group;
    const struct block_format *format;
};

struct rescale_options {
    enum rescale_kind kind;
    double alpha; // of smooth
    int clip;     // awq: cut weights, too
    struct rounding (*rounding)(void *context, const struct parameter *p);
    void *context;
};

// NULL: not of the Llama family. The result shares what it does not change with m and is released (model_free) before it.
struct model *rescale(const struct model *m, const struct walk_text *text, const struct rescale_options *o, struct error *err);
int rounding_rounds(const struct rounding *r, int64_t C); // rows of C values, anything at all?
// Rows W [D, C] as they are read back.
void rounding_values(const struct rounding *r, const float *W, int64_t D, int64_t C, float *to);

#endif
