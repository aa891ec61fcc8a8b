// ops_check.h: how the tests of single ops (test_ops_*.c) check one: against naive double loops written from its
// definition, forward and gradients, and against finite differences of itself; and the same bits with 1 and 2 threads, in
// f32 and bf16.
//
// The naive gradients are checked in turn, against differences of the naive forward pass in double.
// To add an op: its naive forward and backward, a build function, and a test with its shapes, in the file of its subject.
#ifndef PDQ_OPS_CHECK_H
#define PDQ_OPS_CHECK_H

#include "common/tensor/ops.h"

#define INPUTS 4

struct op_case {
    const char *name;
    struct tensor *(*build)(struct op_case *c, struct tape *tape);
    // y from inputs x[k]; and dx[k] += ... from dy (dx[k] is zero before). Doubles of the f32 inputs.
    void (*forward)(const struct op_case *c, double *const *x, double *y);
    void (*backward)(const struct op_case *c, double *const *x, const double *dy, double *const *dx);
    double f32, bf16;  // largest error as a share of the largest value
    double floor;      // or of this, where values that cancel are smaller; 0: none
    int is_root;       // the output is a loss: the backward pass starts there
    int one_precision; // the op has no matrix product, so bf16 must give the same bits as f32
    int n_in;
    struct tensor *in[INPUTS];
    int64_t n_out;
    // What the ops need besides tensors.
    int64_t B, T, S, E, G;
    const int32_t *ids, *length;
    const float *constant;
    double number;
    struct attention_rule rule;
    struct head_spec head;
    struct head_result result;
};

// Errors of products and reductions: f32 rounds at 6e-8, sums of up to some thousand terms in blocks stay below 1e-5
// of the largest value; bf16 rounds every operand at 2^-9, and a backward pass rounds what was rounded before.
#define PRODUCT_F32 1e-5
#define PRODUCT_BF16 3e-2
// Pointwise work: a few roundings and exp with a relative error of 2e-7.
#define POINTWISE_F32 2e-6
// Functions of several such steps (norms, gelu, tanh), and their slopes: twice that.
#define FUNCTION_F32 (2 * POINTWISE_F32)

// Both ends of a test: freed with tensor_drop and free.
struct tensor *tensor_make(const char *name, int64_t d0, int64_t d1, double scale); // random, of that scale; d1 0: a vector
void tensor_drop(struct tensor *t);
double *to_double(const float *x, int64_t n);
double *zeros(int64_t n);

// Errors as shares of the largest wanted value, or of `floor` where all are smaller.
void compare(const char *what, const char *which, const float *found, const double *wanted, int64_t n, double tolerance,
             double floor);

// All the checks of one op; `differences`: also finite differences of it, for small shapes. Drops the inputs.
void check_op(struct op_case *c, int differences);

// One run of it, forward and backward.
struct outcome {
    float *y;
    float *grad[INPUTS];
    struct head_result result;
};

void outcome_make(struct outcome *o, struct op_case *c, enum precision precision, int threads);
void outcome_drop(struct outcome *o, const struct op_case *c);

// The weight hook of these tests keeps three weights of four and doubles them; its context is what is stored.
double hook_factor(int64_t i);
void hook_rows(void *context, const struct tensor *w, int64_t row0, int64_t n, float *to);
void hook_dot(void *context, const struct tensor *w, int64_t N, const float *x, float *y);
void hook_backward(void *context, const struct tensor *w, int64_t row0, int64_t n, float *gradient);

// A soft cap of a score and its slope there; cap 0: none.
double capped(double cap, double score);
double cap_slope(double cap, double score);

// logp[v] = log softmax(z / temperature).
void naive_log_softmax(const double *z, int64_t V, double temperature, double *logp);

#endif
