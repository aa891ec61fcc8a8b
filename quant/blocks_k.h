// blocks_k.h: encoders of the 256-element super-blocks (blocks_k.c), apart from blocks.c because they search.
#ifndef PDQ_BLOCKS_K_H
#define PDQ_BLOCKS_K_H

#include <stdint.h>

#define SUPER_BLOCK 256

// Layout of Q4_K, 144 bytes: f16 d, f16 dmin, 12 bytes with eight 6-bit scales and eight 6-bit minima, 128 bytes of
// 4-bit values. value = d * scale[j] * q - dmin * min[j] for the 32 values of sub-block j.
#define Q4_K_BYTES 144
// Layout of Q6_K, 210 bytes: 128 bytes with the low 4 bits, 64 bytes with the high 2 bits, sixteen int8 scales, f16
// d. value = d * scale[j] * (q - 32) for the 16 values of sub-block j.
#define Q6_K_BYTES 210

// Scale and minimum of Q4_K's sub-block j from its 12 packed bytes.
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

void q4_k_encode(const float *from, const float *importance, int64_t n, void *to);
void q6_k_encode(const float *from, const float *importance, int64_t n, void *to);

#endif
