// gptq.h: a matrix rounded column by column, each column's error made up for by those that come after it (Frantar, Ashkboos, Hoefler and
// Alistarh 2022, "GPTQ"), into the blocks of any format that has codes (block_codes.h).
#ifndef PDQ_GPTQ_H
#define PDQ_GPTQ_H

#include "common/base/error.h"
#include "quant/blocks.h"

struct gptq_options {
    double damping; // added to the diagonal of the second moments, as a share of its mean
    int act_order;  // columns with large inputs first: blocks by their sums, columns within a block
    int refits;     // times that a block's scales are chosen again, from the values that its columns had when their turns came
    // What chooses a block's scales, in place of the format's encoder (NULL: that one).
    void (*encode)(const void *context, const float *from, const float *importance, int64_t n, void *to);
    const void *encode_context;
    const unsigned char *given; // blocks, as many as the result's, whose scales stand already and are not chosen; NULL: none
};

// The order of the columns and U with (H + damping)^-1 = U^T U in that order: one for all matrices that read the same inputs and have
// blocks of the same length. Lifetime: the caller's.
struct gptq_factor {
    int64_t C, elements;
    int64_t *order; // [C]: the column that comes n-th; those of a block stay together
    float *U;       // [C, C], upper triangular
    float *weight;  // [C] by column: importance of its error, 1 / U_jj^2
};

// H [C, C]: sums of x x^T over the inputs. C is a multiple of elements. -1: H is zero or not finite (the message names `what`).
// Memory beside H and the result: 24 C^2 bytes.
int gptq_factor_make(struct gptq_factor *g, const double *H, int64_t C, int64_t elements, const struct gptq_options *o, const char *what,
                     struct error *err);
void gptq_factor_release(struct gptq_factor *g); // fine on a zeroed one

// Rows W [D, C] to `blocks`, D rows of them; each code is the nearest to its value as it was when its turn came, and these values are what W
// leaves with. f has codes and g's elements.
void gptq_round(const struct gptq_factor *g, const struct block_format *f, const struct gptq_options *o, float *W, int64_t D,
                unsigned char *blocks);

#endif
