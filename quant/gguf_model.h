// gguf_model.h: a model that runs straight from a GGUF file.
#ifndef PDQ_GGUF_MODEL_H
#define PDQ_GGUF_MODEL_H

#include "common/model/model.h"
#include "common/text/tokenizer.h"

// Architectures `llama` and `qwen2`. Matrices stay in the mapped file behind weight hooks (rows are widened on use,
// products for decoding computed from the blocks); vectors are copied. *tokenizer is the file's own, NULL when it has
// none ("no_vocab"); the caller frees it. A missing or unknown tensor, another shape than the keys say, or a key that
// changes the computation in a way that pdq does not know is an error naming it. NULL on failure.
struct model *gguf_model_open(const char *path, struct tokenizer **tokenizer, struct error *err);
// Of a model from gguf_model_open: from now on its matrices are read from one end to the other, not by turns, so pages that were read are given back.
void gguf_model_stream(struct model *m);

#endif
