// op_rope.c: rotary position embedding, rotate-half pairs (Su et al. 2021).
#include <math.h>

#include "common/base/error.h"
#include "common/tensor/ops.h"
#include "common/tensor/vecmath.h"

const float *rope_table(struct tape *tape, const double *inverse_frequency, int64_t E, int64_t T, int64_t position0)
{
    float *table = arena_alloc(&tape->arena, (size_t)(T * E) * sizeof(float));
#pragma omp parallel for schedule(static) if (T * E > PARALLEL_MIN)
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < E / 2; i++) {
            const double angle = (double)(position0 + t) * inverse_frequency[i];
            table[t * E + i] = (float)cos(angle);
            table[t * E + E / 2 + i] = (float)sin(angle);
        }
    return table;
}

// (a, b) -> (a cos - sign b sin, b cos + sign a sin); the backward pass is the rotation back.
static void rotate(const float *x, float *y, const float *table, int64_t N, int64_t C, int64_t E, int64_t T, float sign,
                   float beta)
{
    const int64_t half = E / 2;
#pragma omp parallel for schedule(static) if (N * C > PARALLEL_MIN)
    for (int64_t n = 0; n < N; n++) {
        const float *cosine = table + (n % T) * E, *sine = cosine + half;
        for (int64_t h = 0; h < C; h += E) {
            const float *a = x + n * C + h, *b = a + half;
            float *ya = y + n * C + h, *yb = ya + half;
            if (beta == 0.0f)
                for (int64_t i = 0; i < half; i++) {
                    const float s = sign * sine[i], first = a[i], second = b[i];
                    ya[i] = first * cosine[i] - second * s;
                    yb[i] = second * cosine[i] + first * s;
                }
            else
                for (int64_t i = 0; i < half; i++) {
                    const float s = sign * sine[i], first = a[i], second = b[i];
                    ya[i] += first * cosine[i] - second * s;
                    yb[i] += second * cosine[i] + first * s;
                }
        }
    }
}

struct rope_saved {
    const float *table;
    int64_t E, T;
};

static void rope_backward(struct tape *tape, struct node *node)
{
    const struct rope_saved *s = node->saved;
    struct tensor *x = node->in[0];
    float beta;
    float *dx = tape_grad(tape, x, &beta);
    rotate(node->out->grad, dx, s->table, tensor_rows(x), tensor_columns(x), s->E, s->T, -1, beta);
}

struct tensor *op_rope(struct tape *tape, struct tensor *x, const float *table, int64_t E, int64_t T)
{
    const int64_t N = tensor_rows(x), C = tensor_columns(x);
    if (E % 2 || C % E || N % T)
        BUG("op_rope: %s[%ld,%ld], heads of %ld, %ld positions", x->name, (long)N, (long)C, (long)E, (long)T);
    struct tensor *y = tape_tensor(tape, x->name, 2, N, C, 1);
    rotate(x->data, y->data, table, N, C, E, T, 1, 0);
    struct node *node = tape_record(tape, rope_backward, y, x, NULL, NULL, NULL);
    if (node) {
        struct rope_saved *s = node->saved = arena_alloc(&tape->arena, sizeof *s);
        *s = (struct rope_saved){table, E, T};
    }
    return y;
}
