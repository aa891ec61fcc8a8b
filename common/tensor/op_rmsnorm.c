// op_rmsnorm.c: root-mean-square normalisation (Zhang and Sennrich 2019).
#include <math.h>
#include <string.h>

#include "common/base/error.h"
#include "common/tensor/ops.h"
#include "common/tensor/vecmath.h"

#define ROW_CHUNK 64 // rows whose weight gradients are summed by one thread; the chunks are then added in order

struct rmsnorm_saved {
    float *inverse; // [N] 1 / sqrt(mean(x^2) + eps)
    float *factor;  // [D] shift + w
};

// dx += inverse w dy - x inverse^3 mean(w dy x); part[D] += dy x inverse
static void row_backward(const float *x, const float *w, const float *dy, float inverse, int64_t D, float beta, float *dx,
                         float *part)
{
    double mean = 0;
    for (int64_t i = 0; i < D; i += SUM_BLOCK) {
        float s = 0;
        const int64_t end = min_i64(D, i + SUM_BLOCK);
#pragma omp simd reduction(+ : s)
        for (int64_t j = i; j < end; j++)
            s += w[j] * dy[j] * x[j];
        mean += (double)s;
    }
    const float k = (float)(mean / (double)D) * inverse * inverse * inverse;
    if (dx && beta == 0.0f)
        for (int64_t i = 0; i < D; i++)
            dx[i] = inverse * w[i] * dy[i] - k * x[i];
    else if (dx)
        for (int64_t i = 0; i < D; i++)
            dx[i] += inverse * w[i] * dy[i] - k * x[i];
    if (part)
        for (int64_t i = 0; i < D; i++)
            part[i] += dy[i] * x[i] * inverse;
}

static void rmsnorm_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0], *w = node->in[1];
    const struct rmsnorm_saved *s = node->saved;
    const int64_t D = tensor_count(w), N = tensor_count(x) / D;
    const int64_t chunks = (N + ROW_CHUNK - 1) / ROW_CHUNK;
    const float *dy = node->out->grad;
    float beta = 0;
    float *dx = tape_grad(tape, x, &beta);
    const size_t mark = arena_mark(&tape->arena);
    float *part = w->needs_grad ? arena_zalloc(&tape->arena, (size_t)(chunks * D) * sizeof(float)) : NULL;
#pragma omp parallel for schedule(static) if (N * D > PARALLEL_MIN)
    for (int64_t c = 0; c < chunks; c++)
        for (int64_t n = c * ROW_CHUNK; n < min_i64(N, (c + 1) * ROW_CHUNK); n++)
            row_backward(x->data + n * D, s->factor, dy + n * D, s->inverse[n], D, beta, dx ? dx + n * D : NULL,
                         part ? part + c * D : NULL);
    if (part)
        for (int64_t c = 0; c < chunks; c++)
            for (int64_t i = 0; i < D; i++)
                w->grad[i] += part[c * D + i];
    arena_reset(&tape->arena, mark);
}

struct tensor *op_rmsnorm_shifted(struct tape *tape, struct tensor *x, struct tensor *w, double shift, double eps)
{
    const int64_t D = tensor_count(w), N = tensor_count(x) / D;
    if (tensor_columns(x) % D)
        BUG("op_rmsnorm: %s[%ld,%ld] with %s[%ld]", x->name, (long)tensor_rows(x), (long)tensor_columns(x), w->name, (long)D);
    struct rmsnorm_saved *s = arena_alloc(&tape->arena, sizeof *s);
    s->inverse = arena_alloc(&tape->arena, (size_t)N * sizeof(float));
    s->factor = arena_alloc(&tape->arena, (size_t)D * sizeof(float));
    for (int64_t i = 0; i < D; i++)
        s->factor[i] = w->data[i] + (float)shift;
    struct tensor *y = tape_tensor(tape, w->name, 2, tensor_rows(x), tensor_columns(x), 1);
#pragma omp parallel for schedule(static) if (N * D > PARALLEL_MIN)
    for (int64_t n = 0; n < N; n++) {
        const float *row = x->data + n * D;
        const float inverse = (float)(1.0 / sqrt(vec_dot(row, row, D) / (double)D + eps));
        s->inverse[n] = inverse;
        for (int64_t i = 0; i < D; i++)
            y->data[n * D + i] = row[i] * inverse * s->factor[i];
    }
    struct node *node = tape_record(tape, rmsnorm_backward, y, x, w, NULL, NULL);
    if (node)
        node->saved = s;
    return y;
}

struct tensor *op_rmsnorm(struct tape *tape, struct tensor *x, struct tensor *w, double eps)
{
    return op_rmsnorm_shifted(tape, x, w, 0, eps);
}
