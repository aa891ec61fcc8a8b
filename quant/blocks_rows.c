// blocks_rows.c: decoding and row products of the quantized formats.
//
// Sixteen values with one scale are a part. A format says where a part's integers lie (`part`) and what its parts'
// scales and minima are (`scales`); decoding and the product are the same for all, made for each by inlining. A decoder
// computes scale * q - min in single operations, as llama.cpp's does, so the values are equal to the bit; the products
// use fused multiply-adds. With AVX-512 blocks_rows_avx512.c decodes, with AVX512-VNNI
// blocks_products_vnni.c multiplies.
#include "quant/blocks_rows.h"

#include "common/tensor/cpu.h"
#include "quant/blocks_search.h"
#include "quant/blocks_simd.h"

#define INLINE static inline __attribute__((always_inline))
#define MAX_PARTS (SUPER_BLOCK / 16)

typedef __m128i part_reader(const uint8_t *b, int part);                    // signed bytes
typedef void scale_reader(const uint8_t *b, float *scale, float *min);      // [parts of a block]; min: where the format has it

INLINE void decode_parts(const uint8_t *b, float *to, int64_t n, int64_t bytes, int parts, int has_min,
                         part_reader *part, scale_reader *scales)
{
    for (int64_t i = 0; i < n; b += bytes) {
        float scale[MAX_PARTS], min[MAX_PARTS];
        scales(b, scale, min);
        for (int p = 0; p < parts; p++, i += 16) {
            const __m128i q = part(b, p);
            const __m256 s = _mm256_set1_ps(scale[p]);
            __m256 low = _mm256_mul_ps(s, widen_i8(q)), high = _mm256_mul_ps(s, widen_i8(_mm_srli_si128(q, 8)));
            if (has_min) {
                low = _mm256_sub_ps(low, _mm256_set1_ps(min[p]));
                high = _mm256_sub_ps(high, _mm256_set1_ps(min[p]));
            }
            _mm256_storeu_ps(to + i, low);
            _mm256_storeu_ps(to + i + 8, high);
        }
    }
}

INLINE float dot_parts(const uint8_t *b, const float *x, int64_t n, int64_t bytes, int parts, int has_min,
                       part_reader *part, scale_reader *scales)
{
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int64_t i = 0; i < n; b += bytes) {
        float scale[MAX_PARTS], min[MAX_PARTS];
        scales(b, scale, min);
#pragma GCC unroll 16
        for (int p = 0; p < parts; p++, i += 16) {
            const __m256 product = dot16(part(b, p), x + i, _mm256_setzero_ps());
            sum[p % 2] = _mm256_fmadd_ps(_mm256_set1_ps(scale[p]), product, sum[p % 2]);
            if (has_min)
                sum[p % 2] = _mm256_fnmadd_ps(_mm256_set1_ps(min[p]), total16(x + i, _mm256_setzero_ps()), sum[p % 2]);
        }
    }
    return sum8(_mm256_add_ps(sum[0], sum[1]));
}

#define FORMAT(f, bytes, parts, has_min, part, scales)                                                                  \
    void f##_decode(const void *from, float *to, int64_t n)                                                             \
    {                                                                                                                   \
        if (cpu_get()->avx512)                                                                                          \
            f##_decode_avx512(from, to, n);                                                                             \
        else                                                                                                            \
            decode_parts(from, to, n, bytes, parts, has_min, part, scales);                                             \
    }                                                                                                                   \
    float f##_dot(const void *row, const void *x, int64_t n)                                                            \
    {                                                                                                                   \
        return cpu_get()->avx512_vnni ? f##_dot_vnni(row, x, n) : dot_parts(row, x, n, bytes, parts, has_min, part, scales); \
    }

// Blocks of 32: two parts with one scale

INLINE void one_scale(const uint8_t *b, float *scale, float *min)
{
    (void)min;
    scale[0] = scale[1] = load_f16(b);
}

