// test_ops.c: every op of ops.h against naive double loops written from its definition, forward and gradients, and
// against finite differences of itself; and the same bits with 1 and 2 threads, in f32 and bf16.
//
// The naive gradients are checked in turn, against differences of the naive forward pass in double.
// To add an op: its naive forward and backward, a build function, and a test with its shapes.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/base/random.h"
#include "common/base/threads.h"
#include "common/tensor/gradcheck.h"
#include "common/tensor/ops.h"

#define INPUTS 4

struct op_case {
    const char *name;
    struct tensor *(*build)(struct op_case *c, struct tape *tape);
    // y from inputs x[k]; and dx[k] += ... from dy (dx[k] is zero before). Doubles of the f32 inputs.
    void (*forward)(const struct op_case *c, double *const *x, double *y);
    void (*backward)(const struct op_case *c, double *const *x, const double *dy, double *const *dx);
    double f32, bf16;  // largest error as a share of the largest value
    double floor;      // or of this, where values that cancel are smaller; 0: none
    int is_root;       // the output is a loss: the backward pass starts there
    int one_precision; // the op has no matrix product, so bf16 must give the same bits as f32
    int n_in;
    struct tensor *in[INPUTS];
    int64_t n_out;
    // What the ops need besides tensors.
    int64_t B, T, S, E, G;
    const int32_t *ids, *length;
    const float *constant;
    double number;
    struct attention_rule rule;
    struct head_spec head;
    struct head_result result;
};

// ---- Tensors and comparisons -------------------------------------------------------------------------------------

static struct tensor *tensor_make(const char *name, int64_t d0, int64_t d1, double scale) {
    struct tensor *t = xcalloc(1, sizeof *t, "a test's tensor");
    t->name = name;
    t->n_dim = d1 ? 2 : 1;
    t->dim[0] = d0;
    t->dim[1] = d1;
    t->needs_grad = 1;
    int64_t n = tensor_count(t);
    t->data = xcalloc((size_t)n, sizeof(float), "a test's tensor");
    t->grad = xcalloc((size_t)n, sizeof(float), "a test's tensor");
    struct random random;
    random_init(&random, 7, name, (uint64_t)n);
    for (int64_t i = 0; i < n; i++)
        t->data[i] = (float)(scale * random_normal(&random));
    return t;
}

static void tensor_drop(struct tensor *t) {
    free(t->data);
    free(t->grad);
    free(t);
}

static double *to_double(const float *x, int64_t n) {
    double *to = xmalloc((size_t)n * sizeof *to, "a test's values");
    for (int64_t i = 0; i < n; i++)
        to[i] = (double)x[i];
    return to;
}

static double *zeros(int64_t n) { return xcalloc((size_t)n, sizeof(double), "a test's values"); }

// Errors as shares of the largest wanted value, or of `floor` where all are smaller.
static void compare(const char *what, const char *which, const float *found, const double *wanted, int64_t n,
                    double tolerance, double floor) {
    double largest = fmax(floor, 1e-30), worst = 0;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(wanted[i]));
    for (int64_t i = 0; i < n; i++) {
        double error = fabs((double)found[i] - wanted[i]) / largest;
        if (!(error <= worst)) {
            worst = error;
            at = i;
        }
    }
    cr_expect(worst <= tolerance, "%s: %s[%ld] is %.9g, wanted %.9g: error %.2g of the largest, allowed %.2g", what,
              which, (long)at, (double)found[at], wanted[at], worst, tolerance);
}

// ---- The checks --------------------------------------------------------------------------------------------------

struct outcome {
    float *y;
    float *grad[INPUTS];
    struct head_result result;
};

static double build_root(void *context, struct tape *tape, struct tensor **root) {
    struct op_case *c = context;
    struct tensor *y = c->build(c, tape);
    if (!c->is_root)
        return gradcheck_project(tape, y, 11, root);
    *root = y;
    return c->head.targets ? c->result.loss : (double)y->data[0];
}

static void outcome_make(struct outcome *o, struct op_case *c, enum precision precision, int threads) {
    threads_set(threads);
    for (int k = 0; k < c->n_in; k++)
        memset(c->in[k]->grad, 0, (size_t)tensor_count(c->in[k]) * sizeof(float));
    struct tape tape;
    tape_init(&tape, precision);
    tape.recording = 1;
    struct tensor *y = c->build(c, &tape), *root = y;
    cr_assert_eq(tensor_count(y), c->n_out, "%s: %ld values came out, wanted %ld", c->name, (long)tensor_count(y),
                 (long)c->n_out);
    o->y = xmalloc((size_t)c->n_out * sizeof(float), "a test's values");
    memcpy(o->y, y->data, (size_t)c->n_out * sizeof(float));
    o->result = c->result;
    if (!c->is_root)
        gradcheck_project(&tape, y, 11, &root);
    tape_backward(&tape, root);
    for (int k = 0; k < c->n_in; k++) {
        size_t bytes = (size_t)tensor_count(c->in[k]) * sizeof(float);
        o->grad[k] = xmalloc(bytes, "a test's values");
        memcpy(o->grad[k], c->in[k]->grad, bytes);
    }
    tape_release(&tape);
}

static void outcome_drop(struct outcome *o, const struct op_case *c) {
    free(o->y);
    for (int k = 0; k < c->n_in; k++)
        free(o->grad[k]);
}

static void expect_same_bits(const struct outcome *a, const struct outcome *b, const struct op_case *c,
                             const char *what) {
    cr_expect(memcmp(a->y, b->y, (size_t)c->n_out * sizeof(float)) == 0, "%s: %s differ in the output", c->name,
              what);
    for (int k = 0; k < c->n_in; k++)
        cr_expect(memcmp(a->grad[k], b->grad[k], (size_t)tensor_count(c->in[k]) * sizeof(float)) == 0,
                  "%s: %s differ in the gradient of %s", c->name, what, c->in[k]->name);
    cr_expect(memcmp(&a->result, &b->result, sizeof a->result) == 0, "%s: %s differ in the losses", c->name, what);
}

// The naive gradients against central differences of the naive forward pass along one random direction: in double
// with steps of 1e-5 both errors are near 1e-9.
static void check_naive(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    double *moved[INPUTS], slope = 0, expected = 0, norm = 0, *y = zeros(c->n_out);
    for (int sign = 1; sign >= -1; sign -= 2) {
        struct random random;
        random_init(&random, 5, "naive_direction", 0);
        for (int k = 0; k < c->n_in; k++) {
            int64_t n = tensor_count(c->in[k]);
            moved[k] = zeros(n);
            for (int64_t i = 0; i < n; i++) {
                double u = random_normal(&random);
                moved[k][i] = x[k][i] + sign * 1e-5 * u;
                if (sign > 0) {
                    expected += u * dx[k][i];
                    norm += dx[k][i] * dx[k][i];
                }
            }
        }
        memset(y, 0, (size_t)c->n_out * sizeof *y);
        c->forward(c, moved, y);
        for (int64_t i = 0; i < c->n_out; i++)
            slope += sign * dy[i] * y[i] / 2e-5;
        for (int k = 0; k < c->n_in; k++)
            free(moved[k]);
    }
    cr_expect(fabs(slope - expected) <= 1e-6 * (sqrt(norm) + 1e-3),
              "%s: the test's own gradient is wrong: %.12g by differences, %.12g", c->name, slope, expected);
    free(y);
}

static void check_against_naive(struct op_case *c, const struct outcome *f32, const struct outcome *bf16) {
    double *x[INPUTS], *dx[INPUTS], *y = zeros(c->n_out), *dy = zeros(c->n_out);
    for (int k = 0; k < c->n_in; k++) {
        x[k] = to_double(c->in[k]->data, tensor_count(c->in[k]));
        dx[k] = zeros(tensor_count(c->in[k]));
    }
    c->forward(c, x, y);
    gradcheck_weights(11, dy, c->n_out);
    if (c->is_root)
        dy[0] = 1;
    c->backward(c, x, dy, dx);
    check_naive(c, x, dy, dx);
    compare(c->name, "output", f32->y, y, c->n_out, c->f32, c->floor);
    compare(c->name, "output in bf16", bf16->y, y, c->n_out, c->bf16, c->floor);
    for (int k = 0; k < c->n_in; k++) {
        char which[64];
        int64_t n = tensor_count(c->in[k]);
        snprintf(which, sizeof which, "gradient of %s", c->in[k]->name);
        compare(c->name, which, f32->grad[k], dx[k], n, c->f32, c->floor);
        snprintf(which, sizeof which, "gradient of %s in bf16", c->in[k]->name);
        compare(c->name, which, bf16->grad[k], dx[k], n, c->bf16, c->floor);
        free(x[k]);
        free(dx[k]);
    }
    free(y);
    free(dy);
}

// Errors of products and reductions: f32 rounds at 6e-8, sums of up to some thousand terms in blocks stay below 1e-5
// of the largest value; bf16 rounds every operand at 2^-9, and a backward pass rounds what was rounded before.
#define PRODUCT_F32 1e-5
#define PRODUCT_BF16 3e-2
// Pointwise work: a few roundings and exp with a relative error of 2e-7.
#define POINTWISE_F32 2e-6

