// blocks_rows_avx512.c: decoding and row products of the quantized formats in registers of sixteen floats.
//
// Decoding: of up to five bits the values that a scale (and a minimum) can give are computed once for their 16 or 32 weights,
// as the decoder of blocks_rows.c computes each of them, and looked up: the values are equal to the bit.
//
// Products: 64 weights are a plane, a byte for each, sixteen lanes of four. Byte j of every lane is looked up at once, so no
// weight is widened, and what it is multiplied by lies in that order (block_arranged): of 64 values those of byte 0, of byte 1,
// 2, 3, then the sums of each lane's four; behind 256 the sums of each sixteen. Minima are multiplied by sums. A scale counts
// for whole lanes.
#include "quant/blocks_rows.h"

#include "quant/blocks_search.h"
#include "quant/blocks_simd.h"

#define INLINE static inline __attribute__((always_inline))
#define MAX_PARTS (SUPER_BLOCK / 16)

// ---- decoding ----

// The sixteen weights of part p. scale, min: [parts of a block]; min where the format has it.
typedef __m512 part_weights(const uint8_t *b, const float *scale, const float *min, int p);

struct scales { // of the sub-blocks in their order, the rest unused; minima where the format has them
    __m512 scale, min;
};
typedef struct scales scale_reader(const uint8_t *b);

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

INLINE __m512 times(float scale, __m512 levels) { return _mm512_mul_ps(_mm512_set1_ps(scale), levels); }

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

// Two f16 numbers in the first two lanes.
INLINE __m512 two_f16(const uint8_t *p)
{
    uint32_t both;
    memcpy(&both, p, 4);
    return _mm512_castps128_ps512(_mm_cvtph_ps(_mm_cvtsi32_si128((int)both)));
}

INLINE __m512 scales_of(float d, __m128i codes) { return times(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes))); }

INLINE __m512i pairs(const uint8_t *q, int p) { return index16(q + 32 * (p / 8) + p % 2 * 16, p / 2 % 4 * 2); }

INLINE __m512 q2_k_weights(const uint8_t *b, const float *scale, const float *min, int p)
{
    return _mm512_permutexvar_ps(pairs(b + 16, p), affine(scale[p], min[p], ramp(4, 0)));
}

INLINE struct scales q2_k_scales(const uint8_t *b)
{
    const __m512i codes = _mm512_cvtepu8_epi32(load16(b));
    const __m512 d = two_f16(b + 80), low = _mm512_cvtepi32_ps(_mm512_and_si512(codes, _mm512_set1_epi32(15)));
    return (struct scales){_mm512_mul_ps(_mm512_permutexvar_ps(_mm512_setzero_si512(), d), low),
                           _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_set1_epi32(1), d), _mm512_cvtepi32_ps(_mm512_srli_epi32(codes, 4)))};
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

INLINE struct scales q6_k_scales(const uint8_t *b)
{
    const __m512 scale = scales_of(load_f16(b + 208), load16(b + 192));
    return (struct scales){scale, scale};
}

DECODER(q2_k, Q2_K_BYTES, 16, q2_k_weights, q2_k_scales)
DECODER(q3_k, Q3_K_BYTES, 16, q3_k_weights, q3_k_scales)
DECODER(q6_k, Q6_K_BYTES, 16, q6_k_weights, q6_k_scales)

// Super-blocks of eight sub-blocks of 32, two parts each

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

DECODER(q4_k, Q4_K_BYTES, 16, q4_k_weights, q4_k_scales)
DECODER(q5_k, Q5_K_BYTES, 16, q5_k_weights, q4_k_scales)
DECODER(iq4_xs, IQ4_XS_BYTES, 16, iq4_xs_weights, iq4_xs_scales)

// ---- products ----

#define PLANE 64
#define ARRANGED (5 * 16)                  // floats for each 64 of x
#define ARRANGED_SUPER (4 * ARRANGED + 16) // for each 256

int64_t arranged_floats_avx512(int64_t n) { return (n + SUPER_BLOCK - 1) / SUPER_BLOCK * ARRANGED_SUPER; }

