// sparse_weight.c: see sparse_weight.h.
//
// Rows of the input go through in blocks of 64, transposed: one kept weight then meets 64 neighbouring values, so that the
// loops have no gather and the vectors are full at any sparsity. What a row of the weight gives is summed in the order of
// its kept elements by one thread: the bits do not depend on the number of threads.
#include "common/tensor/sparse_weight.h"

#include <immintrin.h>
#include <stdlib.h>

#include "common/base/error.h"
#include "common/tensor/tape.h"
#include "common/tensor/vecmath.h"

#define BLOCK 64               // input rows at a time
#define LANES 8                // f32 in a vector
#define VECTORS (BLOCK / LANES)
#define TILE 8                 // of a transposition
#define WORTH_THREADS (1 << 16) // kept elements below which one thread does a product alone

// Columns of eight rows, in place: the transposition of an 8 x 8 tile.
static void transpose_tile(__m256 r[TILE])
{
    __m256 a[TILE], b[TILE];
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < TILE; i += 4) {
        b[i] = _mm256_shuffle_ps(a[i], a[i + 2], _MM_SHUFFLE(1, 0, 1, 0));
        b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], _MM_SHUFFLE(3, 2, 3, 2));
        b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], _MM_SHUFFLE(1, 0, 1, 0));
        b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], _MM_SHUFFLE(3, 2, 3, 2));
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
}

// to[columns, BLOCK] = from[n, columns]^T; missing rows are 0.
static void transpose_in(const float *from, int64_t n, int64_t columns, float *to)
{
    if (n < BLOCK)
        memset(to, 0, (size_t)(columns * BLOCK) * sizeof *to);
    for (int64_t c0 = 0; c0 < columns; c0 += TILE)
        for (int64_t r0 = 0; r0 < n; r0 += TILE) {
            const int64_t c1 = min_i64(columns, c0 + TILE), r1 = min_i64(n, r0 + TILE);
            if (c1 - c0 == TILE && r1 - r0 == TILE) {
                __m256 tile[TILE];
                for (int i = 0; i < TILE; i++)
                    tile[i] = _mm256_loadu_ps(from + (r0 + i) * columns + c0);
                transpose_tile(tile);
                for (int i = 0; i < TILE; i++)
                    _mm256_storeu_ps(to + (c0 + i) * BLOCK + r0, tile[i]);
                continue;
            }
            for (int64_t c = c0; c < c1; c++)
                for (int64_t r = r0; r < r1; r++)
                    to[c * BLOCK + r] = from[r * columns + c];
        }
}

// to[n, columns] = from[columns, BLOCK]^T, added where beta is 1.
static void transpose_out(const float *from, int64_t n, int64_t columns, float beta, float *to)
{
    for (int64_t r0 = 0; r0 < n; r0 += TILE)
        for (int64_t c0 = 0; c0 < columns; c0 += TILE) {
            const int64_t c1 = min_i64(columns, c0 + TILE), r1 = min_i64(n, r0 + TILE);
            if (beta == 0.0f && c1 - c0 == TILE && r1 - r0 == TILE) {
                __m256 tile[TILE];
                for (int i = 0; i < TILE; i++)
                    tile[i] = _mm256_loadu_ps(from + (c0 + i) * BLOCK + r0);
                transpose_tile(tile);
                for (int i = 0; i < TILE; i++)
                    _mm256_storeu_ps(to + (r0 + i) * columns + c0, tile[i]);
                continue;
            }
            for (int64_t r = r0; r < r1; r++)
                for (int64_t c = c0; c < c1; c++)
                    to[r * columns + c] = from[c * BLOCK + r] + (beta == 0.0f ? 0.0f : to[r * columns + c]);
        }
}

