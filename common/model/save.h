// save.h: a Hugging Face model directory out.
#ifndef PDQ_SAVE_H
#define PDQ_SAVE_H

#include "common/model/model.h"
#include "common/model/safetensors.h"
#include "common/tensor/dtype.h"

// Parameters that are written as other tensors (integers with scales), and what config.json says of them.
struct save_integers {
    const struct safetensors_item *item; // instead of the replaced ones: names, shapes and types
    int64_t n;
    int (*write)(void *context, struct safetensors_writer *to, struct error *err); // puts them all, in any order
    void *context;
    const unsigned char *replaced; // [n_parameter] 1: not written as itself
    const struct json *config;     // quantization_config
};

struct save_options {
    enum dtype dtype;
    int64_t shard_bytes;      // 0: one file
    const char *carry_from;   // folder whose tokenizer and generation files are copied along; NULL: none
    const struct json *provenance; // goes into the safetensors' __metadata__ as "pdq": text; NULL: none
    const struct save_integers *integers; // NULL: all parameters are floats
};

// Writes config.json, model.safetensors (or shards and index) and the carried files into folder (made when absent).
// tie_embeddings: lm_head is left out. Files that are there already are replaced. A folder that was made for it goes again when it fails with nothing in it.
int model_save(const struct model *m, const char *folder, const struct save_options *options, struct error *err);

#endif