INLINE __m512 every_fourth(const __m512 *v, int j) // of 64
{
    const __m512i every = _mm512_setr_epi32(j, j + 4, j + 8, j + 12, j + 16, j + 20, j + 24, j + 28, j, j + 4, j + 8, j + 12, j + 16, j + 20,
                                            j + 24, j + 28);
    return _mm512_mask_blend_ps(0xff00, _mm512_permutex2var_ps(v[0], every, v[1]), _mm512_permutex2var_ps(v[2], every, v[3]));
}

INLINE __m512 sum4(const __m512 *v) { return _mm512_add_ps(_mm512_add_ps(v[0], v[1]), _mm512_add_ps(v[2], v[3])); }

void arrange_avx512(const float *x, int64_t n, float *to)
{
    for (int64_t i = 0; i < n; to += 16) {
        __m512 lane[4];
        for (int t = 0; t < 4; t++, to += ARRANGED, i += PLANE) {
            __m512 v[4], of_byte[4];
            for (int k = 0; k < 4; k++) // blocks of 32 may end anywhere: zeros from there on
                v[k] = i + 16 * k < n ? _mm512_loadu_ps(x + i + 16 * k) : _mm512_setzero_ps();
            for (int j = 0; j < 4; j++) {
                of_byte[j] = every_fourth(v, j);
                _mm512_storeu_ps(to + 16 * j, of_byte[j]);
            }
            lane[t] = sum4(of_byte);
            _mm512_storeu_ps(to + 64, lane[t]);
        }
        const __m512 quarter[4] = {every_fourth(lane, 0), every_fourth(lane, 1), every_fourth(lane, 2), every_fourth(lane, 3)};
        _mm512_storeu_ps(to, sum4(quarter));
    }
}

// What the bytes at bits 8 j of the lanes stand for.
typedef __m512 level_reader(__m512i plane, int j);

INLINE __m512i byte_down(__m512i plane, int j) { return j ? _mm512_srli_epi32(plane, (unsigned)(8 * j)) : plane; }

INLINE __m512 two_bits(__m512i plane, int j) { return _mm512_permutexvar_ps(byte_down(plane, j), ramp(4, 0)); }
INLINE __m512 three_bits(__m512i plane, int j) { return _mm512_permutexvar_ps(byte_down(plane, j), ramp(8, -4)); }
INLINE __m512 four_bits(__m512i plane, int j) { return _mm512_permutexvar_ps(byte_down(plane, j), ramp(16, 0)); }
INLINE __m512 four_bits_signed(__m512i plane, int j) { return _mm512_permutexvar_ps(byte_down(plane, j), ramp(16, -8)); }
INLINE __m512 iq4_bits(__m512i plane, int j) { return _mm512_permutexvar_ps(byte_down(plane, j), iq4_levels()); }
INLINE __m512 five_bits(__m512i plane, int j) { return _mm512_permutex2var_ps(ramp(16, 0), byte_down(plane, j), ramp(16, 16)); }

INLINE __m512 five_bits_signed(__m512i plane, int j)
{
    return _mm512_permutex2var_ps(ramp(16, -16), byte_down(plane, j), ramp(16, 0));
}

INLINE __m512 six_bits(__m512i plane, int j) // whole bytes
{
    const int out = (int)0x80808000;
    return _mm512_cvtepi32_ps(_mm512_shuffle_epi8(plane, _mm512_setr_epi32(out | j, out | (4 + j), out | (8 + j), out | (12 + j), out | j,
                              out | (4 + j), out | (8 + j), out | (12 + j), out | j, out | (4 + j), out | (8 + j), out | (12 + j), out | j,
                              out | (4 + j), out | (8 + j), out | (12 + j))));
}

// Sums of four products, lane by lane; start: what they begin with.
INLINE __m512 plane_product(__m512i plane, const float *x, level_reader *level, __m512 start)
{
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++)
        start = _mm512_fmadd_ps(level(plane, j), _mm512_loadu_ps(x + 16 * j), start);
    return start;
}

INLINE __m512i mask_bytes(int mask) { return _mm512_set1_epi8((char)mask); }

// Of two the bits of `mask` from `low`, the others from `high`.
INLINE __m512i bits_of(int mask, __m512i low, __m512i high) { return _mm512_ternarylogic_epi32(mask_bytes(mask), low, high, 0xca); }

// Two blocks of 32: what of each counts for its eight lanes.