static void check_op(struct op_case *c, int differences) {
    struct outcome one, two, bf16_one, bf16_two;
    outcome_make(&one, c, PRECISION_F32, 1);
    outcome_make(&two, c, PRECISION_F32, 2);
    expect_same_bits(&one, &two, c, "1 and 2 threads in f32");
    outcome_make(&bf16_one, c, PRECISION_BF16, 1);
    outcome_make(&bf16_two, c, PRECISION_BF16, 2);
    expect_same_bits(&bf16_one, &bf16_two, c, "1 and 2 threads in bf16");
    if (c->one_precision)
        expect_same_bits(&one, &bf16_one, c, "f32 and bf16, which have no product here,");
    check_against_naive(c, &one, &bf16_one);
    if (differences) {
        threads_set(1);
        // Step and tolerance: gradcheck.h has the errors' sizes; 1e-3 leaves room for outputs whose values are large
        // beside their slope.
        struct gradcheck g = {build_root, c, c->in, c->n_in, PRECISION_F32, 1.0 / 64, 3, 200, 3};
        struct gradcheck_result r;
        gradcheck_run(&g, &r);
        cr_expect(r.worst <= 1e-3, "%s: finite differences at %s give %.7g, the tape %.7g (error %.2g)", c->name,
                  r.where, r.expected, r.found, r.worst);
    }
    outcome_drop(&one, c);
    outcome_drop(&two, c);
    outcome_drop(&bf16_one, c);
    outcome_drop(&bf16_two, c);
    for (int k = 0; k < c->n_in; k++)
        tensor_drop(c->in[k]);
}

static void setup(void) { gemm_init(); }
TestSuite(ops, .init = setup);

// The hook of these tests keeps three weights of four and doubles them.
static double hook_factor(int64_t i) { return i % 4 == 1 ? 0 : 2; }

static void hook_rows(void *context, const struct tensor *w, int64_t row0, int64_t n, float *to) {
    const float *stored = context;
    int64_t columns = tensor_columns(w);
    for (int64_t i = 0; i < n * columns; i++)
        to[i] = (float)hook_factor(row0 * columns + i) * stored[row0 * columns + i];
}

static void hook_dot(void *context, const struct tensor *w, int64_t row0, int64_t n, const float *x, float *y) {
    const float *stored = context;
    int64_t columns = tensor_columns(w);
    for (int64_t r = 0; r < n; r++) {
        double sum = 0;
        for (int64_t i = 0; i < columns; i++) {
            int64_t at = (row0 + r) * columns + i;
            sum += hook_factor(at) * (double)stored[at] * (double)x[i];
        }
        y[r] = (float)sum;
    }
}

static void hook_backward(void *context, const struct tensor *w, int64_t row0, int64_t n, float *gradient) {
    (void)context;
    int64_t columns = tensor_columns(w);
    for (int64_t i = 0; i < n * columns; i++)
        gradient[i] *= (float)hook_factor(row0 * columns + i);
}

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
    static const int64_t rows[] = {1, 2, 3, 9, 64};
    for (size_t s = 0; s < sizeof rows / sizeof rows[0]; s++)
        for (int with_dot = 0; with_dot < 2; with_dot++) {
            int64_t N = rows[s], I = 40, O = 70;
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

// ---- rmsnorm -----------------------------------------------------------------------------------------------------

static struct tensor *rmsnorm_build(struct op_case *c, struct tape *tape) {
    return c->G ? op_rmsnorm_shifted(tape, c->in[0], c->in[1], (double)c->G, c->number)
                : op_rmsnorm(tape, c->in[0], c->in[1], c->number);
}

static double inverse_rms(const double *x, int64_t D, double eps) {
    double sum = 0;
    for (int64_t d = 0; d < D; d++)
        sum += x[d] * x[d];
    return 1 / sqrt(sum / (double)D + eps);
}

// G is the shift; runs are as long as w is.
static void rmsnorm_forward(const struct op_case *c, double *const *x, double *y) {
    int64_t D = tensor_count(c->in[1]), N = tensor_count(c->in[0]) / D;
    for (int64_t n = 0; n < N; n++) {
        double r = inverse_rms(x[0] + n * D, D, c->number);
        for (int64_t d = 0; d < D; d++)
            y[n * D + d] = x[0][n * D + d] * r * (x[1][d] + (double)c->G);
    }
}

static void rmsnorm_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    int64_t D = tensor_count(c->in[1]), N = tensor_count(c->in[0]) / D;
    for (int64_t n = 0; n < N; n++) {
        const double *row = x[0] + n * D, *g = dy + n * D;
        double r = inverse_rms(row, D, c->number), along = 0;
        for (int64_t d = 0; d < D; d++)
            along += g[d] * (x[1][d] + (double)c->G) * row[d];
        for (int64_t d = 0; d < D; d++) {
            dx[0][n * D + d] += r * g[d] * (x[1][d] + (double)c->G) - row[d] * along * r * r * r / (double)D;
            dx[1][d] += g[d] * row[d] * r;
        }
    }
}

Test(ops, rmsnorm) {
    static const int64_t shape[][2] = {{1, 1}, {1, 64}, {7, 20}, {130, 33}, {70, 300}, {1030, 40}};
    for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++)
        for (int tiny = 0; tiny < 2; tiny++) {
            int64_t N = shape[s][0], D = shape[s][1];
            // eps 1e-5 on values of order 1, and a large one so that its place in the formula shows.
            struct op_case c = {.name = "rmsnorm",
                                .build = rmsnorm_build,
                                .forward = rmsnorm_forward,
                                .backward = rmsnorm_backward,
                                .f32 = 4e-6,
                                .bf16 = 4e-6};
            c.one_precision = 1;
            c.number = tiny ? 0.7 : 1e-5;
            c.n_in = 2;
            c.in[0] = tensor_make("x", N, D, 1);
            c.in[1] = tensor_make("w", D, 0, 1);
            if (D == 1) {
                c.in[0]->data[0] = 1.5f; // one value: the norm turns almost every x into 1, steep only at 0,
                c.floor = 1;             // and its gradient is the difference of two numbers of order 1
            }
            c.n_out = N * D;
            check_op(&c, N * D < 3000);
        }
}

// Over each of several heads, with weights that are distances from 1.
Test(ops, rmsnorm_of_heads) {
    static const int64_t shape[][3] = {{7, 1, 20}, {9, 3, 6}, {130, 4, 16}, {70, 5, 64}}; // rows, heads, width
    for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++)
        for (int shift = 0; shift < 2; shift++) {
            struct op_case c = {.name = "rmsnorm of heads", .build = rmsnorm_build, .forward = rmsnorm_forward,
                                .backward = rmsnorm_backward, .f32 = 4e-6, .bf16 = 4e-6, .one_precision = 1, .number = 1e-5};
            c.G = shift;
            c.n_in = 2;
            c.in[0] = tensor_make("x", shape[s][0], shape[s][1] * shape[s][2], 1);
            c.in[1] = tensor_make("w", shape[s][2], 0, 1);
            c.n_out = tensor_count(c.in[0]);
            check_op(&c, c.n_out < 3000);
        }
}

// ---- layernorm, gelu ---------------------------------------------------------------------------------------------

static struct tensor *layernorm_build(struct op_case *c, struct tape *tape) {
    return op_layernorm(tape, c->in[0], c->in[1], c->in[2], c->number);
}

static void moments(const double *x, int64_t D, double eps, double *mean, double *inverse) {
    *mean = 0;
    for (int64_t d = 0; d < D; d++)
        *mean += x[d] / (double)D;
    double sum = 0;
    for (int64_t d = 0; d < D; d++)
        sum += (x[d] - *mean) * (x[d] - *mean);
    *inverse = 1 / sqrt(sum / (double)D + eps);
}

static void layernorm_forward(const struct op_case *c, double *const *x, double *y) {
    int64_t N = tensor_rows(c->in[0]), D = tensor_columns(c->in[0]);
    for (int64_t n = 0; n < N; n++) {
        double mean, r;
        moments(x[0] + n * D, D, c->number, &mean, &r);
        for (int64_t d = 0; d < D; d++)
            y[n * D + d] = (x[0][n * D + d] - mean) * r * x[1][d] + x[2][d];
    }
}

// From the definition, term by term: dy_d/dx_e = w_d r (delta_de - 1/D - n_d n_e / D) with n the normalised row.
static void layernorm_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    int64_t N = tensor_rows(c->in[0]), D = tensor_columns(c->in[0]);
    for (int64_t n = 0; n < N; n++) {
        double mean, r;
        const double *row = x[0] + n * D, *g = dy + n * D;
        moments(row, D, c->number, &mean, &r);
        for (int64_t d = 0; d < D; d++) {
            const double nd = (row[d] - mean) * r;
            dx[1][d] += g[d] * nd;
            dx[2][d] += g[d];
            for (int64_t e = 0; e < D; e++)
                dx[0][n * D + e] += g[d] * x[1][d] * r * ((d == e) - 1 / (double)D - nd * (row[e] - mean) * r / (double)D);
        }
    }
}

Test(ops, layernorm) {
    static const int64_t shape[][2] = {{1, 64}, {7, 20}, {130, 33}, {70, 300}, {1030, 40}};
    for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++)
        for (int tiny = 0; tiny < 2; tiny++) {
            int64_t N = shape[s][0], D = shape[s][1];
            struct op_case c = {.name = "layernorm", .build = layernorm_build, .forward = layernorm_forward, .backward = layernorm_backward,
                                .f32 = 4e-6, .bf16 = 4e-6, .one_precision = 1, .number = tiny ? 0.7 : 1e-5}; // as rmsnorm
            c.n_in = 3;
            c.in[0] = tensor_make("x", N, D, 1);
            c.in[1] = tensor_make("w", D, 0, 1);
            c.in[2] = tensor_make("b", D, 0, 1);
            c.n_out = N * D;
            check_op(&c, N * D < 3000);
        }
}

