// op_pointwise.c: ops that work element by element: swiglu, relu, tanh, dropout, add, gate, picking rows, joining columns, and the scalar losses mse and
// sum.
#include <string.h>

#include "common/base/error.h"
#include "common/base/random.h"
#include "common/tensor/ops.h"
#include "common/tensor/vecmath.h"

#define BLOCK 4096   // elements that one thread takes at a time
#define ROW_CHUNK 64 // rows whose gate gradients are summed by one thread; the chunks are then added in order

static void need_same_shape(const char *op, const struct tensor *a, const struct tensor *b)
{
    if (tensor_count(a) != tensor_count(b) || tensor_columns(a) != tensor_columns(b))
        BUG("%s: %s[%ld,%ld] and %s[%ld,%ld]", op, a->name, (long)tensor_rows(a), (long)tensor_columns(a), b->name,
            (long)tensor_rows(b), (long)tensor_columns(b));
}

static void swiglu_backward(struct tape *tape, struct node *node)
{
    struct tensor *gate = node->in[0], *up = node->in[1];
    const float *g = gate->data, *u = up->data, *dy = node->out->grad;
    float gate_beta = 0, up_beta = 0;
    float *dg = tape_grad(tape, gate, &gate_beta), *du = tape_grad(tape, up, &up_beta);
    const int64_t n = tensor_count(gate);
#pragma omp parallel for schedule(static) if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t end = min_i64(n, i + BLOCK);
        for (int64_t j = i; dg && j < end; j++) {
            const float s = vec_sigmoid(g[j]);
            dg[j] = dy[j] * u[j] * (s + g[j] * s * (1 - s)) + (gate_beta == 0.0f ? 0.0f : dg[j]);
        }
        for (int64_t j = i; du && j < end; j++)
            du[j] = dy[j] * g[j] * vec_sigmoid(g[j]) + (up_beta == 0.0f ? 0.0f : du[j]);
    }
}

struct tensor *op_swiglu(struct tape *tape, struct tensor *gate, struct tensor *up)
{
    need_same_shape("op_swiglu", gate, up);
    const int64_t n = tensor_count(gate);
    struct tensor *y = tape_tensor(tape, "swiglu", 2, tensor_rows(gate), tensor_columns(gate), 1);
#pragma omp parallel for schedule(static) if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i += BLOCK)
        for (int64_t j = i; j < min_i64(n, i + BLOCK); j++)
            y->data[j] = gate->data[j] * vec_sigmoid(gate->data[j]) * up->data[j];
    tape_record(tape, swiglu_backward, y, gate, up, NULL, NULL);
    return y;
}

static void relu_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0];
    const float *y = node->out->data, *dy = node->out->grad;
    const int64_t n = tensor_count(x);
    float beta;
    float *dx = tape_grad(tape, x, &beta);
#pragma omp parallel for schedule(static) if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i++)
        dx[i] = (y[i] > 0.0f ? dy[i] : 0.0f) + (beta == 0.0f ? 0.0f : dx[i]);
}

struct tensor *op_relu(struct tape *tape, struct tensor *x)
{
    const int64_t n = tensor_count(x);
    struct tensor *y = tape_tensor(tape, "relu", 2, tensor_rows(x), tensor_columns(x), 1);
#pragma omp parallel for schedule(static) if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i++)
        y->data[i] = x->data[i] > 0.0f ? x->data[i] : 0.0f;
    tape_record(tape, relu_backward, y, x, NULL, NULL, NULL);
    return y;
}

static void tanh_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0];
    const float *y = node->out->data, *dy = node->out->grad;
    const int64_t n = tensor_count(x);
    float beta;
    float *dx = tape_grad(tape, x, &beta);
#pragma omp parallel for schedule(static) if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i++)
        dx[i] = dy[i] * (1 - y[i] * y[i]) + (beta == 0.0f ? 0.0f : dx[i]);
}

struct tensor *op_tanh(struct tape *tape, struct tensor *x)
{
    const int64_t n = tensor_count(x);
    struct tensor *y = tape_tensor(tape, "tanh", 2, tensor_rows(x), tensor_columns(x), 1);
#pragma omp parallel for schedule(static) if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i++)
        y->data[i] = tanhf(x->data[i]);
    tape_record(tape, tanh_backward, y, x, NULL, NULL, NULL);
    return y;
}

static void rows_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0];
    const int32_t *row = node->saved;
    const int64_t D = tensor_columns(x), n_row = tensor_rows(node->out);
    float beta;
    float *dx = tape_grad(tape, x, &beta);
    if (beta == 0.0f)
        memset(dx, 0, (size_t)tensor_count(x) * sizeof(float));
    for (int64_t n = 0; n < n_row; n++)
        for (int64_t d = 0; d < D; d++)
            dx[row[n] * D + d] += node->out->grad[n * D + d];
}