INLINE __m512 of_both(const uint8_t *b0, const uint8_t *b1, int at)
{
    uint16_t h[2];
    memcpy(&h[0], b0 + at, 2);
    memcpy(&h[1], b1 + at, 2);
    return _mm512_cvtph_ps(_mm256_mask_set1_epi16(_mm256_set1_epi16((short)h[0]), 0xff00, (short)h[1]));
}

// Two times sixteen bytes of nibbles: the low ones of the first, its high ones, those of the second.
INLINE __m512i nibbles_of_both(const uint8_t *q0, const uint8_t *q1)
{
    const __m512i twice = _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(load16(q0)), 0xff00, load16(q1));
    return _mm512_srlv_epi32(twice, _mm512_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4, 0, 0, 0, 0, 4, 4, 4, 4));
}

INLINE __m512i with_fifth(const uint8_t *bits0, const uint8_t *bits1, __m512i nibbles)
{
    uint32_t high[2];
    memcpy(&high[0], bits0, 4);
    memcpy(&high[1], bits1, 4);
    const __m512i low = _mm512_and_si512(nibbles, mask_bytes(15));
    return _mm512_mask_add_epi8(low, high[0] | (uint64_t)high[1] << 32, low, mask_bytes(16));
}

INLINE float dot_blocks(const uint8_t *b, const float *x, int64_t n, int64_t bytes, int fifth, int q, int min_at, level_reader *level)
{
    __m512 sum = _mm512_setzero_ps(), mins = sum;
    for (int64_t i = 0; i < n; i += PLANE, b += 2 * bytes, x += i % SUPER_BLOCK ? ARRANGED : ARRANGED + 16) {
        const uint8_t *second = i + 32 < n ? b + bytes : b; // past the end x is zero
        __m512i plane = nibbles_of_both(b + q, second + q);
        if (fifth)
            plane = with_fifth(b + fifth, second + fifth, plane);
        sum = _mm512_fmadd_ps(of_both(b, second, 0), plane_product(plane, x, level, _mm512_setzero_ps()), sum);
        if (min_at)
            mins = _mm512_fmadd_ps(of_both(b, second, min_at), _mm512_loadu_ps(x + 64), mins);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(sum, mins));
}

#define BLOCKS(f, bytes, fifth, q, min_at, level)                                                                       \
    float f##_dot_avx512(const void *row, const float *x, int64_t n) { return dot_blocks(row, x, n, bytes, fifth, q, min_at, level); }

BLOCKS(q4_0, Q4_0_BYTES, 0, 2, 0, four_bits_signed)
BLOCKS(q4_1, Q4_1_BYTES, 0, 4, 2, four_bits)
BLOCKS(q5_0, Q5_0_BYTES, 2, 6, 0, five_bits_signed)
BLOCKS(q5_1, Q5_1_BYTES, 4, 8, 2, five_bits)
BLOCKS(iq4_nl, IQ4_NL_BYTES, 0, 2, 0, iq4_bits)

float q8_0_dot_avx512(const void *row, const float *x, int64_t n) // x as it lies: bytes become floats by one load
{
    __m512 low = _mm512_setzero_ps(), high = low;
    const uint8_t *b = row;
    for (int64_t i = 0; i < n; i += 32, b += Q8_0_BYTES) {
        const struct scales s = one_scale(b);
        low = _mm512_fmadd_ps(_mm512_mul_ps(s.scale, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(b + 2)))), _mm512_loadu_ps(x + i), low);
        high = _mm512_fmadd_ps(_mm512_mul_ps(s.scale, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(b + 18)))), _mm512_loadu_ps(x + i + 16), high);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(low, high));
}

// Super-blocks: four planes of 64 consecutive weights.

typedef __m512i plane_reader(const uint8_t *b, int t);

INLINE __m512i twice(const uint8_t *p) { return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)p)); }

INLINE __m512i first_then(int first, int then)
{
    return _mm512_setr_epi32(first, first, first, first, first, first, first, first, then, then, then, then, then, then, then, then);
}

INLINE __m512i lower(__m512i v, int first, int then) { return _mm512_srlv_epi32(v, first_then(first, then)); }

// Bit `first` of each byte (in the upper half `then`) to bit `to`.
INLINE __m512i bit_to(__m512i v, int first, int then, int to)
{
    return _mm512_rolv_epi32(v, first_then((32 + to - first) % 32, (32 + to - then) % 32));
}

