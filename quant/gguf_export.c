// gguf_export.c: rows of the model to blocks of the file.
//
// Blocks come from each row by itself, or, for the matrices that it knows, from an encoder that looks at more (gguf_export.h).
#include "quant/gguf_export.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/progress.h"
#include "common/base/threads.h"
#include "quant/gguf_rows.h"

#define PIECE_BYTES ((int64_t)4 << 20) // of f32 values encoded before they are written

// Rows row0 .. row0+n-1 into blocks; *bad is the first unusable value, row -1: none. importance: by column of the file, or NULL.
static void encode_rows(const struct gguf_rows *r, const float *importance, int64_t row0, int64_t n, unsigned char *to,
                        struct gguf_bad_value *bad)
{
    const struct gguf_plan_tensor *t = r->tensor;
    const int64_t columns = t->dim[t->n_dim - 1], row_bytes = block_row_bytes(t->format, columns);
    bad->row = -1;
#pragma omp parallel
    {
        float *row = xmalloc((size_t)(columns + r->own_columns) * sizeof *row, "row");
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; i++) {
            gguf_rows_read(r, row0 + i, row, row + columns);
            if (gguf_rows_check(r, row0 + i, row, bad))
                t->format->encode(row, importance, columns, to + i * row_bytes);
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
    struct gguf_rows reader;
    gguf_rows_init(&reader, plan, t);
    float *weight = gguf_rows_importance(&reader, plan->importance);
    int rc = 0;
    for (int64_t row = 0; row < rows && rc == 0; row += piece) {
        const int64_t n = rows - row < piece ? rows - row : piece;
        struct gguf_bad_value bad;
        encode_rows(&reader, weight, row, n, blocks, &bad);
        if (bad.row >= 0)
            rc = gguf_rows_refuse(&reader, &bad, err);
        else
            rc = gguf_writer_data(&plan->writer, blocks, (size_t)(n * row_bytes), err);
        progress_update(progress, progress->done + n * columns, "%s", t->name);
    }
    gguf_rows_release(&reader);
    free(weight);
    free(blocks);
    return rc < 0 ? -1 : gguf_writer_end_tensor(&plan->writer, err);
}

// A tensor's data as the encoder made it, or encoded row by row.
static int write_matrix(struct gguf_plan *plan, const struct gguf_plan_tensor *t, const struct gguf_encoder *encoder,
                        struct progress *progress, struct error *err)
{
    const unsigned char *blocks = NULL;
    TRY(interrupt_check(err));
    if (encoder)
        TRY(encoder->tensor(encoder->context, plan, t, &blocks, err));
    if (!blocks)
        return write_tensor(plan, t, progress, err);
    TRY(gguf_writer_data(&plan->writer, blocks, (size_t)t->bytes, err));
    progress_update(progress, progress->done + t->dim[0] * t->dim[1], "%s", t->name);
    return gguf_writer_end_tensor(&plan->writer, err);
}

static int write_all(struct gguf_plan *plan, const char *path, const struct gguf_encoder *encoder, struct error *err)
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
            rc = write_matrix(plan, t, encoder, &progress, err);
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
        rc = write_all(&plan, path, o->encoder, err);
    gguf_plan_release(&plan);
    return rc;
}