static struct tensor *gelu_build(struct op_case *c, struct tape *tape) { return op_gelu(tape, c->in[0], c->number > 0 ? GELU_ERF : GELU_TANH); }

// Value and slope of both, in double.
static double gelu_of(double x, int is_erf, double *slope) {
    if (is_erf) {
        *slope = 0.5 * (1 + erf(x / sqrt(2))) + x * exp(-x * x / 2) / sqrt(2 * M_PI);
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    }
    const double k = sqrt(2 / M_PI), t = tanh(k * (x + 0.044715 * x * x * x));
    *slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * 0.044715 * x * x);
    return 0.5 * x * (1 + t);
}

static void gelu_forward(const struct op_case *c, double *const *x, double *y) {
    double slope;
    for (int64_t i = 0; i < c->n_out; i++)
        y[i] = gelu_of(x[0][i], c->number > 0, &slope);
}

static void gelu_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    for (int64_t i = 0; i < c->n_out; i++) {
        double slope;
        gelu_of(x[0][i], c->number > 0, &slope);
        dx[0][i] += dy[i] * slope;
    }
}

Test(ops, gelu) {
    static const int64_t shape[][2] = {{1, 1}, {7, 20}, {130, 33}, {70, 300}};
    for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++)
        for (int is_erf = 0; is_erf < 2; is_erf++) {
            int64_t N = shape[s][0], D = shape[s][1];
            struct op_case c = {.name = "gelu", .build = gelu_build, .forward = gelu_forward, .backward = gelu_backward, .f32 = 4e-6, .bf16 = 4e-6};
            c.one_precision = 1;
            c.number = is_erf;
            c.n_in = 1;
            c.in[0] = tensor_make("x", N, D, 3);
            c.n_out = N * D;
            check_op(&c, N * D < 3000);
        }
}

// ---- rope --------------------------------------------------------------------------------------------------------

static const double *rope_frequencies(int64_t E) {
    static double f[64];
    for (int64_t i = 0; i < E / 2; i++)
        f[i] = pow(10000, -2 * (double)i / (double)E);
    return f;
}

static struct tensor *rope_build(struct op_case *c, struct tape *tape) {
    const float *table = rope_table(tape, rope_frequencies(c->E), c->E, c->T, c->S);
    return op_rope(tape, c->in[0], table, c->E, c->T);
}

// y = R x with `way` 1, y = R^T x with -1; added to y.
static void rotate(const struct op_case *c, const double *x, double *y, int way) {
    int64_t N = tensor_rows(c->in[0]), C = tensor_columns(c->in[0]), E = c->E;
    const double *f = rope_frequencies(E);
    for (int64_t n = 0; n < N; n++)
        for (int64_t h = 0; h < C / E; h++)
            for (int64_t i = 0; i < E / 2; i++) {
                double angle = way * f[i] * (double)(c->S + n % c->T);
                int64_t a = n * C + h * E + i, b = a + E / 2;
                y[a] += x[a] * cos(angle) - x[b] * sin(angle);
                y[b] += x[b] * cos(angle) + x[a] * sin(angle);
            }
}

static void rope_forward(const struct op_case *c, double *const *x, double *y) { rotate(c, x[0], y, 1); }

static void rope_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    (void)x;
    rotate(c, dy, dx[0], -1);
}

Test(ops, rope) {
    static const int64_t shape[][5] = {// B, T, heads, E, position0
                                       {1, 1, 1, 2, 0},
                                       {2, 5, 3, 8, 0},
                                       {1, 70, 2, 12, 0},
                                       {3, 33, 4, 32, 0},
                                       {1, 4, 2, 64, 4000}};
    for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++) {
        struct op_case c = {.name = "rope",
                            .build = rope_build,
                            .forward = rope_forward,
                            .backward = rope_backward,
                            .f32 = POINTWISE_F32,
                            .bf16 = POINTWISE_F32};
        c.one_precision = 1;
        c.B = shape[s][0];
        c.T = shape[s][1];
        c.E = shape[s][3];
        c.S = shape[s][4];
        c.n_in = 1;
        c.in[0] = tensor_make("x", c.B * c.T, shape[s][2] * c.E, 1);
        c.n_out = tensor_count(c.in[0]);
        check_op(&c, c.n_out < 3000);
    }
}

// ---- attention ---------------------------------------------------------------------------------------------------

static struct tensor *attention_build(struct op_case *c, struct tape *tape) {
    if (c->length)
        return op_attention_both_ways(tape, c->in[0], c->in[1], c->in[2], c->B, c->T, c->E, c->length);
    if (c->rule.scale > 0)
        return op_attention_by(tape, c->in[0], c->in[1], c->in[2], c->B, c->T, c->S, c->S, c->E, &c->rule);
    return op_attention(tape, c->in[0], c->in[1], c->in[2], c->B, c->T, c->S, c->E);
}

static double attention_scale(const struct op_case *c) { return c->rule.scale > 0 ? c->rule.scale : 1 / sqrt((double)c->E); }

// Of a score before and behind its soft cap.
static double capped(double cap, double score) { return cap > 0 ? cap * tanh(score / cap) : score; }
static double cap_slope(double cap, double score) { return cap > 0 ? 1 - tanh(score / cap) * tanh(score / cap) : 1; }

// p[s], s = 0 .. last: the weights of query row n of head h, 0 outside its window; slope[s] (NULL: not wanted) of the soft cap.
static int64_t attention_weights(const struct op_case *c, double *const *x, int64_t b, int64_t t, int64_t h,
                                 double *p, double *slope) {
    int64_t H = tensor_columns(c->in[0]) / c->E, G = c->G, E = c->E, last = c->length ? c->length[b] - 1 : c->S - c->T + t;
    const int64_t first = c->rule.window && last >= c->rule.window ? last - c->rule.window + 1 : 0;
    const double *q = x[0] + ((b * c->T + t) * H + h) * E;
    double sum = 0, largest = -(double)INFINITY;
    for (int64_t s = 0; s <= last; s++) {
        const double *k = x[1] + ((b * c->S + s) * G + h / (H / G)) * E;
        p[s] = 0;
        for (int64_t e = 0; e < E; e++)
            p[s] += q[e] * k[e] * attention_scale(c);
        if (slope)
            slope[s] = cap_slope(c->rule.cap, p[s]);
        p[s] = s < first ? -(double)INFINITY : capped(c->rule.cap, p[s]);
        largest = fmax(largest, p[s]);
    }
    for (int64_t s = 0; s <= last; s++)
        sum += p[s] = exp(p[s] - largest);
    for (int64_t s = 0; s <= last; s++)
        p[s] /= sum;
    return last;
}

static void attention_forward(const struct op_case *c, double *const *x, double *y) {
    int64_t H = tensor_columns(c->in[0]) / c->E, G = c->G, E = c->E;
    double *p = zeros(c->S);
    for (int64_t b = 0; b < c->B; b++)
        for (int64_t t = 0; t < c->T; t++)
            for (int64_t h = 0; h < H; h++) {
                int64_t last = attention_weights(c, x, b, t, h, p, NULL);
                for (int64_t s = 0; s <= last; s++)
                    for (int64_t e = 0; e < E; e++)
                        y[((b * c->T + t) * H + h) * E + e] +=
                            p[s] * x[2][((b * c->S + s) * G + h / (H / G)) * E + e];
            }
    free(p);
}

static void attention_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    int64_t H = tensor_columns(c->in[0]) / c->E, G = c->G, E = c->E;
    double *p = zeros(c->S), *dp = zeros(c->S), *slope = zeros(c->S), scale = attention_scale(c);
    for (int64_t b = 0; b < c->B; b++)
        for (int64_t t = 0; t < c->T; t++)
            for (int64_t h = 0; h < H; h++) {
                int64_t last = attention_weights(c, x, b, t, h, p, slope), q = ((b * c->T + t) * H + h) * E;
                double mean = 0;
                for (int64_t s = 0; s <= last; s++) {
                    int64_t kv = ((b * c->S + s) * G + h / (H / G)) * E;
                    dp[s] = 0;
                    for (int64_t e = 0; e < E; e++) {
                        dp[s] += dy[q + e] * x[2][kv + e];
                        dx[2][kv + e] += p[s] * dy[q + e];
                    }
                    mean += p[s] * dp[s];
                }
                for (int64_t s = 0; s <= last; s++) {
                    int64_t kv = ((b * c->S + s) * G + h / (H / G)) * E;
                    for (int64_t e = 0; e < E; e++) {
                        dx[0][q + e] += p[s] * (dp[s] - mean) * slope[s] * scale * x[1][kv + e];
                        dx[1][kv + e] += p[s] * (dp[s] - mean) * slope[s] * scale * x[0][q + e];
                    }
                }
            }
    free(p);
    free(dp);
    free(slope);
}

