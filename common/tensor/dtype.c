// dtype.c: arrays between the storage types, eight or sixteen values at a time. Bit for bit what the inline functions
// of dtype.h give, so that a tail done by them cannot be told from the rest.

#include "common/tensor/dtype.h"

#include <immintrin.h>

static void from_bf16(const uint16_t *from, float *to, int64_t n) {
    int64_t i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(from + i)));
        _mm256_storeu_ps(to + i, _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
    }
    for (; i < n; i++)
        to[i] = bf16_to_f32(from[i]);
}

// Eight values rounded, each in the low half of its 32 bits.
static inline __m256i round_bf16(const float *from) {
    __m256 f = _mm256_loadu_ps(from);
    __m256i u = _mm256_castps_si256(f);
    __m256i high = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    __m256i sum = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(f, f, _CMP_UNORD_Q));
    __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));

    return _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), quiet, nan);
}

static void to_bf16(const float *from, uint16_t *to, int64_t n) {
    int64_t i = 0;

    for (; i + 16 <= n; i += 16) {
        __m256i packed = _mm256_packus_epi32(round_bf16(from + i), round_bf16(from + i + 8));
        _mm256_storeu_si256((__m256i *)(to + i), _mm256_permute4x64_epi64(packed, 0xd8));
    }
    for (; i < n; i++)
        to[i] = f32_to_bf16(from[i]);
}

static void from_f16(const uint16_t *from, float *to, int64_t n) {
    int64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
    for (; i < n; i++)
        to[i] = f16_to_f32(from[i]);
}

static void to_f16(const float *from, uint16_t *to, int64_t n) {
    int64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < n; i++)
        to[i] = f32_to_f16(from[i]);
}

void dtype_to_f32(enum dtype type, const void *from, float *to, int64_t n) {
    if (type == DTYPE_F32)
        memcpy(to, from, (size_t)n * 4);
    else if (type == DTYPE_BF16)
        from_bf16(from, to, n);
    else
        from_f16(from, to, n);
}

void dtype_from_f32(enum dtype type, const float *from, void *to, int64_t n) {
    if (type == DTYPE_F32)
        memcpy(to, from, (size_t)n * 4);
    else if (type == DTYPE_BF16)
        to_bf16(from, to, n);
    else
        to_f16(from, to, n);
}
