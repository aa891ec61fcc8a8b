// gptq_model.h: GPTQ for a whole model on its way into a file, layer by layer: each matrix is rounded for the inputs that it gets from the
// layers and matrices before it as they are in the file.
//
// In memory beside the model: the hidden states of the text (4 D bytes a token), one layer as f32 and as blocks (at first the
// embedding, instead), and of the matrix at hand
// its weights as f32 and 32 C^2 bytes for the second moments of its C inputs. With learned rounding what layer_rounding.h says, and a byte for
// each of the layer's weights.
#ifndef PDQ_GPTQ_MODEL_H
#define PDQ_GPTQ_MODEL_H

#include "common/eval/layer_walk.h"
#include "quant/gptq.h"
#include "quant/layer_rounding.h"
#include "quant/overlay.h"

struct gptq_model { // lifetime: one export
    struct gptq_options options;
    struct walk_text text;
    const struct gguf_plan *plan; // known once the first tensor comes; gone when the export is
    int64_t n_tensor;
    struct model *overlay;        // the model with what is rounded already
    struct layer_walk walk;
    int layer;                // at hand; -1: none yet
    unsigned char **blocks;   // [n_tensor] of the layer at hand
    const struct rounding_options *learned; // NULL: as GPTQ rounds
    struct layer_rounding rounding;
    uint8_t **low_code; // [n_tensor] of its choices (block_choices.h)
};

// For options->encoder of an export of m. gptq_model_encoder.context is g, which stays where it is. learned: once a layer is rounded, its
// weights choose again between the levels around what GPTQ had at their turns, so that the layer's output is right (layer_rounding.h); NULL: no.
struct gguf_encoder gptq_model_begin(struct gptq_model *g, const struct gptq_options *o, const struct rounding_options *learned,
                                     const struct walk_text *text);
void gptq_model_end(struct gptq_model *g); // also after a failure

#endif
