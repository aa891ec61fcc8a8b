// gradcheck.h: gradients against finite differences of the same f32 forward pass, for ops, losses and whole models.
//
// A function of some tensors is described by a callback that builds it on a tape. The four-point rule
//   f' = (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h,   error h^4 f''''' / 30
// allows a step as long as 2^-5 on values of order 1: there rounding (6e-8 |f| / h, about 2e-6) and the rule's own
// error (about 1e-6) are in balance. The function's value must be summed in double, or its own rounding would drown
// both; gradcheck_project does that for ops whose output is no scalar.
#ifndef PDQ_GRADCHECK_H
#define PDQ_GRADCHECK_H

#include <stdint.h>

#include "common/tensor/tape.h"

struct gradcheck {
    // Builds the function, stores the scalar tensor to go backward from and returns its value in double.
    double (*function)(void *context, struct tape *tape, struct tensor **root);
    void *context;
    struct tensor *const *input; // with data and zeroed grad, needs_grad 1; left as they were, but for grad
    int n_input;
    enum precision precision;
    double step;
    int directions;  // random directions through all inputs at once
    int64_t element; // inputs of at most this many elements are also checked one by one
    uint64_t seed;
};

struct gradcheck_result {
    double worst; // largest error: of a direction as a share of the gradient's norm, of an element as a share of the
                  // largest element of its input's gradient
    double expected, found; // there: by finite differences, by the tape
    char where[160];
};

void gradcheck_run(const struct gradcheck *g, struct gradcheck_result *result);

// sum_i r_i y_i with fixed random r_i from (-1, 1), in double; *root is the recorded scalar.
double gradcheck_project(struct tape *tape, struct tensor *y, uint64_t seed, struct tensor **root);
// The same numbers r_i.
void gradcheck_weights(uint64_t seed, double *r, int64_t n);

#endif
