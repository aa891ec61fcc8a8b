// learned_rounding.h: every weight of some matrices to the level below it or to the one above, as a loss over all of them together asks
// for: SignRound (Cheng et al. 2023, "Optimize Weight Rounding via Signed Gradient Descent for the Quantization of LLMs", section 3).
//
//   w = high where u >= 1/2, else low                      (eq. 3; u = place + V)
//   u <- min(max(u - rate sign(dloss/dw (high - low)), 0), 1)     (eq. 5; the gradient goes straight through the rounding)
//
// u begins at the weight's place between its two levels, (x - low) / (high - low). The rate falls in equal steps from 1 / steps to 0, so u can go
// half of the way between the levels, as in the paper. There V is kept within 1/2 instead, which lets u leave the two levels behind.
// Nothing but levels is ever shown to the loss: what it was with the result is what it will be.
#ifndef PDQ_LEARNED_ROUNDING_H
#define PDQ_LEARNED_ROUNDING_H

#include <stdint.h>

#include "common/tensor/tensor.h"

struct rounding_options {
    int64_t steps;
};

struct rounding_choice { // of one matrix of n values
    struct tensor *w;    // not owned; data gets the values at hand, grad is there while the choice is
    float *low, *high;   // [n] neighbouring levels
    float *u;            // [n]
    unsigned char *up;   // [n] 1: high. At first the nearer level; then the result
};

struct learned_rounding { // lifetime: the caller's
    struct rounding_choice *choice;
    int n, capacity;
};

struct rounding_loss {
    void *context;
    double (*learn)(void *context, int64_t step); // on the step's part of the data; adds gradients to the matrices'
    double (*measure)(void *context);             // on all of it
};

struct rounding_result {
    double before, after; // what was measured; after <= before
    double changed;       // share of the weights that are rounded otherwise than at the start
};

// Choices of w, which has none yet, to be filled in. The pointer is good until the next one is added.
struct rounding_choice *learned_rounding_add(struct learned_rounding *r, struct tensor *w);
// Value k lies at x between two levels, or beyond them.
void rounding_choice_set(struct rounding_choice *c, int64_t k, float low, float high, float x);
// Leaves the result in `up` and in the matrices: of the last step's rounding and that of the step with the least loss the better one on all of the
// data; the start, where neither is better. -1: a loss is not finite.
// Ends after a step where the user asked to stop: before the result is used, interrupt_check.
int learned_rounding_run(struct learned_rounding *r, const struct rounding_options *o, const struct rounding_loss *loss,
                         struct rounding_result *result);
void learned_rounding_release(struct learned_rounding *r); // fine on a zeroed one

#endif
