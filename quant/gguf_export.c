// gguf_export.c: rows of the model to blocks of the file.
//
// A row of the file is found backwards: undo the interleaving of rotated rows, undo the padding, then take the row
// from the tensor's data or through its hook (a mask, or a GGUF file that the model itself runs from). Padding is
// zero on both sides of every product, so the padded model computes the same.
#include "quant/gguf_export.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/progress.h"
#include "common/model/pad.h"

#define PIECE_BYTES ((int64_t)4 << 20) // of f32 values encoded before they are written

// The model's index for index i of an axis of the file; -1: padding.
static int64_t source_index(const struct gguf_plan *plan, enum axis axis, int layer, int64_t i)
{
    if (axis == AXIS_POSITIONS) // RoBERTa's table has rows in front that no position uses
        return i + plan->model->config.position_offset;
    return pad_source(&plan->model->config, layer < 0 ? NULL : &plan->layer[layer], axis, layer, i);
}

// Columns of one part: of a vector its share.
static int64_t part_columns(const struct gguf_plan_tensor *t) { return t->n_dim == 1 ? t->dim[0] / t->n_part : t->dim[1]; }

struct row_reader { // of one tensor
    const struct gguf_plan *plan;
    const struct gguf_plan_tensor *tensor;
    const struct parameter *any; // a part of it; all have the same shape
    int64_t *column;     // [columns of the file]: the model's column or -1; NULL: the same columns
    int64_t own_columns; // of the model
};

static void reader_init(struct row_reader *r, const struct gguf_plan *plan, const struct gguf_plan_tensor *t)
{
    *r = (struct row_reader){.plan = plan, .tensor = t};
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

// Row `row` of a part as f32; scratch: own_columns floats.
static void read_part_row(const struct row_reader *r, const struct parameter *p, int64_t row, float *to, float *scratch)
{
    const struct gguf_plan_tensor *t = r->tensor;
    const int64_t E = r->plan->model->config.head_dim, columns = part_columns(t);
    const int vector = t->n_dim == 1;
    if (t->rotated && !vector)
        row = gguf_row_source(row, E);
    const int64_t own = !p ? -1 : vector ? 0 : source_index(r->plan, p->spec->rows, p->layer, row);
    if (own < 0) {
        memset(to, 0, (size_t)columns * sizeof *to);
        return;
    }
    if (!r->column) {
        tensor_read_rows(&p->t, own, 1, to);
        return;
    }
    tensor_read_rows(&p->t, own, 1, scratch);
    for (int64_t i = 0; i < columns; i++) {
        const int64_t from = r->column[vector && t->rotated ? gguf_row_source(i, E) : i];
        to[i] = from < 0 ? 0 : scratch[from];
    }
}

// Row `row` of the file; the parts of a vector lie side by side, those of a matrix one below the other.
static void read_row(const struct row_reader *r, int64_t row, float *to, float *scratch)
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

// The first value that the format cannot hold; -1: none.
static int64_t find_bad(const struct block_format *f, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(x[i]) <= f->largest))
            return i;
    return -1;
}

struct bad_value {
    int64_t row, column;
    float value;
};

// Rows row0 .. row0+n-1 into blocks; *bad is the first unusable value, row -1: none.
static void encode_rows(const struct row_reader *r, int64_t row0, int64_t n, unsigned char *to, struct bad_value *bad)
{
    const struct gguf_plan_tensor *t = r->tensor;
    const int64_t columns = t->dim[t->n_dim - 1], row_bytes = block_row_bytes(t->format, columns);
    bad->row = -1;
#pragma omp parallel
    {
        float *row = xmalloc((size_t)(columns + r->own_columns) * sizeof *row, "row");
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; i++) {
            read_row(r, row0 + i, row, row + columns);
            const int64_t column = find_bad(t->format, row, columns);
            if (column < 0) {
                t->format->encode(row, to + i * row_bytes, columns);
                continue;
            }
#pragma omp critical
            if (bad->row < 0 || row0 + i < bad->row)
                *bad = (struct bad_value){row0 + i, column, row[column]};
        }
        free(row);
    }
}

