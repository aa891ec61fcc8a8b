// test_ops_attention.c: rotary positions, and attention by every rule, with and without a cache.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/base/threads.h"
#include "tests/unit/ops_check.h"

TestSuite(ops, .init = gemm_init);

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
