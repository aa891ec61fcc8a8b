// blocks.c: decode and row products of every type, encoders of the simple ones, and the table.
//
// Q8_0 and Q4_0 round exactly as llama.cpp's reference code does, so that files can be compared byte for byte; this
// file is compiled without contraction of a * b + c for that reason. The products may use fused multiply-adds: they
// say so.
#include "quant/blocks.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>
#include <strings.h>

#include "common/tensor/dtype.h"
#include "quant/blocks_k.h"

static uint16_t load_u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}

static void store_f16(uint8_t *p, float v)
{
    uint16_t h = f32_to_f16(v);
    memcpy(p, &h, 2);
}

// The eight lanes in a fixed order.
static float sum8(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

// The low eight bytes of v as floats.
static __m256 widen_i8(__m128i v) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)); }
static __m256 widen_u8(__m128i v) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(v)); }

// q . x for 16 signed bytes, added to sum.
static __m256 dot16_i8(__m128i q, const float *x, __m256 sum)
{
    sum = _mm256_fmadd_ps(widen_i8(q), _mm256_loadu_ps(x), sum);
    return _mm256_fmadd_ps(widen_i8(_mm_srli_si128(q, 8)), _mm256_loadu_ps(x + 8), sum);
}

// F32

static void f32_encode(const float *from, const float *importance, int64_t n, void *to)
{
    (void)importance; // nothing is lost
    memcpy(to, from, (size_t)n * 4);
}

static void f32_decode(const void *from, float *to, int64_t n) { memcpy(to, from, (size_t)n * 4); }

static float f32_dot(const void *row, const float *x, int64_t n)
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

static void f16_encode(const float *from, const float *importance, int64_t n, void *to)
{
    (void)importance; // each value by itself: the nearest one is the best
    dtype_from_f32(DTYPE_F16, from, to, n);
}

static void f16_decode(const void *from, float *to, int64_t n) { dtype_to_f32(DTYPE_F16, from, to, n); }

static float f16_dot(const void *row, const float *x, int64_t n)
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

static void bf16_encode(const float *from, const float *importance, int64_t n, void *to)
{
    (void)importance; // each value by itself: the nearest one is the best
    dtype_from_f32(DTYPE_BF16, from, to, n);
}

static void bf16_decode(const void *from, float *to, int64_t n) { dtype_to_f32(DTYPE_BF16, from, to, n); }

static float bf16_dot(const void *row, const float *x, int64_t n)
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

// Q8_0, 34 bytes: f16 d, 32 signed bytes. value = d * q.

static void q8_0_encode(const float *from, const float *importance, int64_t n, void *to)
{
    (void)importance; // rounding to nearest does not search
    uint8_t *b = to;
    for (int64_t i = 0; i < n; i += 32, b += 34) {
        float largest = 0;
        for (int j = 0; j < 32; j++)
            largest = fmaxf(largest, fabsf(from[i + j]));
        const float d = largest / 127;
        const float inverse = d != 0 ? 1 / d : 0;
        store_f16(b, d);
        for (int j = 0; j < 32; j++)
            b[2 + j] = (uint8_t)(int8_t)roundf(from[i + j] * inverse);
    }
}

static void q8_0_decode(const void *from, float *to, int64_t n)
{
    const uint8_t *b = from;
    for (int64_t i = 0; i < n; i += 32, b += 34) {
        const float d = f16_to_f32(load_u16(b));
        for (int j = 0; j < 32; j++)
            to[i + j] = d * (int8_t)b[2 + j];
    }
}

static float q8_0_dot(const void *row, const float *x, int64_t n)
{
    const uint8_t *b = row;
    __m256 sum = _mm256_setzero_ps();
    for (int64_t i = 0; i < n; i += 32, b += 34) {
        __m256 part = dot16_i8(_mm_loadu_si128((const __m128i *)(b + 2)), x + i, _mm256_setzero_ps());
        part = dot16_i8(_mm_loadu_si128((const __m128i *)(b + 18)), x + i + 16, part);
        sum = _mm256_fmadd_ps(_mm256_set1_ps(f16_to_f32(load_u16(b))), part, sum);
    }
    return sum8(sum);
}

