// blocks_products_vnni.c: row products of the quantized formats by AVX512-VNNI, which adds four products of bytes to a lane.
//
// The input is cut into 256 values with one scale and 21 bits and a sign each, in three bytes: x = scale * (65536 high + 256 middle
// + low). That is an error of at most 2^-22 of their largest: more than what a sum of f32 products loses, beside an input that is
// far larger than the rest. 64 weights are a plane, an unsigned byte for each; three instructions multiply it exactly by the three
// bytes, sixteen lanes of four weights. Where a format counts from the middle of its range (`centre`), the sums start at -centre *
// x; minima are multiplied by sums of x. A scale counts for whole lanes.
//
// Of the formats with blocks of 32 the nibbles of four blocks fill a plane with their low halves and one with their high
// halves: every lane of both has one scale.
#include "quant/blocks_rows.h"

#include "quant/blocks_scales.h"
#include "quant/blocks_search.h"
#include "quant/blocks_simd.h"

#define PLANE 64
#define PLANES (SUPER_BLOCK / PLANE)
#define X_BITS 21 // a lane's sum, of 8 weights up to 127 (Q8_0: 4 up to 128, Q2_K: 16 up to 45), ends below 2^31; on the way it may wrap

struct x_plane { // 64 of x
    int8_t high[PLANE], middle[PLANE], low[PLANE];
    int32_t start[16];
};

struct x_super { // 256 of x
    struct x_plane plane[PLANES];
    float sum[16]; // of each sixteen, as they were
    float scale, unused[15];
};

int64_t arranged_bytes_vnni(int64_t n) { return (n + SUPER_BLOCK - 1) / SUPER_BLOCK * (int64_t)sizeof(struct x_super); }

// ---- planes times x ----

struct sums { // of products with the three bytes, each lane
    __m512i high, middle, low;
};

INLINE struct sums add_plane(struct sums s, __m512i plane, const struct x_plane *x)
{
    return (struct sums){_mm512_dpbusd_epi32(s.high, plane, _mm512_load_si512(x->high)),
                         _mm512_dpbusd_epi32(s.middle, plane, _mm512_load_si512(x->middle)),
                         _mm512_dpbusd_epi32(s.low, plane, _mm512_load_si512(x->low))};
}

INLINE struct sums start_at(__m512i low) { return (struct sums){_mm512_setzero_si512(), _mm512_setzero_si512(), low}; }

INLINE __m512i total(struct sums s)
{
    return _mm512_add_epi32(_mm512_slli_epi32(_mm512_add_epi32(_mm512_slli_epi32(s.high, 8), s.middle), 8), s.low);
}

INLINE __m512 plane_product(__m512i plane, const struct x_plane *x)
{
    return _mm512_cvtepi32_ps(total(add_plane(start_at(_mm512_load_si512(x->start)), plane, x)));
}

INLINE __m512i mask_bytes(int mask) { return _mm512_set1_epi8((char)mask); }

// A number for each four lanes: sixteen weights.
INLINE __m512i each_four(int a, int b, int c, int d) { return _mm512_setr_epi32(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d); }

// Of sixteen x the three bytes of each, to unit `u` of a plane.
INLINE void put_unit(struct x_plane *to, int u, __m512i x)
{
    const __m512i half = _mm512_set1_epi32(128);
    const __m512i above = _mm512_srai_epi32(_mm512_add_epi32(x, half), 8), top = _mm512_srai_epi32(_mm512_add_epi32(above, half), 8);
    _mm_store_si128((__m128i *)(to->low + 16 * u), _mm512_cvtepi32_epi8(x)); // the low byte with its sign: what it lacks is in the others
    _mm_store_si128((__m128i *)(to->middle + 16 * u), _mm512_cvtepi32_epi8(above));
    _mm_store_si128((__m128i *)(to->high + 16 * u), _mm512_cvtepi32_epi8(top));
}

