// test_ops_tape.c: what the tape keeps and drops: checkpoints, and inputs that want no gradient.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/tensor/gradcheck.h"
#include "tests/unit/ops_check.h"

TestSuite(ops, .init = gemm_init);

// ---- checkpoints -------------------------------------------------------------------------------------------------

struct block {
    struct tensor *w1, *w2, *norm;
};

static struct tensor *block_run(void *context, struct tape *tape, struct tensor *x) {
    struct block *b = context;
    struct tensor *n = op_rmsnorm(tape, x, b->norm, 1e-5);
    struct tensor *up = op_linear(tape, n, b->w1, NULL);
    struct tensor *act = op_swiglu(tape, up, up);
    struct tensor *down = op_linear(tape, act, b->w2, NULL);
    return op_add(tape, x, down);
}

// Three blocks, once plain and once with everything inside them thrown away and computed again: equal bits.
Test(ops, checkpoint) {
    enum { N = 70, D = 24, F = 40, BLOCKS = 3 };
    struct block block[BLOCKS];
    struct tensor *in[1 + 3 * BLOCKS];
    int n_in = 0;
    in[n_in++] = tensor_make("x", N, D, 1);
    for (int i = 0; i < BLOCKS; i++) {
        block[i] =
            (struct block){tensor_make("w1", F, D, 0.2), tensor_make("w2", D, F, 0.2), tensor_make("norm", D, 0, 1)};
        in[n_in++] = block[i].w1;
        in[n_in++] = block[i].w2;
        in[n_in++] = block[i].norm;
    }
    for (int precision = 0; precision < 2; precision++) {
        float *kept[1 + 3 * BLOCKS], y_kept[N * D];
        for (int checkpoint = 0; checkpoint < 2; checkpoint++) {
            struct tape tape;
            tape_init(&tape, precision ? PRECISION_BF16 : PRECISION_F32);
            tape.recording = 1;
            for (int k = 0; k < n_in; k++)
                memset(in[k]->grad, 0, (size_t)tensor_count(in[k]) * sizeof(float));
            struct tensor *y = in[0], *root;
            for (int i = 0; i < BLOCKS; i++)
                y = checkpoint ? tape_checkpoint(&tape, block_run, &block[i], y) : block_run(&block[i], &tape, y);
            float y_now[N * D];
            memcpy(y_now, y->data, sizeof y_now);
            gradcheck_project(&tape, y, 3, &root);
            tape_backward(&tape, root);
            tape_release(&tape);
            if (!checkpoint)
                memcpy(y_kept, y_now, sizeof y_now);
            cr_expect(memcmp(y_kept, y_now, sizeof y_now) == 0, "outputs differ");
            for (int k = 0; k < n_in; k++) {
                size_t bytes = (size_t)tensor_count(in[k]) * sizeof(float);
                if (!checkpoint)
                    kept[k] = memcpy(xmalloc(bytes, "a test's values"), in[k]->grad, bytes);
                cr_expect(memcmp(kept[k], in[k]->grad, bytes) == 0, "gradients of input %d (%s) differ", k,
                          in[k]->name);
                if (checkpoint)
                    free(kept[k]);
            }
        }
    }
    for (int k = 0; k < n_in; k++)
        tensor_drop(in[k]);
}

// Not recording, a checkpointed block leaves only its output in the arena.
Test(ops, checkpoint_drops_inner_values) {
    enum { N = 70, D = 24, F = 400 };
    struct block block = {tensor_make("w1", F, D, 0.2), tensor_make("w2", D, F, 0.2), tensor_make("norm", D, 0, 1)};
    struct tensor *x = tensor_make("x", N, D, 1);
    struct tape tape;
    tape_init(&tape, PRECISION_F32);
    for (int recording = 0; recording < 2; recording++) {
        tape.recording = recording;
        size_t before = arena_mark(&tape.arena);
        tape_checkpoint(&tape, block_run, &block, x);
        size_t left = arena_mark(&tape.arena) - before;
        cr_expect(left < 3 * N * D * sizeof(float), "%zu bytes stay for an output of %zu", left,
                  N * D * sizeof(float));
    }
    tape_release(&tape);
    tensor_drop(block.w1);
    tensor_drop(block.w2);
    tensor_drop(block.norm);
    tensor_drop(x);
}

// Nothing is recorded, and no gradient is written, where no input wants one.
Test(ops, no_gradient_wanted) {
    struct tensor *x = tensor_make("x", 5, 8, 1), *w = tensor_make("w", 8, 8, 1);
    struct tape tape;
    tape_init(&tape, PRECISION_F32);
    tape.recording = 1;
    x->needs_grad = w->needs_grad = 0;
    struct tensor *y = op_linear(&tape, x, w, NULL);
    y = op_swiglu(&tape, y, y);
    y = op_add(&tape, y, x);
    cr_expect_eq(tape.n_node, 0);
    cr_expect_eq(y->needs_grad, 0);
    // A frozen weight: the input's gradient alone is made.
    x->needs_grad = 1;
    struct tensor *root;
    gradcheck_project(&tape, op_linear(&tape, x, w, NULL), 3, &root);
    tape_backward(&tape, root);
    for (int i = 0; i < 64; i++)
        cr_expect(w->grad[i] == 0, "a frozen weight got a gradient");
    int some = 0;
    for (int i = 0; i < 40; i++)
        some += x->grad[i] != 0;
    cr_expect_eq(some, 40);
    tape_release(&tape);
    tensor_drop(x);
    tensor_drop(w);
}
