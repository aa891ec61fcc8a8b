// blocks_encode.c: rows to batches for the search (blocks_search.c), and what it found to bytes.
//
// The layouts are llama.cpp's; the search for scales is our own.
//
// To add a format: its grid, `pack` for the sub-blocks of one block, and a row in `searched` with its encoder.
#include <float.h>
#include <pthread.h>
#include <string.h>

#include "common/tensor/cpu.h"
#include "quant/blocks_rows.h"
#include "quant/blocks_search.h"
#include "quant/blocks_simd.h"

// Levels of the four-bit codes of IQ4_NL and IQ4_XS.
const int8_t iq4_level[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static struct iq4_tables iq4;

static void fill_iq4(void)
{
    int i = 0;
    for (int c = 0; c < 512; c++) {
        while (i < 15 && c - 256 >= iq4_level[i] + iq4_level[i + 1]) // in halves: beyond the half-way point
            i++;
        iq4.nearest[c] = iq4_level[i];
    }
    for (i = 0; i < 16; i++)
        iq4.index[iq4_level[i] + 128] = (uint8_t)i;
}

const struct iq4_tables *iq4_tables(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill_iq4);
    return &iq4;
}

struct searched {
    int64_t elements, bytes; // of a block
    int values;              // of a sub-block
    const struct affine_grid *affine;
    const struct level_grid *levels;
    // The sub-blocks in lanes first .. of r to one block.
    void (*pack)(const struct search_result *r, int first, uint8_t *b);
};

// Nibbles of 32 values: j low, j + 16 high.
static void pack_nibbles(const struct search_result *r, int lane, uint8_t *to)
{
    for (int j = 0; j < 16; j++)
        to[j] = (uint8_t)((r->q[j][lane] & 15) | (r->q[j + 16][lane] & 15) << 4);
}

static void pack_fifth(const struct search_result *r, int lane, uint8_t *to)
{
    uint32_t bits = 0;
    for (int j = 0; j < 32; j++)
        bits |= (uint32_t)(r->q[j][lane] >> 4) << j;
    memcpy(to, &bits, 4);
}

static void q4_0_pack(const struct search_result *r, int first, uint8_t *b)
{
    store_f16(b, r->d[first]);
    pack_nibbles(r, first, b + 2);
}

static void q4_1_pack(const struct search_result *r, int first, uint8_t *b)
{
    store_f16(b, r->d[first]);
    store_f16(b + 2, -r->d_min[first]);
    pack_nibbles(r, first, b + 4);
}

static void q5_0_pack(const struct search_result *r, int first, uint8_t *b)
{
    store_f16(b, r->d[first]);
    pack_fifth(r, first, b + 2);
    pack_nibbles(r, first, b + 6);
}

static void q5_1_pack(const struct search_result *r, int first, uint8_t *b)
{
    store_f16(b, r->d[first]);
    store_f16(b + 2, -r->d_min[first]);
    pack_fifth(r, first, b + 4);
    pack_nibbles(r, first, b + 8);
}

// Two-bit values of sixteen sub-blocks of 16: sub-block s is half s / 8, quarter s / 2 % 4 of it: 16 of the half's 32
// bytes, bits 2 quarter, 2 quarter + 1. to: zeros.
static void pack_pairs(const struct search_result *r, int first, uint8_t *to)
{
    for (int i = 0; i < 16; i++)
        for (int s = 0; s < 16; s++)
            to[32 * (s / 8) + s % 2 * 16 + i] |= (uint8_t)((r->q[i][first + s] & 3) << s / 2 % 4 * 2);
}

static void q2_k_pack(const struct search_result *r, int first, uint8_t *b)
{
    memset(b, 0, Q2_K_BYTES);
    for (int s = 0; s < 16; s++)
        b[s] = (uint8_t)((int)r->code[first + s] | (int)r->min_code[first + s] << 4);
    pack_pairs(r, first, b + 16);
    store_f16(b + 80, r->d[first]);
    store_f16(b + 82, r->d_min[first]);
}

