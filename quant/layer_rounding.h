// layer_rounding.h: learned rounding of a transformer's layers, one after the other (the block reconstruction of BRECQ, Li et al. 2021, and
// of AutoRound, Cheng et al. 2023).
//
// A layer's matrices are chosen together: its output on the hidden states that the layers before it make as they are in the file shall be
// that of the unquantized model on its own hidden states, in the mean square over the text. So a layer also makes up for those before it.
//
// In memory: the unquantized model's hidden states (4 D bytes a token) beside those of the walk; of one layer's matrices 17 bytes a weight;
// what a step's windows need to go through a layer and back.
#ifndef PDQ_LAYER_ROUNDING_H
#define PDQ_LAYER_ROUNDING_H

#include "common/eval/layer_walk.h"
#include "quant/learned_rounding.h"

#define LAYER_ROUNDING_BYTES 17 // of a weight of the layer at hand, beside its value
int64_t layer_rounding_windows(int64_t n); // of a step, for a text of n

struct layer_rounding { // lifetime: one export
    struct rounding_options options;
    struct model *ideal;       // the weights as they are
    struct layer_walk target;  // of it
    struct learned_rounding choices; // of the layer at hand
};

// m: the model before anything is rounded.
void layer_rounding_begin(struct layer_rounding *r, const struct rounding_options *o, const struct model *m, const struct walk_text *text);
// The choices of a matrix of the model that the walk runs, made where there are none.
struct rounding_choice *layer_rounding_choice(struct layer_rounding *r, struct tensor *w);
// Chooses for a layer of walk, whose hidden states are before it. Layers in order; those without a choice must be told of, too. choices->up
// are the results until the next layer's.
int layer_rounding_learn(struct layer_rounding *r, struct layer_walk *walk, int layer, struct error *err);
void layer_rounding_end(struct layer_rounding *r); // fine on a zeroed one

#endif
