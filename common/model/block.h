// block.h: what the layers of all transformers share: running one after the other, taps, gates, cached keys and values.
// Internal to common/model.
#ifndef PDQ_BLOCK_H
#define PDQ_BLOCK_H

#include "common/model/arch.h"

struct block { // what one layer's forward needs; step lifetime
    struct model *model;
    const struct forward *forward;
    const float *rope; // NULL: none
    int layer;
};

// Runs the layers that f asks for from x [N, D], the embeddings; `block` gets a struct block as its context. The embeddings and each
// layer's output are shown, and the cache moves on. What comes out is not normalised.
struct tensor *blocks_run(struct model *m, struct tape *tape, const struct forward *f, const float *rope, tape_block *block,
                          struct tensor *x);

int layer_has_attention(const struct config *c, int layer); // for weight tables, as layer_has_ff
int layer_has_ff(const struct config *c, int layer);
int block_is_skipped(const struct block *b, int is_attention); // it has none, or a gate leaves it out
void block_show(const struct block *b, enum tap which, struct tensor **place, struct tensor *x);
// act(x), as the config says.
struct tensor *model_activation(const struct model *m, struct tape *tape, struct tensor *x);
// The config's root-mean-square norm with weights w, over all columns or over runs of as many as w has (op_rmsnorm).
struct tensor *model_norm(const struct model *m, struct tape *tape, struct tensor *x, struct tensor *w);
// A whole attention, or feed-forward block with an activation, from its input [N, D] to what is added. Specs of the weights in a row:
// first = q, its bias, k, its bias, v, its bias, o, its bias; and up, its bias, down, its bias. Queries and keys are
// normalised where the config has norms of them, and rotated where b->rope is there.
struct tensor *block_attention(const struct block *b, struct tape *tape, struct tensor *x, int first);
struct tensor *block_feed_forward(const struct block *b, struct tape *tape, struct tensor *x, int first);
// Rows of the tokens' table, moved by f->shift: [N, width of an embedding].
struct tensor *block_tokens(struct model *m, struct tape *tape, const struct forward *f);
// Rows of a table of learned positions [P, D] for every token: [N, D].
struct tensor *block_positions(struct model *m, struct tape *tape, const struct forward *f, struct tensor *table);
// From the activations of the feed-forward block [N, F] to what the output projection reads: gates, taps.
struct tensor *block_channels(const struct block *b, struct tape *tape, struct tensor *x);

#endif
