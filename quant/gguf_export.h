// gguf_export.h: a model as a GGUF file, planned before anything is computed.
//
// A type names a storage type for every matrix or a mix: what llama-quantize writes under that name (gguf_mix.h).
// `pure` gives every matrix the bare type. Vectors are always F32.
#ifndef PDQ_GGUF_EXPORT_H
#define PDQ_GGUF_EXPORT_H

#include "common/model/model.h"
#include "common/text/tokenizer.h"
#include "quant/gguf.h"
#include "quant/gguf_names.h"

struct importance;
struct gguf_plan;
struct gguf_plan_tensor;

// A way to a tensor's blocks that looks at more than one row after the other.
struct gguf_encoder {
    void *context;
    // Called for every tensor in the file's order. *blocks: the tensor's data, good until the next call; NULL: encode its rows.
    int (*tensor)(void *context, const struct gguf_plan *plan, const struct gguf_plan_tensor *t, const unsigned char **blocks,
                  struct error *err);
};

struct gguf_export_options {
    const char *type;
    const struct importance *importance;  // weights of the columns' errors; NULL: all alike
    const struct gguf_encoder *encoder;   // NULL: each row by itself
    int pure, allow_fallback;
    int padded; // fill missing heads and channels with zeros where the reader needs a fixed or uniform shape
    const struct json *provenance; // kept as JSON text under pdq.provenance; NULL: none
    const char *name;              // general.name; NULL: none
};

struct gguf_plan_tensor {
    char name[GGUF_NAME_MAX];
    const struct parameter *written;   // its place in the file's model (of several parts the first); NULL: the rope factors
    const struct parameter *source[3]; // the model's own, one for each part along the outputs; NULL: none, so zeros are written
    int n_part;
    const struct block_format *format; // what is written
    const struct block_format *wanted; // differs from format where the rows are no multiple of its block
    int rotated;                       // rows are interleaved
    int n_dim;
    int64_t dim[2], bytes; // dim: slowest first, padding included
};

struct gguf_plan {
    const char *architecture;        // "llama", "qwen2", "gpt2", "bert", or "deci": llama with layers of different shapes
    const struct model *model;       // not owned
    struct model *shape;             // the file's, without storage
    struct layer_shape *layer;       // [n_layer] as written: wider than the model's when padded
    struct gguf_plan_tensor *tensor; // in the file's order
    int64_t n_tensor, n_fallback, file_bytes, padding_bytes;
    float *rope_factor;        // [head_dim / 2] or NULL
    const struct importance *importance; // the options'
    struct gguf_writer writer; // keys and tensors are in place
};

// Needs the model's shapes only (model_new without storage will do). t NULL: the file gets no tokenizer, and
// llama.cpp reads ids only. Refused, with the reason: a type that the rows do not fit (unless allow_fallback), layers
// that differ in a family that has biases, or heads that the reader cannot have (unless padded), a tokenizer that llama.cpp would not follow. Not
// to be released after a failure.
int gguf_plan_make(struct gguf_plan *plan, const struct model *m, const struct tokenizer *t,
                   const struct gguf_export_options *o, struct error *err);
void gguf_plan_release(struct gguf_plan *plan);

// Plans, checks the disk, computes row blocks in parallel and writes them as they come. A value that the type cannot
// hold (not finite, too large) is an error naming tensor, row and column; then no file appears.
int gguf_export(const struct model *m, const struct tokenizer *t, const char *path,
                const struct gguf_export_options *o, struct error *err);

#endif
