// safetensors.h: the container, read by mmap and written whole. Knows nothing about models.
//
// Layout: u64 little-endian header length, JSON header {"name": {"dtype","shape","data_offsets"}, "__metadata__": {...}}, data.
// A reader trusts nothing: header length, JSON, dtypes, shapes against offsets, overlaps and the file's end are all checked.
#ifndef PDQ_SAFETENSORS_H
#define PDQ_SAFETENSORS_H

#include <stdint.h>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/tensor/dtype.h"
#include "common/tensor/tensor.h"

#define SAFETENSORS_DIMS 4

struct safetensor {
    char *name;
    const char *dtype_name; // as written, static text: "F32", "I64", ...
    int is_float;           // F32, F16 or BF16: dtype holds; others can be seen but not read as numbers
    enum dtype dtype;
    int n_dim;
    int64_t dim[SAFETENSORS_DIMS];
    const void *data; // into a map
    int64_t bytes;
};

struct safetensors {       // model lifetime
    struct file_map *map;  // one per file
    int n_map;
    struct safetensor *tensor; // sorted by name
    int64_t n_tensor;
    struct json *metadata; // merged __metadata__ of all files; may be NULL
};

// path: a .safetensors file, or a folder with model.safetensors or model.safetensors.index.json (all its shards).
int safetensors_open(struct safetensors *s, const char *path, struct error *err);
void safetensors_close(struct safetensors *s);
const struct safetensor *safetensors_find(const struct safetensors *s, const char *name); // NULL: none

// One tensor to write: f32 values, converted to `dtype` while writing.
struct safetensors_item {
    const char *name;
    int n_dim;
    int64_t dim[SAFETENSORS_DIMS];
    const float *data;
    const struct tensor *hooked; // a weight whose hook gives the values, so that no f32 copy is needed; NULL: data does
    const void *raw;             // instead of both: the bytes as they are to lie in the file, of raw_type
    const char *raw_type;        // "I8", "I32", "I64"; NULL: the values are f32 and become `dtype`
};
// Writes folder/model.safetensors, or, when the data is larger than shard_bytes (0: never), shards
// model-00001-of-0000N.safetensors and the index. Keys sorted; metadata {"format":"pt"} plus the given object's strings.
// Everything is complete in temporary files before the first one gets its name, the index comes last, and what an
// earlier save left under other names is removed. A value that F16 cannot hold is an error naming the tensor.
int safetensors_write(const char *folder, const struct safetensors_item *items, int64_t n, enum dtype dtype,
                      int64_t shard_bytes, const struct json *metadata, struct error *err);

// The same tensor by tensor, for what is made while it is written. The items of begin say names, shapes and types, and are there until the end.
// put takes one of them that had no data, with its data, to its place in the file, in any order; commit puts those that had.
struct safetensors_writer;
struct safetensors_writer *safetensors_begin(const char *folder, const struct safetensors_item *items, int64_t n, enum dtype dtype,
                                             int64_t shard_bytes, const struct json *metadata, struct error *err); // NULL: failed
int safetensors_put(struct safetensors_writer *w, const struct safetensors_item *item, struct error *err);
int safetensors_commit(struct safetensors_writer *w, struct error *err);
void safetensors_end(struct safetensors_writer *w); // frees; what was not committed is gone. NULL is fine

// safetensors_write as one file of any name, for tensors that are no model.
int safetensors_write_file(const char *path, const struct safetensors_item *items, int64_t n, enum dtype dtype, const struct json *metadata,
                           struct error *err);

#endif