static void q3_k_pack(const struct search_result *r, int first, uint8_t *b)
{
    memset(b, 0, Q3_K_BYTES);
    for (int i = 0; i < 16; i++)
        for (int s = 0; s < 16; s++)
            b[s % 2 * 16 + i] |= (uint8_t)(r->q[i][first + s] >> 2 << s / 2);
    pack_pairs(r, first, b + 32);
    for (int s = 0; s < 16; s++) {
        const int code = (int)r->code[first + s] + 32;
        b[96 + s % 8] |= (uint8_t)((code & 15) << s / 8 * 4);
        b[104 + s % 4] |= (uint8_t)(code >> 4 << s / 4 * 2);
    }
    store_f16(b + 108, r->d[first]);
}

// d, d_min and the packed scales of Q4_K and Q5_K.
static void pack_head(const struct search_result *r, int first, uint8_t *b)
{
    store_f16(b, r->d[first]);
    store_f16(b + 2, r->d_min[first]);
    for (int j = 0; j < 4; j++) {
        const int low = (int)r->code[first + j], high = (int)r->code[first + j + 4];
        const int low_min = (int)r->min_code[first + j], high_min = (int)r->min_code[first + j + 4];
        b[4 + j] = (uint8_t)(low | high >> 4 << 6);
        b[8 + j] = (uint8_t)(low_min | high_min >> 4 << 6);
        b[12 + j] = (uint8_t)((high & 15) | (high_min & 15) << 4);
    }
}

// Low halves of sub-blocks 2 c and 2 c + 1 in the 32 bytes at 32 c.
static void pack_halves(const struct search_result *r, int first, uint8_t *to)
{
    for (int c = 0; c < 4; c++)
        for (int i = 0; i < 32; i++)
            to[32 * c + i] = (uint8_t)((r->q[i][first + 2 * c] & 15) | (r->q[i][first + 2 * c + 1] & 15) << 4);
}

static void q4_k_pack(const struct search_result *r, int first, uint8_t *b)
{
    pack_head(r, first, b);
    pack_halves(r, first, b + 16);
}

static void q5_k_pack(const struct search_result *r, int first, uint8_t *b)
{
    pack_head(r, first, b);
    memset(b + 16, 0, 32);
    for (int i = 0; i < 32; i++)
        for (int j = 0; j < 8; j++)
            b[16 + i] |= (uint8_t)(r->q[i][first + j] >> 4 << j);
    pack_halves(r, first, b + 48);
}

static void q6_k_pack(const struct search_result *r, int first, uint8_t *b)
{
    memset(b, 0, Q6_K_BYTES);
    for (int s = 0; s < 16; s++) {
        const int half = s / 8, quarter = s / 2 % 4;
        uint8_t *low = b + 64 * half + 32 * (quarter % 2) + s % 2 * 16, *high = b + 128 + 32 * half + s % 2 * 16;
        for (int i = 0; i < 16; i++) {
            const int q = r->q[i][first + s];
            low[i] |= (uint8_t)((q & 15) << quarter / 2 * 4);
            high[i] |= (uint8_t)(q >> 4 << quarter * 2);
        }
        b[192 + s] = (uint8_t)(int8_t)r->code[first + s];
    }
    store_f16(b + 208, r->d[first]);
}

static void iq4_xs_pack(const struct search_result *r, int first, uint8_t *b)
{
    memset(b, 0, 8);
    store_f16(b, r->d[first]);
    for (int j = 0; j < 8; j++) {
        const int code = (int)r->code[first + j] + 32;
        b[2 + j / 4] |= (uint8_t)(code >> 4 << j % 4 * 2);
        b[4 + j / 2] |= (uint8_t)((code & 15) << j % 2 * 4);
        pack_nibbles(r, first + j, b + 8 + 16 * j);
    }
}

// Weights of a row are divided by their mean, so that no product of them overflows; weights of zero keep a little, which
// decides where nothing else does.
static void put_weights(struct search_batch *b, const float *importance, float inverse)
{
    b->weighted = importance != NULL;
    for (int l = 0; importance && l < b->lanes; l++)
        for (int i = 0; i < b->values; i++)
            b->w[i][l] = importance[l * b->values + i] * inverse + 1e-6f;
}

// A mean too small for its inverse to be a float says nothing, as 0 does.
static float inverse_mean(const float *importance, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; importance && i < n; i++)
        sum += (double)importance[i];
    return sum > (double)n * (double)FLT_MIN ? (float)((double)n / sum) : 0;
}

