// weight.c: weights behind hooks: masks, fake-quant, quantized storage.
#include "common/tensor/weight.h"

#include <math.h>

#include "common/base/threads.h"
#include "common/tensor/vecmath.h"

#define ROW_BLOCK 32 // rows that one thread makes at a time
#define COLUMN_BLOCK 64 // columns that one thread sums
#define PRODUCT_ROWS 512 // rows of x that are multiplied with rows of the weight widened once: more would not stay in a cache
#define DEPTH 256 // columns multiplied at a time: 32 rows of x so deep stay in the nearest cache

const float *weight_values(struct tape *tape, const struct tensor *w)
{
    if (!w->hook)
        return w->data;
    if (w->hook->values)
        return w->hook->values;
    const int64_t rows = tensor_rows(w), columns = tensor_columns(w);
    float *values = arena_alloc(&tape->arena, (size_t)(rows * columns) * sizeof(float));
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r += ROW_BLOCK) {
        const int64_t n = r + ROW_BLOCK < rows ? ROW_BLOCK : rows - r;
        w->hook->rows(w->hook->context, w, r, n, values + r * columns);
    }
    return values;
}

// Rows row0 .. of the weight, widened in `values`, times n columns of x^T: sum [ROW_BLOCK, n], then its transpose to y [n, O].
static void panel_product(const struct tensor *w, int64_t row0, int64_t n, const float *packed, float *values, float *sum, float *y)
{
    const int64_t O = tensor_rows(w), I = tensor_columns(w), rows = min_i64(ROW_BLOCK, O - row0);
    w->hook->rows(w->hook->context, w, row0, rows, values);
    for (int64_t k = 0; k < I; k += DEPTH)
        gemm_packed(PLAIN, rows, n, min_i64(DEPTH, I - k), values + k, I, packed + k * GEMM_PANEL, I, k > 0, sum, n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < rows; r++)
            y[i * O + row0 + r] = sum[r * n + i];
}

void weight_product(struct tape *tape, const struct tensor *w, int64_t N, const float *x, float *y)
{
    const int64_t O = tensor_rows(w), I = tensor_columns(w), most = min_i64(N, PRODUCT_ROWS), slot = ROW_BLOCK * (I + most);
    const size_t mark = arena_mark(&tape->arena);
    float *packed = arena_alloc(&tape->arena, (size_t)gemm_packed_floats(most, I) * sizeof *packed);
    float *scratch = arena_alloc(&tape->arena, (size_t)(threads_count() * slot) * sizeof *scratch);
    for (int64_t n0 = 0; n0 < N; n0 += most) {
        const int64_t n = min_i64(most, N - n0);
#pragma omp parallel
        {
            float *values = scratch + thread_number() * slot;
#pragma omp for schedule(static)
            for (int64_t i = 0; i < n; i += GEMM_PANEL)
                gemm_pack(TRANSPOSED, min_i64(GEMM_PANEL, n - i), I, 1, x + (n0 + i) * I, I, packed + i * I);
#pragma omp for schedule(dynamic, 1)
            for (int64_t r = 0; r < O; r += ROW_BLOCK)
                panel_product(w, r, n, packed, values, values + ROW_BLOCK * I, y + n0 * O);
        }
    }
    arena_reset(&tape->arena, mark);
}

// A row's own scale as vLLM's int8 kernel takes it; compressed-tensors' own simulation divides by 2^(bits-1) - 0.5.
static void round_row(const struct input_rounding *r, const float *x, int64_t n, float *to)
{
    const float most = (float)((1 << (r->bits - 1)) - 1);
    float scale = r->scale;
    for (int64_t i = 0; i < n && r->scale <= 0; i++)
        scale = fabsf(x[i]) > scale ? fabsf(x[i]) : scale;
    scale = r->scale > 0 ? scale : scale / most;
    for (int64_t i = 0; i < n; i++)
        to[i] = scale > 0 ? fminf(fmaxf(rintf(x[i] / scale), -most - 1), most) * scale : 0;
}

const float *rounded_inputs(struct tape *tape, const struct input_rounding *r, const float *x, int64_t N, int64_t I)
{
    float *to = arena_alloc(&tape->arena, (size_t)(N * I) * sizeof *to);
#pragma omp parallel for schedule(static) if (N * I > PARALLEL_MIN)
    for (int64_t n = 0; n < N; n++)
        round_row(r, x + n * I, I, to + n * I);
    return to;
}

int weight_changes_gradient(const struct tensor *w) { return w->hook && w->hook->backward; }

void weight_add_effective(const struct tensor *w, float *effective)
{
    const int64_t rows = tensor_rows(w), columns = tensor_columns(w);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r += ROW_BLOCK) {
        const int64_t n = r + ROW_BLOCK < rows ? ROW_BLOCK : rows - r;
        w->hook->backward(w->hook->context, w, r, n, effective + r * columns);
        for (int64_t i = r * columns; i < (r + n) * columns; i++)
            w->grad[i] += effective[i];
    }
}

void weight_add_gradient(struct tape *tape, struct tensor *w, int64_t N, const float *dy, const float *x)
{
    const int64_t rows = tensor_rows(w), columns = tensor_columns(w);
    if (w->hook && w->hook->add_gradient) {
        w->hook->add_gradient(w->hook->context, tape, w, N, dy, x);
        return;
    }
    if (!weight_changes_gradient(w)) {
        gemm(tape->precision, TRANSPOSED, PLAIN, rows, columns, N, dy, rows, x, columns, 1, w->grad, columns);
        return;
    }
    const size_t mark = arena_mark(&tape->arena);
    float *effective = arena_alloc(&tape->arena, (size_t)(rows * columns) * sizeof(float));
    gemm(tape->precision, TRANSPOSED, PLAIN, rows, columns, N, dy, rows, x, columns, 0, effective, columns);
    weight_add_effective(w, effective);
    arena_reset(&tape->arena, mark);
}

void bias_add_gradient(struct tensor *bias, int64_t N, const float *dy)
{
    const int64_t O = tensor_count(bias);
#pragma omp parallel for schedule(static) if (N * O > PARALLEL_MIN)
    for (int64_t c = 0; c < O; c += COLUMN_BLOCK)
        for (int64_t o = c; o < min_i64(O, c + COLUMN_BLOCK); o++) {
            double sum = 0;
            for (int64_t n = 0; n < N; n++)
                sum += (double)dy[n * O + o];
            bias->grad[o] += (float)sum;
        }
}