// Q4_0, 18 bytes: f16 d, 16 bytes; the low half of byte j is value j, the high half value j + 16.
// value = d * (q - 8).

static void q4_0_encode(const float *from, const float *importance, int64_t n, void *to)
{
    (void)importance; // rounding to nearest does not search
    uint8_t *b = to;
    for (int64_t i = 0; i < n; i += 32, b += 18) {
        float largest = 0; // with its sign, so that the extreme value lands on the end -8 of the range
        for (int j = 0; j < 32; j++)
            largest = fabsf(from[i + j]) > fabsf(largest) ? from[i + j] : largest;
        const float d = largest / -8;
        const float inverse = d != 0 ? 1 / d : 0;
        store_f16(b, d);
        for (int j = 0; j < 16; j++) {
            const int low = (int)(from[i + j] * inverse + 8.5f), high = (int)(from[i + j + 16] * inverse + 8.5f);
            b[2 + j] = (uint8_t)((low < 15 ? low : 15) | (high < 15 ? high : 15) << 4);
        }
    }
}

static void q4_0_decode(const void *from, float *to, int64_t n)
{
    const uint8_t *b = from;
    for (int64_t i = 0; i < n; i += 32, b += 18) {
        const float d = f16_to_f32(load_u16(b));
        for (int j = 0; j < 16; j++) {
            to[i + j] = d * ((b[2 + j] & 15) - 8);
            to[i + j + 16] = d * ((b[2 + j] >> 4) - 8);
        }
    }
}

static float q4_0_dot(const void *row, const float *x, int64_t n)
{
    const uint8_t *b = row;
    const __m128i mask = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
    __m256 sum = _mm256_setzero_ps();
    for (int64_t i = 0; i < n; i += 32, b += 18) {
        const __m128i packed = _mm_loadu_si128((const __m128i *)(b + 2));
        const __m128i low = _mm_sub_epi8(_mm_and_si128(packed, mask), eight);
        const __m128i high = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(packed, 4), mask), eight);
        __m256 part = dot16_i8(low, x + i, _mm256_setzero_ps());
        part = dot16_i8(high, x + i + 16, part);
        sum = _mm256_fmadd_ps(_mm256_set1_ps(f16_to_f32(load_u16(b))), part, sum);
    }
    return sum8(sum);
}

// Q4_K: the 32 bytes at 16 + 32 c hold sub-blocks 2 c (low halves) and 2 c + 1 (high halves).

static void q4_k_decode(const void *from, float *to, int64_t n)
{
    const uint8_t *b = from;
    for (int64_t i = 0; i < n; i += SUPER_BLOCK, b += Q4_K_BYTES) {
        const float d = f16_to_f32(load_u16(b)), d_min = f16_to_f32(load_u16(b + 2));
        for (int j = 0; j < 8; j++) {
            const uint8_t *q = b + 16 + 32 * (j / 2);
            const int shift = j % 2 * 4;
            uint8_t scale, min;
            q4_k_unpack(b + 4, j, &scale, &min);
            const float ds = d * scale, dm = d_min * min;
            for (int k = 0; k < 32; k++)
                to[i + 32 * j + k] = ds * (q[k] >> shift & 15) - dm;
        }
    }
}

