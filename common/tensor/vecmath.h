// vecmath.h: the few functions that inner loops need, written so that the compiler can put them into vector lanes.
#ifndef PDQ_VECMATH_H
#define PDQ_VECMATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

// exp(x), relative error below 2e-7 on [-87, 88]; below it stays near 1e-38, above it saturates near 1e38.
// x = n ln 2 + r with |r| <= ln 2 / 2, exp(r) by a polynomial of degree 6.
static inline float vec_exp(float x)
{
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = rintf(x * 1.44269504f);
    float r = fmaf(n, -0.693145752f, x);
    r = fmaf(n, -1.42860677e-6f, r);
    float p = 1.38888889e-3f;
    p = fmaf(p, r, 8.33333333e-3f);
    p = fmaf(p, r, 4.16666667e-2f);
    p = fmaf(p, r, 1.66666667e-1f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    uint32_t bits = (uint32_t)((int32_t)n + 127) << 23; // a NaN gives any scale; p is NaN then
    float scale;
    memcpy(&scale, &bits, 4);
    return p * scale;
}

// log(x) of a normal x > 0, relative error below 2e-7 (near 1: absolute 6e-8). x = m 2^n with m in [sqrt(1/2), sqrt(2)),
// log m = 2 atanh(r), r = (m - 1) / (m + 1), by its series up to r^9: what is left is below 1e-9.
static inline float vec_log(float x)
{
    int32_t bits;
    memcpy(&bits, &x, 4);
    bits -= 0x3f3504f3; // sqrt(1/2)
    const float n = (float)(bits >> 23);
    bits = (bits & 0x7fffff) + 0x3f3504f3;
    float m;
    memcpy(&m, &bits, 4);
    const float r = (m - 1) / (m + 1), square = r * r;
    float p = 1.0f / 9;
    p = fmaf(p, square, 1.0f / 7);
    p = fmaf(p, square, 1.0f / 5);
    p = fmaf(p, square, 1.0f / 3);
    p = fmaf(p, square, 1.0f);
    return fmaf(n, 0.693147181f, 2 * r * p);
}

static inline float vec_sigmoid(float x) { return 1.0f / (1.0f + vec_exp(-x)); }

// Absolute error below 3e-7; relative to small results it is larger.
static inline float vec_tanh(float x) { return 1.0f - 2.0f / (1.0f + vec_exp(2.0f * x)); }

// Sums are taken in f32 over blocks this long and then in double: fast, and exact enough for a loss.
#define SUM_BLOCK 256

// Loops over fewer elements are done by the calling thread: waking others costs more (decoding has many of them).
#define PARALLEL_MIN 8192

static inline int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max_i64(int64_t a, int64_t b) { return a > b ? a : b; }

static inline float vec_max(const float *x, int64_t n)
{
    enum { LANES = 16 }; // by hand: clang does not vectorize a maximum of floats, whatever the pragma says
    float lane[LANES], m = -INFINITY;
    const int64_t whole = n - n % LANES;
    for (int k = 0; k < LANES; k++)
        lane[k] = -INFINITY;
    for (int64_t i = 0; i < whole; i += LANES)
#pragma omp simd
        for (int k = 0; k < LANES; k++)
            lane[k] = x[i + k] > lane[k] ? x[i + k] : lane[k];
    for (int k = 0; k < LANES; k++)
        m = lane[k] > m ? lane[k] : m;
    for (int64_t i = whole; i < n; i++)
        m = x[i] > m ? x[i] : m;
    return m;
}

static inline double vec_dot(const float *a, const float *b, int64_t n)
{
    double total = 0;
    for (int64_t i = 0; i < n; i += SUM_BLOCK) {
        float s = 0;
        const int64_t end = min_i64(n, i + SUM_BLOCK);
#pragma omp simd reduction(+ : s)
        for (int64_t j = i; j < end; j++)
            s += a[j] * b[j];
        total += (double)s;
    }
    return total;
}

#endif
