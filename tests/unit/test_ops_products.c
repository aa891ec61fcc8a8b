// test_ops_products.c: rows of tables and products with weights, from hooks too.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/base/threads.h"
#include "tests/unit/ops_check.h"

TestSuite(ops, .init = gemm_init);

// ---- embed -------------------------------------------------------------------------------------------------------

static struct tensor *embed_build(struct op_case *c, struct tape *tape) {
    return op_embed(tape, c->in[0], c->ids, c->T);
}

static void embed_forward(const struct op_case *c, double *const *x, double *y) {
    int64_t D = tensor_columns(c->in[0]);
    for (int64_t n = 0; n < c->T; n++)
        for (int64_t d = 0; d < D; d++)
            y[n * D + d] = x[0][c->ids[n] * D + d] * (c->in[0]->hook ? hook_factor(c->ids[n] * D + d) : 1);
}

static void embed_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    (void)x;
    int64_t D = tensor_columns(c->in[0]);
    for (int64_t n = 0; n < c->T; n++)
        for (int64_t d = 0; d < D; d++)
            dx[0][c->ids[n] * D + d] += dy[n * D + d] * (c->in[0]->hook ? hook_factor(c->ids[n] * D + d) : 1);
}

Test(ops, embed) {
    enum { V = 37, N = 300 };
    int32_t ids[N];
    for (int i = 0; i < N; i++)
        ids[i] = (i * 7 + i * i) % V;
    ids[0] = V - 1;
    for (int64_t D = 1; D <= 129; D += 64)
        for (int hooked = 0; hooked < 2; hooked++) {
            struct op_case c = {.name = "embed",
                                .build = embed_build,
                                .forward = embed_forward,
                                .backward = embed_backward,
                                .f32 = POINTWISE_F32,
                                .bf16 = POINTWISE_F32};
            c.one_precision = 1;
            c.n_in = 1;
            c.in[0] = tensor_make("table", V, D, 1);
            struct weight_hook hook = {.context = c.in[0]->data, .rows = hook_rows, .backward = hook_backward};
            if (hooked)
                c.in[0]->hook = &hook;
            c.ids = ids;
            c.T = N;
            c.n_out = N * D;
            check_op(&c, 1);
        }
}

// ---- linear, with bias and hook ----------------------------------------------------------------------------------

static struct tensor *linear_build(struct op_case *c, struct tape *tape) {
    return op_linear(tape, c->in[0], c->in[1], c->n_in == 3 ? c->in[2] : NULL);
}

static void linear_forward(const struct op_case *c, double *const *x, double *y) {
    int64_t N = tensor_rows(c->in[0]), I = tensor_columns(c->in[0]), O = c->in[1]->dim[0];
    for (int64_t n = 0; n < N; n++)
        for (int64_t o = 0; o < O; o++) {
            double sum = c->n_in == 3 ? x[2][o] : 0;
            for (int64_t i = 0; i < I; i++)
                sum += x[0][n * I + i] * x[1][o * I + i] * (c->in[1]->hook ? hook_factor(o * I + i) : 1);
            y[n * O + o] = sum;
        }
}

static void linear_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    int64_t N = tensor_rows(c->in[0]), I = tensor_columns(c->in[0]), O = c->in[1]->dim[0];
    for (int64_t n = 0; n < N; n++)
        for (int64_t o = 0; o < O; o++) {
            double d = dy[n * O + o];
            for (int64_t i = 0; i < I; i++) {
                double factor = c->in[1]->hook ? hook_factor(o * I + i) : 1;
                dx[0][n * I + i] += d * factor * x[1][o * I + i];
                dx[1][o * I + i] += d * factor * x[0][n * I + i];
            }
            if (c->n_in == 3)
                dx[2][o] += d;
        }
}

Test(ops, linear) {
    static const int64_t shape[][3] = {{1, 1, 1},      {1, 40, 24},   {5, 7, 3},     {16, 33, 65},  {130, 48, 96},
                                       {300, 20, 130}, {600, 64, 96}, {96, 600, 70}, {1100, 40, 72}};
    for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++)
        for (int bias = 0; bias < 2; bias++)
            for (int hooked = 0; hooked < 2; hooked++) {
                int64_t N = shape[s][0], I = shape[s][1], O = shape[s][2];
                struct op_case c = {.name = "linear",
                                    .build = linear_build,
                                    .forward = linear_forward,
                                    .backward = linear_backward,
                                    .f32 = PRODUCT_F32,
                                    .bf16 = PRODUCT_BF16};
                c.n_in = 2 + bias;
                c.in[0] = tensor_make("x", N, I, 1);
                c.in[1] = tensor_make("w", O, I, 0.5);
                if (bias)
                    c.in[2] = tensor_make("bias", O, 0, 1);
                struct weight_hook hook = {.context = c.in[1]->data, .rows = hook_rows, .backward = hook_backward};
                if (hooked)
                    c.in[1]->hook = &hook;
                c.n_out = N * O;
                check_op(&c, N * O < 2000);
            }
}

// Weights that only a hook knows, as in a quantized file: through rows() for many inputs, through dot() for few.
Test(ops, linear_from_a_hook_alone) {
    static const int64_t rows[] = {1, 2, 3, 9, 64, 600}; // of the last one more than are multiplied at once, and more columns
    for (size_t s = 0; s < sizeof rows / sizeof rows[0]; s++)
        for (int with_dot = 0; with_dot < 2; with_dot++) {
            int64_t N = rows[s], I = N < 600 ? 40 : 300, O = 70;
            struct op_case c = {.name = "linear from a hook",
                                .build = linear_build,
                                .forward = linear_forward,
                                .backward = NULL,
                                .f32 = PRODUCT_F32,
                                .bf16 = PRODUCT_BF16};
            c.n_in = 3;
            c.in[0] = tensor_make("x", N, I, 1);
            c.in[1] = tensor_make("w", O, I, 0.5);
            c.in[2] = tensor_make("bias", O, 0, 1);
            float *stored = c.in[1]->data;
            struct weight_hook hook = {.context = stored, .rows = hook_rows, .dot = with_dot ? hook_dot : NULL};
            c.in[1]->hook = &hook;
            double *x[3], *y = zeros(N * O);
            for (int k = 0; k < 3; k++)
                x[k] = to_double(c.in[k]->data, tensor_count(c.in[k]));
            c.forward(&c, x, y);
            c.in[1]->data = NULL;
            float *first = NULL;
            for (int threads = 1; threads <= 2; threads++) {
                threads_set(threads);
                struct tape tape;
                tape_init(&tape, PRECISION_F32);
                tape.recording = 0;
                struct tensor *out = op_linear(&tape, c.in[0], c.in[1], c.in[2]);
                compare(c.name, "output", out->data, y, N * O, PRODUCT_F32, 0);
                size_t bytes = (size_t)(N * O) * sizeof(float);
                if (first)
                    cr_expect(memcmp(first, out->data, bytes) == 0, "1 and 2 threads differ for %ld rows", (long)N);
                else
                    first = memcpy(xmalloc(bytes, "a test's values"), out->data, bytes);
                tape_release(&tape);
            }
            c.in[1]->data = stored;
            free(first);
            free(y);
            for (int k = 0; k < 3; k++) {
                free(x[k]);
                tensor_drop(c.in[k]);
            }
        }
}
