// gguf_rows.c: see gguf_rows.h.
//
// A row of the file is found backwards: undo the interleaving of rotated rows, undo the padding, then take the row
// from the tensor's data or through its hook (a mask, or a GGUF file that the model itself runs from). Padding is
// zero on both sides of every product, so the padded model computes the same.
#include "quant/gguf_rows.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/model/pad.h"
#include "quant/importance.h"

// The model's index for index i of an axis of the file; -1: padding.
static int64_t source_index(const struct gguf_plan *plan, enum axis axis, int layer, int64_t i)
{
    if (axis == AXIS_POSITIONS) // RoBERTa's table has rows in front that no position uses
        return i + plan->model->config.position_offset;
    return pad_source(&plan->model->config, layer < 0 ? NULL : &plan->layer[layer], axis, layer, i);
}

// Columns of one part: of a vector its share.
static int64_t part_columns(const struct gguf_plan_tensor *t) { return t->n_dim == 1 ? t->dim[0] / t->n_part : t->dim[1]; }

void gguf_rows_init(struct gguf_rows *r, const struct gguf_plan *plan, const struct gguf_plan_tensor *t)
{
    *r = (struct gguf_rows){.plan = plan, .tensor = t};
    r->any = t->source[0];
    if (!r->any) // a block that the model does not have
        return;
    r->own_columns = tensor_columns(&r->any->t);
    const int64_t columns = part_columns(t);
    if (columns == r->own_columns && t->n_dim == 2)
        return;
    r->column = xmalloc((size_t)columns * sizeof *r->column, "column map");
    for (int64_t i = 0; i < columns; i++)
        r->column[i] = source_index(plan, r->any->spec->columns, r->any->layer, i);
}

// The model's row for row `row` of a part; -1: padding.
static int64_t own_row(const struct gguf_rows *r, const struct parameter *p, int64_t row)
{
    const struct gguf_plan_tensor *t = r->tensor;
    const int vector = t->n_dim == 1;
    if (t->rotated && !vector)
        row = gguf_row_source(row, r->plan->model->config.head_dim);
    return !p ? -1 : vector ? 0 : source_index(r->plan, p->spec->rows, p->layer, row);
}

// Row `row` of a part as f32; scratch: own_columns floats.
static void read_part_row(const struct gguf_rows *r, const struct parameter *p, int64_t row, float *to, float *scratch)
{
    const struct gguf_plan_tensor *t = r->tensor;
    const int64_t E = r->plan->model->config.head_dim, columns = part_columns(t);
    const int vector = t->n_dim == 1;
    const int64_t own = own_row(r, p, row);
    if (own < 0) {
        memset(to, 0, (size_t)columns * sizeof *to);
        return;
    }
    if (!r->column) {
        tensor_read_rows(&p->t, own, 1, to);
        return;
    }
    const float shift = parameter_is_norm(p) ? (float)r->plan->model->config.norm_shift : 0; // the file has what is multiplied by
    tensor_read_rows(&p->t, own, 1, scratch);
    for (int64_t i = 0; i < columns; i++) {
        const int64_t from = r->column[vector && t->rotated ? gguf_row_source(i, E) : i];
        to[i] = from < 0 ? 0 : scratch[from] + shift;
    }
}

// Row `row` of the file; the parts of a vector lie side by side, those of a matrix one below the other.
void gguf_rows_read(const struct gguf_rows *r, int64_t row, float *to, float *scratch)
{
    const struct gguf_plan_tensor *t = r->tensor;
    if (t->n_dim == 1) {
        for (int k = 0; k < t->n_part; k++)
            read_part_row(r, t->source[k], 0, to + k * part_columns(t), scratch);
        return;
    }
    const int64_t rows = t->dim[0] / t->n_part;
    read_part_row(r, t->source[row / rows], row % rows, to, scratch);
}

const struct parameter *gguf_rows_source(const struct gguf_rows *r, int64_t row, int64_t *own)
{
    const struct gguf_plan_tensor *t = r->tensor;
    const int64_t rows = t->dim[0] / t->n_part;
    const struct parameter *p = t->source[row / rows];
    *own = own_row(r, p, row % rows);
    return *own < 0 ? NULL : p;
}

void gguf_rows_to_own(const struct gguf_rows *r, const float *row, float *own)
{
    const int64_t columns = part_columns(r->tensor);
    for (int64_t i = 0; i < columns; i++)
        if (!r->column)
            own[i] = row[i];
        else if (r->column[i] >= 0)
            own[r->column[i]] = row[i];
}

void gguf_rows_release(struct gguf_rows *r)
{
    free(r->column);
    *r = (struct gguf_rows){0};
}

int gguf_rows_check(const struct gguf_rows *r, int64_t row, const float *values, struct gguf_bad_value *bad)
{
    const struct gguf_plan_tensor *t = r->tensor;
    const int64_t columns = t->dim[t->n_dim - 1];
    int64_t i = 0;
    while (i < columns && fabsf(values[i]) <= t->format->largest) // NaN is not
        i++;
    if (i == columns)
        return 1;
#pragma omp critical
    if (bad->row < 0 || row < bad->row)
        *bad = (struct gguf_bad_value){row, i, values[i]};
    return 0;
}

int gguf_rows_refuse(const struct gguf_rows *r, const struct gguf_bad_value *bad, struct error *err)
{
    return error_set(err, "tensor %s: the value at row %" PRId64 ", column %" PRId64 " is %g, which %s cannot hold%s", r->tensor->name,
                     bad->row, bad->column, (double)bad->value, r->tensor->format->name,
                     !isfinite(bad->value) ? ": the model is broken" : strcmp(r->tensor->format->name, "BF16") == 0 ? "; choose F32" : "; choose BF16 or F32");
}

float *gguf_rows_importance(const struct gguf_rows *r, const struct importance *importance)
{
    const struct gguf_plan_tensor *t = r->tensor;
    const float *own = importance && t->n_dim == 2 && r->any ? importance_find(importance, t->name) : NULL;
    if (!own)
        return NULL;
    float *to = xmalloc((size_t)t->dim[1] * sizeof *to, "importance");
    for (int64_t i = 0; i < t->dim[1]; i++)
        to[i] = !r->column ? own[i] : r->column[i] < 0 ? 0 : own[r->column[i]];
    return to;
}

unsigned char *gguf_rows_encode(const struct gguf_rows *r, const float *weight, struct error *err)
{
    const struct gguf_plan_tensor *t = r->tensor;
    const int64_t C = t->dim[1], row_bytes = block_row_bytes(t->format, C);
    unsigned char *blocks = xmalloc((size_t)(t->dim[0] * row_bytes), "quantized rows");
    struct gguf_bad_value bad = {.row = -1};
#pragma omp parallel
    {
        float *row = xmalloc((size_t)(C + r->own_columns) * sizeof *row, "row");
#pragma omp for schedule(static)
        for (int64_t d = 0; d < t->dim[0]; d++) {
            gguf_rows_read(r, d, row, row + C);
            if (gguf_rows_check(r, d, row, &bad))
                t->format->encode(row, weight, C, blocks + d * row_bytes);
        }
        free(row);
    }
    if (bad.row < 0)
        return blocks;
    free(blocks);
    gguf_rows_refuse(r, &bad, err);
    return NULL;
}
