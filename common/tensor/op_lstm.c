// op_lstm.c: one direction of a long short-term memory over padded sequences, forward and back through time.
//
// Sequences do not meet, so a chunk of them goes through all its positions by one thread, against one packed copy of the recurrent
// weights: the chunks are cut by the batch alone, and no thread waits for another. The inputs' products are the caller's (op_linear), all
// positions at once.
#include <string.h>

#include "common/base/error.h"
#include "common/base/threads.h"
#include "common/tensor/ops.h"
#include "common/tensor/vecmath.h"
#include "common/tensor/weight.h"

#define SEQUENCES 16 // that one thread takes at a time
#define GATES 4

struct lstm { // step lifetime
    int64_t B, T, U;
    int from_end;
    const int32_t *length; // [B]; NULL: T
    float *gate;           // [B*T, 4U]: i, f, g, o, after their sigmoid or tanh
    float *cell;           // [B*T, U]
    float *y;              // [B*T, U]; 0 behind a sequence's end, as cell is: from the end that is where each begins
};

static int64_t length_of(const struct lstm *l, int64_t b) { return l->length ? l->length[b] : l->T; }

// Sequences first to before end of the batch, and the longest one's positions.
struct chunk {
    int64_t first, end, steps;
};

static struct chunk chunk_at(const struct lstm *l, int64_t number)
{
    struct chunk c = {number * SEQUENCES, min_i64(l->B, (number + 1) * SEQUENCES), 0};
    for (int64_t b = c.first; b < c.end; b++)
        c.steps = max_i64(c.steps, length_of(l, b));
    return c;
}

static int64_t chunks_of(const struct lstm *l) { return (l->B + SEQUENCES - 1) / SEQUENCES; }

// Where a chunk is in a step of reading.
static int64_t position(const struct lstm *l, const struct chunk *c, int64_t step) { return l->from_end ? c->steps - 1 - step : step; }

static void cell_forward(int64_t U, float *gate, const float *before, float *cell, float *y)
{
#pragma omp simd
    for (int64_t u = 0; u < U; u++) {
        const float i = vec_sigmoid(gate[u]), f = vec_sigmoid(gate[U + u]), g = vec_tanh(gate[2 * U + u]), o = vec_sigmoid(gate[3 * U + u]);
        const float c = f * before[u] + i * g;
        gate[u] = i;
        gate[U + u] = f;
        gate[2 * U + u] = g;
        gate[3 * U + u] = o;
        cell[u] = c;
        y[u] = o * vec_tanh(c);
    }
}

static void chunk_forward(const struct lstm *l, const struct chunk *c, const float *z, const float *bias, const float *packed, const float *zero)
{
    const int64_t T = l->T, U = l->U, G = GATES * U;
    for (int64_t b = c->first; b < c->end; b++) {
        const int64_t end = length_of(l, b), rest = (b + 1) * T - (b * T + end);
        memset(l->y + (b * T + end) * U, 0, (size_t)(rest * U) * sizeof(float));
        memset(l->cell + (b * T + end) * U, 0, (size_t)(rest * U) * sizeof(float));
    }
    for (int64_t s = 0; s < c->steps; s++) {
        const int64_t t = position(l, c, s), before = position(l, c, s - 1);
        for (int64_t b = c->first; b < c->end; b++)
            for (int64_t k = 0; k < G; k++)
                l->gate[(b * T + t) * G + k] = z[(b * T + t) * G + k] + (bias ? bias[k] : 0.0f);
        if (s > 0)
            gemm_packed(PLAIN, c->end - c->first, G, U, l->y + (c->first * T + before) * U, T * U, packed, U, 1,
                        l->gate + (c->first * T + t) * G, T * G);
        for (int64_t b = c->first; b < c->end; b++) {
            const int64_t row = b * T + t;
            if (t < length_of(l, b))
                cell_forward(U, l->gate + row * G, s > 0 ? l->cell + (b * T + before) * U : zero, l->cell + row * U, l->y + row * U);
        }
    }
}

// From dh, the gradient of this position's h, and dc, that of its cell from what was read after it: d [4U] of the gates before their
// sigmoid or tanh, and dc of the cell before.
static void cell_backward(int64_t U, const float *gate, const float *before, const float *cell, const float *dh, float *dc, float *d)
{
#pragma omp simd
    for (int64_t u = 0; u < U; u++) {
        const float i = gate[u], f = gate[U + u], g = gate[2 * U + u], o = gate[3 * U + u], t = vec_tanh(cell[u]);
        const float c = dc[u] + dh[u] * o * (1 - t * t);
        d[u] = c * g * i * (1 - i);
        d[U + u] = c * before[u] * f * (1 - f);
        d[2 * U + u] = c * i * (1 - g * g);
        d[3 * U + u] = dh[u] * t * o * (1 - o);
        dc[u] = c * f;
    }
}

// scratch: [2 rows + 1, U] of the chunk's rows.
static void chunk_backward(const struct lstm *l, const struct chunk *c, const float *dy, const float *packed, float *d, float *scratch)
{
    const int64_t T = l->T, U = l->U, G = GATES * U, rows = c->end - c->first;
    float *dh = scratch, *dc = dh + rows * U, *zero = dc + rows * U;
    memset(dc, 0, (size_t)((rows + 1) * U) * sizeof(float));
    for (int64_t b = c->first; b < c->end; b++)
        memset(d + (b * T + length_of(l, b)) * G, 0, (size_t)((T - length_of(l, b)) * G) * sizeof(float));
    for (int64_t s = c->steps - 1; s >= 0; s--) {
        const int64_t t = position(l, c, s), before = position(l, c, s - 1), after = position(l, c, s + 1);
        for (int64_t r = 0; r < rows; r++)
            memcpy(dh + r * U, dy + ((c->first + r) * T + t) * U, (size_t)U * sizeof(float));
        if (s + 1 < c->steps)
            gemm_packed(PLAIN, rows, U, G, d + (c->first * T + after) * G, T * G, packed, G, 1, dh, U);
        for (int64_t r = 0; r < rows; r++) {
            const int64_t b = c->first + r, row = b * T + t;
            if (t < length_of(l, b))
                cell_backward(U, l->gate + row * G, s > 0 ? l->cell + (b * T + before) * U : zero, l->cell + row * U, dh + r * U, dc + r * U,
                              d + row * G);
        }
    }
}

