// scaled_rows.h: a matrix that is another one with its columns multiplied by factors, its rows divided by factors, and cut off by group:
// what rescaling (rescale.h) makes of it, computed where rows are read, so that no changed matrix is held. In this order; each rounds to f32.
#ifndef PDQ_SCALED_ROWS_H
#define PDQ_SCALED_ROWS_H

#include "common/tensor/tensor.h"

struct scaled_rows { // lifetime: that of the model whose tensor it is
    struct weight_hook hook;   // its context is this struct
    const struct tensor *base;
    double *column, *row;      // [C], [D]; NULL: as they are
    int64_t group;             // columns that are cut alike; 0: none are
    uint8_t *cut;              // [D, C / group], as scaled_rows_range takes it
};

#define SCALED_ROWS_CUTS 10 // ranges that a group can be cut at

struct scaled_rows *scaled_rows_new(const struct tensor *base); // as it is at first; base must outlive it
void scaled_rows_free(struct scaled_rows *s); // NULL is fine
// Each at most once: copies of factors and cuts.
void scaled_rows_multiply_columns(struct scaled_rows *s, const double *factor);
void scaled_rows_divide_rows(struct scaled_rows *s, const double *factor);
void scaled_rows_cut(struct scaled_rows *s, int64_t group, const uint8_t *cut);

// The range that a group is cut at: its largest magnitude (cut 0), each further one a twentieth of that less.
float scaled_rows_range(const float *x, int64_t n, int cut);
void scaled_rows_clamp(const float *x, int64_t n, float range, float *to);

#endif
