// op_layernorm.c: layer normalisation (Ba et al. 2016).
#include <math.h>

#include "common/base/error.h"
#include "common/tensor/ops.h"
#include "common/tensor/vecmath.h"

#define ROW_CHUNK 64 // rows whose weight gradients are summed by one thread; the chunks are then added in order

struct layernorm_saved {
    float *mean, *inverse; // [N] each; inverse is 1 / sqrt(variance + eps)
};

// With n = (x - mean) inverse and g = w dy: dx += inverse (g - mean(g) - n mean(g n)); part[2D] += dy n, dy
static void row_backward(const float *x, const float *w, const float *dy, float mean, float inverse, int64_t D, float beta,
                         float *dx, float *part)
{
    double sum_g = 0, sum_gn = 0;
    for (int64_t i = 0; i < D; i += SUM_BLOCK) {
        float s = 0, t = 0;
        const int64_t end = min_i64(D, i + SUM_BLOCK);
#pragma omp simd reduction(+ : s, t)
        for (int64_t j = i; j < end; j++) {
            const float g = w[j] * dy[j];
            s += g;
            t += g * (x[j] - mean);
        }
        sum_g += (double)s;
        sum_gn += (double)t;
    }
    const float a = (float)(sum_g / (double)D), b = (float)(sum_gn / (double)D) * inverse * inverse;
    for (int64_t i = 0; dx && i < D; i++)
        dx[i] = inverse * (w[i] * dy[i] - a - (x[i] - mean) * b) + (beta == 0.0f ? 0.0f : dx[i]);
    for (int64_t i = 0; part && i < D; i++) {
        part[i] += dy[i] * (x[i] - mean) * inverse;
        part[D + i] += dy[i];
    }
}

static void layernorm_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0], *w = node->in[1], *bias = node->in[2];
    const struct layernorm_saved *s = node->saved;
    const int64_t N = tensor_rows(x), D = tensor_columns(x);
    const int64_t chunks = (N + ROW_CHUNK - 1) / ROW_CHUNK;
    const float *dy = node->out->grad;
    float beta = 0;
    float *dx = tape_grad(tape, x, &beta);
    const size_t mark = arena_mark(&tape->arena);
    const int wants = w->needs_grad || bias->needs_grad;
    float *part = wants ? arena_zalloc(&tape->arena, (size_t)(chunks * 2 * D) * sizeof(float)) : NULL;
#pragma omp parallel for schedule(static) if (N * D > PARALLEL_MIN)
    for (int64_t c = 0; c < chunks; c++)
        for (int64_t n = c * ROW_CHUNK; n < min_i64(N, (c + 1) * ROW_CHUNK); n++)
            row_backward(x->data + n * D, w->data, dy + n * D, s->mean[n], s->inverse[n], D, beta, dx ? dx + n * D : NULL,
                         part ? part + c * 2 * D : NULL);
    for (int64_t c = 0; part && c < chunks; c++)
        for (int64_t i = 0; i < D; i++) {
            if (w->needs_grad)
                w->grad[i] += part[c * 2 * D + i];
            if (bias->needs_grad)
                bias->grad[i] += part[c * 2 * D + D + i];
        }
    arena_reset(&tape->arena, mark);
}

struct tensor *op_layernorm(struct tape *tape, struct tensor *x, struct tensor *w, struct tensor *bias, double eps)
{
    const int64_t N = tensor_rows(x), D = tensor_columns(x);
    if (tensor_count(w) != D || tensor_count(bias) != D)
        BUG("op_layernorm: %s[%ld,%ld] with %s[%ld] and a bias of %ld", x->name, (long)N, (long)D, w->name,
            (long)tensor_count(w), (long)tensor_count(bias));
    struct layernorm_saved *s = arena_alloc(&tape->arena, sizeof *s);
    s->mean = arena_alloc(&tape->arena, (size_t)N * sizeof(float));
    s->inverse = arena_alloc(&tape->arena, (size_t)N * sizeof(float));
    struct tensor *y = tape_tensor(tape, w->name, 2, N, D, 1);
#pragma omp parallel for schedule(static) if (N * D > PARALLEL_MIN)
    for (int64_t n = 0; n < N; n++) {
        const float *row = x->data + n * D;
        float *out = y->data + n * D;
        double sum = 0;
        for (int64_t i = 0; i < D; i++)
            sum += (double)row[i];
        const float mean = (float)(sum / (double)D);
        for (int64_t i = 0; i < D; i++) // around the mean first: the variance does not cancel
            out[i] = row[i] - mean;
        const float inverse = (float)(1.0 / sqrt(vec_dot(out, out, D) / (double)D + eps));
        s->mean[n] = mean;
        s->inverse[n] = inverse;
        for (int64_t i = 0; i < D; i++)
            out[i] = out[i] * inverse * w->data[i] + bias->data[i];
    }
    struct node *node = tape_record(tape, layernorm_backward, y, x, w, bias, NULL);
    if (node)
        node->saved = s;
    return y;
}
