// blocks_rows.h: layouts of the block formats, and the functions on rows that their table (blocks.c) is made of.
#ifndef PDQ_BLOCKS_ROWS_H
#define PDQ_BLOCKS_ROWS_H

#include <stdint.h>

#include "quant/blocks.h"

#define SUPER_BLOCK 256

// Bytes of a block. f16 numbers are little endian; "bits of x" of several values lie in the order of the values.
enum {
    Q8_0_BYTES = 34,  // f16 d; 32 signed bytes
    Q4_0_BYTES = 18,  // f16 d; 16 bytes: low half of byte j is value j, the high half value j + 16
    Q4_1_BYTES = 20,  // f16 d, f16 m; 16 bytes as Q4_0
    Q5_0_BYTES = 22,  // f16 d; u32 with the fifth bits, value j's at bit j; 16 bytes as Q4_0
    Q5_1_BYTES = 24,  // f16 d, f16 m; the rest as Q5_0
    Q2_K_BYTES = 84,  // 16 bytes, scale below min; 64 bytes of q; f16 d, f16 d_min
    Q3_K_BYTES = 110, // 32 bytes of high bits; 64 bytes of low bits; 12 bytes of scales; f16 d
    Q4_K_BYTES = 144, // f16 d, f16 d_min; 12 bytes of scales and minima; 128 bytes of q
    Q5_K_BYTES = 176, // f16 d, f16 d_min; 12 bytes of scales and minima; 32 bytes of high bits; 128 bytes of low bits
    Q6_K_BYTES = 210, // 128 bytes of low bits; 64 bytes of high bits; 16 signed scales; f16 d
    IQ4_NL_BYTES = 18, // f16 d; 16 bytes of indexes as Q4_0
    IQ4_XS_BYTES = 136, // f16 d; u16 with the high bits of scales; 4 bytes with the low bits; 8 times 16 bytes of indexes
};

// Scale and minimum of sub-block j of Q4_K and Q5_K from the 12 packed bytes, six bits each.
static inline void q4_k_unpack(const uint8_t *packed, int j, uint8_t *scale, uint8_t *min)
{
    if (j < 4) {
        *scale = packed[j] & 63;
        *min = packed[j + 4] & 63;
    } else {
        *scale = (uint8_t)((packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4);
        *min = (uint8_t)(packed[j + 4] >> 4 | (packed[j] >> 6) << 4);
    }
}

// Scale of sub-block j of Q3_K: four low bits in bytes 0 to 7, two high bits in bytes 8 to 11.
static inline int q3_k_scale(const uint8_t *packed, int j)
{
    return ((packed[j % 8] >> j / 8 * 4 & 15) | (packed[8 + j % 4] >> j / 4 * 2 & 3) << 4) - 32;
}

// Scale of sub-block j of IQ4_XS; b: the block.
static inline int iq4_xs_scale(const uint8_t *b, int j)
{
    return ((b[4 + j / 2] >> j % 2 * 4 & 15) | (b[2 + j / 4] >> j % 4 * 2 & 3) << 4) - 32;
}

typedef void block_encoder(const float *from, const float *importance, int64_t n, void *to);
typedef void block_decoder(const void *from, float *to, int64_t n);
typedef float block_product(const void *row, const void *x, int64_t n);

// blocks_float.c
block_encoder f32_encode, f16_encode, bf16_encode;
block_decoder f32_decode, f16_decode, bf16_decode;
block_product f32_dot, f16_dot, bf16_dot;

// blocks_round.c: with an importance the search takes over, but for Q8_0
block_encoder q8_0_encode, q4_0_encode, q4_1_encode, q5_0_encode, q5_1_encode;

// blocks_encode.c
block_encoder q4_0_search, q4_1_search, q5_0_search, q5_1_search;
block_encoder iq4_nl_encode, q2_k_encode, q3_k_encode, q4_k_encode, q5_k_encode, q6_k_encode, iq4_xs_encode;

// blocks_rows.c
block_decoder q8_0_decode, q4_0_decode, q4_1_decode, q5_0_decode, q5_1_decode, iq4_nl_decode;
block_decoder q2_k_decode, q3_k_decode, q4_k_decode, q5_k_decode, q6_k_decode, iq4_xs_decode;
block_product q8_0_dot, q4_0_dot, q4_1_dot, q5_0_dot, q5_1_dot, iq4_nl_dot;
block_product q2_k_dot, q3_k_dot, q4_k_dot, q5_k_dot, q6_k_dot, iq4_xs_dot;

// blocks_rows_avx512.c: the same values
block_decoder q8_0_decode_avx512, q4_0_decode_avx512, q4_1_decode_avx512, q5_0_decode_avx512, q5_1_decode_avx512, iq4_nl_decode_avx512;
block_decoder q2_k_decode_avx512, q3_k_decode_avx512, q4_k_decode_avx512, q5_k_decode_avx512, q6_k_decode_avx512, iq4_xs_decode_avx512;

// blocks_products_vnni.c: of an x that arrange_vnni wrote
int64_t arranged_bytes_vnni(int64_t n);
void arrange_vnni(const float *x, int64_t n, enum block_order order, int centre, void *to);
block_product q8_0_dot_vnni, q4_0_dot_vnni, q4_1_dot_vnni, q5_0_dot_vnni, q5_1_dot_vnni, iq4_nl_dot_vnni;
block_product q2_k_dot_vnni, q3_k_dot_vnni, q4_k_dot_vnni, q5_k_dot_vnni, q6_k_dot_vnni, iq4_xs_dot_vnni;

#endif
