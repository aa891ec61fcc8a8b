// blocks_simd.h: registers of eight floats for the row products of the block formats.
#ifndef PDQ_BLOCKS_SIMD_H
#define PDQ_BLOCKS_SIMD_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "common/tensor/dtype.h"

static inline float load_f16(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return f16_to_f32(h);
}

static inline void store_f16(uint8_t *p, float v)
{
    const uint16_t h = f32_to_f16(v);
    memcpy(p, &h, 2);
}

static inline float round_f16(float v) { return f16_to_f32(f32_to_f16(v)); }

// The eight lanes in a fixed order.
static inline float sum8(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static inline __m128i load16(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)p); }

// The low eight bytes of v as floats.
static inline __m256 widen_i8(__m128i v) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)); }

// q . x for 16 signed bytes, added to sum.
static inline __m256 dot16(__m128i q, const float *x, __m256 sum)
{
    sum = _mm256_fmadd_ps(widen_i8(q), _mm256_loadu_ps(x), sum);
    return _mm256_fmadd_ps(widen_i8(_mm_srli_si128(q, 8)), _mm256_loadu_ps(x + 8), sum);
}

// Sum of 16 floats in eight lanes, added to sum.
static inline __m256 total16(const float *x, __m256 sum)
{
    return _mm256_add_ps(sum, _mm256_add_ps(_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)));
}

// 16 bytes, each shifted right or left, `mask` cleans what its neighbour shifted in.
static inline __m128i shift_right(__m128i v, int bits, __m128i mask)
{
    return _mm_and_si128(_mm_srl_epi16(v, _mm_cvtsi32_si128(bits)), mask);
}

static inline __m128i shift_left(__m128i v, int bits, __m128i mask)
{
    return _mm_and_si128(_mm_sll_epi16(v, _mm_cvtsi32_si128(bits)), mask);
}

#endif
