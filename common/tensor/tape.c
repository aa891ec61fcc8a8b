// tape.c: recording, the backward pass, and block checkpointing.
#include "common/tensor/tape.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

void tape_init(struct tape *tape, enum precision precision)
{
    gemm_init();
    memset(tape, 0, sizeof *tape);
    arena_init(&tape->arena, "activations of a step", ARENA_DEFAULT);
    tape->precision = precision;
}

void tape_release(struct tape *tape)
{
    arena_release(&tape->arena);
    free(tape->node);
    free(tape->spare);
    memset(tape, 0, sizeof *tape);
}

void tape_reset(struct tape *tape)
{
    arena_reset(&tape->arena, 0);
    tape->n_node = 0;
    tape->n_spare = 0;
}

struct tensor *tape_tensor(struct tape *tape, const char *name, int n_dim, int64_t d0, int64_t d1, int64_t d2)
{
    struct tensor *t = arena_zalloc(&tape->arena, sizeof *t);
    t->name = name;
    t->n_dim = n_dim;
    t->dim[0] = d0;
    t->dim[1] = n_dim > 1 ? d1 : 1;
    t->dim[2] = n_dim > 2 ? d2 : 1;
    t->data = arena_alloc(&tape->arena, (size_t)tensor_count(t) * sizeof(float));
    return t;
}

static void node_append(struct tape *tape, const struct node *node)
{
    if (tape->n_node == tape->node_capacity) {
        tape->node_capacity = tape->node_capacity ? 2 * tape->node_capacity : 256;
        tape->node = xrealloc(tape->node, (size_t)tape->node_capacity * sizeof *tape->node, "tape");
    }
    tape->node[tape->n_node++] = *node;
}

struct node *tape_record(struct tape *tape, void (*backward)(struct tape *, struct node *), struct tensor *out,
                         struct tensor *a, struct tensor *b, struct tensor *c, struct tensor *d)
{
    struct node node = {.backward = backward, .in = {a, b, c, d}, .out = out};
    int wanted = 0;
    for (int i = 0; i < NODE_INPUTS; i++)
        wanted |= node.in[i] && node.in[i]->needs_grad;
    if (!tape->recording || !wanted)
        return NULL;
    out->needs_grad = 1;
    node_append(tape, &node);
    return &tape->node[tape->n_node - 1];
}

static float *spare_take(struct tape *tape, int64_t count)
{
    for (int64_t i = tape->n_spare - 1; i >= 0; i--)
        if (tape->spare[i].count == count) {
            float *data = tape->spare[i].data;
            tape->spare[i] = tape->spare[--tape->n_spare];
            return data;
        }
    return NULL;
}

float *tape_grad(struct tape *tape, struct tensor *t, float *beta)
{
    if (!t || !t->needs_grad)
        return NULL;
    *beta = t->grad ? 1.0f : 0.0f;
    if (!t->grad)
        t->grad = spare_take(tape, tensor_count(t));
    if (!t->grad)
        t->grad = arena_alloc(&tape->arena, (size_t)tensor_count(t) * sizeof(float));
    return t->grad;
}

static void spare_give(struct tape *tape, struct tensor *t)
{
    if (tape->n_spare == tape->spare_capacity) {
        tape->spare_capacity = tape->spare_capacity ? 2 * tape->spare_capacity : 64;
        tape->spare = xrealloc(tape->spare, (size_t)tape->spare_capacity * sizeof *tape->spare, "tape");
    }
    tape->spare[tape->n_spare++] = (struct spare){t->grad, tensor_count(t)};
    t->grad = NULL;
}

// Forgets the spares that lie beyond a mark to which the arena is about to be reset.
static void spare_drop(struct tape *tape, size_t mark)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < tape->n_spare; i++)
        if ((char *)tape->spare[i].data < tape->arena.base + mark)
            tape->spare[kept++] = tape->spare[i];
    tape->n_spare = kept;
}

// Runs the nodes from the last down to number `first` and forgets them.
static void run_backward(struct tape *tape, int64_t first)
{
    while (tape->n_node > first) {
        struct node node = tape->node[--tape->n_node]; // by value: a checkpoint records more nodes here
        if (node.out->grad)
            node.backward(tape, &node);
        if (node.out->grad)
            spare_give(tape, node.out);
    }
}

void tape_backward(struct tape *tape, struct tensor *root)
{
    if (tensor_count(root) != 1)
        BUG("tape_backward: root %s has %ld elements, a scalar is needed", root->name, (long)tensor_count(root));
    if (!root->needs_grad)
        BUG("tape_backward: nothing that %s depends on wants a gradient", root->name);
    float beta;
    *tape_grad(tape, root, &beta) = 1.0f;
    run_backward(tape, 0);
}

struct checkpoint {
    tape_block *block;
    void *context;
};

static void checkpoint_backward(struct tape *tape, struct node *node)
{
    const struct checkpoint *c = node->saved;
    struct tensor *x = node->in[0];
    float beta = 1;
    float *dx = tape_grad(tape, x, &beta); // before the mark: it must outlive the inner run
    if (dx && beta == 0.0f)
        memset(dx, 0, (size_t)tensor_count(x) * sizeof(float));
    const size_t mark = arena_mark(&tape->arena);
    const int64_t first = tape->n_node;
    const int recording = tape->recording;
    tape->recording = 1;
    struct tensor *y = c->block(c->context, tape, x);
    y->grad = node->out->grad;
    node->out->grad = NULL;
    run_backward(tape, first);
    tape->recording = recording;
    spare_drop(tape, mark);
    arena_reset(&tape->arena, mark);
}

struct tensor *tape_keep(struct tape *tape, size_t mark, const struct tensor *x)
{
    const struct tensor inner = *x;
    arena_reset(&tape->arena, mark);
    struct tensor *y = tape_tensor(tape, inner.name, inner.n_dim, inner.dim[0], inner.dim[1], inner.dim[2]);
    memmove(y->data, inner.data, (size_t)tensor_count(y) * sizeof(float));
    return y;
}

struct tensor *tape_checkpoint(struct tape *tape, tape_block *block, void *context, struct tensor *x)
{
    const int recording = tape->recording;
    struct checkpoint *saved = arena_alloc(&tape->arena, sizeof *saved);
    *saved = (struct checkpoint){block, context};
    const size_t mark = arena_mark(&tape->arena);
    tape->recording = 0;
    struct tensor *y = block(context, tape, x);
    tape->recording = recording;
    y = tape_keep(tape, mark, y);
    if (recording) {
        y->needs_grad = 1; // the block's parameters may want one even where x does not
        node_append(tape, &(struct node){.backward = checkpoint_backward, .in = {x}, .out = y, .saved = saved});
    }
    return y;
}
