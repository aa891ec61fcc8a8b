// op_linear.c: y = x w^T + bias.
#include "common/base/error.h"
#include "common/tensor/ops.h"
#include "common/tensor/vecmath.h"
#include "common/tensor/weight.h"

#define DOT_ROWS 4 // up to this many input rows, a hook's dot beats widening the weight

static void add_bias(float *y, const float *bias, int64_t N, int64_t O)
{
#pragma omp parallel for schedule(static) if (N * O > PARALLEL_MIN)
    for (int64_t n = 0; n < N; n++)
        for (int64_t o = 0; o < O; o++)
            y[n * O + o] += bias[o];
}

static void linear_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0], *w = node->in[1], *bias = node->in[2];
    const int64_t N = tensor_rows(x), I = tensor_columns(x), O = w->dim[0];
    const float *dy = node->out->grad;
    float beta;
    float *dx = tape_grad(tape, x, &beta);
    if (dx && w->hook && w->hook->input_gradient) {
        w->hook->input_gradient(w->hook->context, tape, w, N, dy, beta, dx);
    } else if (dx) {
        const size_t mark = arena_mark(&tape->arena);
        gemm(tape->precision, PLAIN, PLAIN, N, I, O, dy, O, weight_values(tape, w), I, beta, dx, I);
        arena_reset(&tape->arena, mark);
    }
    if (w->needs_grad)
        weight_add_gradient(tape, w, N, dy, x->data);
    if (bias && bias->needs_grad)
        bias_add_gradient(bias, N, dy);
}

struct tensor *op_linear(struct tape *tape, struct tensor *x, struct tensor *w, struct tensor *bias)
{
    const int64_t N = tensor_rows(x), I = tensor_columns(x), O = w->dim[0];
    if (w->n_dim != 2 || w->dim[1] != I || (bias && tensor_count(bias) != O))
        BUG("op_linear: %s[%ld,%ld] times %s[%ld,%ld]^T, bias of %ld", x->name, (long)N, (long)I, w->name,
            (long)w->dim[0], (long)w->dim[1], bias ? (long)tensor_count(bias) : 0L);
    struct tensor *y = tape_tensor(tape, w->name, 2, N, O, 1);
    const size_t mark = arena_mark(&tape->arena);
    const float *in = w->hook && w->hook->inputs ? rounded_inputs(tape, w->hook->inputs, x->data, N, I) : x->data;
    if (w->hook && w->hook->forward)
        w->hook->forward(w->hook->context, tape, w, N, in, y->data);
    else if (w->hook && w->hook->dot && N <= DOT_ROWS)
        w->hook->dot(w->hook->context, w, N, in, y->data);
    else if (w->hook && w->hook->dot && tape->precision == PRECISION_F32)
        weight_product(tape, w, N, in, y->data);
    else
        gemm(tape->precision, PLAIN, TRANSPOSED, N, O, I, in, I, weight_values(tape, w), I, 0, y->data, O);
    arena_reset(&tape->arena, mark);
    if (bias)
        add_bias(y->data, bias->data, N, O);
    tape_record(tape, linear_backward, y, x, w, bias, NULL);
    return y;
}
