// blocks_scales.h: the scales and minima of super-blocks in registers of sixteen floats (AVX-512). Where they lie: blocks_rows.h.
#ifndef PDQ_BLOCKS_SCALES_H
#define PDQ_BLOCKS_SCALES_H

#include "quant/blocks_simd.h"

#define INLINE static inline __attribute__((always_inline))

struct scales { // of the sub-blocks in their order, the rest unused; minima where the format has them
    __m512 scale, min;
};
typedef struct scales scale_reader(const uint8_t *b);

INLINE __m512 times(float scale, __m512 levels) { return _mm512_mul_ps(_mm512_set1_ps(scale), levels); }

// Two f16 numbers in the first two lanes.
INLINE __m512 two_f16(const uint8_t *p)
{
    uint32_t both;
    memcpy(&both, p, 4);
    return _mm512_castps128_ps512(_mm_cvtph_ps(_mm_cvtsi32_si128((int)both)));
}

INLINE __m512 scales_of(float d, __m128i codes) { return times(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes))); }

INLINE struct scales q2_k_scales(const uint8_t *b)
{
    const __m512i codes = _mm512_cvtepu8_epi32(load16(b));
    const __m512 d = two_f16(b + 80), low = _mm512_cvtepi32_ps(_mm512_and_si512(codes, _mm512_set1_epi32(15)));
    return (struct scales){_mm512_mul_ps(_mm512_permutexvar_ps(_mm512_setzero_si512(), d), low),
                           _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_set1_epi32(1), d), _mm512_cvtepi32_ps(_mm512_srli_epi32(codes, 4)))};
}

INLINE struct scales q3_k_scales(const uint8_t *b)
{
    const __m128i packed = _mm_loadl_epi64((const __m128i *)(b + 96));
    uint32_t word;
    memcpy(&word, b + 104, 4);
    const __m128i low = _mm_and_si128(_mm_unpacklo_epi64(packed, _mm_srli_epi16(packed, 4)), _mm_set1_epi8(15));
    const __m128i high = _mm_setr_epi32((int)(word << 4), (int)(word << 2), (int)word, (int)(word >> 2));
    const __m128i codes = _mm_or_si128(low, _mm_and_si128(high, _mm_set1_epi8(48)));
    const __m512 scale = scales_of(load_f16(b + 108), _mm_sub_epi8(codes, _mm_set1_epi8(32)));
    return (struct scales){scale, scale};
}

INLINE struct scales q6_k_scales(const uint8_t *b)
{
    const __m512 scale = scales_of(load_f16(b + 208), load16(b + 192));
    return (struct scales){scale, scale};
}

// Bytes of four sub-blocks in a word: scales, minima of 0 to 3, low halves of both of 4 to 7; these' high bits are above the others.
INLINE struct scales q4_k_scales(const uint8_t *b)
{
    const __m128i words = load16(b + 4); // the fourth is not theirs
    const __m128i low = _mm_srlv_epi32(_mm_shuffle_epi32(words, _MM_SHUFFLE(2, 1, 2, 0)), _mm_setr_epi32(0, 0, 0, 4));
    const __m128i top = _mm_srli_epi32(_mm_shuffle_epi32(words, _MM_SHUFFLE(1, 1, 0, 0)), 2);
    const __m128i codes = _mm_or_si128(_mm_and_si128(low, _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f)),
                                       _mm_and_si128(top, _mm_setr_epi32(0, 0x30303030, 0, 0x30303030)));
    const __m512i half = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const __m512 all = _mm512_mul_ps(_mm512_permutexvar_ps(half, two_f16(b)), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes)));
    return (struct scales){all, _mm512_shuffle_f32x4(all, all, 0xee)};
}

INLINE struct scales iq4_xs_scales(const uint8_t *b) // four low bits each, then two high bits each
{
    uint32_t low;
    uint16_t high;
    memcpy(&low, b + 4, 4);
    memcpy(&high, b + 2, 2);
    const __m512i j = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7);
    const __m512i l = _mm512_and_si512(_mm512_srlv_epi32(_mm512_set1_epi32((int)low), _mm512_slli_epi32(j, 2)), _mm512_set1_epi32(15));
    const __m512i h = _mm512_and_si512(_mm512_srlv_epi32(_mm512_set1_epi32(high), _mm512_slli_epi32(j, 1)), _mm512_set1_epi32(3));
    const __m512i code = _mm512_sub_epi32(_mm512_or_si512(l, _mm512_slli_epi32(h, 4)), _mm512_set1_epi32(32));
    const __m512 scale = times(load_f16(b), _mm512_cvtepi32_ps(code));
    return (struct scales){scale, scale};
}

#endif