void arrange_vnni(const float *x, int64_t n, enum block_order order, int centre, void *to)
{
    struct x_super *super = to;
    for (int64_t i = 0; i < n; i += SUPER_BLOCK, super++) {
        __m512 v[16], largest = _mm512_setzero_ps();
        for (int u = 0; u < 16; u++) { // blocks of 32 may end anywhere: zeros from there on
            v[u] = i + 16 * u < n ? _mm512_loadu_ps(x + i + 16 * u) : _mm512_setzero_ps();
            largest = _mm512_max_ps(largest, _mm512_abs_ps(v[u]));
            super->sum[u] = _mm512_reduce_add_ps(v[u]);
        }
        const float most = _mm512_reduce_max_ps(largest), all = _mm512_reduce_add_ps(_mm512_load_ps(super->sum));
        const float steps = most > 1e-30f ? (1 << X_BITS) / most : 0;
        super->scale = most / (1 << X_BITS) + 0 * all; // an x that is no finite number gives none
        for (int u = 0; u < 16; u++) {
            const int plane = order == X_IN_BYTE_PAIRS ? u / 8 * 2 + u % 2 : u / 4, at = order == X_IN_BYTE_PAIRS ? u / 2 % 4 : u % 4;
            put_unit(&super->plane[plane], at, _mm512_cvtps_epi32(_mm512_mul_ps(v[u], _mm512_set1_ps(steps))));
        }
        for (int p = 0; p < PLANES; p++) { // of a pair the first starts for both
            struct x_plane *at = &super->plane[p];
            struct sums of_x = add_plane(start_at(_mm512_setzero_si512()), mask_bytes(1), at);
            if (order == X_IN_BYTE_PAIRS && p % 2 == 0)
                of_x = add_plane(of_x, mask_bytes(1), at + 1);
            _mm512_store_si512(at->start, _mm512_mullo_epi32(total(of_x), _mm512_set1_epi32(-centre)));
        }
    }
}

// ---- blocks of 32 ----

// Sixteen of the 32 words that begin at b and at `next`, sixteen at each.
INLINE __m256i words_at(const uint8_t *b, const uint8_t *next, __m256i word)
{
    return _mm256_permutex2var_epi16(_mm256_loadu_si256((const __m256i *)b), word, _mm256_loadu_si256((const __m256i *)next));
}

// Which of them is a block's f16 number at byte `at`, for `lanes` lanes a block: of two blocks they are read at b, of two more at `next`.
INLINE __m256i words_of(int lanes, int bytes, int at)
{
    const __m256i l = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m256i block = _mm256_srli_epi16(l, lanes == 4 ? 2 : 1);
    const __m256i second = _mm256_and_si256(block, _mm256_set1_epi16(1)), later = _mm256_and_si256(block, _mm256_set1_epi16(2));
    return _mm256_add_epi16(_mm256_mullo_epi16(second, _mm256_set1_epi16((short)(bytes / 2))),
                            _mm256_add_epi16(_mm256_slli_epi16(later, 3), _mm256_set1_epi16((short)(at / 2))));
}

// Sixteen bytes of each of four blocks.
INLINE __m512i of_four(const uint8_t *q, int64_t bytes)
{
    __m512i all = _mm512_castsi128_si512(load16(q));
    all = _mm512_mask_broadcast_i32x4(all, 0x00f0, load16(q + bytes));
    all = _mm512_mask_broadcast_i32x4(all, 0x0f00, load16(q + 2 * bytes));
    return _mm512_mask_broadcast_i32x4(all, 0xf000, load16(q + 3 * bytes));
}

// Sixteen bits of each of four blocks.
INLINE uint64_t bits_of_four(const uint8_t *bits, int64_t bytes)
{
    uint64_t all = 0;
    for (int k = 3; k >= 0; k--) {
        uint16_t half;
        memcpy(&half, bits + k * bytes, 2);
        all = all << 16 | half;
    }
    return all;
}

typedef __m512i level_reader(__m512i codes);

INLINE __m512i as_it_is(__m512i codes) { return codes; }

INLINE __m512i iq4_levels(__m512i codes) // counted from -128
{
    return _mm512_shuffle_epi8(_mm512_xor_si512(_mm512_broadcast_i32x4(load16((const uint8_t *)iq4_level)), mask_bytes(128)), codes);
}

// Bytes of the block: fifth: where the fifth bits lie, q: the nibbles, min_at: the minimum; 0: the format has none.
INLINE float dot_pairs(const uint8_t *b, const void *arranged, int64_t n, int bytes, int fifth, int q, int min_at, level_reader *level)
{
    const struct x_super *x = arranged;
    __m512 sum = _mm512_setzero_ps();
    __m256 mins = _mm256_setzero_ps();
    uint8_t last[4 * Q5_1_BYTES] = {0};
    for (int64_t i = 0; i < n; i += 2 * PLANE, b += 4 * bytes) {
        if (n - i < 2 * PLANE)
            b = memcpy(last, b, (size_t)((n - i) / 32 * bytes));
        const int half = i / (2 * PLANE) % 2;
        const struct x_super *xs = x + i / SUPER_BLOCK;
        const struct x_plane *xp = xs->plane + 2 * half;
        const __m512i nibbles = of_four(b + q, bytes);
        __m512i low = _mm512_and_si512(nibbles, mask_bytes(15)), high = _mm512_and_si512(_mm512_srli_epi32(nibbles, 4), mask_bytes(15));
        if (fifth) {
            low = _mm512_mask_add_epi8(low, bits_of_four(b + fifth, bytes), low, mask_bytes(16));
            high = _mm512_mask_add_epi8(high, bits_of_four(b + fifth + 2, bytes), high, mask_bytes(16));
        }
        struct sums s = add_plane(start_at(_mm512_load_si512(xp->start)), level(low), xp);
        s = add_plane(s, level(high), xp + 1);
        const __m512 scale = _mm512_cvtph_ps(words_at(b, b + 2 * bytes, words_of(4, bytes, 0)));
        sum = _mm512_fmadd_ps(_mm512_mul_ps(scale, _mm512_set1_ps(xs->scale)), _mm512_cvtepi32_ps(total(s)), sum);
        if (min_at) {
            const __m256i min = words_at(b, b + 2 * bytes, words_of(2, bytes, min_at));
            mins = _mm256_fmadd_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(min)), _mm256_load_ps(xs->sum + 8 * half), mins);
        }
    }
    return _mm512_reduce_add_ps(sum) + sum8(mins);
}