// y[BLOCK] = sum over a row's kept weights of value times x's row of that column.
static void multiply_row(const float *value, const int32_t *column, int64_t n, const float *x, float *y)
{
    __m256 sum[VECTORS];
    for (int v = 0; v < VECTORS; v++)
        sum[v] = _mm256_setzero_ps();
    for (int64_t k = 0; k < n; k++) {
        const __m256 w = _mm256_broadcast_ss(value + k);
        const float *from = x + (int64_t)column[k] * BLOCK;
        for (int v = 0; v < VECTORS; v++)
            sum[v] = _mm256_fmadd_ps(w, _mm256_loadu_ps(from + v * LANES), sum[v]);
    }
    for (int v = 0; v < VECTORS; v++)
        _mm256_storeu_ps(y + v * LANES, sum[v]);
}

static __m256 products(const __m256 d[VECTORS], const float *x)
{
    __m256 even = _mm256_mul_ps(d[0], _mm256_loadu_ps(x)), odd = _mm256_mul_ps(d[1], _mm256_loadu_ps(x + LANES));
    for (int v = 2; v < VECTORS; v += 2) {
        even = _mm256_fmadd_ps(d[v], _mm256_loadu_ps(x + v * LANES), even);
        odd = _mm256_fmadd_ps(d[v + 1], _mm256_loadu_ps(x + (v + 1) * LANES), odd);
    }
    return _mm256_add_ps(even, odd);
}

// gradient[k] += d . (x's row of column k): four at a time, so that the sums across lanes are shared.
static void row_gradient(const float *d, const int32_t *column, int64_t n, const float *x, float *gradient)
{
    __m256 dy[VECTORS];
    for (int v = 0; v < VECTORS; v++)
        dy[v] = _mm256_loadu_ps(d + v * LANES);
    int64_t k = 0;
    for (; k + 4 <= n; k += 4) {
        __m256 p[4];
        for (int i = 0; i < 4; i++)
            p[i] = products(dy, x + (int64_t)column[k + i] * BLOCK);
        const __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(p[0], p[1]), _mm256_hadd_ps(p[2], p[3]));
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
        _mm_storeu_ps(gradient + k, _mm_add_ps(_mm_loadu_ps(gradient + k), four));
    }
    for (; k < n; k++) {
        float lane[LANES];
        _mm256_storeu_ps(lane, products(dy, x + (int64_t)column[k] * BLOCK));
        gradient[k] += ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    }
}

static float *blocks(struct tape *tape, int64_t columns)
{
    return arena_alloc(&tape->arena, (size_t)(columns * BLOCK) * sizeof(float));
}

static void forward(void *context, struct tape *tape, const struct tensor *w, int64_t N, const float *x, float *y)
{
    const struct sparse_weight *s = context;
    const size_t mark = arena_mark(&tape->arena);
    float *xt = blocks(tape, s->columns), *yt = blocks(tape, s->rows);
    for (int64_t first = 0; first < N; first += BLOCK) {
        const int64_t n = min_i64(BLOCK, N - first);
        transpose_in(x + first * s->columns, n, s->columns, xt);
#pragma omp parallel for schedule(static) if (s->kept > WORTH_THREADS)
        for (int64_t r = 0; r < s->rows; r++)
            multiply_row(w->data + s->start[r], s->column + s->start[r], s->start[r + 1] - s->start[r], xt, yt + r * BLOCK);
        transpose_out(yt, n, s->rows, 0, y + first * s->rows);
    }
    arena_reset(&tape->arena, mark);
}