static struct op_case attention_case(int64_t B, int64_t T, int64_t S, int64_t H, int64_t G, int64_t E, double scale) {
    struct op_case c = {.name = "attention",
                        .build = attention_build,
                        .forward = attention_forward,
                        .backward = attention_backward,
                        .f32 = PRODUCT_F32,
                        .bf16 = PRODUCT_BF16};
    c.B = B;
    c.T = T;
    c.S = S;
    c.E = E;
    c.G = G;
    c.n_in = 3;
    c.in[0] = tensor_make("q", B * T, H * E, scale);
    c.in[1] = tensor_make("k", B * S, G * E, scale);
    c.in[2] = tensor_make("v", B * S, G * E, 1);
    c.n_out = B * T * H * E;
    // With one key the weights are 1 whatever q and k are: gradients of 0, as differences of numbers of order 1.
    c.floor = T == 1 ? 1 : 0;
    return c;
}

Test(ops, attention) {
    static const int64_t positions[] = {1, 2, 17, 63, 64, 65, 130};
    for (size_t s = 0; s < sizeof positions / sizeof positions[0]; s++)
        for (int64_t group = 1; group <= 4; group *= 2) {
            int64_t T = positions[s];
            struct op_case c = attention_case(1 + T % 2, T, T, 4, 4 / group, group == 2 ? 12 : 8, 1);
            check_op(&c, T <= 17);
        }
    struct op_case wide = attention_case(1, 70, 70, 3, 1, 64, 1);
    check_op(&wide, 0);
    // Scores in the hundreds: the softmax is all but a choice of one, and must not overflow.
    struct op_case sharp = attention_case(1, 70, 70, 2, 2, 16, 12);
    sharp.f32 = 1e-4; // scores near 500 round at 3e-5
    sharp.bf16 = (double)INFINITY;
    check_op(&sharp, 0);
}

// Windows within a tile, across tiles and beyond the sequence; soft caps that bend; a scale of its own.
Test(ops, attention_by_rule) {
    static const int64_t positions[] = {1, 5, 17, 65, 130}, windows[] = {0, 1, 4, 63, 70, 1000};
    for (size_t s = 0; s < sizeof positions / sizeof positions[0]; s++)
        for (size_t w = 0; w < sizeof windows / sizeof windows[0]; w++) {
            const int64_t T = positions[s];
            struct op_case c = attention_case(1 + T % 2, T, T, 4, 2, 8, 1);
            c.name = "attention by rule";
            c.rule = (struct attention_rule){0.6, w % 2 ? 1.5 : 0, windows[w]};
            c.floor = T == 1 || windows[w] == 1 ? 1 : 0;
            check_op(&c, T <= 17);
        }
}

// Padded sequences, seen both ways: lengths from 1 to all.
Test(ops, attention_both_ways) {
    static const int64_t positions[] = {1, 5, 17, 64, 65, 130};
    for (size_t s = 0; s < sizeof positions / sizeof positions[0]; s++)
        for (int64_t group = 1; group <= 2; group++) {
            int64_t T = positions[s];
            const int32_t length[3] = {(int32_t)T, (int32_t)(T + 1) / 2, 1};
            struct op_case c = attention_case(3, T, T, 4, 4 / group, 8, 1);
            c.name = "attention both ways";
            c.length = length;
            check_op(&c, T <= 17);
        }
}

static struct tensor *tanh_build(struct op_case *c, struct tape *tape) { return op_tanh(tape, c->in[0]); }

static void tanh_forward(const struct op_case *c, double *const *x, double *y) {
    for (int64_t i = 0; i < c->n_out; i++)
        y[i] = tanh(x[0][i]);
}

static void tanh_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    for (int64_t i = 0; i < c->n_out; i++)
        dx[0][i] += dy[i] * (1 - tanh(x[0][i]) * tanh(x[0][i]));
}

static const int32_t picked[] = {3, 0, 3, 6};

static struct tensor *rows_build(struct op_case *c, struct tape *tape) { return op_rows(tape, c->in[0], picked, 4); }

static void rows_forward(const struct op_case *c, double *const *x, double *y) {
    int64_t D = tensor_columns(c->in[0]);
    for (int64_t i = 0; i < c->n_out; i++)
        y[i] = x[0][picked[i / D] * D + i % D];
}

static void rows_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    (void)x;
    int64_t D = tensor_columns(c->in[0]);
    for (int64_t i = 0; i < c->n_out; i++)
        dx[0][picked[i / D] * D + i % D] += dy[i];
}

Test(ops, tanh_and_rows) {
    for (int k = 0; k < 2; k++) {
        struct op_case c = {.name = k ? "rows" : "tanh", .build = k ? rows_build : tanh_build, .forward = k ? rows_forward : tanh_forward,
                            .backward = k ? rows_backward : tanh_backward, .f32 = 4e-6, .bf16 = 4e-6};
        c.one_precision = 1;
        c.n_in = 1;
        c.in[0] = tensor_make("x", 7, 20, 2);
        c.n_out = k ? 4 * 20 : 7 * 20;
        check_op(&c, 1);
    }
}

// Queries that go on after cached keys.
Test(ops, attention_with_cached_keys) {
    static const int64_t shape[][2] = {{1, 2}, {1, 70}, {1, 64}, {3, 100}, {65, 130}, {1, 257}};
    for (size_t i = 0; i < sizeof shape / sizeof shape[0]; i++)
        for (int64_t group = 1; group <= 4; group *= 2) {
            struct op_case c = attention_case(1, shape[i][0], shape[i][1], 4, 4 / group, 8, 1);
            double *x[3], *y = zeros(c.n_out);
            for (int k = 0; k < 3; k++)
                x[k] = to_double(c.in[k]->data, tensor_count(c.in[k]));
            c.forward(&c, x, y);
            float *first = xmalloc((size_t)c.n_out * sizeof(float), "a test's values");
            for (int threads = 1; threads <= 2; threads++) {
                threads_set(threads);
                struct tape tape;
                tape_init(&tape, PRECISION_F32);
                tape.recording = 0;
                struct tensor *out = c.build(&c, &tape);
                compare(c.name, "output after cached keys", out->data, y, c.n_out, PRODUCT_F32, 0);
                if (threads == 1)
                    memcpy(first, out->data, (size_t)c.n_out * sizeof(float));
                cr_expect(memcmp(first, out->data, (size_t)c.n_out * sizeof(float)) == 0, "1 and 2 threads differ");
                tape_release(&tape);
            }
            free(first);
            free(y);
            for (int k = 0; k < 3; k++) {
                free(x[k]);
                tensor_drop(c.in[k]);
            }
        }
}

// ---- pointwise ---------------------------------------------------------------------------------------------------

static struct tensor *swiglu_build(struct op_case *c, struct tape *tape) {
    return op_swiglu(tape, c->in[0], c->in[1]);
}

static void swiglu_forward(const struct op_case *c, double *const *x, double *y) {
    for (int64_t i = 0; i < c->n_out; i++)
        y[i] = x[0][i] / (1 + exp(-x[0][i])) * x[1][i];
}

static void swiglu_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    for (int64_t i = 0; i < c->n_out; i++) {
        double sigmoid = 1 / (1 + exp(-x[0][i]));
        dx[0][i] += dy[i] * x[1][i] * (sigmoid + x[0][i] * sigmoid * (1 - sigmoid));
        dx[1][i] += dy[i] * x[0][i] * sigmoid;
    }
}

static struct tensor *add_build(struct op_case *c, struct tape *tape) {
    return op_add(tape, c->in[0], c->in[c->n_in - 1]);
}

static void add_forward(const struct op_case *c, double *const *x, double *y) {
    for (int64_t i = 0; i < c->n_out; i++)
        y[i] = x[0][i] + x[c->n_in - 1][i];
}

static void add_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    (void)x;
    for (int64_t i = 0; i < c->n_out; i++) {
        dx[0][i] += dy[i];
        dx[c->n_in - 1][i] += dy[i];
    }
}

static struct tensor *gate_build(struct op_case *c, struct tape *tape) { return op_gate(tape, c->in[0], c->in[1]); }

static void gate_forward(const struct op_case *c, double *const *x, double *y) {
    int64_t C = tensor_columns(c->in[0]), W = C / tensor_count(c->in[1]);
    for (int64_t i = 0; i < c->n_out; i++)
        y[i] = x[0][i] * x[1][i % C / W];
}

static void gate_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    int64_t C = tensor_columns(c->in[0]), W = C / tensor_count(c->in[1]);
    for (int64_t i = 0; i < c->n_out; i++) {
        dx[0][i] += dy[i] * x[1][i % C / W];
        dx[1][i % C / W] += dy[i] * x[0][i];
    }
}

static struct tensor *geglu_build(struct op_case *c, struct tape *tape) { return op_geglu(tape, c->in[0], c->in[1]); }

static void geglu_forward(const struct op_case *c, double *const *x, double *y) {
    double slope;
    for (int64_t i = 0; i < c->n_out; i++)
        y[i] = gelu_of(x[0][i], 0, &slope) * x[1][i];
}

static void geglu_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    for (int64_t i = 0; i < c->n_out; i++) {
        double slope, value = gelu_of(x[0][i], 0, &slope);
        dx[0][i] += dy[i] * x[1][i] * slope;
        dx[1][i] += dy[i] * value;
    }
}

Test(ops, geglu) {
    static const int64_t shape[][2] = {{1, 1}, {3, 17}, {65, 40}, {200, 100}};
    for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++) {
        struct op_case c = {.name = "geglu", .build = geglu_build, .forward = geglu_forward, .backward = geglu_backward,
                            .f32 = 4e-6, .bf16 = 4e-6, .one_precision = 1, .n_in = 2}; // as gelu
        c.in[0] = tensor_make("gate", shape[s][0], shape[s][1], 2);
        c.in[1] = tensor_make("up", shape[s][0], shape[s][1], 1);
        c.n_out = tensor_count(c.in[0]);
        check_op(&c, c.n_out <= 50);
    }
}