INLINE void one_minimum(const uint8_t *b, float *scale, float *min)
{
    scale[0] = scale[1] = load_f16(b);
    min[0] = min[1] = -load_f16(b + 2);
}

INLINE __m128i mask_low(void) { return _mm_set1_epi8(15); }

// Part p of 16 bytes of nibbles: the low ones, then the high ones.
INLINE __m128i nibbles(const uint8_t *q, int p) { return shift_right(load16(q), 4 * p, mask_low()); }

// 16 where the bit of a value in part p is set, bits as in Q5_0.
INLINE __m128i fifth_bits(const uint8_t *bits, int p)
{
    const __m128i each = _mm_setr_epi8(1, 2, 4, 8, 16, 32, 64, -128, 1, 2, 4, 8, 16, 32, 64, -128);
    uint16_t half;
    memcpy(&half, bits + 2 * p, 2);
    const __m128i spread = _mm_shuffle_epi8(_mm_cvtsi32_si128(half), _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
    return _mm_and_si128(_mm_cmpeq_epi8(_mm_and_si128(spread, each), each), _mm_set1_epi8(16));
}

// IQ4's levels.
INLINE __m128i look_up(__m128i index) { return _mm_shuffle_epi8(load16((const uint8_t *)iq4_level), index); }

INLINE __m128i q8_0_part(const uint8_t *b, int p) { return load16(b + 2 + 16 * p); }
INLINE __m128i q4_0_part(const uint8_t *b, int p) { return _mm_sub_epi8(nibbles(b + 2, p), _mm_set1_epi8(8)); }
INLINE __m128i q4_1_part(const uint8_t *b, int p) { return nibbles(b + 4, p); }
INLINE __m128i iq4_nl_part(const uint8_t *b, int p) { return look_up(nibbles(b + 2, p)); }
INLINE __m128i q5_1_part(const uint8_t *b, int p) { return _mm_or_si128(nibbles(b + 8, p), fifth_bits(b + 4, p)); }

INLINE __m128i q5_0_part(const uint8_t *b, int p)
{
    return _mm_sub_epi8(_mm_or_si128(nibbles(b + 6, p), fifth_bits(b + 2, p)), _mm_set1_epi8(16));
}

FORMAT(q8_0, Q8_0_BYTES, 2, 0, q8_0_part, one_scale)
FORMAT(q4_0, Q4_0_BYTES, 2, 0, q4_0_part, one_scale)
FORMAT(q4_1, Q4_1_BYTES, 2, 1, q4_1_part, one_minimum)
FORMAT(q5_0, Q5_0_BYTES, 2, 0, q5_0_part, one_scale)
FORMAT(q5_1, Q5_1_BYTES, 2, 1, q5_1_part, one_minimum)
FORMAT(iq4_nl, IQ4_NL_BYTES, 2, 0, iq4_nl_part, one_scale)

// Super-blocks of sixteen sub-blocks of 16: sub-block p is half p / 8, quarter p / 2 % 4 of it, and of the half's 32
// bytes the first or last 16.

INLINE __m128i pairs(const uint8_t *q, int p) // two bits at 2 * quarter
{
    return shift_right(load16(q + 32 * (p / 8) + p % 2 * 16), p / 2 % 4 * 2, _mm_set1_epi8(3));
}

INLINE __m128i q2_k_part(const uint8_t *b, int p) { return pairs(b + 16, p); }

INLINE void q2_k_scales(const uint8_t *b, float *scale, float *min)
{
    const float d = load_f16(b + 80), d_min = load_f16(b + 82);
    for (int p = 0; p < 16; p++) {
        scale[p] = d * (float)(b[p] & 15);
        min[p] = d_min * (float)(b[p] >> 4);
    }
}

INLINE __m128i q3_k_part(const uint8_t *b, int p) // the high bit of both halves lies in the same 32 bytes
{
    const __m128i four = _mm_set1_epi8(4), high = load16(b + p % 2 * 16);
    const int bit = p / 2;
    const __m128i top = bit < 2 ? shift_left(high, 2 - bit, four) : shift_right(high, bit - 2, four);
    return _mm_sub_epi8(_mm_or_si128(pairs(b + 32, p), top), four);
}

INLINE void q3_k_scales(const uint8_t *b, float *scale, float *min)
{
    const float d = load_f16(b + 108);
    (void)min;
    for (int p = 0; p < 16; p++)
        scale[p] = d * (float)q3_k_scale(b + 96, p);
}

INLINE __m128i q6_k_part(const uint8_t *b, int p) // quarters 0 and 1 have the low nibbles of 64 bytes, 2 and 3 the high ones
{
    const int half = p / 8, quarter = p / 2 % 4, at = p % 2 * 16;
    const __m128i low = shift_right(load16(b + 64 * half + 32 * (quarter % 2) + at), quarter / 2 * 4, mask_low());
    const __m128i bits = load16(b + 128 + 32 * half + at), mask = _mm_set1_epi8(48);
    const __m128i high = quarter < 2 ? shift_left(bits, 4 - 2 * quarter, mask) : shift_right(bits, 2 * quarter - 4, mask);
    return _mm_sub_epi8(_mm_or_si128(low, high), _mm_set1_epi8(32));
}

INLINE void q6_k_scales(const uint8_t *b, float *scale, float *min)
{
    const float d = load_f16(b + 208);
    (void)min;
    for (int p = 0; p < 16; p++)
        scale[p] = d * (float)(int8_t)b[192 + p];
}

FORMAT(q2_k, Q2_K_BYTES, 16, 1, q2_k_part, q2_k_scales)
FORMAT(q3_k, Q3_K_BYTES, 16, 0, q3_k_part, q3_k_scales)
FORMAT(q6_k, Q6_K_BYTES, 16, 0, q6_k_part, q6_k_scales)

// Super-blocks of eight sub-blocks of 32, two parts each

INLINE void q4_k_scales(const uint8_t *b, float *scale, float *min)
{
    const float d = load_f16(b), d_min = load_f16(b + 2);
    for (int j = 0; j < 8; j++) {
        uint8_t code, min_code;
        q4_k_unpack(b + 4, j, &code, &min_code);
        scale[2 * j] = scale[2 * j + 1] = d * (float)code;
        min[2 * j] = min[2 * j + 1] = d_min * (float)min_code;
    }
}

// Sub-blocks 2 c and 2 c + 1 are the low and the high nibbles of the 32 bytes at 32 c.
INLINE __m128i halves(const uint8_t *q, int p) { return nibbles(q + 32 * (p / 4) + p % 2 * 16, p / 2 % 2); }

INLINE __m128i q4_k_part(const uint8_t *b, int p) { return halves(b + 16, p); }

INLINE __m128i q5_k_part(const uint8_t *b, int p) // bit j of 32 bytes is the fifth of sub-block j
{
    const __m128i bits = load16(b + 16 + p % 2 * 16), mask = _mm_set1_epi8(16);
    const int j = p / 2;
    return _mm_or_si128(halves(b + 48, p), j < 4 ? shift_left(bits, 4 - j, mask) : shift_right(bits, j - 4, mask));
}

INLINE __m128i iq4_xs_part(const uint8_t *b, int p) { return look_up(nibbles(b + 8 + 16 * (p / 2), p % 2)); }

INLINE void iq4_xs_scales(const uint8_t *b, float *scale, float *min)
{
    const float d = load_f16(b);
    (void)min;
    for (int j = 0; j < 8; j++)
        scale[2 * j] = scale[2 * j + 1] = d * (float)iq4_xs_scale(b, j);
}

FORMAT(q4_k, Q4_K_BYTES, 16, 1, q4_k_part, q4_k_scales)
FORMAT(q5_k, Q5_K_BYTES, 16, 1, q5_k_part, q4_k_scales)
FORMAT(iq4_xs, IQ4_XS_BYTES, 16, 0, iq4_xs_part, iq4_xs_scales)
