// int_types.h: integer weights in safetensors: what a user names as a type, and what config.json says of it.
//
// Only the matrices of layers are of integers; embeddings, the head and norms stay floats, as the tools that write these layouts leave
// them. To add a type of these layouts: a row in `types` (int_types.c) and its name in INT_TYPES.
#ifndef PDQ_INT_TYPES_H
#define PDQ_INT_TYPES_H

#include "common/base/json.h"
#include "common/model/model.h"
#include "common/model/packed.h"
#include "common/tensor/dtype.h"

#define INT_TYPES "W8A8, W8A8_STATIC, W8A16, W4A16, W4A16_ASYM, GPTQ-4, GPTQ-4_ASYM or GPTQ-8"

struct int_type {
    const char *name, *alias; // compressed-tensors' names of its presets where it has one; alias NULL: none
    enum packed_layout layout;
    int bits, symmetric;
    int grouped;                  // scales for groups of columns, else for rows
    int input_bits, static_input; // as in struct packed_scheme
    enum dtype dtype;             // of scales and of what stays a float
};

const struct int_type *int_type_find(const char *name); // name or alias, any case; NULL: none
// Columns that share a scale in rows of C: group, or all (group 0, or a type without groups).
int64_t int_type_group(const struct int_type *t, int64_t group, int64_t C);
// quantization_config as compressed-tensors and AutoGPTQ write it. ordered: columns were rounded in the order of their inputs' sizes (in
// GPTQ's layout groups then follow that order). The caller frees.
struct json *int_type_config(const struct int_type *t, int64_t group, double damping, int ordered);
// Can this model be written so? Needs shapes alone.
int int_type_check(const struct int_type *t, int64_t group, const struct model *m, struct error *err);
int int_type_takes(const struct parameter *p); // is it one of the matrices that become integers?

#endif