static void input_gradient(void *context, struct tape *tape, const struct tensor *w, int64_t N, const float *dy, float beta,
                           float *dx)
{
    const struct sparse_weight *s = context;
    const size_t mark = arena_mark(&tape->arena);
    float *dyt = blocks(tape, s->rows), *dxt = blocks(tape, s->columns);
    for (int64_t first = 0; first < N; first += BLOCK) {
        const int64_t n = min_i64(BLOCK, N - first);
        transpose_in(dy + first * s->rows, n, s->rows, dyt);
        memset(dxt, 0, (size_t)(s->columns * BLOCK) * sizeof(float));
        for (int64_t r = 0; r < s->rows; r++)
            for (int32_t k = s->start[r]; k < s->start[r + 1]; k++) {
                const float value = w->data[k], *from = dyt + r * BLOCK;
                float *to = dxt + (int64_t)s->column[k] * BLOCK;
                for (int i = 0; i < BLOCK; i++)
                    to[i] += value * from[i];
            }
        transpose_out(dxt, n, s->columns, beta, dx + first * s->columns);
    }
    arena_reset(&tape->arena, mark);
}

static void add_gradient(void *context, struct tape *tape, const struct tensor *w, int64_t N, const float *dy, const float *x)
{
    const struct sparse_weight *s = context;
    const size_t mark = arena_mark(&tape->arena);
    float *xt = blocks(tape, s->columns), *dyt = blocks(tape, s->rows);
    for (int64_t first = 0; first < N; first += BLOCK) {
        const int64_t n = min_i64(BLOCK, N - first);
        transpose_in(x + first * s->columns, n, s->columns, xt);
        transpose_in(dy + first * s->rows, n, s->rows, dyt);
#pragma omp parallel for schedule(static) if (s->kept > WORTH_THREADS)
        for (int64_t r = 0; r < s->rows; r++)
            row_gradient(dyt + r * BLOCK, s->column + s->start[r], s->start[r + 1] - s->start[r], xt, w->grad + s->start[r]);
    }
    arena_reset(&tape->arena, mark);
}

static void rows(void *context, const struct tensor *w, int64_t row0, int64_t n, float *to)
{
    const struct sparse_weight *s = context;
    memset(to, 0, (size_t)(n * s->columns) * sizeof *to);
    for (int64_t r = row0; r < row0 + n; r++)
        for (int32_t k = s->start[r]; k < s->start[r + 1]; k++)
            to[(r - row0) * s->columns + s->column[k]] = w->data[k];
}

void sparse_weight_init(struct sparse_weight *s, int64_t n_row, int64_t columns, const unsigned char *mask)
{
    *s = (struct sparse_weight){.rows = n_row, .columns = columns};
    s->hook = (struct weight_hook){.context = s, .rows = rows, .forward = forward, .input_gradient = input_gradient,
                                   .add_gradient = add_gradient};
    if (n_row * columns > INT32_MAX)
        BUG("sparse_weight: %ld x %ld elements", (long)n_row, (long)columns);
    s->start = xmalloc((size_t)(n_row + 1) * sizeof *s->start, "a sparse weight");
    for (int64_t i = 0; i < n_row * columns; i++)
        s->kept += mask[i] != 0;
    s->column = xmalloc((size_t)(s->kept + 1) * sizeof *s->column, "a sparse weight");
    int32_t k = 0;
    for (int64_t r = 0; r < n_row; r++) {
        s->start[r] = k;
        for (int64_t c = 0; c < columns; c++)
            if (mask[r * columns + c])
                s->column[k++] = (int32_t)c;
    }
    s->start[n_row] = k;
}

void sparse_weight_release(struct sparse_weight *s)
{
    free(s->start);
    free(s->column);
    *s = (struct sparse_weight){0};
}

void sparse_weight_gather(const struct sparse_weight *s, const float *dense, float *kept)
{
    for (int64_t r = 0; r < s->rows; r++)
        for (int32_t k = s->start[r]; k < s->start[r + 1]; k++)
            kept[k] = dense[r * s->columns + s->column[k]];
}

void sparse_weight_scatter(const struct sparse_weight *s, const float *kept, float *dense)
{
    memset(dense, 0, (size_t)(s->rows * s->columns) * sizeof *dense);
    for (int64_t r = 0; r < s->rows; r++)
        for (int32_t k = s->start[r]; k < s->start[r + 1]; k++)
            dense[r * s->columns + s->column[k]] = kept[k];
}
