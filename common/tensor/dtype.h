// dtype.h: the three float storage types of checkpoints, and conversion to and from f32.
#ifndef PDQ_DTYPE_H
#define PDQ_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };

static inline size_t dtype_size(enum dtype t) { return t == DTYPE_F32 ? 4 : 2; }

static inline float bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

// Round to nearest, ties to even; NaN stays NaN.
static inline uint16_t f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    uint32_t quiet_nan = (u >> 16) | 0x40;
    return (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? quiet_nan : rounded);
}

static inline float f16_to_f32(uint16_t h)
{
    return (float)__builtin_ia32_vcvtph2ps((__attribute__((vector_size(16))) short){(short)h})[0];
}

static inline uint16_t f32_to_f16(float f)
{
    return (uint16_t)__builtin_ia32_vcvtps2ph((__attribute__((vector_size(16))) float){f}, 0)[0];
}

// Arrays: n values; source and destination must not overlap.
void dtype_to_f32(enum dtype type, const void *from, float *to, int64_t n);
void dtype_from_f32(enum dtype type, const float *from, void *to, int64_t n);

#endif
