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

float f32_dot(const void *row, const float *x, int64_t n)
{
    const float *w = row;
    __m256 sum = _mm256_setzero_ps();
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        sum = _mm256_fmadd_ps(_mm256_loadu_ps(w + i), _mm256_loadu_ps(x + i), sum);
    float rest = 0;
    for (; i < n; i++)
        rest += w[i] * x[i];
    return sum8(sum) + rest;
}

// F16, BF16

void f16_encode(const float *from, const float *importance, int64_t n, void *to)
{
    (void)importance; // each value by itself: the nearest one is the best
    dtype_from_f32(DTYPE_F16, from, to, n);
}

void f16_decode(const void *from, float *to, int64_t n) { dtype_to_f32(DTYPE_F16, from, to, n); }

float f16_dot(const void *row, const float *x, int64_t n)
{
    const uint16_t *w = row;
    __m256 sum = _mm256_setzero_ps();
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        sum =
            _mm256_fmadd_ps(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(w + i))), _mm256_loadu_ps(x + i), sum);
    float rest = 0;
    for (; i < n; i++)
        rest += f16_to_f32(w[i]) * x[i];
    return sum8(sum) + rest;
}

void bf16_encode(const float *from, const float *importance, int64_t n, void *to)
{
    (void)importance; // each value by itself: the nearest one is the best
    dtype_from_f32(DTYPE_BF16, from, to, n);
}

void bf16_decode(const void *from, float *to, int64_t n) { dtype_to_f32(DTYPE_BF16, from, to, n); }

float bf16_dot(const void *row, const float *x, int64_t n)
{
    const uint16_t *w = row;
    __m256 sum = _mm256_setzero_ps();
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(w + i)));
        sum = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)), _mm256_loadu_ps(x + i), sum);
    }
    float rest = 0;
    for (; i < n; i++)
        rest += bf16_to_f32(w[i]) * x[i];
    return sum8(sum) + rest;
}
