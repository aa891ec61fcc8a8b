// load.h: a Hugging Face model directory in. (GGUF comes in through quant/gguf_model.h.)
#ifndef PDQ_LOAD_H
#define PDQ_LOAD_H

#include "common/model/model.h"

// Reads config.json and the safetensors of a folder into a new model (f32). Names in __metadata__ that alias one tensor to
// another are followed; with tied embeddings either of lm_head / embed_tokens may be missing. A tensor that is missing, left over
// (other than rotary inv_freq buffers), or of another shape than the config says is an error naming it; so is one with a
// value that is NaN or infinite. NULL on failure.
struct model *model_load(const char *folder, struct error *err);
// The same checks, but no weight is read: a model without storage, for what must be known before there is memory for it.
struct model *model_load_shape(const char *folder, struct error *err);

// A model whose matrices stay in the mapped files and are read through hooks, a page at a time: nothing larger than a row is held
// for it. NULL on failure.
struct model *model_map(const char *folder, struct error *err);

// NaN and infinities, before they spread over all that is computed from the weights: -1, with the tensor and the place. Reads every weight.
int model_check_values(const struct model *m, struct error *err);

#endif