struct tensor *op_rows(struct tape *tape, struct tensor *x, const int32_t *row, int64_t n_row)
{
    const int64_t D = tensor_columns(x), N = tensor_rows(x);
    struct tensor *y = tape_tensor(tape, x->name, 2, n_row, D, 1);
    int32_t *kept = arena_alloc(&tape->arena, (size_t)n_row * sizeof *kept);
    memcpy(kept, row, (size_t)n_row * sizeof *kept);
    for (int64_t n = 0; n < n_row; n++) {
        if (row[n] < 0 || row[n] >= N)
            BUG("op_rows: row %d of %s[%ld,%ld]", (int)row[n], x->name, (long)N, (long)D);
        memcpy(y->data + n * D, x->data + row[n] * D, (size_t)D * sizeof(float));
    }
    struct node *node = tape_record(tape, rows_backward, y, x, NULL, NULL, NULL);
    if (node)
        node->saved = kept;
    return y;
}

static void join_backward(struct tape *tape, struct node *node)
{
    const int64_t N = tensor_rows(node->out), D = tensor_columns(node->out);
    const float *dy = node->out->grad;
    for (int k = 0; k < 2; k++) {
        const int64_t columns = tensor_columns(node->in[k]);
        float beta;
        float *dx = tape_grad(tape, node->in[k], &beta);
        for (int64_t n = 0; dx && n < N; n++)
            for (int64_t i = 0; i < columns; i++)
                dx[n * columns + i] = dy[n * D + i] + (beta == 0.0f ? 0.0f : dx[n * columns + i]);
        dy += columns;
    }
}

struct tensor *op_join(struct tape *tape, struct tensor *a, struct tensor *c)
{
    const int64_t N = tensor_rows(a), A = tensor_columns(a), C = tensor_columns(c);
    if (tensor_rows(c) != N)
        BUG("op_join: %s[%ld,%ld] and %s[%ld,%ld]", a->name, (long)N, (long)A, c->name, (long)tensor_rows(c), (long)C);
    struct tensor *y = tape_tensor(tape, "joined", 2, N, A + C, 1);
    for (int64_t n = 0; n < N; n++) {
        memcpy(y->data + n * (A + C), a->data + n * A, (size_t)A * sizeof(float));
        memcpy(y->data + n * (A + C) + A, c->data + n * C, (size_t)C * sizeof(float));
    }
    tape_record(tape, join_backward, y, a, c, NULL, NULL);
    return y;
}

static void dropout_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0];
    const float *factor = node->saved, *dy = node->out->grad;
    const int64_t n = tensor_count(x);
    float beta;
    float *dx = tape_grad(tape, x, &beta);
#pragma omp parallel for schedule(static) if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i++)
        dx[i] = dy[i] * factor[i] + (beta == 0.0f ? 0.0f : dx[i]);
}

struct tensor *op_dropout(struct tape *tape, struct tensor *x, double rate, uint64_t seed, const char *name, uint64_t step)
{
    const int64_t n = tensor_count(x), blocks = (n + BLOCK - 1) / BLOCK;
    struct tensor *y = tape_tensor(tape, "dropout", 2, tensor_rows(x), tensor_columns(x), 1);
    float *factor = arena_alloc(&tape->arena, (size_t)n * sizeof *factor);
    const uint32_t limit = (uint32_t)(rate * 4294967296.0);
    const float scale = (float)(1 / (1 - rate));
#pragma omp parallel for schedule(static) if (n > PARALLEL_MIN)
    for (int64_t b = 0; b < blocks; b++) {
        struct random random; // each block of elements draws from a stream of its own, whoever computes it
        random_init(&random, seed, name, step * (uint64_t)blocks + (uint64_t)b);
        for (int64_t i = b * BLOCK; i < min_i64(n, (b + 1) * BLOCK); i++) {
            factor[i] = random_u32(&random) < limit ? 0.0f : scale;
            y->data[i] = x->data[i] * factor[i];
        }
    }
    struct node *node = tape_record(tape, dropout_backward, y, x, NULL, NULL, NULL);
    if (node)
        node->saved = factor;
    return y;
}

// to = from (beta 0) or to += from (beta 1)
static void accumulate(float *to, const float *from, int64_t n, float beta)
{
#pragma omp parallel for schedule(static) if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t end = min_i64(n, i + BLOCK);
        if (beta == 0.0f)
            memcpy(to + i, from + i, (size_t)(end - i) * sizeof(float));
        else
            for (int64_t j = i; j < end; j++)
                to[j] += from[j];
    }
}

static void add_backward(struct tape *tape, struct node *node)
{
    const int64_t n = tensor_count(node->out);
    for (int k = 0; k < 2; k++) {
        float beta;
        float *dx = tape_grad(tape, node->in[k], &beta);
        if (dx)
            accumulate(dx, node->out->grad, n, beta);
    }
}