static struct tensor *scale_build(struct op_case *c, struct tape *tape) { return op_scale(tape, c->in[0], c->number); }

static void scale_forward(const struct op_case *c, double *const *x, double *y) {
    for (int64_t i = 0; i < c->n_out; i++)
        y[i] = c->number * x[0][i];
}

static void scale_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    (void)x;
    for (int64_t i = 0; i < c->n_out; i++)
        dx[0][i] += c->number * dy[i];
}

static struct tensor *softcap_build(struct op_case *c, struct tape *tape) { return op_softcap(tape, c->in[0], c->number); }

static void softcap_forward(const struct op_case *c, double *const *x, double *y) {
    for (int64_t i = 0; i < c->n_out; i++)
        y[i] = capped(c->number, x[0][i]);
}

static void softcap_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    for (int64_t i = 0; i < c->n_out; i++)
        dx[0][i] += dy[i] * cap_slope(c->number, x[0][i]);
}

Test(ops, scale_and_softcap) {
    static const int64_t shape[][2] = {{1, 1}, {3, 17}, {65, 40}, {200, 100}};
    for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++)
        for (int is_cap = 0; is_cap < 2; is_cap++) {
            struct op_case c = {.name = is_cap ? "softcap" : "scale", .build = is_cap ? softcap_build : scale_build,
                                .forward = is_cap ? softcap_forward : scale_forward,
                                .backward = is_cap ? softcap_backward : scale_backward,
                                .f32 = POINTWISE_F32, .bf16 = POINTWISE_F32, .one_precision = 1, .number = 2.5, .n_in = 1};
            c.in[0] = tensor_make("x", shape[s][0], shape[s][1], 3);
            c.n_out = tensor_count(c.in[0]);
            if (c.n_out > 50) { // small ones keep their digits, large ones end at the cap
                c.in[0]->data[0] = 1e-6f;
                c.in[0]->data[1] = -0.624f;
                c.in[0]->data[2] = 0.626f;
                c.in[0]->data[3] = -1e6f;
            }
            check_op(&c, c.n_out < 50);
        }
}

// Small values pass a soft cap with their own precision, not the cap's.
Test(ops, softcap_of_small_values) {
    struct tape tape;
    tape_init(&tape, PRECISION_F32);
    struct tensor *x = tensor_make("x", 4, 25, 1);
    for (int i = 0; i < 100; i++)
        x->data[i] = (float)pow(10, -8 + i * 0.1);
    const struct tensor *y = op_softcap(&tape, x, 1);
    for (int i = 0; i < 100; i++)
        cr_expect(fabs((double)y->data[i] / tanh((double)x->data[i]) - 1) < 1e-6, "tanh(%g) is %.9g", (double)x->data[i], (double)y->data[i]);
    tensor_drop(x);
    tape_release(&tape);
}

Test(ops, swiglu) {
    static const int64_t shape[][2] = {{1, 1}, {3, 17}, {65, 40}, {200, 100}};
    for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++) {
        struct op_case c = {.name = "swiglu",
                            .build = swiglu_build,
                            .forward = swiglu_forward,
                            .backward = swiglu_backward,
                            .f32 = POINTWISE_F32,
                            .bf16 = POINTWISE_F32};
        c.one_precision = 1;
        c.n_in = 2;
        c.in[0] = tensor_make("gate", shape[s][0], shape[s][1], 2);
        c.in[1] = tensor_make("up", shape[s][0], shape[s][1], 1);
        c.n_out = tensor_count(c.in[0]);
        if (c.n_out > 50) { // where exp over- and underflows in f32
            c.in[0]->data[0] = -200;
            c.in[0]->data[1] = 200;
            c.in[0]->data[2] = -88;
            c.in[0]->data[3] = 0;
        }
        check_op(&c, c.n_out <= 50);
    }
}

Test(ops, add) {
    for (int same = 0; same < 2; same++)
        for (int64_t columns = 1; columns <= 700; columns += 233) {
            struct op_case c = {.name = "add",
                                .build = add_build,
                                .forward = add_forward,
                                .backward = add_backward,
                                .f32 = POINTWISE_F32,
                                .bf16 = POINTWISE_F32};
            c.one_precision = 1;
            c.n_in = 2 - same; // a + a: both contributions arrive at one tensor
            c.in[0] = tensor_make("a", 30, columns, 1);
            if (!same)
                c.in[1] = tensor_make("b", 30, columns, 1);
            c.n_out = 30 * columns;
            check_op(&c, columns < 300);
        }
}

Test(ops, gate) {
    static const int64_t shape[][3] = {{1, 1, 1}, {5, 3, 8}, {65, 40, 1}, {130, 4, 16}}; // N, units, W
    for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++) {
        struct op_case c = {.name = "gate",
                            .build = gate_build,
                            .forward = gate_forward,
                            .backward = gate_backward,
                            .f32 = 4e-6,
                            .bf16 = 4e-6};
        c.one_precision = 1;
        c.n_in = 2;
        c.in[0] = tensor_make("x", shape[s][0], shape[s][1] * shape[s][2], 1);
        c.in[1] = tensor_make("gate", shape[s][1], 0, 1);
        c.n_out = tensor_count(c.in[0]);
        check_op(&c, c.n_out < 3000);
    }
}

// ---- mse and sum -------------------------------------------------------------------------------------------------

static struct tensor *mse_build(struct op_case *c, struct tape *tape) {
    return op_mse(tape, c->in[0], c->constant, c->number);
}

static void mse_forward(const struct op_case *c, double *const *x, double *y) {
    int64_t n = tensor_count(c->in[0]);
    for (int64_t i = 0; i < n; i++)
        y[0] += c->number / (double)n * (x[0][i] - (double)c->constant[i]) * (x[0][i] - (double)c->constant[i]);
}

static void mse_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    int64_t n = tensor_count(c->in[0]);
    for (int64_t i = 0; i < n; i++)
        dx[0][i] += dy[0] * 2 * c->number / (double)n * (x[0][i] - (double)c->constant[i]);
}

// Two losses on one tensor, as the hidden states' losses are summed.
static struct tensor *sum_build(struct op_case *c, struct tape *tape) {
    struct tensor *a = op_mse(tape, c->in[0], c->constant, c->number);
    struct tensor *b = op_mse(tape, c->in[0], c->constant, 2 * c->number);
    return op_sum(tape, a, b);
}

static void sum_forward(const struct op_case *c, double *const *x, double *y) {
    mse_forward(c, x, y);
    y[0] *= 3;
}

static void sum_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    double three = 3 * dy[0];
    mse_backward(c, x, &three, dx);
}

Test(ops, mse_and_sum) {
    static const int64_t shape[][2] = {{1, 1}, {9, 20}, {130, 77}};
    for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++)
        for (int sum = 0; sum < 2; sum++) {
            struct op_case c = {.name = "mse",
                                .build = mse_build,
                                .forward = mse_forward,
                                .backward = mse_backward,
                                .f32 = POINTWISE_F32,
                                .bf16 = POINTWISE_F32};
            if (sum) {
                c.name = "sum of two mse";
                c.build = sum_build;
                c.forward = sum_forward;
                c.backward = sum_backward;
            }
            c.is_root = 1;
            c.one_precision = 1;
            c.n_in = 1;
            c.number = 0.3;
            c.in[0] = tensor_make("x", shape[s][0], shape[s][1], 1);
            struct tensor *target = tensor_make("target", shape[s][0], shape[s][1], 1);
            c.constant = target->data;
            c.n_out = 1;
            check_op(&c, shape[s][0] < 100);
            tensor_drop(target);
        }
}

// ---- the output head and its losses ------------------------------------------------------------------------------

static struct tensor *head_build(struct op_case *c, struct tape *tape) {
    return op_head_loss(tape, c->in[0], c->in[1], &c->head, &c->result);
}

// z[V] = row of x times w, capped; the weight's hook, where it has one, is the one above.
static void naive_logits(const double *x, const double *w, const struct tensor *weight, double cap, double *z) {
    int64_t V = weight->dim[0], D = weight->dim[1];
    for (int64_t v = 0; v < V; v++) {
        z[v] = 0;
        for (int64_t d = 0; d < D; d++)
            z[v] += x[d] * w[v * D + d] * (weight->hook ? hook_factor(v * D + d) : 1);
        z[v] = capped(cap, z[v]);
    }
}

// logp[v] = log softmax(z / temperature).
static void naive_log_softmax(const double *z, int64_t V, double temperature, double *logp) {
    double largest = -(double)INFINITY, sum = 0;
    for (int64_t v = 0; v < V; v++)
        largest = fmax(largest, z[v] / temperature);
    for (int64_t v = 0; v < V; v++)
        sum += exp(z[v] / temperature - largest);
    for (int64_t v = 0; v < V; v++)
        logp[v] = z[v] / temperature - largest - log(sum);
}

struct head_scratch {
    double *z, *z_teacher, *logp, *log_student, *log_teacher;
};

static void head_scratch_init(struct head_scratch *s, const struct op_case *c) {
    int64_t V = c->in[1]->dim[0];
    s->z = zeros(V);
    s->z_teacher = zeros(V);
    s->logp = zeros(V);
    s->log_student = zeros(V);
    s->log_teacher = zeros(V);
}