static void encode_row(const struct searched *f, const float *from, const float *importance, int64_t n, uint8_t *to)
{
    const int per_block = (int)f->elements / f->values, avx512 = cpu_get()->avx512;
    const float inverse = inverse_mean(importance, n);
    struct search_batch b = {.values = f->values};
    struct search_result r = {0};
    const int64_t step = (int64_t)BATCH * f->values;
    for (int64_t at = 0; at < n; at += step) {
        b.lanes = (int)((n - at < step ? n - at : step) / f->values);
        if (b.lanes < BATCH)
            memset(b.x, 0, sizeof b.x);
        for (int l = 0; l < b.lanes; l++)
            for (int i = 0; i < f->values; i++)
                b.x[i][l] = from[at + l * f->values + i];
        put_weights(&b, importance ? importance + at : NULL, inverse);
        if (f->affine)
            (avx512 ? search_affine_avx512 : search_affine_avx2)(&b, f->affine, &r);
        else
            (avx512 ? search_levels_avx512 : search_levels_avx2)(&b, f->levels, &r);
        for (int l = 0; l < b.lanes; l += per_block, to += f->bytes)
            f->pack(&r, l, to);
    }
}

static const struct affine_grid q4_1 = {15, 0, 0, 13, 0.75f, 12}, q5_1 = {31, 0, 0, 28, 1, 12},
                                q2_k = {3, 15, 15, 2.5f, 0.2f, 12}, q4_k = {15, 63, 63, 14, 0.75f, 10},
                                q5_k = {31, 63, 63, 29, 0.75f, 10};
static const struct level_grid q4_0 = {-8, 7, 0, 0, 0, 0.8f, 0.06f, 12, 2}, q5_0 = {-16, 15, 0, 0, 0, 0.85f, 0.04f, 12, 1},
                               iq4_grid = {-127, 113, 1, 0, 0, 0.8f, 0.06f, 9, 2},
                               q3_k = {-4, 3, 0, -32, 31, 0.65f, 0.075f, 11, 2}, q6_k = {-32, 31, 0, -128, 127, 0.97f, 0.004f, 17, 1},
                               iq4_xs = {-127, 113, 1, -32, 31, 0.8f, 0.06f, 9, 2};

#define ENCODER(name, elements, bytes, values, affine, levels, pack)                                                    \
    void name(const float *from, const float *importance, int64_t n, void *to)                                          \
    {                                                                                                                   \
        static const struct searched f = {elements, bytes, values, affine, levels, pack};                               \
        encode_row(&f, from, importance, n, to);                                                                        \
    }
ENCODER(q4_0_search, 32, Q4_0_BYTES, 32, NULL, &q4_0, q4_0_pack)
ENCODER(q4_1_search, 32, Q4_1_BYTES, 32, &q4_1, NULL, q4_1_pack)
ENCODER(q5_0_search, 32, Q5_0_BYTES, 32, NULL, &q5_0, q5_0_pack)
ENCODER(q5_1_search, 32, Q5_1_BYTES, 32, &q5_1, NULL, q5_1_pack)
ENCODER(iq4_nl_encode, 32, IQ4_NL_BYTES, 32, NULL, &iq4_grid, q4_0_pack)
ENCODER(q2_k_encode, SUPER_BLOCK, Q2_K_BYTES, 16, &q2_k, NULL, q2_k_pack)
ENCODER(q3_k_encode, SUPER_BLOCK, Q3_K_BYTES, 16, NULL, &q3_k, q3_k_pack)
ENCODER(q4_k_encode, SUPER_BLOCK, Q4_K_BYTES, 32, &q4_k, NULL, q4_k_pack)
ENCODER(q5_k_encode, SUPER_BLOCK, Q5_K_BYTES, 32, &q5_k, NULL, q5_k_pack)
ENCODER(q6_k_encode, SUPER_BLOCK, Q6_K_BYTES, 16, NULL, &q6_k, q6_k_pack)
ENCODER(iq4_xs_encode, SUPER_BLOCK, IQ4_XS_BYTES, 32, NULL, &iq4_xs, iq4_xs_pack)