#define BLOCKS(f, bytes, fifth, q, min_at, level)                                                                       \
    float f##_dot_vnni(const void *row, const void *x, int64_t n) { return dot_pairs(row, x, n, bytes, fifth, q, min_at, level); }

BLOCKS(q4_0, Q4_0_BYTES, 0, 2, 0, as_it_is)
BLOCKS(q4_1, Q4_1_BYTES, 0, 4, 2, as_it_is)
BLOCKS(q5_0, Q5_0_BYTES, 2, 6, 0, as_it_is)
BLOCKS(q5_1, Q5_1_BYTES, 4, 8, 2, as_it_is)
BLOCKS(iq4_nl, IQ4_NL_BYTES, 0, 2, 0, iq4_levels)

float q8_0_dot_vnni(const void *row, const void *arranged, int64_t n) // two blocks are a plane
{
    const struct x_super *x = arranged;
    const uint8_t *b = row;
    uint8_t last[2 * Q8_0_BYTES] = {0};
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += PLANE, b += 2 * Q8_0_BYTES) {
        if (n - i < PLANE)
            b = memcpy(last, b, Q8_0_BYTES);
        const struct x_super *xs = x + i / SUPER_BLOCK;
        const __m512i signs = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(b + 2))),
                                                 _mm256_loadu_si256((const __m256i *)(b + Q8_0_BYTES + 2)), 1);
        const __m256i eighth = _mm256_setr_epi16(0, 0, 0, 0, 0, 0, 0, 0, 16, 16, 16, 16, 16, 16, 16, 16);
        const __m512 scale = _mm512_cvtph_ps(words_at(b, b + Q8_0_BYTES, eighth));
        sum = _mm512_fmadd_ps(_mm512_mul_ps(scale, _mm512_set1_ps(xs->scale)),
                              plane_product(_mm512_xor_si512(signs, mask_bytes(128)), xs->plane + i / PLANE % PLANES), sum);
    }
    return _mm512_reduce_add_ps(sum);
}

// ---- super-blocks: four planes of 64 consecutive weights ----

typedef __m512i plane_reader(const uint8_t *b, int t);

// Of two the bits of `mask` from `low`, the others from `high`.
INLINE __m512i bits_of(int mask, __m512i low, __m512i high) { return _mm512_ternarylogic_epi32(mask_bytes(mask), low, high, 0xca); }

INLINE __m512i twice(const uint8_t *p) { return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)p)); }

INLINE __m512i lower(__m512i v, int first, int then) { return _mm512_srlv_epi32(v, each_four(first, first, then, then)); }

// Bit `first` of each byte (in the upper half `then`) to bit `to`.
INLINE __m512i bit_to(__m512i v, int first, int then, int to)
{
    const int by = (32 + to - first) % 32, then_by = (32 + to - then) % 32;
    return _mm512_rolv_epi32(v, each_four(by, by, then_by, then_by));
}

INLINE __m512i low_bits(int mask, __m512i v) { return _mm512_and_si512(v, mask_bytes(mask)); }

// Two bits of each of 32 bytes, then the next two.
INLINE __m512i pairs(const uint8_t *q, int t) { return lower(twice(q + 32 * (t / 2)), 4 * (t % 2), 4 * (t % 2) + 2); }

INLINE __m512i q2_k_plane(const uint8_t *b, int t) { return low_bits(3, pairs(b + 16, t)); }

INLINE __m512i q3_k_plane(const uint8_t *b, int t)
{
    return low_bits(7, bits_of(3, pairs(b + 32, t), bit_to(twice(b), 2 * t, 2 * t + 1, 2)));
}

INLINE __m512i q4_k_plane(const uint8_t *b, int t) { return low_bits(15, lower(twice(b + 16 + 32 * t), 0, 4)); }

INLINE __m512i q5_k_plane(const uint8_t *b, int t)
{
    return low_bits(31, bits_of(15, lower(twice(b + 48 + 32 * t), 0, 4), bit_to(twice(b + 16), 2 * t, 2 * t + 1, 4)));
}