static void head_scratch_drop(struct head_scratch *s) {
    free(s->z);
    free(s->z_teacher);
    free(s->logp);
    free(s->log_student);
    free(s->log_teacher);
}

// What all teachers say about row n: the mean of their probabilities and of their logits, into s.
static void naive_teachers(const struct op_case *c, int64_t n, struct head_scratch *s) {
    const struct head_spec *h = &c->head;
    const int64_t V = c->in[1]->dim[0];
    struct head_teacher first = {h->teacher_x, h->teacher_w, NULL, 1, h->teacher_cap};
    double *p = zeros(V), *z = zeros(V);
    for (int i = 0; i < h->n_further; i++)
        first.weight -= h->further[i].weight;
    for (int i = 0; i <= h->n_further; i++) {
        const struct head_teacher *t = i ? &h->further[i - 1] : &first;
        double *w = to_double(t->w->data, tensor_count(t->w)), *row = to_double(t->x + n * t->w->dim[1], t->w->dim[1]);
        naive_logits(row, w, t->w, t->cap, s->z_teacher);
        naive_log_softmax(s->z_teacher, V, h->temperature, s->log_teacher);
        for (int64_t v = 0; v < V; v++) {
            p[v] += t->weight * exp(s->log_teacher[v]);
            z[v] += t->weight * s->z_teacher[v];
        }
        free(w);
        free(row);
    }
    memcpy(s->z_teacher, z, (size_t)V * sizeof *z);
    if (h->mean_logits)
        naive_log_softmax(z, V, h->temperature, s->log_teacher);
    for (int64_t v = 0; v < V && !h->mean_logits; v++)
        s->log_teacher[v] = log(p[v]);
    free(p);
    free(z);
}

// CE and KL of row n; leaves the log probabilities in s.
static void naive_row(const struct op_case *c, double *const *x, int64_t n, struct head_scratch *s, double *ce,
                      double *kl) {
    int64_t V = c->in[1]->dim[0], D = c->in[1]->dim[1];
    const struct tensor *teacher = c->head.teacher_w;
    if (teacher)
        naive_teachers(c, n, s);
    naive_logits(x[0] + n * D, x[1], c->in[1], c->head.cap, s->z);
    naive_log_softmax(s->z, V, 1, s->logp);
    *ce = -s->logp[c->head.targets[n]];
    *kl = 0;
    if (teacher) {
        naive_log_softmax(s->z, V, c->head.temperature, s->log_student);
        for (int64_t v = 0; v < V; v++)
            *kl += exp(s->log_teacher[v]) * (s->log_teacher[v] - s->log_student[v]);
    }
}

// A divergence of the row in s, from its definition (divergence.h); with dz [V], adds k times its gradient on the student's logits.
static double naive_divergence(const struct op_case *c, const struct head_scratch *s, int which, double k, double *dz) {
    const int64_t V = c->in[1]->dim[0];
    const double T = c->head.temperature, b = c->head.beta;
    double total = 0, mean = 0, *slope = zeros(V);
    for (int64_t v = 0; v < V; v++) {
        const double lp = s->log_teacher[v], lq = s->log_student[v], p = exp(lp), q = exp(lq), m = b * p + (1 - b) * q, d = s->z[v] - s->z_teacher[v];
        switch (which) {
        case DIVERGENCE_KL: total += p * (lp - lq); slope[v] = -p / q; break;
        case DIVERGENCE_REVERSE_KL: total += q * (lq - lp); slope[v] = lq - lp + 1; break;
        case DIVERGENCE_JS:
            total += b * p * (lp - log(m)) + (1 - b) * q * (lq - log(m));
            slope[v] = (1 - b) * (lq - log(m) + 1) - (b * p + (1 - b) * q) * (1 - b) / m;
            break;
        case DIVERGENCE_TV: total += fabs(p - q) / 2; slope[v] = q > p ? 0.5 : -0.5; break;
        case DIVERGENCE_MSE: total += d * d / (double)V; slope[v] = 2 * d / (double)V; break;
        }
        mean += q * slope[v];
    }
    for (int64_t v = 0; dz && v < V; v++)
        dz[v] += k * (which == DIVERGENCE_MSE ? slope[v] : exp(s->log_student[v]) * (slope[v] - mean) / T);
    free(slope);
    return total;
}

static double naive_power(int which, double T) { return which == DIVERGENCE_MSE ? 1 : which == DIVERGENCE_TV ? T : T * T; }

static double naive_weight(const struct op_case *c, int which) {
    return !c->head.teacher_w ? 0 : c->head.divergence ? c->head.divergence[which] : which == DIVERGENCE_KL;
}

static double effective_alpha(const struct op_case *c) { return c->head.teacher_w ? c->head.alpha : 0; }

static struct head_result naive_head(const struct op_case *c, double *const *x) {
    struct head_result r = {0};
    struct head_scratch s;
    head_scratch_init(&s, c);
    for (int64_t n = 0; n < tensor_rows(c->in[0]); n++) {
        double ce, kl;
        if (c->head.targets[n] < 0)
            continue;
        naive_row(c, x, n, &s, &ce, &kl);
        r.ce += ce;
        r.kl += kl;
        for (int d = 0; d < DIVERGENCES; d++)
            if (naive_weight(c, d) > 0)
                r.divergence[d] += naive_divergence(c, &s, d, 0, NULL);
        r.count++;
    }
    head_scratch_drop(&s);
    r.ce /= (double)r.count;
    r.kl /= (double)r.count;
    double a = effective_alpha(c);
    r.loss = (1 - a) * r.ce;
    for (int d = 0; d < DIVERGENCES; d++) {
        r.divergence[d] /= (double)r.count;
        r.loss += a * naive_weight(c, d) * naive_power(d, c->head.temperature) * r.divergence[d];
    }
    return r;
}

static void head_forward(const struct op_case *c, double *const *x, double *y) {
    y[0] = c->head.weight * naive_head(c, x).loss;
}

static void head_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    int64_t V = c->in[1]->dim[0], D = c->in[1]->dim[1], N = tensor_rows(c->in[0]), count = 0;
    struct head_scratch s;
    head_scratch_init(&s, c);
    for (int64_t n = 0; n < N; n++)
        count += c->head.targets[n] >= 0;
    for (int64_t n = 0; n < N; n++) {
        double ce, kl, a = effective_alpha(c), t = c->head.temperature;
        if (c->head.targets[n] < 0)
            continue;
        naive_row(c, x, n, &s, &ce, &kl);
        double *soft = zeros(V);
        for (int d = 0; d < DIVERGENCES; d++)
            if (naive_weight(c, d) > 0)
                naive_divergence(c, &s, d, a * naive_weight(c, d) * naive_power(d, t), soft);
        for (int64_t v = 0; v < V; v++) {
            double dz = soft[v] + (1 - a) * (exp(s.logp[v]) - (v == c->head.targets[n])); // d CE / dz = p - onehot
            dz *= dy[0] * c->head.weight / (double)count;
            if (c->head.cap > 0) // z is what came out of it
                dz *= 1 - s.z[v] * s.z[v] / (c->head.cap * c->head.cap);
            for (int64_t d = 0; d < D; d++) {
                double factor = c->in[1]->hook ? hook_factor(v * D + d) : 1;
                dx[0][n * D + d] += dz * factor * x[1][v * D + d];
                dx[1][v * D + d] += dz * factor * x[0][n * D + d];
            }
        }
        free(soft);
    }
    head_scratch_drop(&s);
}

struct head_shape {
    int64_t N, D, V, teacher_D; // teacher_D 0: no teacher
    double alpha, temperature, weight;
    int masked, hooked;
    double cap, teacher_cap;
    int further; // teachers beside that one
};

#define FURTHER_MOST 3

// Teachers of other widths and weights; released by drop_further.
static void make_further(const struct head_shape *s, struct op_case *c, struct head_teacher further[FURTHER_MOST]) {
    static const char *const names[FURTHER_MOST] = {"second", "third", "fourth"};
    for (int i = 0; i < s->further; i++) {
        const int64_t D = s->teacher_D + 3 * i - 2;
        struct tensor *x = tensor_make(names[i], s->N, D, 1), *w = tensor_make(names[i], s->V, D, 0.7);
        further[i] = (struct head_teacher){x->data, w, NULL, 0.2 + 0.05 * i, 0};
        free(x->grad);
        free(x);
    }
    c->head.further = further;
    c->head.n_further = s->further;
}

static void drop_further(const struct head_shape *s, struct head_teacher further[FURTHER_MOST]) {
    for (int i = 0; i < s->further; i++) {
        free((float *)further[i].x);
        tensor_drop((struct tensor *)further[i].w);
    }
}