// Adds scale * (q . x) - min * sum(x) over 32 values; q: two registers of 16 bytes.
static __m256 q4_k_dot32(__m128i q0, __m128i q1, float scale, float min, const float *x, __m256 sum)
{
    const __m128i q[2] = {q0, q1};
    __m256 product = _mm256_setzero_ps(), total = _mm256_setzero_ps();
    for (int k = 0; k < 2; k++) {
        const __m256 x0 = _mm256_loadu_ps(x + 16 * k), x1 = _mm256_loadu_ps(x + 16 * k + 8);
        product = _mm256_fmadd_ps(widen_u8(q[k]), x0, product);
        product = _mm256_fmadd_ps(widen_u8(_mm_srli_si128(q[k], 8)), x1, product);
        total = _mm256_add_ps(total, _mm256_add_ps(x0, x1));
    }
    sum = _mm256_fmadd_ps(_mm256_set1_ps(scale), product, sum);
    return _mm256_fnmadd_ps(_mm256_set1_ps(min), total, sum);
}

static float q4_k_dot(const void *row, const float *x, int64_t n)
{
    const uint8_t *b = row;
    const __m128i mask = _mm_set1_epi8(15);
    __m256 even = _mm256_setzero_ps(), odd = _mm256_setzero_ps();
    for (int64_t i = 0; i < n; i += SUPER_BLOCK, b += Q4_K_BYTES) {
        const float d = f16_to_f32(load_u16(b)), d_min = f16_to_f32(load_u16(b + 2));
        for (int c = 0; c < 4; c++) {
            const __m128i p0 = _mm_loadu_si128((const __m128i *)(b + 16 + 32 * c));
            const __m128i p1 = _mm_loadu_si128((const __m128i *)(b + 32 + 32 * c));
            const float *xc = x + i + 64 * c;
            uint8_t scale, min;
            q4_k_unpack(b + 4, 2 * c, &scale, &min);
            even = q4_k_dot32(_mm_and_si128(p0, mask), _mm_and_si128(p1, mask), d * scale, d_min * min, xc, even);
            q4_k_unpack(b + 4, 2 * c + 1, &scale, &min);
            odd = q4_k_dot32(_mm_and_si128(_mm_srli_epi16(p0, 4), mask), _mm_and_si128(_mm_srli_epi16(p1, 4), mask),
                             d * scale, d_min * min, xc + 32, odd);
        }
    }
    return sum8(_mm256_add_ps(even, odd));
}

// Q6_K: each half of 128 values has 64 bytes of low and 32 bytes of high bits. Quarter r (32 values) of a half takes
// its low bits from bytes 32 (r % 2) .., low halves for r < 2, high halves above; its high bits are bits 2 r, 2 r + 1
// of the 32 bytes.

static void q6_k_decode(const void *from, float *to, int64_t n)
{
    const uint8_t *b = from;
    for (int64_t i = 0; i < n; i += SUPER_BLOCK, b += Q6_K_BYTES) {
        const float d = f16_to_f32(load_u16(b + 208));
        for (int h = 0; h < 2; h++) {
            const uint8_t *low = b + 64 * h, *high = b + 128 + 32 * h;
            const int8_t *scale = (const int8_t *)b + 192 + 8 * h;
            for (int k = 0; k < 128; k++) {
                const int r = k / 32, l = k % 32;
                const int q = (low[32 * (r % 2) + l] >> r / 2 * 4 & 15) | (high[l] >> 2 * r & 3) << 4;
                to[i + 128 * h + k] = d * scale[k / 16] * (q - 32);
            }
        }
    }
}

