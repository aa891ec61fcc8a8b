// packed.h: integer weights in a checkpoint, in the layouts of compressed-tensors and of GPTQ, as config.json's quantization_config tells.
//
// A matrix [D, C] "m.weight" (codes of `bits` bits, fields of 32-bit words from the low end; G groups of C / G columns each):
//
//   int-quantized   m.weight I8 [D, C]; m.weight_scale [D, 1 or G]
//   pack-quantized  m.weight_packed I32 [D, C * bits / 32], codes + 2^(bits-1); m.weight_scale [D, 1 or G]; m.weight_shape I64 [2]; asymmetric:
//                   m.weight_zero_point I32 [D * bits / 32, G], fields down the rows, + 2^(bits-1); m.weight_g_idx I32 [C], each column's group
//   gptq            m.qweight I32 [C * bits / 32, D], fields down the columns; m.scales [G, D]; m.qzeros I32 [G, D * bits / 32], less one;
//                   m.g_idx I32 [C]
//
// Its value is (code - zero) * scale. Inputs may be rounded, too: input_activations "token" (dynamic), or "tensor" with m.input_scale [1].
#ifndef PDQ_PACKED_H
#define PDQ_PACKED_H

#include "common/model/safetensors.h"

enum packed_layout { PACKED_NONE, PACKED_INT, PACKED_WORDS, PACKED_GPTQ };

struct packed_scheme {
    enum packed_layout layout;
    int bits, symmetric;
    int64_t group;    // columns that share a scale; 0: a row's
    int input_bits;   // of the rounded inputs of products; 0: they stay as they are
    int static_input; // with one scale, from the file; else each token has its own
};
// quantization_config of config.json (NULL or none of that key: layout PACKED_NONE). What is not understood is refused by name.
int packed_scheme_read(struct packed_scheme *s, const struct json *config, const char *folder, struct error *err);

struct packed_weight { // one matrix in the files; lifetime: theirs
    struct packed_scheme scheme;
    const struct safetensor *codes, *scale, *zero, *order, *shape, *input; // NULL: the layout, or the matrix, has none
    int64_t rows, columns;
};
// The parts of the matrix `name` ("m.weight"), all checked. 1: found; 0: not there in this layout; -1: something is wrong with it.
int packed_find(struct packed_weight *w, const struct packed_scheme *s, const struct safetensors *files, const char *name, int64_t rows,
                int64_t columns, const char *folder, struct error *err);
void packed_rows(const struct packed_weight *w, int64_t row0, int64_t n, float *to);
float packed_input_scale(const struct packed_weight *w); // of static inputs; else 0

#endif