// d [B*T, 4U]: the gradient of the gates before their sigmoid or tanh.
static void gates_backward(struct tape *tape, const struct lstm *l, const struct tensor *w, const float *dy, float *d)
{
    const int64_t U = l->U, G = GATES * U, chunks = chunks_of(l), slots = min_i64(chunks, threads_count()), size = (2 * SEQUENCES + 1) * U;
    const size_t mark = arena_mark(&tape->arena);
    float *packed = arena_alloc(&tape->arena, (size_t)gemm_packed_floats(U, G) * sizeof(float));
    float *scratch = arena_alloc(&tape->arena, (size_t)(slots * size) * sizeof(float));
    gemm_pack(PLAIN, U, G, 1, weight_values(tape, w), U, packed);
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)slots)
    for (int64_t n = 0; n < chunks; n++) {
        const struct chunk c = chunk_at(l, n);
        chunk_backward(l, &c, dy, packed, d, scratch + thread_number() * size);
    }
    arena_reset(&tape->arena, mark);
}

// w's gradient: d^T times the h that each position read.
static void recurrent_weight_backward(struct tape *tape, const struct lstm *l, struct tensor *w, const float *d)
{
    const int64_t T = l->T, U = l->U;
    const size_t mark = arena_mark(&tape->arena);
    float *read = arena_zalloc(&tape->arena, (size_t)(l->B * T * U) * sizeof(float));
    for (int64_t b = 0; b < l->B; b++)
        memcpy(read + (b * T + (l->from_end ? 0 : 1)) * U, l->y + (b * T + (l->from_end ? 1 : 0)) * U, (size_t)((T - 1) * U) * sizeof(float));
    weight_add_gradient(tape, w, l->B * T, d, read);
    arena_reset(&tape->arena, mark);
}

static void lstm_backward(struct tape *tape, struct node *node)
{
    struct tensor *z = node->in[0], *w = node->in[1], *bias = node->in[2];
    const struct lstm *l = node->saved;
    const int64_t n = tensor_count(z);
    float beta = 0;
    float *dz = tape_grad(tape, z, &beta);
    const size_t mark = arena_mark(&tape->arena);
    float *d = dz && beta == 0.0f ? dz : arena_alloc(&tape->arena, (size_t)n * sizeof(float));
    gates_backward(tape, l, w, node->out->grad, d);
    for (int64_t k = 0; dz && d != dz && k < n; k++)
        dz[k] += d[k];
    if (w->needs_grad)
        recurrent_weight_backward(tape, l, w, d);
    if (bias && bias->needs_grad)
        bias_add_gradient(bias, tensor_rows(z), d);
    arena_reset(&tape->arena, mark);
}

struct tensor *op_lstm(struct tape *tape, struct tensor *z, struct tensor *w, struct tensor *bias, int64_t B, int64_t T, const int32_t *length,
                       int from_end)
{
    const int64_t G = tensor_columns(z), U = G / GATES, chunks = (B + SEQUENCES - 1) / SEQUENCES;
    if (tensor_rows(z) != B * T || G % GATES || w->n_dim != 2 || w->dim[0] != G || w->dim[1] != U || (bias && tensor_count(bias) != G))
        BUG("op_lstm: %s[%ld,%ld] with %s[%ld,%ld], bias of %ld, B %ld T %ld", z->name, (long)tensor_rows(z), (long)G, w->name, (long)w->dim[0],
            (long)w->dim[1], bias ? (long)tensor_count(bias) : 0L, (long)B, (long)T);
    for (int64_t b = 0; length && b < B; b++)
        if (length[b] < 1 || length[b] > T)
            BUG("op_lstm: sequence %ld has %d of %ld positions", (long)b, (int)length[b], (long)T);
    struct tensor *y = tape_tensor(tape, w->name, 2, B * T, U, 1);
    struct lstm *l = arena_alloc(&tape->arena, sizeof *l);
    *l = (struct lstm){.B = B, .T = T, .U = U, .from_end = from_end, .length = length, .y = y->data};
    l->gate = arena_alloc(&tape->arena, (size_t)(B * T * G) * sizeof(float));
    l->cell = arena_alloc(&tape->arena, (size_t)(B * T * U) * sizeof(float));
    const size_t mark = arena_mark(&tape->arena);
    float *packed = arena_alloc(&tape->arena, (size_t)gemm_packed_floats(G, U) * sizeof(float));
    const float *zero = arena_zalloc(&tape->arena, (size_t)U * sizeof(float));
    gemm_pack(TRANSPOSED, G, U, 1, weight_values(tape, w), U, packed);
#pragma omp parallel for schedule(dynamic, 1) if (chunks > 1)
    for (int64_t n = 0; n < chunks; n++) {
        const struct chunk c = chunk_at(l, n);
        chunk_forward(l, &c, z->data, bias ? bias->data : NULL, packed, zero);
    }
    arena_reset(&tape->arena, mark);
    struct node *node = tape_record(tape, lstm_backward, y, z, w, bias, NULL);
    if (node)
        node->saved = l;
    return y;
}
