// gguf_names.h: what GGUF calls the weights, for reading (gguf_model.c) and writing (gguf_plan.c).
#ifndef PDQ_GGUF_NAMES_H
#define PDQ_GGUF_NAMES_H

#include <stddef.h>

#include "common/model/model.h"

#define GGUF_NAME_MAX 64
#define GGUF_POOLING_FIRST 2 // bert.pooling_type: the first position (0: none, 1: the mean)

struct gguf_name {
    char text[GGUF_NAME_MAX];
    int rotated;     // its rows are pairs turned by the rotary embedding, which GGUF's `llama` stores interleaved (see gguf_row)
    int part, parts; // it is one of so many parts of the tensor, along the outputs (gpt2's attn_qkv)
};
// GGUF's name of a parameter of a model with config c; 0: it has none.
int gguf_parameter_name(const struct config *c, const struct parameter *p, struct gguf_name *to);

// A factor or a soft cap of struct config that an architecture has a key for.
struct gguf_factor {
    const char *architecture, *key; // the key without its architecture
    size_t offset; // in struct config, a double
    int inverse;   // the key holds 1 / it
    double absent; // where the key may be; 0: it must not
};
extern const struct gguf_factor gguf_factor_table[]; // ended by {0}

double gguf_gemma_scale(const struct config *c); // of q k^T, as llama.cpp takes it for gemma2

// Where row `row` of a q or k projection of heads of width E stands in a `llama` file: transformers pairs rows i and
// i + E/2 of a head, llama.cpp rows 2 i and 2 i + 1.
static inline int64_t gguf_row(int64_t row, int64_t E)
{
    const int64_t j = row % E;
    return row - j + 2 * (j % (E / 2)) + j / (E / 2);
}

// The inverse: the row of transformers that stands in row `row` of the file.
static inline int64_t gguf_row_source(int64_t row, int64_t E)
{
    const int64_t j = row % E;
    return row - j + j / 2 + j % 2 * (E / 2);
}

#endif
