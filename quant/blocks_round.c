// blocks_round.c: encoders that round to nearest: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1.
//
// They round exactly as llama.cpp's reference code does, so that files can be compared byte for byte; this file is
// compiled without contraction of a * b + c for that reason. Where an importance is given, the scales are searched
// instead (blocks_encode.c), but for Q8_0, whose 8 bits leave nothing to gain. The one exception: rows of values that lie on a block's grid
// already are kept exactly (blocks_grid.h), where the reference may round them again.
#include <math.h>

#include "quant/blocks_grid.h"
#include "quant/blocks_rows.h"
#include "quant/blocks_simd.h"

struct range {
    float low, high, extreme; // extreme: the first value of largest magnitude, with its sign
};

static struct range range32(const float *x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 low = _mm256_loadu_ps(x), high = low;
    for (int i = 8; i < 32; i += 8) {
        low = _mm256_min_ps(low, _mm256_loadu_ps(x + i));
        high = _mm256_max_ps(high, _mm256_loadu_ps(x + i));
    }
    float l[8], h[8];
    _mm256_storeu_ps(l, low);
    _mm256_storeu_ps(h, high);
    struct range r = {l[0], h[0], 0};
    for (int i = 1; i < 8; i++) {
        r.low = l[i] < r.low ? l[i] : r.low;
        r.high = h[i] > r.high ? h[i] : r.high;
    }
    const float largest = fmaxf(-r.low, r.high);
    if (largest == 0)
        return r;
    for (int i = 0; i < 32; i += 8) {
        const __m256 at = _mm256_cmp_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)), _mm256_set1_ps(largest), _CMP_EQ_OQ);
        const int hits = _mm256_movemask_ps(at);
        if (hits) {
            r.extreme = x[i + __builtin_ctz((unsigned)hits)];
            break;
        }
    }
    return r;
}

// Bytes from four registers of eight 32-bit integers, in order.
static __m256i narrow(const __m256i v[4])
{
    const __m256i a = _mm256_packs_epi32(v[0], v[1]), b = _mm256_packs_epi32(v[2], v[3]);
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// (x - low) * inverse + shift, cut to whole numbers up to `top`.
static __m256i whole32(const float *x, float low, float inverse, float shift, int top)
{
    __m256i v[4];
    for (int k = 0; k < 4; k++) {
        const __m256 above = _mm256_sub_ps(_mm256_loadu_ps(x + 8 * k), _mm256_set1_ps(low));
        const __m256 q = _mm256_add_ps(_mm256_mul_ps(above, _mm256_set1_ps(inverse)), _mm256_set1_ps(shift));
        v[k] = _mm256_min_epi32(_mm256_cvttps_epi32(q), _mm256_set1_epi32(top));
    }
    return narrow(v);
}

static void store_nibbles(uint8_t *to, __m256i q)
{
    const __m256i low = _mm256_and_si256(q, _mm256_set1_epi8(15));
    const __m128i high = _mm_slli_epi16(_mm256_extracti128_si256(low, 1), 4);
    _mm_storeu_si128((__m128i *)to, _mm_or_si128(_mm256_castsi256_si128(low), high));
}

static void store_fifth(uint8_t *to, __m256i q)
{
    const int bits = _mm256_movemask_epi8(_mm256_slli_epi16(q, 3));
    memcpy(to, &bits, 4);
}

static float inverse_of(float d) { return d != 0 ? 1 / d : 0; }

void q8_0_encode(const float *from, const float *importance, int64_t n, void *to)
{
    // Half a step away from zero, as roundf: the largest float below 1/2, so that 0.49999997 is not carried over.
    const __m256 sign = _mm256_set1_ps(-0.0f), half = _mm256_set1_ps(0.49999997f);
    uint8_t *b = to;
    (void)importance;
    for (int64_t i = 0; i < n; i += 32, b += Q8_0_BYTES) {
        const float d = fabsf(range32(from + i).extreme) / 127, inverse = inverse_of(d);
        __m256i v[4];
        for (int k = 0; k < 4; k++) {
            const __m256 q = _mm256_mul_ps(_mm256_loadu_ps(from + i + 8 * k), _mm256_set1_ps(inverse));
            v[k] = _mm256_cvttps_epi32(_mm256_add_ps(q, _mm256_or_ps(_mm256_and_ps(q, sign), half)));
        }
        store_f16(b, d);
        _mm256_storeu_si256((__m256i *)(b + 2), narrow(v));
    }
    blocks_keep_grid("Q8_0", q8_0_decode, Q8_0_BYTES, from, n, to);
}

void q4_0_encode(const float *from, const float *importance, int64_t n, void *to)
{
    uint8_t *b = to;
    if (importance) {
        q4_0_search(from, importance, n, to);
        return;
    }
    for (int64_t i = 0; i < n; i += 32, b += Q4_0_BYTES) {
        const float d = range32(from + i).extreme / -8; // the extreme value lands on the end -8 of the range
        store_f16(b, d);
        store_nibbles(b + 2, whole32(from + i, 0, inverse_of(d), 8.5f, 15));
    }
    blocks_keep_grid("Q4_0", q4_0_decode, Q4_0_BYTES, from, n, to);
}

void q4_1_encode(const float *from, const float *importance, int64_t n, void *to)
{
    uint8_t *b = to;
    if (importance) {
        q4_1_search(from, importance, n, to);
        return;
    }
    for (int64_t i = 0; i < n; i += 32, b += Q4_1_BYTES) {
        const struct range r = range32(from + i);
        const float d = (r.high - r.low) / 15;
        store_f16(b, d);
        store_f16(b + 2, r.low);
        store_nibbles(b + 4, whole32(from + i, r.low, inverse_of(d), 0.5f, 15));
    }
}

void q5_0_encode(const float *from, const float *importance, int64_t n, void *to)
{
    uint8_t *b = to;
    if (importance) {
        q5_0_search(from, importance, n, to);
        return;
    }
    for (int64_t i = 0; i < n; i += 32, b += Q5_0_BYTES) {
        const float d = range32(from + i).extreme / -16;
        const __m256i q = whole32(from + i, 0, inverse_of(d), 16.5f, 31);
        store_f16(b, d);
        store_fifth(b + 2, q);
        store_nibbles(b + 6, q);
    }
    blocks_keep_grid("Q5_0", q5_0_decode, Q5_0_BYTES, from, n, to);
}

void q5_1_encode(const float *from, const float *importance, int64_t n, void *to)
{
    uint8_t *b = to;
    if (importance) {
        q5_1_search(from, importance, n, to);
        return;
    }
    for (int64_t i = 0; i < n; i += 32, b += Q5_1_BYTES) {
        const struct range r = range32(from + i);
        const float d = (r.high - r.low) / 31;
        const __m256i q = whole32(from + i, r.low, inverse_of(d), 0.5f, 31);
        store_f16(b, d);
        store_f16(b + 2, r.low);
        store_fifth(b + 4, q);
        store_nibbles(b + 8, q);
    }
}