// divergence [DIVERGENCES]: weights; NULL: KL alone.
static void check_soft_head(const struct head_shape *s, const double *divergence, double beta, int differences) {
    struct op_case c = {.name = "head loss",
                        .build = head_build,
                        .forward = head_forward,
                        .backward = head_backward,
                        .f32 = PRODUCT_F32,
                        .bf16 = PRODUCT_BF16};
    int32_t *targets = xmalloc((size_t)s->N * sizeof *targets, "a test's targets");
    for (int64_t n = 0; n < s->N; n++)
        targets[n] = s->masked && n % 3 == 1 ? -1 : (int32_t)((n * 31 + n * n) % s->V);
    targets[0] = (int32_t)s->V - 1;
    c.is_root = 1;
    c.n_in = 2;
    c.in[0] = tensor_make("x", s->N, s->D, 1);
    c.in[1] = tensor_make("w", s->V, s->D, 0.5);
    struct weight_hook hook = {.context = c.in[1]->data, .rows = hook_rows, .backward = hook_backward};
    struct tensor *teacher_x = NULL, *teacher_w = NULL;
    struct weight_hook teacher_hook;
    struct head_teacher further[FURTHER_MOST];
    if (s->hooked)
        c.in[1]->hook = &hook;
    c.head = (struct head_spec){.targets = targets, .alpha = s->alpha, .temperature = s->temperature, .weight = s->weight,
                                .cap = s->cap, .teacher_cap = s->teacher_cap, .divergence = divergence, .beta = beta};
    if (s->teacher_D) {
        teacher_x = tensor_make("teacher_x", s->N, s->teacher_D, 1);
        teacher_w = tensor_make("teacher_w", s->V, s->teacher_D, 0.5);
        teacher_hook = (struct weight_hook){.context = teacher_w->data, .rows = hook_rows};
        if (s->hooked)
            teacher_w->hook = &teacher_hook;
        c.head.teacher_x = teacher_x->data;
        c.head.teacher_w = teacher_w;
        make_further(s, &c, further);
        c.head.mean_logits = divergence && divergence[DIVERGENCE_MSE] > 0;
    }
    c.n_out = 1;
    double *x[2] = {to_double(c.in[0]->data, s->N * s->D), to_double(c.in[1]->data, s->V * s->D)};
    struct head_result wanted = naive_head(&c, x);
    struct outcome o;
    outcome_make(&o, &c, PRECISION_F32, 2);
    cr_expect_eq(o.result.count, wanted.count);
    // Kept in double: what is left is the rounding of the f32 logits, averaged over rows.
    cr_expect(fabs(o.result.ce - wanted.ce) <= 2e-6 * wanted.ce, "ce %.12g, wanted %.12g", o.result.ce, wanted.ce);
    wanted.loss *= s->weight;
    cr_expect(fabs(o.result.loss - wanted.loss) <= 2e-6 * (wanted.loss + 1e-3), "loss %.12g, wanted %.12g",
              o.result.loss, wanted.loss);
    if (s->teacher_D)
        cr_expect(fabs(o.result.kl - wanted.kl) <= 2e-6 * (wanted.kl + 0.1), "kl %.12g, wanted %.12g", o.result.kl,
                  wanted.kl);
    for (int d = 0; divergence && d < DIVERGENCES; d++)
        cr_expect(divergence[d] <= 0 || fabs(o.result.divergence[d] - wanted.divergence[d]) <= 2e-6 * (wanted.divergence[d] + 0.1),
                  "%s %.12g, wanted %.12g", divergence_names[d], o.result.divergence[d], wanted.divergence[d]);
    outcome_drop(&o, &c);
    free(x[0]);
    free(x[1]);
    check_op(&c, differences);
    if (teacher_x) {
        tensor_drop(teacher_x);
        tensor_drop(teacher_w);
        drop_further(s, further);
    }
    free(targets);
}

static void check_head(const struct head_shape *s, int differences) { check_soft_head(s, NULL, 0, differences); }

Test(ops, head_loss) {
    static const double alphas[] = {0, 0.7, 1}, temperatures[] = {1, 2, 4};
    for (int a = 0; a < 3; a++)
        for (int t = 0; t < 3; t++)
            for (int masked = 0; masked < 2; masked++) {
                struct head_shape s = {13, 12, 29, 20, alphas[a], temperatures[t], 1, masked, 0, 0, 0, 0};
                check_head(&s, 1);
            }
    struct head_shape plain[] = {{1, 4, 2, 0, 0, 1, 1, 0, 0, 0, 0, 0},
                                 {13, 12, 29, 0, 0.7, 2, 0.25, 1, 0, 0, 0, 0},
                                 {40, 8, 257, 8, 0.7, 2, 0.5, 1, 0, 0, 0, 0},
                                 {13, 12, 29, 20, 0.7, 2, 1, 1, 1, 0, 0, 0},
                                 {30, 16, 64, 0, 0, 1, 1, 0, 1, 0, 0, 0},
                                 {13, 12, 29, 0, 0, 1, 1, 1, 0, 1.5, 0, 0},
                                 {13, 12, 29, 20, 0.7, 2, 1, 1, 1, 1.5, 0, 0},
                                 {13, 12, 29, 20, 1, 3, 0.5, 0, 0, 0, 1.2, 0},
                                 {40, 8, 257, 8, 0.7, 2, 0.5, 1, 0, 2, 1.2, 0}};
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
        check_head(&plain[i], 1);
}

// Two and four teachers at once: the mean of their probabilities in every divergence, of their logits in mse.
Test(ops, head_of_several_teachers) {
    for (int d = 0; d < DIVERGENCES; d++)
        for (int further = 1; further <= FURTHER_MOST; further += 2) {
            double weight[DIVERGENCES] = {0};
            weight[d] = 1;
            const struct head_shape s = {7, 6, 29, 10, 0.6, 1, 0.5, 1, 0, 0, 0, further}, warm = {9, 8, 777, 8, 1, 3, 1, 0, 1, 0, 0, further};
            check_soft_head(&s, weight, 0.3, d != DIVERGENCE_TV);
            if (d != DIVERGENCE_TV) // whose gradient jumps where two probabilities meet: of so many some meet within bf16's rounding
                check_soft_head(&warm, weight, 0.5, 0);
        }
}

// Each divergence alone, and all at once. Total variation has corners, which a step as long as f32 needs crosses: its gradient is
// compared with the naive one alone, which has its own differences in double.
Test(ops, head_divergences) {
    static const double temperatures[] = {1, 3}, betas[] = {0.5, 0.1};
    for (int d = 0; d <= DIVERGENCES; d++)
        for (int t = 0; t < 2; t++) {
            double weight[DIVERGENCES];
            for (int k = 0; k < DIVERGENCES; k++)
                weight[k] = d == DIVERGENCES ? 0.3 + 0.1 * k : d == k;
            const struct head_shape s = {7, 6, 29, 10, t ? 1 : 0.6, temperatures[t], 0.5, 1, t, 0, 0, 0},
                                    wide = {9, 8, 777, 8, 0.7, temperatures[t], 1, 0, 0, 0, 0, 0};
            check_soft_head(&s, weight, betas[t], d < DIVERGENCE_TV || d == DIVERGENCE_MSE);
            check_soft_head(&wide, weight, betas[t], 0);
        }
}

// More rows than one chunk holds, the last chunk not full, and vocabularies beyond any block size.
Test(ops, head_loss_in_chunks) {
    static const int64_t vocabularies[] = {1021, 4099};
    for (size_t i = 0; i < sizeof vocabularies / sizeof vocabularies[0]; i++) {
        int64_t V = vocabularies[i], chunk = head_chunk_rows(1 << 20, V), N = chunk + chunk / 2 + 3;
        cr_assert(chunk > 0 && head_chunk_rows(N, V) < N, "the case does not cross a chunk: %ld rows, chunks of %ld",
                  (long)N, (long)head_chunk_rows(N, V));
        struct head_shape s = {N, 4, V, i == 0 ? 6 : 0, 0.7, 2, 1, 1, 0, i == 0 ? 2 : 0, 0, 0};
        check_head(&s, 0);
    }
}

// Two half batches weighted by a half add up to the gradient of the whole.
Test(ops, head_loss_accumulates) {
    enum { N = 20, D = 8, V = 30 };
    int32_t targets[N];
    for (int i = 0; i < N; i++)
        targets[i] = (i * 11) % V;
    struct tensor *x = tensor_make("x", N, D, 1), *w = tensor_make("w", V, D, 0.5);
    float whole[V * D];
    for (int halves = 1; halves <= 2; halves++) {
        memset(w->grad, 0, sizeof whole);
        for (int h = 0; h < halves; h++) {
            struct tensor part = *x;
            part.dim[0] = N / halves;
            part.data = x->data + h * (N / 2) * D;
            part.grad = x->grad + h * (N / 2) * D;
            struct head_spec spec = {.targets = targets + h * (N / 2), .alpha = 0, .temperature = 1, .weight = 1.0 / halves};
            struct head_result result;
            struct tape tape;
            tape_init(&tape, PRECISION_F32);
            tape.recording = 1;
            struct tensor *loss = op_head_loss(&tape, &part, w, &spec, &result);
            tape_backward(&tape, loss);
            tape_release(&tape);
        }
        if (halves == 1)
            memcpy(whole, w->grad, sizeof whole);
    }
    double *wanted = to_double(whole, V * D);
    compare("two half batches", "gradient of w", w->grad, wanted, V * D, PRODUCT_F32, 0);
    free(wanted);
    tensor_drop(x);
    tensor_drop(w);
}

// ---- evaluation on the head --------------------------------------------------------------------------------------

struct eval_outcome {
    double *nll, *against_nll, *kl;
    unsigned char *agree;
};

