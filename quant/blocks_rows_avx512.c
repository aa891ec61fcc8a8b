// blocks_rows_avx512.c: decoding the quantized formats in registers of sixteen floats.
//
// Of up to five bits the values that a scale (and a minimum) can give are computed once for their 16 or 32 weights, as the
// decoder of blocks_rows.c computes each of them, and looked up: the values are equal to the bit.
#include "quant/blocks_rows.h"

#include "quant/blocks_scales.h"
#include "quant/blocks_search.h"
#include "quant/blocks_simd.h"

#define MAX_PARTS (SUPER_BLOCK / 16)

// The sixteen weights of part p. scale, min: [parts of a block]; min where the format has it.
typedef __m512 part_weights(const uint8_t *b, const float *scale, const float *min, int p);

INLINE void decode_parts(const uint8_t *b, float *to, int64_t n, int64_t bytes, int parts, part_weights *weights,
                         scale_reader *scales)
{
    for (int64_t i = 0; i < n; b += bytes) {
        float scale[MAX_PARTS], min[MAX_PARTS];
        const struct scales s = scales(b);
        _mm512_storeu_ps(scale, s.scale);
        _mm512_storeu_ps(min, s.min);
#pragma GCC unroll 16
        for (int p = 0; p < parts; p++, i += 16)
            _mm512_storeu_ps(to + i, weights(b, scale, min, p));
    }
}

#define DECODER(f, bytes, parts, weights, scales)                                                                       \
    void f##_decode_avx512(const void *from, float *to, int64_t n)                                                      \
    {                                                                                                                   \
        decode_parts(from, to, n, bytes, parts, weights, scales);                                                       \
    }

// Sixteen bytes as indexes: a look-up takes as many low bits as its table needs.
INLINE __m512i index16(const uint8_t *q, int shift) { return _mm512_srli_epi32(_mm512_cvtepu8_epi32(load16(q)), (unsigned)shift); }

// 0 to 15, modulo `period`, plus `first`.
INLINE __m512 ramp(int period, int first)
{
    const __m512i i = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_and_si512(i, _mm512_set1_epi32(period - 1)), _mm512_set1_epi32(first)));
}

INLINE __m512 iq4_levels(void) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16((const uint8_t *)iq4_level))); }

INLINE __m512 affine(float scale, float min, __m512 levels) { return _mm512_sub_ps(times(scale, levels), _mm512_set1_ps(min)); }

// Of two tables the second one where a bit of `high` is set.
INLINE __m512 look_up_two(__m512i index, __mmask16 high, __m512 low_table, __m512 high_table)
{
    return _mm512_mask_permutexvar_ps(_mm512_permutexvar_ps(index, low_table), high, index, high_table);
}

// Blocks of 32: two parts with one scale

INLINE struct scales one_scale(const uint8_t *b)
{
    const __m512 d = _mm512_set1_ps(load_f16(b));
    return (struct scales){d, d};
}

INLINE struct scales one_minimum(const uint8_t *b)
{
    return (struct scales){_mm512_set1_ps(load_f16(b)), _mm512_set1_ps(-load_f16(b + 2))};
}

INLINE __mmask16 fifth_bits(const uint8_t *bits, int p)
{
    uint16_t half;
    memcpy(&half, bits + 2 * p, 2);
    return half;
}

INLINE __m512 q8_0_weights(const uint8_t *b, const float *scale, const float *min, int p)
{
    (void)min;
    return times(scale[0], _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(b + 2 + 16 * p))));
}

INLINE __m512 q4_0_weights(const uint8_t *b, const float *scale, const float *min, int p)
{
    (void)min;
    return _mm512_permutexvar_ps(index16(b + 2, 4 * p), times(scale[0], ramp(16, -8)));
}

INLINE __m512 q4_1_weights(const uint8_t *b, const float *scale, const float *min, int p)
{
    return _mm512_permutexvar_ps(index16(b + 4, 4 * p), affine(scale[0], min[0], ramp(16, 0)));
}

INLINE __m512 iq4_nl_weights(const uint8_t *b, const float *scale, const float *min, int p)
{
    (void)min;
    return _mm512_permutexvar_ps(index16(b + 2, 4 * p), times(scale[0], iq4_levels()));
}

INLINE __m512 q5_0_weights(const uint8_t *b, const float *scale, const float *min, int p)
{
    (void)min;
    return look_up_two(index16(b + 6, 4 * p), fifth_bits(b + 2, p), times(scale[0], ramp(16, -16)), times(scale[0], ramp(16, 0)));
}

