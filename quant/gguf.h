// gguf.h: the GGUF container, read by mmap and written front to back. Knows nothing about models.
//
// Layout (little endian): "GGUF", version u32, tensor count u64, key count u64, the keys (name, value type u32,
// value), the tensors (name, dimension count u32, dimensions u64 fastest first, type u32, offset u64), padding, data.
// A string is a u64 length and bytes; an array is an element type u32, a u64 count and the elements. Offsets count
// from the start of the data and are aligned. A reader trusts nothing: counts, lengths, types, sizes, alignment,
// overlaps, duplicates and the file's end are all checked in gguf_open.
#ifndef PDQ_GGUF_H
#define PDQ_GGUF_H

#include <stdint.h>

#include "common/base/error.h"
#include "common/base/file.h"
#include "quant/blocks.h"

#define GGUF_DIMS 4

enum gguf_type {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY,
    GGUF_U64, GGUF_I64, GGUF_F64
};

struct gguf_key {
    char *name;
    enum gguf_type type; // of the value, or of the elements when is_array
    int is_array;
    int64_t count;             // elements; 1 when not an array
    const unsigned char *data; // the value or the first element, unaligned; a string begins with its u64 length
};

struct gguf_tensor {
    char *name;
    int n_dim;
    int64_t dim[GGUF_DIMS]; // slowest first (the file has them the other way round)
    const struct block_format *format;
    const unsigned char *data;
    int64_t bytes;
};

struct gguf { // model lifetime
    struct file_map map;
    uint32_t version;
    int64_t alignment;
    struct gguf_key *key;
    int64_t n_key;
    struct gguf_tensor *tensor; // in the file's order
    int64_t n_tensor;
};

int gguf_open(struct gguf *g, const char *path, struct error *err);
void gguf_close(struct gguf *g); // fine on a zeroed struct

const struct gguf_key *gguf_find_key(const struct gguf *g, const char *name);       // NULL: none
const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name); // NULL: none

// Single values. Absent: the default is stored and 0 returned. A value of another kind or outside [min, max] is an
// error naming file and key. Any integer type is taken for an integer, F32 and F64 for a float.
int gguf_get_int(const struct gguf *g, const char *name, int64_t def, int64_t min, int64_t max, int64_t *out,
                 struct error *err);
int gguf_get_float(const struct gguf *g, const char *name, double def, double min, double max, double *out,
                   struct error *err);
int gguf_get_bool(const struct gguf *g, const char *name, int def, int *out, struct error *err);
// The caller frees *out; NULL when absent.
int gguf_get_string(const struct gguf *g, const char *name, char **out, struct error *err);
// Element i of an array, or i = 0 of a single value, of an integer or float type (BUG otherwise).
int64_t gguf_int_at(const struct gguf_key *k, int64_t i);
double gguf_float_at(const struct gguf_key *k, int64_t i);
int gguf_is_int(const struct gguf_key *k);
int gguf_is_float(const struct gguf_key *k);
// All strings of an array: count pointers, the caller frees each and the list. NULL: not an array of strings.
char **gguf_strings(const struct gguf_key *k);
// The value as text for people, arrays cut short; the caller frees.
char *gguf_key_text(const struct gguf_key *k);

// The writer: put keys, declare tensors in order, begin, then for each tensor its data in any number of pieces,
// commit.
struct gguf_buffer {
    unsigned char *data;
    size_t length, capacity;
};
struct gguf_writer {
    struct gguf_buffer keys, tensors;
    int64_t n_key, n_tensor;
    int64_t data_bytes; // declared so far, padded
    struct file_writer file;
};

void gguf_put_u32(struct gguf_writer *w, const char *key, int64_t v);
void gguf_put_f32(struct gguf_writer *w, const char *key, double v);
void gguf_put_bool(struct gguf_writer *w, const char *key, int v);
void gguf_put_string(struct gguf_writer *w, const char *key, const char *v);
void gguf_put_strings(struct gguf_writer *w, const char *key, char *const *v, int64_t n);
void gguf_put_f32s(struct gguf_writer *w, const char *key, const float *v, int64_t n);
void gguf_put_i32s(struct gguf_writer *w, const char *key, const int32_t *v, int64_t n);
// dim: slowest first; the last one must be a multiple of the format's block (BUG).
void gguf_put_tensor(struct gguf_writer *w, const char *name, int n_dim, const int64_t *dim,
                     const struct block_format *format);
int64_t gguf_writer_size(const struct gguf_writer *w); // bytes of the whole file
// Writes everything before the data.
int gguf_writer_begin(struct gguf_writer *w, const char *path, struct error *err);
int gguf_writer_data(struct gguf_writer *w, const void *data, size_t bytes, struct error *err);
int gguf_writer_end_tensor(struct gguf_writer *w, struct error *err); // pads
int gguf_writer_commit(struct gguf_writer *w, struct error *err);     // BUG when the declared bytes were not written
void gguf_writer_release(struct gguf_writer *w);                      // without commit: no file appears

#endif
