// sparse_weight.h: a weight of which only the kept elements are stored, as a hook that multiplies by them alone.
//
// The tensor keeps its shape [rows, columns]; its data and grad are [kept], row by row (compressed sparse rows). On one core
// with AVX2 this is as fast as the dense product when about half of the weights are left, and faster below
// (bench_lenet.c).
#ifndef PDQ_SPARSE_WEIGHT_H
#define PDQ_SPARSE_WEIGHT_H

#include "common/tensor/tensor.h"

struct sparse_weight { // model lifetime
    struct weight_hook hook; // its context is this struct
    int64_t rows, columns, kept;
    int32_t *start;  // [rows + 1] into column
    int32_t *column; // [kept]
};

// mask: [rows * columns], not 0: kept.
void sparse_weight_init(struct sparse_weight *s, int64_t rows, int64_t columns, const unsigned char *mask);
void sparse_weight_release(struct sparse_weight *s);
// The kept elements of a dense [rows, columns], and back (what is not kept becomes 0).
void sparse_weight_gather(const struct sparse_weight *s, const float *dense, float *kept);
void sparse_weight_scatter(const struct sparse_weight *s, const float *kept, float *dense);

#endif