INLINE __m512 q5_1_weights(const uint8_t *b, const float *scale, const float *min, int p)
{
    return look_up_two(index16(b + 8, 4 * p), fifth_bits(b + 4, p), affine(scale[0], min[0], ramp(16, 0)),
                       affine(scale[0], min[0], ramp(16, 16)));
}

DECODER(q8_0, Q8_0_BYTES, 2, q8_0_weights, one_scale)
DECODER(q4_0, Q4_0_BYTES, 2, q4_0_weights, one_scale)
DECODER(q4_1, Q4_1_BYTES, 2, q4_1_weights, one_minimum)
DECODER(q5_0, Q5_0_BYTES, 2, q5_0_weights, one_scale)
DECODER(q5_1, Q5_1_BYTES, 2, q5_1_weights, one_minimum)
DECODER(iq4_nl, IQ4_NL_BYTES, 2, iq4_nl_weights, one_scale)

// Super-blocks of sixteen sub-blocks of 16. Where their bits lie: see blocks_rows.c.

INLINE __m512i pairs(const uint8_t *q, int p) { return index16(q + 32 * (p / 8) + p % 2 * 16, p / 2 % 4 * 2); }

INLINE __m512 q2_k_weights(const uint8_t *b, const float *scale, const float *min, int p)
{
    return _mm512_permutexvar_ps(pairs(b + 16, p), affine(scale[p], min[p], ramp(4, 0)));
}

INLINE __m512 q3_k_weights(const uint8_t *b, const float *scale, const float *min, int p)
{
    (void)min;
    const int bit = p / 2;
    const __m512i bits = _mm512_cvtepu8_epi32(load16(b + p % 2 * 16));
    const __m512i high = bit < 2 ? _mm512_slli_epi32(bits, (unsigned)(2 - bit) % 32) : _mm512_srli_epi32(bits, (unsigned)(bit - 2) % 32);
    const __m512i low = _mm512_set1_epi32(3); // these bits from the pairs, the third from `high`
    return _mm512_permutexvar_ps(_mm512_ternarylogic_epi32(low, pairs(b + 32, p), high, 0xca), times(scale[p], ramp(8, -4)));
}

INLINE __m512 q6_k_weights(const uint8_t *b, const float *scale, const float *min, int p)
{
    (void)min;
    const int half = p / 8, quarter = p / 2 % 4, at = p % 2 * 16;
    const __m512i low = index16(b + 64 * half + 32 * (quarter % 2) + at, quarter / 2 * 4);
    const __m512i high = index16(b + 128 + 32 * half + at, quarter * 2);
    const __m512 level = _mm512_add_ps(_mm512_permutexvar_ps(low, ramp(16, -32)),
                                       _mm512_permutexvar_ps(high, _mm512_mul_ps(_mm512_set1_ps(16), ramp(4, 0))));
    return times(scale[p], level);
}

DECODER(q2_k, Q2_K_BYTES, 16, q2_k_weights, q2_k_scales)
DECODER(q3_k, Q3_K_BYTES, 16, q3_k_weights, q3_k_scales)
DECODER(q6_k, Q6_K_BYTES, 16, q6_k_weights, q6_k_scales)

// Super-blocks of eight sub-blocks of 32, two parts each

INLINE __m512i halves(const uint8_t *q, int p) { return index16(q + 32 * (p / 4) + p % 2 * 16, p / 2 % 2 * 4); }

INLINE __m512 q4_k_weights(const uint8_t *b, const float *scale, const float *min, int p)
{
    return _mm512_permutexvar_ps(halves(b + 16, p), affine(scale[p / 2], min[p / 2], ramp(16, 0)));
}

INLINE __m512 q5_k_weights(const uint8_t *b, const float *scale, const float *min, int p)
{
    const __mmask16 high = _mm_test_epi8_mask(load16(b + 16 + p % 2 * 16), _mm_set1_epi8((char)(1 << (p / 2))));
    const float s = scale[p / 2], m = min[p / 2];
    return look_up_two(halves(b + 48, p), high, affine(s, m, ramp(16, 0)), affine(s, m, ramp(16, 16)));
}

INLINE __m512 iq4_xs_weights(const uint8_t *b, const float *scale, const float *min, int p)
{
    (void)min;
    return _mm512_permutexvar_ps(index16(b + 8 + 16 * (p / 2), p % 2 * 4), times(scale[p / 2], iq4_levels()));
}

DECODER(q4_k, Q4_K_BYTES, 16, q4_k_weights, q4_k_scales)
DECODER(q5_k, Q5_K_BYTES, 16, q5_k_weights, q4_k_scales)
DECODER(iq4_xs, IQ4_XS_BYTES, 16, iq4_xs_weights, iq4_xs_scales)