struct tensor *op_add(struct tape *tape, struct tensor *a, struct tensor *b)
{
    need_same_shape("op_add", a, b);
    const int64_t n = tensor_count(a);
    struct tensor *y = tape_tensor(tape, "sum", 2, tensor_rows(a), tensor_columns(a), 1);
#pragma omp parallel for schedule(static) if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i += BLOCK)
        for (int64_t j = i; j < min_i64(n, i + BLOCK); j++)
            y->data[j] = a->data[j] + b->data[j];
    tape_record(tape, add_backward, y, a, b, NULL, NULL);
    return y;
}

struct tensor *op_sum(struct tape *tape, struct tensor *a, struct tensor *b)
{
    if (tensor_count(a) != 1 || tensor_count(b) != 1)
        BUG("op_sum: %s and %s must be scalars", a->name, b->name);
    struct tensor *y = tape_tensor(tape, "loss", 1, 1, 1, 1);
    y->data[0] = a->data[0] + b->data[0];
    tape_record(tape, add_backward, y, a, b, NULL, NULL);
    return y;
}

static void gate_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0], *gate = node->in[1];
    const int64_t N = tensor_rows(x), C = tensor_columns(x), units = tensor_count(gate), width = C / units;
    const int64_t chunks = (N + ROW_CHUNK - 1) / ROW_CHUNK;
    const float *dy = node->out->grad;
    float beta = 0;
    float *dx = tape_grad(tape, x, &beta);
    const size_t mark = arena_mark(&tape->arena);
    double *part = arena_zalloc(&tape->arena, (size_t)(chunks * units) * sizeof(double));
#pragma omp parallel for schedule(static) if (N * C > PARALLEL_MIN)
    for (int64_t c = 0; c < chunks; c++)
        for (int64_t n = c * ROW_CHUNK; n < min_i64(N, (c + 1) * ROW_CHUNK); n++)
            for (int64_t u = 0; u < units; u++)
                for (int64_t i = n * C + u * width; i < n * C + (u + 1) * width; i++) {
                    part[c * units + u] += (double)(dy[i] * x->data[i]);
                    if (dx)
                        dx[i] = dy[i] * gate->data[u] + (beta == 0.0f ? 0.0f : dx[i]);
                }
    if (gate->needs_grad)
        for (int64_t c = 0; c < chunks; c++)
            for (int64_t u = 0; u < units; u++)
                gate->grad[u] += (float)part[c * units + u];
    arena_reset(&tape->arena, mark);
}

struct tensor *op_gate(struct tape *tape, struct tensor *x, struct tensor *gate)
{
    const int64_t N = tensor_rows(x), C = tensor_columns(x), units = tensor_count(gate);
    if (C % units)
        BUG("op_gate: %s[%ld,%ld] with %ld units", x->name, (long)N, (long)C, (long)units);
    const int64_t width = C / units;
    struct tensor *y = tape_tensor(tape, x->name, 2, N, C, 1);
#pragma omp parallel for schedule(static) if (N * C > PARALLEL_MIN)
    for (int64_t n = 0; n < N; n++)
        for (int64_t u = 0; u < units; u++)
            for (int64_t i = n * C + u * width; i < n * C + (u + 1) * width; i++)
                y->data[i] = x->data[i] * gate->data[u];
    tape_record(tape, gate_backward, y, x, gate, NULL, NULL);
    return y;
}

struct mse_saved {
    const float *target;
    double weight;
};

static void mse_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0];
    const struct mse_saved *s = node->saved;
    const int64_t n = tensor_count(x);
    const float k = (float)(2 * s->weight / (double)n) * node->out->grad[0];
    float beta;
    float *dx = tape_grad(tape, x, &beta);
#pragma omp parallel for schedule(static) if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i += BLOCK)
        for (int64_t j = i; j < min_i64(n, i + BLOCK); j++)
            dx[j] = k * (x->data[j] - s->target[j]) + (beta == 0.0f ? 0.0f : dx[j]);
}

struct tensor *op_mse(struct tape *tape, struct tensor *x, const float *target, double weight)
{
    const int64_t n = tensor_count(x), blocks = (n + BLOCK - 1) / BLOCK;
    double *part = arena_alloc(&tape->arena, (size_t)blocks * sizeof(double));
#pragma omp parallel for schedule(static) if (n > PARALLEL_MIN)
    for (int64_t b = 0; b < blocks; b++) {
        double sum = 0;
        for (int64_t i = b * BLOCK; i < min_i64(n, (b + 1) * BLOCK); i++) {
            const double d = (double)x->data[i] - (double)target[i];
            sum += d * d;
        }
        part[b] = sum;
    }
    double total = 0;
    for (int64_t b = 0; b < blocks; b++)
        total += part[b];
    struct tensor *y = tape_tensor(tape, "mse", 1, 1, 1, 1);
    y->data[0] = (float)(weight * total / (double)n);
    struct node *node = tape_record(tape, mse_backward, y, x, NULL, NULL, NULL);
    if (node) {
        struct mse_saved *s = node->saved = arena_alloc(&tape->arena, sizeof *s);
        *s = (struct mse_saved){target, weight};
    }
    return y;
}
