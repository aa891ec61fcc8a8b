// blocks_k.c: encoders of Q4_K and Q6_K. The layouts are llama.cpp's; the search for scales is our own.
//
// Minimised is the plain squared error of the weights. For each sub-block some widths of the grid are tried, each
// improved by alternating between rounding and least squares; then the super-block's own scale (and minimum scale) is
// fitted to the integers by least squares, and every sub-block takes the best of the neighbouring 6- or 8-bit codes
// under it. The smallest error seen wins. Rounding is to nearest, ties to even; sums run over fixed lanes, so a row
// always gives the same bytes.
#include "quant/blocks_k.h"

#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "common/tensor/dtype.h"

static float sum8(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static float clamp_f(float v, float low, float high) { return v < low ? low : v > high ? high : v; }

// Q4_K

#define SUB4 32 // values of a sub-block
#define N_SUB4 8

struct sums4 {
    float error, q, qq, qx; // of the rounding against a grid: squared error, sum q, sum q^2, sum q x
};

// Integers of the grid scale * q - min nearest to x.
static __m256 round4(__m256 x, __m256 inverse, __m256 min)
{
    const __m256 q =
        _mm256_round_ps(_mm256_mul_ps(_mm256_add_ps(x, min), inverse), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm256_min_ps(_mm256_max_ps(q, _mm256_setzero_ps()), _mm256_set1_ps(15));
}

static struct sums4 measure4(const float *x, float scale, float min)
{
    const __m256 s = _mm256_set1_ps(scale), m = _mm256_set1_ps(min),
                 inverse = _mm256_set1_ps(scale > 0 ? 1 / scale : 0);
    __m256 error = _mm256_setzero_ps(), sq = error, sqq = error, sqx = error;
    for (int i = 0; i < SUB4; i += 8) {
        const __m256 v = _mm256_loadu_ps(x + i), q = round4(v, inverse, m);
        const __m256 rest = _mm256_sub_ps(v, _mm256_fmsub_ps(s, q, m));
        error = _mm256_fmadd_ps(rest, rest, error);
        sq = _mm256_add_ps(sq, q);
        sqq = _mm256_fmadd_ps(q, q, sqq);
        sqx = _mm256_fmadd_ps(q, v, sqx);
    }
    return (struct sums4){sum8(error), sum8(sq), sum8(sqq), sum8(sqx)};
}

static float error4(const float *x, float scale, float min)
{
    const __m256 s = _mm256_set1_ps(scale), m = _mm256_set1_ps(min),
                 inverse = _mm256_set1_ps(scale > 0 ? 1 / scale : 0);
    __m256 error = _mm256_setzero_ps();
    for (int i = 0; i < SUB4; i += 8) {
        const __m256 v = _mm256_loadu_ps(x + i);
        const __m256 rest = _mm256_sub_ps(v, _mm256_fmsub_ps(s, round4(v, inverse, m), m));
        error = _mm256_fmadd_ps(rest, rest, error);
    }
    return sum8(error);
}

// Least squares for scale and min >= 0 with the integers kept. x_total: sum of x.
static void solve4(const struct sums4 *s, float x_total, float *scale, float *min)
{
    const float determinant = SUB4 * s->qq - s->q * s->q; // integers below 2^24: exact
    if (determinant <= 0)
        return;
    const float slope = (SUB4 * s->qx - s->q * x_total) / determinant;
    const float offset = (slope * s->q - x_total) / SUB4;
    if (slope <= 0)
        return;
    *min = offset > 0 ? offset : 0;
    *scale = offset > 0 ? slope : fmaxf(s->qx / s->qq, 0);
}

// The best unquantized scale and min of one sub-block.
static void search4(const float *x, float *best_scale, float *best_min)
{
    float low = 0, high = x[0], total = 0;
    for (int i = 0; i < SUB4; i++) {
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
        total += x[i];
    }
    *best_min = -low;
    *best_scale = 0;
    if (!(high - low > 0))
        return; // one negative value throughout, or all zero
    float best = FLT_MAX;
    for (int c = -2; c <= 10; c++) { // a step below 15 widens the grid, above it cuts off the ends
        float scale = (high - low) / (15 + 0.5f * (float)c), min = -low;
        for (int round = 0; round < 3; round++) {
            const struct sums4 s = measure4(x, scale, min);
            if (s.error < best) {
                best = s.error;
                *best_scale = scale;
                *best_min = min;
            }
            solve4(&s, total, &scale, &min);
        }
    }
}

struct codes4 {
    float d, d_min; // f16 values
    uint8_t scale[N_SUB4], min[N_SUB4];
};

// Chooses the codes of all sub-blocks under d and d_min, near the wanted scales and minima; returns the squared
// error.
static float choose4(const float *x, const float *scale, const float *min, struct codes4 *c)
{
    float total = 0;
    for (int j = 0; j < N_SUB4; j++) {
        const float s0 = c->d > 0 ? rintf(scale[j] / c->d) : 0, m0 = c->d_min > 0 ? rintf(min[j] / c->d_min) : 0;
        float best = FLT_MAX;
        for (int ds = -1; ds <= 1; ds++)
            for (int dm = -1; dm <= 1; dm++) {
                const float s = clamp_f(s0 + (float)ds, 0, 63), m = clamp_f(m0 + (float)dm, 0, 63);
                const float error = error4(x + SUB4 * j, c->d * s, c->d_min * m);
                if (error < best) {
                    best = error;
                    c->scale[j] = (uint8_t)s;
                    c->min[j] = (uint8_t)m;
                }
            }
        total += best;
    }
    return total;
}

// Least squares for d and d_min with all integers kept.
static void refit4(const float *x, struct codes4 *c)
{
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0; // a = scale q, b = -min
    for (int j = 0; j < N_SUB4; j++) {
        const struct sums4 s = measure4(x + SUB4 * j, c->d * c->scale[j], c->d_min * c->min[j]);
        double sx = 0;
        for (int i = 0; i < SUB4; i++)
            sx += (double)x[SUB4 * j + i];
        const double f = c->scale[j], m = c->min[j];
        aa += f * f * (double)s.qq;
        ab -= f * m * (double)s.q;
        bb += m * m * SUB4;
        ax += f * (double)s.qx;
        bx -= m * sx;
    }
    const double determinant = aa * bb - ab * ab;
    double d = aa > 0 ? ax / aa : 0, d_min = 0;
    if (determinant > 1e-9 * aa * bb) {
        d = (ax * bb - bx * ab) / determinant;
        d_min = (bx * aa - ax * ab) / determinant;
    }
    if (d > 0 && d_min >= 0) {
        c->d = f16_to_f32(f32_to_f16((float)d));
        c->d_min = f16_to_f32(f32_to_f16((float)d_min));
    }
}

static void pack4(const float *x, const struct codes4 *c, uint8_t *b)
{
    const uint16_t d = f32_to_f16(c->d), d_min = f32_to_f16(c->d_min);
    memcpy(b, &d, 2);
    memcpy(b + 2, &d_min, 2);
    uint8_t *packed = b + 4;
    for (int j = 0; j < 4; j++) {
        packed[j] = (uint8_t)(c->scale[j] | (c->scale[j + 4] >> 4) << 6);
        packed[j + 4] = (uint8_t)(c->min[j] | (c->min[j + 4] >> 4) << 6);
        packed[j + 8] = (uint8_t)((c->scale[j + 4] & 15) | (c->min[j + 4] & 15) << 4);
    }
    for (int j = 0; j < N_SUB4; j++) {
        const float scale = c->d * c->scale[j];
        const __m256 min = _mm256_set1_ps(c->d_min * c->min[j]), inverse = _mm256_set1_ps(scale > 0 ? 1 / scale : 0);
        float q[SUB4];
        for (int i = 0; i < SUB4; i += 8)
            _mm256_storeu_ps(q + i, round4(_mm256_loadu_ps(x + SUB4 * j + i), inverse, min));
        uint8_t *to = b + 16 + 32 * (j / 2);
        for (int i = 0; i < SUB4; i++)
            to[i] = (uint8_t)(j % 2 ? to[i] | (int)q[i] << 4 : (int)q[i]);
    }
}

void q4_k_encode(const float *from, const float *importance, int64_t n, void *to)
{
    (void)importance;
    uint8_t *b = to;
    for (int64_t i = 0; i < n; i += SUPER_BLOCK, b += Q4_K_BYTES) {
        const float *x = from + i;
        float scale[N_SUB4], min[N_SUB4], max_scale = 0, max_min = 0;
        for (int j = 0; j < N_SUB4; j++) {
            search4(x + SUB4 * j, &scale[j], &min[j]);
            max_scale = fmaxf(max_scale, scale[j]);
            max_min = fmaxf(max_min, min[j]);
        }
        struct codes4 now = {.d = f16_to_f32(f32_to_f16(max_scale / 63)),
                             .d_min = f16_to_f32(f32_to_f16(max_min / 63))},
                      best;
        float best_error = choose4(x, scale, min, &now);
        best = now;
        for (int round = 0; round < 3; round++) {
            refit4(x, &now);
            const float error = choose4(x, scale, min, &now);
            if (error < best_error) {
                best_error = error;
                best = now;
            }
        }
        pack4(x, &best, b);
    }
}

// Q6_K

#define SUB6 16
#define N_SUB6 16

struct sums6 {
    float error, qq, qx;
};

static __m256 round6(__m256 x, __m256 inverse)
{
    const __m256 q = _mm256_round_ps(_mm256_mul_ps(x, inverse), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm256_min_ps(_mm256_max_ps(q, _mm256_set1_ps(-32)), _mm256_set1_ps(31));
}

static struct sums6 measure6(const float *x, float scale)
{
    const __m256 s = _mm256_set1_ps(scale), inverse = _mm256_set1_ps(scale != 0 ? 1 / scale : 0);
    __m256 error = _mm256_setzero_ps(), sqq = error, sqx = error;
    for (int i = 0; i < SUB6; i += 8) {
        const __m256 v = _mm256_loadu_ps(x + i), q = round6(v, inverse), rest = _mm256_fnmadd_ps(s, q, v);
        error = _mm256_fmadd_ps(rest, rest, error);
        sqq = _mm256_fmadd_ps(q, q, sqq);
        sqx = _mm256_fmadd_ps(q, v, sqx);
    }
    return (struct sums6){sum8(error), sum8(sqq), sum8(sqx)};
}

// The best unquantized scale of one sub-block; its sign says which end of the range is the longer one.
static float search6(const float *x)
{
    float largest = 0, best_scale = 0, best = FLT_MAX;
    for (int i = 0; i < SUB6; i++)
        largest = fabsf(x[i]) > fabsf(largest) ? x[i] : largest;
    if (largest == 0)
        return 0;
    for (int c = -8; c <= 8; c++) {
        float scale = largest / -(32 + 0.125f * (float)c);
        for (int round = 0; round < 2; round++) {
            const struct sums6 s = measure6(x, scale);
            if (s.error < best) {
                best = s.error;
                best_scale = scale;
            }
            scale = s.qq > 0 ? s.qx / s.qq : scale;
        }
    }
    return best_scale;
}

struct codes6 {
    float d; // f16 value
    int8_t scale[N_SUB6];
};

static float choose6(const float *x, const float *scale, struct codes6 *c)
{
    float total = 0;
    for (int j = 0; j < N_SUB6; j++) {
        const float s0 = c->d != 0 ? rintf(scale[j] / c->d) : 0;
        float best = FLT_MAX;
        for (int ds = -2; ds <= 2; ds++) {
            const float s = clamp_f(s0 + (float)ds, -128, 127);
            const float error = measure6(x + SUB6 * j, c->d * s).error;
            if (error < best) {
                best = error;
                c->scale[j] = (int8_t)s;
            }
        }
        total += best;
    }
    return total;
}

static void refit6(const float *x, struct codes6 *c)
{
    double aa = 0, ax = 0;
    for (int j = 0; j < N_SUB6; j++) {
        const struct sums6 s = measure6(x + SUB6 * j, c->d * c->scale[j]);
        const double f = c->scale[j];
        aa += f * f * (double)s.qq;
        ax += f * (double)s.qx;
    }
    if (aa > 0)
        c->d = f16_to_f32(f32_to_f16((float)(ax / aa)));
}

static void pack6(const float *x, const struct codes6 *c, uint8_t *b)
{
    const uint16_t d = f32_to_f16(c->d);
    memset(b, 0, 192);
    memcpy(b + 192, c->scale, N_SUB6);
    memcpy(b + 208, &d, 2);
    for (int j = 0; j < N_SUB6; j++) {
        const float scale = c->d * c->scale[j];
        const __m256 inverse = _mm256_set1_ps(scale != 0 ? 1 / scale : 0);
        float q[SUB6];
        for (int i = 0; i < SUB6; i += 8)
            _mm256_storeu_ps(q + i, round6(_mm256_loadu_ps(x + SUB6 * j + i), inverse));
        const int half = j / 8, r = j / 2 % 4;
        uint8_t *low = b + 64 * half + 32 * (r % 2) + j % 2 * 16, *high = b + 128 + 32 * half + j % 2 * 16;
        for (int i = 0; i < SUB6; i++) {
            const int v = (int)q[i] + 32;
            low[i] = (uint8_t)(low[i] | (v & 15) << r / 2 * 4);
            high[i] = (uint8_t)(high[i] | v >> 4 << 2 * r);
        }
    }
}

void q6_k_encode(const float *from, const float *importance, int64_t n, void *to)
{
    (void)importance;
    uint8_t *b = to;
    for (int64_t i = 0; i < n; i += SUPER_BLOCK, b += Q6_K_BYTES) {
        const float *x = from + i;
        float scale[N_SUB6], largest = 0;
        for (int j = 0; j < N_SUB6; j++) {
            scale[j] = search6(x + SUB6 * j);
            largest = fabsf(scale[j]) > fabsf(largest) ? scale[j] : largest;
        }
        struct codes6 now = {.d = f16_to_f32(f32_to_f16(largest / -128))}, best;
        float best_error = choose6(x, scale, &now);
        best = now;
        for (int round = 0; round < 2; round++) {
            refit6(x, &now);
            const float error = choose6(x, scale, &now);
            if (error < best_error) {
                best_error = error;
                best = now;
            }
        }
        pack6(x, &best, b);
    }
}
