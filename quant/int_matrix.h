// int_matrix.h: one matrix as integers, with scales and zeros by group: rounding, GPTQ, values, and its tensors in a file.
#ifndef PDQ_INT_MATRIX_H
#define PDQ_INT_MATRIX_H

#include "common/model/safetensors.h"
#include "quant/gptq.h"
#include "quant/int_types.h"
#include "quant/learned_rounding.h"

#define INT_PARTS 4 // tensors of a matrix, at most

struct int_matrix { // lifetime: the caller's
    const struct int_type *type;
    int64_t D, C, group; // columns of a scale
    uint8_t *code;       // [D, C], 0 .. 2^bits - 1
    float *scale;        // [D, C / group], as they are stored
    uint8_t *zero;       // [D, C / group]
    int32_t *order;      // [C] the group of each column; NULL: as they stand
    float input_scale;   // of static inputs
};

void int_matrix_init(struct int_matrix *m, const struct int_type *t, int64_t D, int64_t C, int64_t group); // group 0: a row
void int_matrix_release(struct int_matrix *m); // fine on a zeroed one
// Rows of W [D, C]: scales from the largest values (compressed-tensors' calculate_qparams), or, with weights [C] of the columns' squared
// errors, those of the least error; each value to the nearest.
void int_matrix_round(struct int_matrix *m, const float *W, const float *weight);
// GPTQ with the second moments H [C, C] of the inputs; W leaves as in gptq_round, its columns where they were. GPTQ's layout with act_order: groups are of columns that follow each
// other in that order.
int int_matrix_gptq(struct int_matrix *m, float *W, const double *H, const struct gptq_options *o, const char *name, struct error *err);
void int_matrix_row(const struct int_matrix *m, int64_t row, float *to); // values
// W [D, C] as choices between the levels around each value under the scales that are there (learned_rounding.h); `code` is then the lower
// ones', and put adds what `up` says.
void int_matrix_find_choices(struct int_matrix *m, const float *W, struct rounding_choice *c);
void int_matrix_put_choices(struct int_matrix *m, const struct rounding_choice *c);

// Its tensors in the layout of its type, for a file of the type's dtype. Lifetime: until released.
struct int_tensors {
    struct safetensors_item item[INT_PARTS];
    char *name[INT_PARTS];
    void *bytes[INT_PARTS]; // NULL: declared
    int n;
};
// Names, shapes and types alone, which the type and the shape of the matrix decide. name: "m.weight"; group 0: a row.
void int_tensors_declare(struct int_tensors *to, const struct int_type *t, int64_t D, int64_t C, int64_t group, const char *name);
void int_tensors_make(struct int_tensors *to, const struct int_matrix *m, const char *name);
void int_tensors_release(struct int_tensors *t);

#endif