INLINE __m512i q6_k_plane(const uint8_t *b, int t)
{
    const __m512i low = _mm512_srli_epi32(_mm512_loadu_si512(b + 64 * (t / 2)), t % 2 * 4);
    const __m512i high = bit_to(twice(b + 128 + 32 * (t / 2)), 4 * (t % 2), 4 * (t % 2) + 2, 4);
    return low_bits(63, bits_of(15, low, high));
}

INLINE __m512i iq4_xs_plane(const uint8_t *b, int t) // two times sixteen bytes: low nibbles, then high ones
{
    const __m512i both = _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(load16(b + 8 + 32 * t)), 0xff00, load16(b + 24 + 32 * t));
    return iq4_levels(low_bits(15, _mm512_srlv_epi32(both, each_four(0, 4, 0, 4))));
}

// lanes: how many have one scale.
INLINE float dot_super(const uint8_t *b, const void *arranged, int64_t n, int64_t bytes, int lanes, int has_min, plane_reader *plane,
                       scale_reader *scales)
{
    const struct x_super *x = arranged;
    __m512 sum = _mm512_setzero_ps(), mins = sum;
    for (int64_t i = 0; i < n; i += SUPER_BLOCK, b += bytes, x++) {
        const struct scales of = scales(b);
        const __m512 scale = _mm512_mul_ps(of.scale, _mm512_set1_ps(x->scale));
#pragma GCC unroll 4
        for (int t = 0; t < PLANES; t++) {
            const int a = 16 / lanes * t; // scale of the first lane
            const __m512i of_lane = lanes == 4 ? each_four(a, a + 1, a + 2, a + 3) : each_four(a, a, a + 1, a + 1);
            sum = _mm512_fmadd_ps(_mm512_permutexvar_ps(of_lane, scale), plane_product(plane(b, t), x->plane + t), sum);
        }
        if (has_min) {
            const __m512i pairwise = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
            const __m512 min = lanes == 4 ? of.min : _mm512_permutexvar_ps(pairwise, of.min);
            mins = _mm512_fmadd_ps(min, _mm512_load_ps(x->sum), mins);
        }
    }
    return _mm512_reduce_add_ps(_mm512_sub_ps(sum, mins));
}

#define SUPER_BLOCKS(f, bytes, lanes, has_min)                                                                          \
    float f##_dot_vnni(const void *row, const void *x, int64_t n)                                                       \
    {                                                                                                                   \
        return dot_super(row, x, n, bytes, lanes, has_min, f##_plane, f##_scales);                                      \
    }

#define q5_k_scales q4_k_scales
SUPER_BLOCKS(q3_k, Q3_K_BYTES, 4, 0)
SUPER_BLOCKS(q4_k, Q4_K_BYTES, 8, 1)
SUPER_BLOCKS(q5_k, Q5_K_BYTES, 8, 1)
SUPER_BLOCKS(q6_k, Q6_K_BYTES, 4, 0)
SUPER_BLOCKS(iq4_xs, IQ4_XS_BYTES, 8, 0)

// Two bits times a scale of four are at most 45, a byte: looked up in 0, 1, 2, 3 times the scale of its sixteen. So a super-block has
// one sum, of 16 weights in each lane.
float q2_k_dot_vnni(const void *row, const void *arranged, int64_t n)
{
    const struct x_super *x = arranged;
    const uint8_t *b = row;
    __m512 sum = _mm512_setzero_ps(), mins = sum;
    for (int64_t i = 0; i < n; i += SUPER_BLOCK, b += Q2_K_BYTES, x++) {
        const __m512i codes = _mm512_cvtepu8_epi32(load16(b)), scale = _mm512_and_si512(codes, _mm512_set1_epi32(15));
        const __m512i multiples = _mm512_mullo_epi32(scale, _mm512_set1_epi32(0x03020100));
        struct sums s = start_at(_mm512_setzero_si512());
#pragma GCC unroll 4
        for (int t = 0; t < PLANES; t++) {
            const __m512i of_lane = _mm512_permutexvar_epi32(each_four(4 * t, 4 * t + 1, 4 * t + 2, 4 * t + 3), multiples);
            s = add_plane(s, _mm512_shuffle_epi8(of_lane, q2_k_plane(b, t)), x->plane + t);
        }
        const __m512 min = _mm512_cvtepi32_ps(_mm512_srli_epi32(codes, 4));
        sum = _mm512_fmadd_ps(_mm512_set1_ps(load_f16(b + 80) * x->scale), _mm512_cvtepi32_ps(total(s)), sum);
        mins = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_set1_ps(load_f16(b + 82)), min), _mm512_load_ps(x->sum), mins);
    }
    return _mm512_reduce_add_ps(_mm512_sub_ps(sum, mins));
}
