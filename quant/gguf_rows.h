// gguf_rows.h: the rows of a file's tensor as the model's weights give them: reordered, padded, of several parts.
#ifndef PDQ_GGUF_ROWS_H
#define PDQ_GGUF_ROWS_H

#include "quant/gguf_export.h"

struct gguf_rows { // of one tensor; lifetime: the caller's
    const struct gguf_plan *plan;
    const struct gguf_plan_tensor *tensor;
    const struct parameter *any; // a part of it; all have the same shape; NULL: a block that the model does not have
    int64_t *column;     // [columns of the file]: the model's column or -1; NULL: the same columns
    int64_t own_columns; // of the model
};

void gguf_rows_init(struct gguf_rows *r, const struct gguf_plan *plan, const struct gguf_plan_tensor *t);
void gguf_rows_release(struct gguf_rows *r);
// Row `row` of the file as f32; the parts of a vector lie side by side, those of a matrix one below the other.
// scratch: own_columns floats.
void gguf_rows_read(const struct gguf_rows *r, int64_t row, float *to, float *scratch);
// Where row `row` of a matrix comes from: the parameter and its row there; NULL: padding.
const struct parameter *gguf_rows_source(const struct gguf_rows *r, int64_t row, int64_t *own);
// A row of the file as the model's row, own_columns long.
void gguf_rows_to_own(const struct gguf_rows *r, const float *row, float *own);

struct gguf_bad_value { // row -1: none
    int64_t row, column;
    float value;
};
// Can the tensor's format hold this row? 0: no, and *bad is that value unless it names an earlier row. Called from several threads.
int gguf_rows_check(const struct gguf_rows *r, int64_t row, const float *values, struct gguf_bad_value *bad);
int gguf_rows_refuse(const struct gguf_rows *r, const struct gguf_bad_value *bad, struct error *err); // the message; -1
// Importance by column of the file, padding 0; the caller frees. NULL: none for this tensor.
float *gguf_rows_importance(const struct gguf_rows *r, const struct importance *importance);

#endif