static float q6_k_dot(const void *row, const float *x, int64_t n)
{
    const uint8_t *b = row;
    const __m128i low_mask = _mm_set1_epi8(15), high_mask = _mm_set1_epi8(0x30), offset = _mm_set1_epi8(32);
    __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int64_t i = 0; i < n; i += SUPER_BLOCK, b += Q6_K_BYTES) {
        const float d = f16_to_f32(load_u16(b + 208));
        const int8_t *scale = (const int8_t *)b + 192;
        for (int s = 0; s < 16; s++) { // sub-blocks of 16: half s / 8, quarter s / 2 % 4 of it
            const int half = s / 8, r = s / 2 % 4, l = s % 2 * 16;
            const __m128i packed = _mm_loadu_si128((const __m128i *)(b + 64 * half + 32 * (r % 2) + l));
            const __m128i top = _mm_loadu_si128((const __m128i *)(b + 128 + 32 * half + l));
            const __m128i low = _mm_and_si128(r < 2 ? packed : _mm_srli_epi16(packed, 4), low_mask);
            const __m128i high = _mm_and_si128(
                _mm_sll_epi16(_mm_srl_epi16(top, _mm_cvtsi32_si128(2 * r)), _mm_cvtsi32_si128(4)), high_mask);
            const __m128i q = _mm_sub_epi8(_mm_or_si128(low, high), offset);
            const __m256 part = dot16_i8(q, x + i + 16 * s, _mm256_setzero_ps());
            sum[s % 2] = _mm256_fmadd_ps(_mm256_set1_ps(d * scale[s]), part, sum[s % 2]);
        }
    }
    return sum8(_mm256_add_ps(sum[0], sum[1]));
}

// `largest`: 65504, the largest f16, times the largest factor of the scale that every block can reach.
static const struct block_format format_table[] = {
    {"F32", 0, 1, 4, 3.4028235e38f, f32_encode, f32_decode, f32_dot},
    {"F16", 1, 1, 2, 65504.0f, f16_encode, f16_decode, f16_dot},
    {"BF16", 30, 1, 2, 3.3895314e38f, bf16_encode, bf16_decode, bf16_dot},
    {"Q8_0", 8, 32, 34, 65504.0f * 127, q8_0_encode, q8_0_decode, q8_0_dot},
    {"Q4_0", 2, 32, 18, 65504.0f * 8, q4_0_encode, q4_0_decode, q4_0_dot},
    {"Q4_K", 12, SUPER_BLOCK, Q4_K_BYTES, 65504.0f * 63, q4_k_encode, q4_k_decode, q4_k_dot},
    {"Q6_K", 14, SUPER_BLOCK, Q6_K_BYTES, 65504.0f * 128, q6_k_encode, q6_k_decode, q6_k_dot},
};
#define N_FORMATS (sizeof format_table / sizeof *format_table)

// Types that exist but have no row, so that a refusal can name them.
static const char *const other_types[] = {
    [3] = "Q4_1",     [6] = "Q5_0",   [7] = "Q5_1",    [9] = "Q8_1",     [10] = "Q2_K",
    [11] = "Q3_K",    [13] = "Q5_K",  [15] = "Q8_K",   [16] = "IQ2_XXS", [17] = "IQ2_XS",
    [18] = "IQ3_XXS", [19] = "IQ1_S", [20] = "IQ4_NL", [21] = "IQ3_S",   [22] = "IQ2_S",
    [23] = "IQ4_XS",  [24] = "I8",    [25] = "I16",    [26] = "I32",     [27] = "I64",
    [28] = "F64",     [29] = "IQ1_M", [34] = "TQ1_0",  [35] = "TQ2_0",   [39] = "MXFP4",
};

const struct block_format *block_format_find(const char *name)
{
    for (size_t i = 0; i < N_FORMATS; i++)
        if (strcasecmp(format_table[i].name, name) == 0)
            return &format_table[i];
    return NULL;
}

const struct block_format *block_format_by_type(uint32_t type)
{
    for (size_t i = 0; i < N_FORMATS; i++)
        if (format_table[i].type == type)
            return &format_table[i];
    return NULL;
}

const char *block_type_name(uint32_t type)
{
    const struct block_format *f = block_format_by_type(type);
    if (f)
        return f->name;
    if (type < sizeof other_types / sizeof *other_types && other_types[type])
        return other_types[type];
    return "unknown";
}

int64_t block_row_bytes(const struct block_format *f, int64_t n)
{
    return n % f->elements ? -1 : n / f->elements * f->bytes;
}