static int write_tensor(struct gguf_plan *plan, const struct gguf_plan_tensor *t, struct progress *progress,
                        struct error *err)
{
    const int64_t rows = t->n_dim == 1 ? 1 : t->dim[0], columns = t->dim[t->n_dim - 1];
    const int64_t row_bytes = block_row_bytes(t->format, columns), fit = PIECE_BYTES / (columns * 4),
                  piece = fit < 1 ? 1 : fit;
    unsigned char *blocks = xmalloc((size_t)(row_bytes * (piece < rows ? piece : rows)), "quantized rows");
    struct row_reader reader;
    reader_init(&reader, plan, t);
    int rc = 0;
    for (int64_t row = 0; row < rows && rc == 0; row += piece) {
        const int64_t n = rows - row < piece ? rows - row : piece;
        struct bad_value bad;
        encode_rows(&reader, row, n, blocks, &bad);
        if (bad.row >= 0)
            rc = error_set(
                err, "%s: tensor %s: the value at row %" PRId64 ", column %" PRId64 " is %g, which %s cannot hold%s",
                plan->writer.file.path, t->name, bad.row, bad.column, (double)bad.value, t->format->name,
                isfinite(bad.value) ? "; choose BF16 or F32" : ": the model is broken");
        else
            rc = gguf_writer_data(&plan->writer, blocks, (size_t)(n * row_bytes), err);
        progress_update(progress, progress->done + n * columns, "%s", t->name);
    }
    free(reader.column);
    free(blocks);
    return rc < 0 ? -1 : gguf_writer_end_tensor(&plan->writer, err);
}

static int write_all(struct gguf_plan *plan, const char *path, struct error *err)
{
    struct progress progress;
    int64_t weights = 0;
    for (int64_t i = 0; i < plan->n_tensor; i++)
        weights += plan->tensor[i].dim[0] * plan->tensor[i].dim[1];
    TRY(gguf_writer_begin(&plan->writer, path, err));
    progress_begin(&progress, "writing GGUF", "weights", weights, 0);
    int rc = 0;
    for (int64_t i = 0; i < plan->n_tensor && rc == 0; i++) {
        const struct gguf_plan_tensor *t = &plan->tensor[i];
        if (t->written) {
            rc = write_tensor(plan, t, &progress, err);
            continue;
        }
        rc = gguf_writer_data(&plan->writer, plan->rope_factor, (size_t)t->bytes, err);
        if (rc == 0)
            rc = gguf_writer_end_tensor(&plan->writer, err);
    }
    progress_end(&progress, "%s", path_base(path));
    return rc < 0 ? -1 : gguf_writer_commit(&plan->writer, err);
}

static void tell(const struct gguf_plan *plan)
{
    for (int64_t i = 0; i < plan->n_tensor; i++) {
        const struct gguf_plan_tensor *t = &plan->tensor[i];
        if (t->format != t->wanted)
            log_warn("%s: rows of %" PRId64 " are no multiple of %s's block of %" PRId64 "; written as %s", t->name,
                     t->dim[1], t->wanted->name, t->wanted->elements, t->format->name);
    }
    static const char *const heads[] = {[HEAD_CLASSES] = "classes", [HEAD_MASKED] = "masked words", [HEAD_SPANS] = "answers' spans"};
    const struct config *c = &plan->model->config;
    if (strcmp(plan->architecture, "bert") == 0 && (c->head != HEAD_NONE || c->has_pooler))
        log_warn("llama.cpp's bert makes embeddings of texts and nothing else: the file does not get the model's %s%s%s",
                 c->head == HEAD_NONE ? "pooler" : "head for ", c->head == HEAD_NONE ? "" : heads[c->head],
                 c->head != HEAD_NONE && c->has_pooler ? ", nor its pooler" : "");
    if (plan->padding_bytes)
        log_info("zero heads and channels to fill up the layers cost %.1f MB of %.1f MB", (double)plan->padding_bytes / 1e6,
                 (double)plan->file_bytes / 1e6);
}

int gguf_export(const struct model *m, const struct tokenizer *t, const char *path,
                const struct gguf_export_options *o, struct error *err)
{
    struct gguf_plan plan;
    if (m->gate)
        BUG("gguf_export: the model has gates; a file can only hold what was cut");
    TRY(gguf_plan_make(&plan, m, t, o, err));
    const int64_t room = disk_free(path);
    int rc = 0;
    if (room >= 0 && room < plan.file_bytes)
        rc =
            error_set(err, "%s: needs %" PRId64 " bytes, the disk has %" PRId64 " free", path, plan.file_bytes, room);
    tell(&plan);
    if (rc == 0)
        rc = write_all(&plan, path, err);
    gguf_plan_release(&plan);
    return rc;
}
