// open_model.h: a model from whatever the user names: a Hugging Face folder or a .gguf file, with the tokenizer that
// goes with it.
#ifndef PDQ_OPEN_MODEL_H
#define PDQ_OPEN_MODEL_H

#include "common/base/error.h"
#include "common/base/hash.h"
#include "common/model/model.h"
#include "common/text/tokenizer.h"

struct opened { // model lifetime
    char *path;
    int is_gguf, borrowed; // borrowed: model and tokenizer are another's
    struct model *model;
    struct tokenizer *tokenizer; // NULL: the model reads no text
};

int path_is_gguf(const char *path);
// Fails when there is nothing usable at path, or when the tokenizer does not fit the embedding.
int opened_open(struct opened *o, const char *path, struct error *err);
// The same for classifiers, too, which have no tokenizer.
int opened_any(struct opened *o, const char *path, struct error *err);
// The same checks, but a folder's weights are not read (nor, without has_weights, need they be there): its model has
// no storage.
int opened_look(struct opened *o, const char *path, int has_weights, struct error *err);
int opened_read(struct opened *o, struct error *err); // the weights, if they are not there yet
// Weights that stay in the file, behind hooks, and are read row by row when they are needed.
int opened_map(struct opened *o, struct error *err);
// A GGUF file's weights as f32 in memory instead of behind hooks: what pruning and training change.
int opened_widen(struct opened *o, struct error *err);
// The same for a folder that holds config.json and a tokenizer but no weights yet: the model has storage, all zero.
int opened_shape(struct opened *o, const char *folder, struct error *err);
void opened_release(struct opened *o); // fine on a zeroed one

// The shape alone, quickly: config.json, or a GGUF file's keys. Released with config_release.
int shape_read(struct config *c, const char *path, struct error *err);
// A hash of what decides the model's numbers: the GGUF file, or config.json, weights (unless shape_only) and
// tokenizer files of a folder.
int model_hash(const char *path, int shape_only, char out[HASH_TEXT], struct error *err);
// Bytes of the weights as they lie on disk: the GGUF file, or the folder's safetensors.
int64_t model_bytes(const char *path);

// The same after gzip: how much of it is redundancy.
int model_gzip_bytes(const char *path, int64_t *bytes, struct error *err);

#endif
