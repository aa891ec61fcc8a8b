// op_gelu.c: the Gaussian error linear unit (Hendrycks and Gimpel 2016), exact and by the tangent that GPT-2 was trained with; and as a
// gate of another product (Shazeer 2020).
#include <math.h>

#include "common/base/error.h"
#include "common/tensor/ops.h"
#include "common/tensor/vecmath.h"

#define BLOCK 4096 // elements that one thread takes at a time
#define ROOT_2_PI 0.797884561f      // sqrt(2 / pi)
#define ROOT_HALF 0.707106781f      // 1 / sqrt(2)
#define INVERSE_ROOT_2PI 0.398942280f // 1 / sqrt(2 pi)
#define CUBE 0.044715f

// tanh(u) = 2 sigmoid(2u) - 1, so 0.5 (1 + tanh(u)) = sigmoid(2u).
static float tanh_share(float x) { return vec_sigmoid(2 * ROOT_2_PI * (x + CUBE * x * x * x)); }

static float tanh_slope(float x)
{
    const float s = tanh_share(x);
    return s + x * s * (1 - s) * 2 * ROOT_2_PI * (1 + 3 * CUBE * x * x);
}

static float erf_share(float x) { return 0.5f * (1 + erff(x * ROOT_HALF)); }

static float erf_slope(float x) { return erf_share(x) + x * INVERSE_ROOT_2PI * vec_exp(-0.5f * x * x); }

static void gelu_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0];
    const enum gelu *kind = node->saved;
    const float *in = x->data, *dy = node->out->grad;
    const int64_t n = tensor_count(x);
    float beta;
    float *dx = tape_grad(tape, x, &beta);
#pragma omp parallel for schedule(static) if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t end = min_i64(n, i + BLOCK);
        for (int64_t j = i; *kind == GELU_TANH && j < end; j++)
            dx[j] = dy[j] * tanh_slope(in[j]) + (beta == 0.0f ? 0.0f : dx[j]);
        for (int64_t j = i; *kind == GELU_ERF && j < end; j++)
            dx[j] = dy[j] * erf_slope(in[j]) + (beta == 0.0f ? 0.0f : dx[j]);
    }
}

struct tensor *op_gelu(struct tape *tape, struct tensor *x, enum gelu kind)
{
    const int64_t n = tensor_count(x);
    struct tensor *y = tape_tensor(tape, "gelu", 2, tensor_rows(x), tensor_columns(x), 1);
#pragma omp parallel for schedule(static) if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t end = min_i64(n, i + BLOCK);
        for (int64_t j = i; kind == GELU_TANH && j < end; j++)
            y->data[j] = x->data[j] * tanh_share(x->data[j]);
        for (int64_t j = i; kind == GELU_ERF && j < end; j++)
            y->data[j] = x->data[j] * erf_share(x->data[j]);
    }
    struct node *node = tape_record(tape, gelu_backward, y, x, NULL, NULL, NULL);
    if (node) {
        enum gelu *saved = node->saved = arena_alloc(&tape->arena, sizeof *saved);
        *saved = kind;
    }
    return y;
}

static void geglu_backward(struct tape *tape, struct node *node)
{
    struct tensor *gate = node->in[0], *up = node->in[1];
    const float *g = gate->data, *u = up->data, *dy = node->out->grad;
    float gate_beta = 0, up_beta = 0;
    float *dg = tape_grad(tape, gate, &gate_beta), *du = tape_grad(tape, up, &up_beta);
    const int64_t n = tensor_count(gate);
#pragma omp parallel for schedule(static) if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t end = min_i64(n, i + BLOCK);
        for (int64_t j = i; dg && j < end; j++)
            dg[j] = dy[j] * u[j] * tanh_slope(g[j]) + (gate_beta == 0.0f ? 0.0f : dg[j]);
        for (int64_t j = i; du && j < end; j++)
            du[j] = dy[j] * g[j] * tanh_share(g[j]) + (up_beta == 0.0f ? 0.0f : du[j]);
    }
}

struct tensor *op_geglu(struct tape *tape, struct tensor *gate, struct tensor *up)
{
    const int64_t n = tensor_count(gate);
    if (tensor_count(up) != n || tensor_columns(up) != tensor_columns(gate))
        BUG("op_geglu: %s[%ld,%ld] and %s[%ld,%ld]", gate->name, (long)tensor_rows(gate), (long)tensor_columns(gate), up->name,
            (long)tensor_rows(up), (long)tensor_columns(up));
    struct tensor *y = tape_tensor(tape, "geglu", 2, tensor_rows(gate), tensor_columns(gate), 1);
#pragma omp parallel for schedule(static) if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i += BLOCK)
        for (int64_t j = i; j < min_i64(n, i + BLOCK); j++)
            y->data[j] = gate->data[j] * tanh_share(gate->data[j]) * up->data[j];
    tape_record(tape, geglu_backward, y, gate, up, NULL, NULL);
    return y;
}
