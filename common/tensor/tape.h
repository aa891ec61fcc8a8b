// tape.h: an eager tape. An op computes at once and, when recording, appends a node; the reverse order of recording is
// the order of the backward pass.
//
//   struct tape tape;                          step arena: activations, gradients, saved values, all dropped at reset
//   tape_init(&tape, precision);
//   y = op_linear(&tape, x, w, b);  ...        loss = op_...(...)
//   tape_backward(&tape, loss);
//   tape_reset(&tape);
//
// Gradients always accumulate. The first contribution to an activation finds no memory yet: tape_grad hands it out
// uninitialised and says so (beta 0), so that no time goes into zeros; parameters' gradients always exist (beta 1).
//
// To add an op: write op_<name>.c with a static backward and the forward right below it, one prototype in ops.h, and
// a test in tests/unit/test_ops_*.c (naive double loop, finite differences; PyTorch's gradients come from
// tests/ref/make_golden.py).
#ifndef PDQ_TAPE_H
#define PDQ_TAPE_H

#include <stdint.h>

#include "common/base/arena.h"
#include "common/tensor/gemm.h"
#include "common/tensor/tensor.h"

#define NODE_INPUTS 4

struct tape;

struct node {
    void (*backward)(struct tape *tape, struct node *node);
    struct tensor *in[NODE_INPUTS]; // NULL where absent
    struct tensor *out;
    void *saved; // in the tape's arena; the op's own struct
};

struct spare { // memory of a gradient that was used up
    float *data;
    int64_t count;
};

struct tape {
    struct arena arena; // step lifetime
    enum precision precision;
    int recording;
    struct node *node; // malloc'd, grows
    int64_t n_node, node_capacity;
    struct spare *spare; // malloc'd, grows
    int64_t n_spare, spare_capacity;
};

void tape_init(struct tape *tape, enum precision precision);
void tape_release(struct tape *tape);
void tape_reset(struct tape *tape); // forgets nodes and activations; recording stays as it was

// A tensor in the step arena, values not initialised. name must outlive the step.
struct tensor *tape_tensor(struct tape *tape, const char *name, int n_dim, int64_t d0, int64_t d1, int64_t d2);
// A node for out if the tape records and some input needs a gradient (then out does too); else NULL. Up to four inputs,
// NULL allowed.
struct node *tape_record(struct tape *tape, void (*backward)(struct tape *, struct node *), struct tensor *out,
                         struct tensor *a, struct tensor *b, struct tensor *c, struct tensor *d);
// Where to add t's gradient; *beta is 0 when the memory is fresh (write), 1 when it holds a sum (add).
// NULL when t is NULL or needs none.
float *tape_grad(struct tape *tape, struct tensor *t, float *beta);
// Runs all nodes backward from the scalar root (gradient 1). The gradient of a node's output is gone (NULL) once the node has run:
// its memory serves the gradients that come later.
void tape_backward(struct tape *tape, struct tensor *root);

// x, moved down to the arena's mark; everything else since then is dropped. Not for what has been recorded.
struct tensor *tape_keep(struct tape *tape, size_t mark, const struct tensor *x);

// y = block(context, tape, x), keeping only y; the backward pass runs the block again. The block must be a pure function
// of x, the context and parameters. Not recording: the block simply runs and its inner values are dropped.
typedef struct tensor *tape_block(void *context, struct tape *tape, struct tensor *x);
struct tensor *tape_checkpoint(struct tape *tape, tape_block *block, void *context, struct tensor *x);

#endif
