// layer_walk.h: a model's layers one after the other over a text: each is looked at, and may be changed, before the next one sees
// what it makes. The hidden states of all the text's tokens are in memory (tokens x D floats), of the layers' insides one batch.
#ifndef PDQ_LAYER_WALK_H
#define PDQ_LAYER_WALK_H

#include "common/data/dataset.h"
#include "common/model/model.h"

// What a layer's matrices read: q, k, v the normalised hidden states; o the heads' outputs; gate and up the second norm's; down the
// channels.
enum layer_input { INPUT_ATTENTION, INPUT_HEADS, INPUT_FF, INPUT_CHANNELS, LAYER_INPUTS };
enum layer_input layer_input_of(const struct parameter *p); // a matrix of a layer

struct walk_text { // windows of a text, drawn by the seed
    const struct dataset *data;
    int64_t seq_len, tokens, batch; // tokens in all, about (walk_text_tokens); windows at once
    uint64_t seed;
    enum precision precision;
};
int64_t walk_text_tokens(const struct walk_text *t); // whole batches, at least one

struct layer_walk { // lifetime: the caller's
    struct model *m;
    struct walk_text text;
    float *x; // [tokens, D]: hidden states before the layer at hand
    int64_t batches, rows; // rows: tokens of a batch
    struct tape tape;
};

typedef void layer_look(void *context, enum layer_input kind, const struct tensor *x); // [rows, C]: one batch

// Embeds the text. Weights of m may change later, also in which tensors they lie.
// All three end after a batch where the user asked to stop: before what they saw is used, interrupt_check.
void layer_walk_begin(struct layer_walk *w, struct model *m, const struct walk_text *text);
// Shows the inputs (bits 1 << enum layer_input) of a layer's matrices, batch after batch. A block that is not there shows nothing.
void layer_walk_look(struct layer_walk *w, int64_t layer, unsigned wanted, layer_look *see, void *context);
void layer_walk_advance(struct layer_walk *w, int64_t layer); // to what the layer makes
void layer_walk_end(struct layer_walk *w);

// Second moments of inputs x [N, C], summed in double over what is added.
struct moments {
    int64_t C, rows;
    double *square; // [C] sums of x_c^2
    double *gram;   // [C, C] sums of x x^T; NULL: not wanted
};
void moments_init(struct moments *s, int64_t C, int with_gram);
void moments_add(struct moments *s, const struct tensor *x);
void moments_release(struct moments *s); // fine on a zeroed one

#endif