INLINE __m512i q2_k_plane(const uint8_t *b, int t) { return lower(twice(b + 16 + 32 * (t / 2)), 4 * (t % 2), 4 * (t % 2) + 2); }

INLINE __m512i q3_k_plane(const uint8_t *b, int t)
{
    return bits_of(3, lower(twice(b + 32 + 32 * (t / 2)), 4 * (t % 2), 4 * (t % 2) + 2), bit_to(twice(b), 2 * t, 2 * t + 1, 2));
}

INLINE __m512i q4_k_plane(const uint8_t *b, int t) { return lower(twice(b + 16 + 32 * t), 0, 4); }

INLINE __m512i q5_k_plane(const uint8_t *b, int t)
{
    return bits_of(15, lower(twice(b + 48 + 32 * t), 0, 4), bit_to(twice(b + 16), 2 * t, 2 * t + 1, 4));
}

INLINE __m512i q6_k_plane(const uint8_t *b, int t)
{
    const __m512i low = _mm512_srli_epi32(_mm512_loadu_si512(b + 64 * (t / 2)), t % 2 * 4);
    const __m512i high = bit_to(twice(b + 128 + 32 * (t / 2)), 4 * (t % 2), 4 * (t % 2) + 2, 4);
    return _mm512_and_si512(bits_of(15, low, high), mask_bytes(63));
}

INLINE __m512i iq4_xs_plane(const uint8_t *b, int t) { return nibbles_of_both(b + 8 + 32 * t, b + 24 + 32 * t); }

INLINE float dot_super(const uint8_t *b, const float *x, int64_t n, int64_t bytes, int lanes, int has_min, int centre,
                       plane_reader *plane, level_reader *level, scale_reader *scales)
{
    __m512 sum = _mm512_setzero_ps(), mins = sum;
    for (int64_t i = 0; i < n; i += SUPER_BLOCK, b += bytes, x += 16) {
        const struct scales of = scales(b);
#pragma GCC unroll 4
        for (int t = 0; t < 4; t++, x += ARRANGED) {
            const int a = 16 / lanes * t, q = lanes == 4; // scale of the first lane
            const __m512i of_lane = _mm512_setr_epi32(a, a, a, a, a + q, a + q, a + q, a + q, a + 1 + q, a + 1 + q, a + 1 + q, a + 1 + q,
                                                      a + 1 + 2 * q, a + 1 + 2 * q, a + 1 + 2 * q, a + 1 + 2 * q);
            const __m512 start = centre ? _mm512_mul_ps(_mm512_set1_ps((float)-centre), _mm512_loadu_ps(x + 64)) : _mm512_setzero_ps();
            sum = _mm512_fmadd_ps(_mm512_permutexvar_ps(of_lane, of.scale), plane_product(plane(b, t), x, level, start), sum);
        }
        if (has_min) {
            const __m512i pairwise = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
            const __m512 min = lanes == 4 ? of.min : _mm512_permutexvar_ps(pairwise, of.min);
            mins = _mm512_fmadd_ps(min, _mm512_loadu_ps(x), mins);
        }
    }
    return _mm512_reduce_add_ps(_mm512_sub_ps(sum, mins));
}

#define SUPER_BLOCKS(f, bytes, lanes, has_min, centre, level)                                                           \
    float f##_dot_avx512(const void *row, const float *x, int64_t n)                                                    \
    {                                                                                                                   \
        return dot_super(row, x, n, bytes, lanes, has_min, centre, f##_plane, level, f##_scales);                       \
    }

#define q5_k_scales q4_k_scales
SUPER_BLOCKS(q2_k, Q2_K_BYTES, 4, 1, 0, two_bits)
SUPER_BLOCKS(q3_k, Q3_K_BYTES, 4, 0, 0, three_bits)
SUPER_BLOCKS(q4_k, Q4_K_BYTES, 8, 1, 0, four_bits)
SUPER_BLOCKS(q5_k, Q5_K_BYTES, 8, 1, 0, five_bits)
SUPER_BLOCKS(q6_k, Q6_K_BYTES, 4, 0, 32, six_bits)
SUPER_BLOCKS(iq4_xs, IQ4_XS_BYTES, 8, 0, 0, iq4_bits)
