// gguf_mix.h: what a user names as a type: one storage type for all matrices, or a mix as llama-quantize makes it.
#ifndef PDQ_GGUF_MIX_H
#define PDQ_GGUF_MIX_H

#include "quant/blocks.h"

// For messages and help; Q3_K, Q4_K and Q5_K are llama.cpp's Q3_K_M, Q4_K_M and Q5_K_M, which are understood as well.
#define GGUF_TYPES                                                                                                      \
    "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K_S, Q3_K, Q3_K_L, Q4_K_S, Q4_K, Q5_K_S, Q5_K, Q6_K, "      \
    "IQ4_NL or IQ4_XS"

struct gguf_mix {
    const char *name;  // as the user asks, and as it is shown
    const char *alias; // NULL: none
    int file_type;     // general.file_type
    const char *base;  // the storage type of most matrices
};

const struct gguf_mix *gguf_mix_find(const char *name);     // name or alias, any case; NULL: none
const struct gguf_mix *gguf_mix_nearest(const char *wrong); // the one whose name is most like it; NULL: none is
int64_t gguf_mix_block(const struct gguf_mix *mix);         // elements of the base's block

// Where a matrix stands: layer n of n_layer, the attention_rank-th of n_attention layers with attention. -1: in no layer.
struct gguf_place {
    const char *name; // in the file
    int64_t layer, n_layer, attention_rank, n_attention;
    int64_t queries_per_key; // query heads that share a key and value head, in the first layer
    int is_head;             // the output matrix, or the embedding that serves as one
    int64_t columns;
};

// The type that the mix gives a matrix, whatever its rows; and what is written where they are no multiple of its block.
const struct block_format *gguf_mix_format(const struct gguf_mix *mix, const struct gguf_place *place);
const struct block_format *gguf_mix_fitting(const struct block_format *wanted, int64_t columns);

#endif
