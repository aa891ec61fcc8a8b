// shape.h: a model's shape as words, as JSON, and where such a model loads.
#ifndef PDQ_SHAPE_H
#define PDQ_SHAPE_H

#include "common/base/json.h"
#include "common/model/config.h"

#define SHAPE_TEXT 256

// "5 layers, hidden 256, 16 query and 8 key/value heads of 32, FFN 1024", with ranges where layers differ ("4-16 query").
void shape_text(char to[SHAPE_TEXT], const struct config *c);
// {"type", "layers", "hidden", "head_dim", "heads", "kv_heads", "ffn", "vocab", "parameters"}; where layers differ, heads,
// kv_heads and ffn are lists. The caller frees.
struct json *shape_json(const struct config *c);
// {"transformers 4": "yes", "transformers 5": ..., "vLLM": ..., "llama.cpp": ...} of a folder or a GGUF file. The caller frees.
struct json *loads_json(const struct config *c, int is_gguf);

#endif