// Every value starts from what no evaluation gives: rows without a target must keep it.
static struct eval_outcome run_head_eval(const struct op_case *c, const struct tensor *against_x,
                                         enum precision precision, int threads) {
    int64_t N = tensor_rows(c->in[0]);
    struct eval_outcome o = {zeros(N), zeros(N), zeros(N), xcalloc((size_t)N, 1, "a test's values")};
    for (int64_t n = 0; n < N; n++) {
        o.nll[n] = o.against_nll[n] = o.kl[n] = -77;
        o.agree[n] = 9;
    }
    threads_set(threads);
    struct tape tape;
    tape_init(&tape, precision);
    tape.recording = 0;
    struct head_eval eval = {.targets = c->head.targets, .nll = o.nll, .cap = c->head.cap, .against_cap = c->head.teacher_cap};
    if (against_x) {
        eval.against_x = against_x->data;
        eval.against_w = c->head.teacher_w;
        eval.against_nll = o.against_nll;
        eval.kl = o.kl;
        eval.agree = o.agree;
    }
    op_head_eval(&tape, c->in[0], c->in[1], &eval);
    tape_release(&tape);
    return o;
}

static void eval_outcome_drop(struct eval_outcome *o) {
    free(o->nll);
    free(o->against_nll);
    free(o->kl);
    free(o->agree);
}

static void expect_eval_row(const struct op_case *c, double *const *x, const struct eval_outcome *o, int64_t n,
                            struct head_scratch *s, enum precision precision) {
    // A row's own loss: logits of order 2 round at 1e-7 in f32 and at some 1e-2 in bf16.
    double tolerance = precision == PRECISION_F32 ? 3e-6 : 6e-2, ce, wanted_kl;
    int32_t target = c->head.targets[n];
    if (target < 0) {
        cr_expect(o->nll[n] == -77 && o->kl[n] == -77 && o->against_nll[n] == -77 && o->agree[n] == 9,
                  "row %ld has no target and was written", (long)n);
        return;
    }
    naive_row(c, x, n, s, &ce, &wanted_kl);
    cr_expect(fabs(o->nll[n] - ce) <= tolerance * (1 + ce), "nll[%ld] is %.12g, wanted %.12g", (long)n, o->nll[n],
              ce);
    if (!c->head.teacher_x)
        return;
    double wanted_against = -s->log_teacher[target];
    int64_t best = 0, against_best = 0, V = tensor_rows(c->in[1]);
    for (int64_t v = 1; v < V; v++) {
        best = s->logp[v] > s->logp[best] ? v : best;
        against_best = s->log_teacher[v] > s->log_teacher[against_best] ? v : against_best;
    }
    cr_expect(fabs(o->kl[n] - wanted_kl) <= tolerance * (1 + wanted_kl), "kl[%ld] is %.12g, wanted %.12g", (long)n,
              o->kl[n], wanted_kl);
    cr_expect(o->kl[n] >= -1e-6, "kl[%ld] is %g, below zero", (long)n, o->kl[n]);
    cr_expect(fabs(o->against_nll[n] - wanted_against) <= tolerance * (1 + wanted_against));
    if (precision == PRECISION_F32)
        cr_expect_eq(o->agree[n], best == against_best, "agree[%ld] is %d", (long)n, o->agree[n]);
}

static void check_head_eval(int64_t N, int64_t D, int64_t V, int64_t against_D, double cap, enum precision precision) {
    struct op_case c = {.name = "head eval", .n_in = 2};
    c.in[0] = tensor_make("x", N, D, 1);
    c.in[1] = tensor_make("w", V, D, 0.5);
    struct tensor *against_x = NULL, *against_w = NULL;
    int32_t *targets = xmalloc((size_t)N * sizeof *targets, "a test's targets");
    for (int64_t n = 0; n < N; n++)
        targets[n] = n % 5 == 2 ? -1 : (int32_t)((n * 17 + 3) % V);
    c.head = (struct head_spec){.targets = targets, .alpha = 1, .temperature = 1, .weight = 1, .cap = cap, .teacher_cap = 2 * cap};
    if (against_D) {
        against_x = tensor_make("against_x", N, against_D, 1);
        against_w = tensor_make("against_w", V, against_D, 0.5);
        for (int64_t i = 0; i < N / 2 * D && against_D == D; i++) // the first half agrees
            against_x->data[i] = c.in[0]->data[i];
        if (against_D == D)
            memcpy(against_w->data, c.in[1]->data, (size_t)(V * D) * sizeof(float));
        c.head.teacher_x = against_x->data;
        c.head.teacher_w = against_w;
    }
    double *x[2] = {to_double(c.in[0]->data, N * D), to_double(c.in[1]->data, V * D)};
    struct eval_outcome one = run_head_eval(&c, against_x, precision, 1);
    struct eval_outcome two = run_head_eval(&c, against_x, precision, 2);
    cr_expect(memcmp(one.nll, two.nll, (size_t)N * sizeof(double)) == 0, "nll differs between 1 and 2 threads");
    cr_expect(memcmp(one.against_nll, two.against_nll, (size_t)N * sizeof(double)) == 0);
    cr_expect(memcmp(one.kl, two.kl, (size_t)N * sizeof(double)) == 0, "kl differs between 1 and 2 threads");
    cr_expect(memcmp(one.agree, two.agree, (size_t)N) == 0);
    struct head_scratch s;
    head_scratch_init(&s, &c);
    for (int64_t n = 0; n < N; n++)
        expect_eval_row(&c, x, &one, n, &s, precision);
    head_scratch_drop(&s);
    eval_outcome_drop(&one);
    eval_outcome_drop(&two);
    for (int i = 0; i < 2; i++) {
        free(x[i]);
        tensor_drop(c.in[i]);
    }
    if (against_x) {
        tensor_drop(against_x);
        tensor_drop(against_w);
    }
    free(targets);
}

Test(ops, head_eval) {
    int64_t chunk = head_chunk_rows(1 << 20, 1021);
    for (int precision = 0; precision < 2; precision++) {
        enum precision p = precision ? PRECISION_BF16 : PRECISION_F32;
        check_head_eval(1, 4, 3, 0, 0, p);
        check_head_eval(50, 12, 131, 0, 0, p);
        check_head_eval(50, 12, 131, 12, 0, p);
        check_head_eval(50, 12, 131, 20, 0, p);
        check_head_eval(50, 12, 131, 20, 1.5, p);
        check_head_eval(chunk + 7, 4, 1021, 6, 0, p);
    }
}

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

// ---- answers' spans ----------------------------------------------------------------------------------------------

static struct tensor *span_build(struct op_case *c, struct tape *tape) {
    const struct span_spec spec = {.targets = c->head.targets, .length = c->length, .B = c->B, .T = c->T, .teacher = c->constant,
                                   .alpha = c->head.alpha, .temperature = c->head.temperature, .weight = c->head.weight};
    return op_span_loss(tape, c->in[0], &spec, &c->result);
}

#define SPAN_MOST 40

// log softmax of one distribution of z [B*T, 2]: number i = 2 b + end.
static void span_distribution(const struct op_case *c, const double *z, int64_t i, double temperature, double *logp) {
    double row[SPAN_MOST];
    for (int64_t t = 0; t < c->length[i / 2]; t++)
        row[t] = z[(i / 2 * c->T + t) * 2 + i % 2];
    naive_log_softmax(row, c->length[i / 2], temperature, logp);
}

static void span_both(const struct op_case *c, const double *z, double *y, double dy, double *dz) {
    double logp[SPAN_MOST], soft[SPAN_MOST], teacher[SPAN_MOST], *zt = c->constant ? to_double(c->constant, c->B * c->T * 2) : NULL;
    const double alpha = zt ? c->head.alpha : 0, t2 = c->head.temperature;
    for (int64_t i = 0; i < 2 * c->B; i++) {
        const double k = c->head.weight / (double)(2 * c->B);
        span_distribution(c, z, i, 1, logp);
        span_distribution(c, z, i, t2, soft);
        if (zt)
            span_distribution(c, zt, i, t2, teacher);
        double loss = -(1 - alpha) * logp[c->head.targets[i]];
        for (int64_t t = 0; t < c->length[i / 2]; t++) {
            double gradient = (1 - alpha) * (exp(logp[t]) - (t == c->head.targets[i]));
            if (zt) {
                loss += alpha * t2 * t2 * exp(teacher[t]) * (teacher[t] - soft[t]);
                gradient += alpha * t2 * (exp(soft[t]) - exp(teacher[t]));
            }
            if (dz)
                dz[(i / 2 * c->T + t) * 2 + i % 2] += dy * k * gradient;
        }
        if (y)
            *y += k * loss;
    }
    free(zt);
}

static void span_forward(const struct op_case *c, double *const *x, double *y) {
    y[0] = 0;
    span_both(c, x[0], y, 0, NULL);
}

static void span_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    span_both(c, x[0], NULL, dy[0], dx[0]);
}

Test(ops, span_loss) {
    static const int32_t length[] = {9, 1, 33, 17}, targets[] = {0, 8, 0, 0, 32, 0, 5, 5};
    for (int k = 0; k < 4; k++) { // alone; with a teacher, mixed and alone; at another temperature
        struct op_case c = {.name = "span loss", .build = span_build, .forward = span_forward, .backward = span_backward, .f32 = 4e-6,
                            .bf16 = 4e-6, .is_root = 1, .one_precision = 1, .n_in = 1, .n_out = 1, .B = 4, .T = 33, .length = length};
        struct tensor *teacher = tensor_make("teacher", 4 * 33, 2, 3);
        c.in[0] = tensor_make("z", 4 * 33, 2, 2);
        c.constant = k ? teacher->data : NULL;
        c.head = (struct head_spec){.targets = targets, .alpha = k == 2 ? 1 : 0.7, .temperature = k == 3 ? 4 : 1, .weight = k ? 1 : 0.25};
        check_op(&c, 1);
        tensor_drop(teacher);
    }
}
