// test_ops_norms.c: norms of rows and of heads.
#include <criterion/criterion.h>
#include <math.h>

#include "tests/unit/ops_check.h"

TestSuite(ops, .init = gemm_init);

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
                                .f32 = FUNCTION_F32,
                                .bf16 = FUNCTION_F32};
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
                                .backward = rmsnorm_backward, .f32 = FUNCTION_F32, .bf16 = FUNCTION_F32, .one_precision = 1, .number = 1e-5};
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
                                .f32 = FUNCTION_F32, .bf16 = FUNCTION_F32, .one_precision = 1, .number = tiny ? 0.7 : 1e-5}; // as rmsnorm
            c.n_in = 3;
            c.in[0] = tensor_make("x", N, D, 1);
            c.in[1] = tensor_make("w", D, 0, 1);
            c.in[2] = tensor_make("b", D, 0, 1);
            c.n_out = N * D;
            check_op(&c, N * D < 3000);
        }
}
