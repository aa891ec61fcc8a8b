// blocks_float.c: F32, F16 and BF16, whose blocks are single values. The products may use fused multiply-adds.
#include <immintrin.h>
#include <string.h>

#include "common/tensor/dtype.h"
#include "quant/blocks_rows.h"
#include "quant/blocks_simd.h"

// F32

void f32_encode(const float *from, const float *importance, int64_t n, void *to)
{
    (void)importance; // nothing is lost
    memcpy(to, from, (size_t)n * 4);
}

void f32_decode(const void *from, float *to, int64_t n) { memcpy(to, from, (size_t)n * 4); }

// Eight values as floats.
typedef __m256 reader(const void *row, int64_t i);

// Four sums, as many as hide the additions' latency.
static inline __attribute__((always_inline)) float dot_floats(const void *row, int64_t bytes, const float *x, int64_t n, reader *read)
{
    __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++)
            sum[k] = _mm256_fmadd_ps(read(row, i + 8 * k), _mm256_loadu_ps(x + i + 8 * k), sum[k]);
    }
    for (; i + 8 <= n; i += 8)
        sum[0] = _mm256_fmadd_ps(read(row, i), _mm256_loadu_ps(x + i), sum[0]);
    float last[8] = {0}, last_x[8] = {0};
    memcpy(last, (const char *)row + i * bytes, (size_t)((n - i) * bytes));
    memcpy(last_x, x + i, (size_t)(n - i) * sizeof *x);
    sum[1] = _mm256_fmadd_ps(read(last, 0), _mm256_loadu_ps(last_x), sum[1]);
    return sum8(_mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3])));
}

static inline __m256 read_f32(const void *row, int64_t i) { return _mm256_loadu_ps((const float *)row + i); }

static inline __m256 read_f16(const void *row, int64_t i)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)row + i)));
}

static inline __m256 read_bf16(const void *row, int64_t i)
{
    const __m128i v = _mm_loadu_si128((const __m128i *)(const void *)((const uint16_t *)row + i));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}

float f32_dot(const void *row, const void *x, int64_t n) { return dot_floats(row, 4, x, n, read_f32); }
float f16_dot(const void *row, const void *x, int64_t n) { return dot_floats(row, 2, x, n, read_f16); }
float bf16_dot(const void *row, const void *x, int64_t n) { return dot_floats(row, 2, x, n, read_bf16); }

// F16, BF16

void f16_encode(const float *from, const float *importance, int64_t n, void *to)
{
    (void)importance; // each value by itself: the nearest one is the best
    dtype_from_f32(DTYPE_F16, from, to, n);
}

void f16_decode(const void *from, float *to, int64_t n) { dtype_to_f32(DTYPE_F16, from, to, n); }

void bf16_encode(const float *from, const float *importance, int64_t n, void *to)
{
    (void)importance; // each value by itself: the nearest one is the best
    dtype_from_f32(DTYPE_BF16, from, to, n);
}

void bf16_decode(const void *from, float *to, int64_t n) { dtype_to_f32(DTYPE_BF16, from, to, n); }
