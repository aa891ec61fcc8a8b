// test_ops_pointwise.c: activations, gates and whatever else works on each value alone.
#include <criterion/criterion.h>
#include <math.h>

#include "tests/unit/ops_check.h"
#include "tests/unit/tolerance.h"

TestSuite(ops, .init = gemm_init);

// ---- of one value -------------------------------------------------------------------------------------------------

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
            struct op_case c = {.name = "gelu", .build = gelu_build, .forward = gelu_forward, .backward = gelu_backward, .f32 = FUNCTION_F32, .bf16 = FUNCTION_F32};
            c.one_precision = 1;
            c.number = is_erf;
            c.n_in = 1;
            c.in[0] = tensor_make("x", N, D, 3);
            c.n_out = N * D;
            check_op(&c, N * D < 3000);
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
                            .backward = k ? rows_backward : tanh_backward, .f32 = FUNCTION_F32, .bf16 = FUNCTION_F32};
        c.one_precision = 1;
        c.n_in = 1;
        c.in[0] = tensor_make("x", 7, 20, 2);
        c.n_out = k ? 4 * 20 : 7 * 20;
        check_op(&c, 1);
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
        cr_expect(fabs((double)y->data[i] / tanh((double)x->data[i]) - 1) < FLOAT_FEW, "tanh(%g) is %.9g", (double)x->data[i], (double)y->data[i]);
    tensor_drop(x);
    tape_release(&tape);
}

// ---- of two values ------------------------------------------------------------------------------------------------

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
                            .f32 = FUNCTION_F32, .bf16 = FUNCTION_F32, .one_precision = 1, .n_in = 2}; // as gelu
        c.in[0] = tensor_make("gate", shape[s][0], shape[s][1], 2);
        c.in[1] = tensor_make("up", shape[s][0], shape[s][1], 1);
        c.n_out = tensor_count(c.in[0]);
        check_op(&c, c.n_out <= 50);
    }
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
                            .f32 = FUNCTION_F32,
                            .bf16 = FUNCTION_F32};
        c.one_precision = 1;
        c.n_in = 2;
        c.in[0] = tensor_make("x", shape[s][0], shape[s][1] * shape[s][2], 1);
        c.in[1] = tensor_make("gate", shape[s][1], 0, 1);
        c.n_out = tensor_count(c.in[0]);
        check_op(&c, c.n_out < 3000);
    }
}
