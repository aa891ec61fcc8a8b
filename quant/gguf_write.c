// gguf_write.c: writing the container. Keys and tensor headers are collected in memory, data goes straight to the
// file.
#include <stdlib.h>
#include <string.h>

#include "quant/gguf.h"

#define ALIGNMENT 32 // the format's default, so general.alignment need not be written
#define VERSION 3

static void buffer_put(struct gguf_buffer *b, const void *data, size_t bytes)
{
    if (b->length + bytes > b->capacity) {
        b->capacity = 2 * b->capacity + bytes + 4096;
        b->data = xrealloc(b->data, b->capacity, "GGUF header");
    }
    if (bytes)
        memcpy(b->data + b->length, data, bytes);
    b->length += bytes;
}

static void put_u32(struct gguf_buffer *b, uint32_t v) { buffer_put(b, &v, 4); }
static void put_u64(struct gguf_buffer *b, uint64_t v) { buffer_put(b, &v, 8); }

static void put_text(struct gguf_buffer *b, const char *s)
{
    const size_t n = strlen(s);
    put_u64(b, n);
    buffer_put(b, s, n);
}

static void put_key(struct gguf_writer *w, const char *key, enum gguf_type type)
{
    put_text(&w->keys, key);
    put_u32(&w->keys, (uint32_t)type);
    w->n_key++;
}

static void put_array(struct gguf_writer *w, const char *key, enum gguf_type type, int64_t n)
{
    put_key(w, key, GGUF_ARRAY);
    put_u32(&w->keys, (uint32_t)type);
    put_u64(&w->keys, (uint64_t)n);
}

void gguf_put_u32(struct gguf_writer *w, const char *key, int64_t v)
{
    if (v < 0 || v > UINT32_MAX)
        BUG("gguf_put_u32: %s is %ld", key, (long)v);
    put_key(w, key, GGUF_U32);
    put_u32(&w->keys, (uint32_t)v);
}

void gguf_put_f32(struct gguf_writer *w, const char *key, double v)
{
    const float f = (float)v;
    put_key(w, key, GGUF_F32);
    buffer_put(&w->keys, &f, 4);
}

void gguf_put_bool(struct gguf_writer *w, const char *key, int v)
{
    const unsigned char byte = v != 0;
    put_key(w, key, GGUF_BOOL);
    buffer_put(&w->keys, &byte, 1);
}

void gguf_put_string(struct gguf_writer *w, const char *key, const char *v)
{
    put_key(w, key, GGUF_STRING);
    put_text(&w->keys, v);
}

void gguf_put_strings(struct gguf_writer *w, const char *key, char *const *v, int64_t n)
{
    put_array(w, key, GGUF_STRING, n);
    for (int64_t i = 0; i < n; i++)
        put_text(&w->keys, v[i]);
}

void gguf_put_f32s(struct gguf_writer *w, const char *key, const float *v, int64_t n)
{
    put_array(w, key, GGUF_F32, n);
    buffer_put(&w->keys, v, (size_t)n * 4);
}

void gguf_put_i32s(struct gguf_writer *w, const char *key, const int32_t *v, int64_t n)
{
    put_array(w, key, GGUF_I32, n);
    buffer_put(&w->keys, v, (size_t)n * 4);
}

static int64_t align(int64_t n) { return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

void gguf_put_tensor(struct gguf_writer *w, const char *name, int n_dim, const int64_t *dim,
                     const struct block_format *format)
{
    const int64_t row = block_row_bytes(format, dim[n_dim - 1]);
    if (row < 0 || n_dim < 1 || n_dim > GGUF_DIMS)
        BUG("gguf_put_tensor: %s with %d dimensions, rows of %ld as %s", name, n_dim, (long)dim[n_dim - 1],
            format->name);
    int64_t rows = 1;
    put_text(&w->tensors, name);
    put_u32(&w->tensors, (uint32_t)n_dim);
    for (int i = n_dim - 1; i >= 0; i--) {
        put_u64(&w->tensors, (uint64_t)dim[i]);
        rows *= i < n_dim - 1 ? dim[i] : 1;
    }
    put_u32(&w->tensors, format->type);
    put_u64(&w->tensors, (uint64_t)w->data_bytes);
    w->data_bytes += align(rows * row);
    w->n_tensor++;
}

static int64_t head_bytes(const struct gguf_writer *w) { return 24 + (int64_t)(w->keys.length + w->tensors.length); }

int64_t gguf_writer_size(const struct gguf_writer *w) { return align(head_bytes(w)) + w->data_bytes; }

int gguf_writer_begin(struct gguf_writer *w, const char *path, struct error *err)
{
    struct gguf_buffer head = {0};
    buffer_put(&head, "GGUF", 4);
    put_u32(&head, VERSION);
    put_u64(&head, (uint64_t)w->n_tensor);
    put_u64(&head, (uint64_t)w->n_key);
    int rc = file_writer_open(&w->file, path, err);
    if (rc == 0)
        rc = file_writer_put(&w->file, head.data, head.length, err);
    if (rc == 0)
        rc = file_writer_put(&w->file, w->keys.data, w->keys.length, err);
    if (rc == 0)
        rc = file_writer_put(&w->file, w->tensors.data, w->tensors.length, err);
    if (rc == 0)
        rc = file_writer_pad(&w->file, ALIGNMENT, err);
    free(head.data);
    return rc;
}

int gguf_writer_data(struct gguf_writer *w, const void *data, size_t bytes, struct error *err)
{
    return file_writer_put(&w->file, data, bytes, err);
}

int gguf_writer_end_tensor(struct gguf_writer *w, struct error *err)
{
    return file_writer_pad(&w->file, ALIGNMENT, err);
}

int gguf_writer_commit(struct gguf_writer *w, struct error *err)
{
    if (w->file.offset != gguf_writer_size(w))
        BUG("gguf_writer_commit: %s has %ld bytes, %ld were declared", w->file.path, (long)w->file.offset,
            (long)gguf_writer_size(w));
    return file_writer_commit(&w->file, err);
}

void gguf_writer_release(struct gguf_writer *w)
{
    file_writer_abort(&w->file);
    free(w->keys.data);
    free(w->tensors.data);
    *w = (struct gguf_writer){0};
}
