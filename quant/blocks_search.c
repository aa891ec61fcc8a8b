// blocks_search.c: widths tried, integers improved by least squares, codes of super-blocks chosen.
//
// For every sub-block some widths of the grid are tried. Each gives integers, and those the best scale (and minimum) by
// least squares; the smallest error wins. Then a super-block's own d (and d_min) is fitted to all its integers, again by
// least squares, and every sub-block takes the best of the neighbouring codes under it. Rounding is to nearest, ties to
// even.
//
// All sums are of residuals r = x - value, because they stay small: with integers q kept, changing the scale by s and
// the minimum by m changes the error by -2 (s sum(r q) - m sum(r)) + s^2 sum(q^2) - 2 s m sum(q) + m^2 sum(1), every
// sum weighted.
//
// The file is compiled once for AVX2 and, by blocks_search_avx512.c, once for AVX-512.
#include "quant/blocks_search.h"

#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "common/tensor/dtype.h"

#define INLINE static inline __attribute__((always_inline))

#ifdef SEARCH_AVX512
#define LANES 16
#define NAME(x) x##_avx512
typedef __m512 vec;
typedef __mmask16 mask;
INLINE vec v_set(float f) { return _mm512_set1_ps(f); }
INLINE vec v_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void v_store(float *p, vec v) { _mm512_storeu_ps(p, v); }
INLINE vec v_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vec v_fnma(vec a, vec b, vec c) { return _mm512_fnmadd_ps(a, b, c); }
INLINE vec v_min(vec a, vec b) { return _mm512_min_ps(a, b); }
INLINE vec v_max(vec a, vec b) { return _mm512_max_ps(a, b); }
INLINE vec v_abs(vec a) { return _mm512_abs_ps(a); }
INLINE vec v_round(vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE mask v_less(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
INLINE mask m_and(mask a, mask b) { return a & b; }
INLINE vec v_if(mask m, vec yes, vec no) { return _mm512_mask_blend_ps(m, no, yes); }
INLINE vec v_look_up(const float *table, vec at) { return _mm512_i32gather_ps(_mm512_cvttps_epi32(at), table, 4); }
#else
#define LANES 8
#define NAME(x) x##_avx2
typedef __m256 vec;
typedef __m256 mask;
INLINE vec v_set(float f) { return _mm256_set1_ps(f); }
INLINE vec v_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void v_store(float *p, vec v) { _mm256_storeu_ps(p, v); }
INLINE vec v_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vec v_fnma(vec a, vec b, vec c) { return _mm256_fnmadd_ps(a, b, c); }
INLINE vec v_min(vec a, vec b) { return _mm256_min_ps(a, b); }
INLINE vec v_max(vec a, vec b) { return _mm256_max_ps(a, b); }
INLINE vec v_abs(vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
INLINE vec v_round(vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE mask v_less(vec a, vec b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
INLINE mask m_and(mask a, mask b) { return _mm256_and_ps(a, b); }
INLINE vec v_if(mask m, vec yes, vec no) { return _mm256_blendv_ps(no, yes, m); }
INLINE vec v_look_up(const float *table, vec at) { return _mm256_i32gather_ps(table, _mm256_cvttps_epi32(at), 4); }
#endif

// 1 / scale; 0 where it would not be finite.
INLINE vec v_inverse(vec scale) { return v_if(v_less(v_set(FLT_MIN * 4), v_abs(scale)), v_set(1) / scale, v_set(0)); }

INLINE vec clamp(vec v, vec low, vec high) { return v_min(v_max(v, low), high); }

// v times the weights of value i of each sub-block.
INLINE vec weigh(const struct search_batch *b, int i, int at, int weighted, vec v)
{
    return weighted ? (vec)(v_load(&b->w[i][at]) * v) : v;
}

// Scales with a minimum

struct affine_sums {
    vec error, q, qq, r, rq;
};

INLINE vec affine_round(vec above, vec inverse, vec top) { return clamp(v_round(above * inverse), v_set(0), top); }

INLINE struct affine_sums affine_measure(const struct search_batch *b, int at, int weighted, vec scale, vec min, vec top)
{
    const vec inverse = v_inverse(scale), zero = v_set(0);
    struct affine_sums s = {zero, zero, zero, zero, zero};
    for (int i = 0; i < b->values; i++) {
        const vec above = v_load(&b->x[i][at]) + min, q = affine_round(above, inverse, top), r = v_fnma(scale, q, above);
        const vec wq = weigh(b, i, at, weighted, q), wr = weigh(b, i, at, weighted, r);
        s.error = v_fma(wr, r, s.error);
        s.q = s.q + wq;
        s.qq = v_fma(wq, q, s.qq);
        s.r = s.r + wr;
        s.rq = v_fma(wr, q, s.rq);
    }
    return s;
}

INLINE vec affine_error(const struct search_batch *b, int at, int weighted, vec scale, vec min, vec top)
{
    const vec inverse = v_inverse(scale);
    vec error = v_set(0);
    for (int i = 0; i < b->values; i++) {
        const vec above = v_load(&b->x[i][at]) + min, r = v_fnma(scale, affine_round(above, inverse, top), above);
        error = v_fma(weigh(b, i, at, weighted, r), r, error);
    }
    return error;
}

// Least squares with the integers kept; returns the error that it leaves. least: of the minimum.
INLINE vec affine_solve(const struct affine_sums *s, vec weight, vec least, vec *scale, vec *min)
{
    const vec determinant = weight * s->qq - s->q * s->q, zero = v_set(0);
    const vec inverse = v_inverse(determinant);
    vec ds = (weight * s->rq - s->q * s->r) * inverse, dm = (s->q * s->rq - s->qq * s->r) * inverse;
    const mask cut = v_less(*min + dm, least); // then the minimum is `least`, and the scale the best beside it
    dm = v_if(cut, least - *min, dm);
    ds = v_if(cut, v_fma(dm, s->q, s->rq) * v_inverse(s->qq), ds);
    const mask good = m_and(v_less(v_set(1e-6f) * weight * s->qq, determinant), v_less(zero, *scale + ds));
    ds = v_if(good, ds, zero);
    dm = v_if(good, dm, zero);
    *scale = *scale + ds;
    *min = *min + dm;
    const vec gain = ds * s->rq - dm * s->r;
    return s->error - (gain + gain) + ds * (ds * s->qq - (dm + dm) * s->q) + dm * dm * weight;
}

struct affine_start {
    vec low, range, weight;
};

INLINE struct affine_start affine_bounds(const struct search_batch *b, int at, int weighted, int any_sign)
{
    vec low = any_sign ? v_load(&b->x[0][at]) : v_set(0), high = v_load(&b->x[0][at]), weight = v_set(0);
    for (int i = 0; i < b->values; i++) {
        low = v_min(low, v_load(&b->x[i][at]));
        high = v_max(high, v_load(&b->x[i][at]));
        weight = weight + weigh(b, i, at, weighted, v_set(1));
    }
    return (struct affine_start){low, high - low, weight};
}

// The best scale and minimum of each sub-block, not rounded.
INLINE void affine_search(const struct search_batch *b, int at, int weighted, const struct affine_grid *g, vec *best_scale,
                          vec *best_min)
{
    const struct affine_start start = affine_bounds(b, at, weighted, !g->scale_top);
    const vec top = v_set((float)g->top), least = v_set(g->scale_top ? 0 : -FLT_MAX);
    vec best = v_set(FLT_MAX);
    *best_scale = start.range * v_set(1 / (float)g->top);
    *best_min = v_set(0) - start.low;
    for (int k = 0; k < g->widths; k++) {
        vec scale = start.range * v_set(1 / (g->narrow + g->step * (float)k)), min = v_set(0) - start.low;
        for (int round = 0; round < 2; round++) {
            const struct affine_sums s = affine_measure(b, at, weighted, scale, min, top);
            const vec error = affine_solve(&s, start.weight, least, &scale, &min);
            const mask better = v_less(error, best);
            best = v_if(better, error, best);
            *best_scale = v_if(better, scale, *best_scale);
            *best_min = v_if(better, min, *best_min);
        }
    }
    const struct affine_sums s = affine_measure(b, at, weighted, *best_scale, *best_min, top);
    affine_solve(&s, start.weight, least, best_scale, best_min);
}

// The best codes near the wanted scales and minima under r's d and d_min; error: [BATCH].
INLINE void affine_choose(const struct search_batch *b, int at, int weighted, const struct affine_grid *g,
                          const float *scale, const float *min, struct search_result *r, float *error)
{
    const vec d = v_load(r->d + at), d_min = v_load(r->d_min + at), top = v_set((float)g->top), zero = v_set(0);
    const vec s0 = v_round(v_load(scale + at) * v_inverse(d)), m0 = v_round(v_load(min + at) * v_inverse(d_min));
    vec best = v_set(FLT_MAX), code = zero, min_code = zero;
    for (int ds = -1; ds <= 1; ds++)
        for (int dm = -1; dm <= 1; dm++) {
            const vec s = clamp(s0 + v_set((float)ds), zero, v_set((float)g->scale_top)),
                      m = clamp(m0 + v_set((float)dm), zero, v_set((float)g->min_top));
            const vec e = affine_error(b, at, weighted, d * s, d_min * m, top);
            const mask better = v_less(e, best);
            best = v_if(better, e, best);
            code = v_if(better, s, code);
            min_code = v_if(better, m, min_code);
        }
    v_store(r->code + at, code);
    v_store(r->min_code + at, min_code);
    v_store(error + at, best);
}

struct affine_moments { // of each sub-block
    float q[BATCH], qq[BATCH], r[BATCH], rq[BATCH], weight[BATCH];
};

INLINE void affine_moments(const struct search_batch *b, int at, int weighted, const struct affine_grid *g,
                           const struct search_result *r, struct affine_moments *to)
{
    const vec scale = v_load(r->d + at) * v_load(r->code + at), min = v_load(r->d_min + at) * v_load(r->min_code + at);
    const struct affine_sums s = affine_measure(b, at, weighted, scale, min, v_set((float)g->top));
    vec weight = v_set(0);
    for (int i = 0; i < b->values; i++)
        weight = weight + weigh(b, i, at, weighted, v_set(1));
    v_store(to->q + at, s.q);
    v_store(to->qq + at, s.qq);
    v_store(to->r + at, s.r);
    v_store(to->rq + at, s.rq);
    v_store(to->weight + at, weight);
}

// Least squares for d and d_min of the super-block in lanes first .. first+n-1, integers and codes kept.
static void affine_refit(const struct affine_moments *m, int first, int n, struct search_result *r)
{
    double aa = 0, ab = 0, bb = 0, ra = 0, rb = 0; // a = code * q, b = -min_code
    for (int l = first; l < first + n; l++) {
        const double s = (double)r->code[l], c = (double)r->min_code[l];
        aa += s * s * (double)m->qq[l];
        ab -= s * c * (double)m->q[l];
        bb += c * c * (double)m->weight[l];
        ra += s * (double)m->rq[l];
        rb -= c * (double)m->r[l];
    }
    const double determinant = aa * bb - ab * ab;
    double d = (double)r->d[first], d_min = (double)r->d_min[first];
    if (determinant > 1e-9 * aa * bb) {
        d += (ra * bb - rb * ab) / determinant;
        d_min += (rb * aa - ra * ab) / determinant;
    } else if (aa > 0) {
        d += ra / aa;
    }
    if (!(d > 0 && d_min >= 0 && d < 65504 && d_min < 65504))
        return;
    for (int l = first; l < first + n; l++) {
        r->d[l] = f16_to_f32(f32_to_f16((float)d));
        r->d_min[l] = f16_to_f32(f32_to_f16((float)d_min));
    }
}

static float lane_max(const float *v, int n)
{
    float largest = 0;
    for (int l = 0; l < n; l++)
        largest = fmaxf(largest, v[l]);
    return largest;
}

static float lane_sum(const float *v, int n)
{
    float sum = 0;
    for (int l = 0; l < n; l++)
        sum += v[l];
    return sum;
}

static void copy_lanes(const struct search_result *from, int first, int n, struct search_result *to)
{
    const size_t bytes = (size_t)n * sizeof(float);
    memcpy(to->d + first, from->d + first, bytes);
    memcpy(to->d_min + first, from->d_min + first, bytes);
    memcpy(to->code + first, from->code + first, bytes);
    memcpy(to->min_code + first, from->min_code + first, bytes);
}

// d, d_min and codes of super-blocks of n sub-blocks.
INLINE void affine_codes(const struct search_batch *b, int weighted, const struct affine_grid *g, const float *scale,
                         const float *min, struct search_result *best)
{
    const int n = 256 / b->values;
    struct search_result now = {0};
    float error[BATCH], best_error[BATCH];
    for (int first = 0; first < b->lanes; first += n) {
        const float d = f16_to_f32(f32_to_f16(lane_max(scale + first, n) / (float)g->scale_top)),
                    d_min = f16_to_f32(f32_to_f16(lane_max(min + first, n) / (float)g->min_top));
        for (int l = first; l < first + n; l++) {
            now.d[l] = d;
            now.d_min[l] = d_min;
        }
    }
    for (int round = 0; round < 3; round++) {
        struct affine_moments m;
        for (int at = 0; at < b->lanes; at += LANES)
            affine_choose(b, at, weighted, g, scale, min, &now, error);
        for (int first = 0; first < b->lanes; first += n)
            if (round == 0 || lane_sum(error + first, n) < lane_sum(best_error + first, n)) {
                copy_lanes(&now, first, n, best);
                memcpy(best_error + first, error + first, (size_t)n * sizeof(float));
            }
        for (int at = 0; at < b->lanes && round < 2; at += LANES)
            affine_moments(b, at, weighted, g, &now, &m);
        for (int first = 0; first < b->lanes && round < 2; first += n)
            affine_refit(&m, first, n, &now);
    }
}

static void affine_integers(const struct search_batch *b, const struct affine_grid *g, struct search_result *r)
{
    for (int at = 0; at < b->lanes; at += LANES) {
        vec scale = v_load(r->d + at), min = v_load(r->d_min + at);
        if (g->scale_top) {
            scale = scale * v_load(r->code + at);
            min = min * v_load(r->min_code + at);
        }
        const vec inverse = v_inverse(scale);
        for (int i = 0; i < b->values; i++) {
            float q[LANES];
            v_store(q, affine_round(v_load(&b->x[i][at]) + min, inverse, v_set((float)g->top)));
            for (int l = 0; l < LANES; l++)
                r->q[i][at + l] = (uint8_t)q[l];
        }
    }
}

INLINE void affine_all(const struct search_batch *b, int weighted, const struct affine_grid *g, struct search_result *r)
{
    float scale[BATCH], min[BATCH];
    for (int at = 0; at < b->lanes; at += LANES) {
        vec s, m;
        affine_search(b, at, weighted, g, &s, &m);
        v_store(scale + at, s);
        v_store(min + at, m);
    }
    if (g->scale_top)
        affine_codes(b, weighted, g, scale, min, r);
    else
        for (int l = 0; l < b->lanes; l++) {
            r->d[l] = f16_to_f32(f32_to_f16(scale[l]));
            r->d_min[l] = f16_to_f32(f32_to_f16(min[l]));
        }
    affine_integers(b, g, r);
}

void NAME(search_affine)(const struct search_batch *b, const struct affine_grid *g, struct search_result *r)
{
    if (b->weighted)
        affine_all(b, 1, g, r);
    else
        affine_all(b, 0, g, r);
}

// Levels on both sides of zero

struct level_sums {
    vec error, vv, rv; // v: the level
};

// The level nearest to x * inverse.
INLINE vec level_round(vec x, vec inverse, const struct iq4_tables *iq4, vec low, vec high)
{
    const vec v = x * inverse;
    if (!iq4)
        return clamp(v_round(v), low, high);
    // Half-way points of IQ4's levels are multiples of 1/2: cells of that width have one nearest level each.
    return v_look_up(iq4->nearest, clamp(v_fma(v, v_set(2), v_set(256)), v_set(0), v_set(511)));
}

INLINE struct level_sums level_measure(const struct search_batch *b, int at, int weighted, const struct iq4_tables *iq4, vec scale, vec low,
                                       vec high)
{
    const vec inverse = v_inverse(scale), zero = v_set(0);
    struct level_sums s = {zero, zero, zero};
    for (int i = 0; i < b->values; i++) {
        const vec x = v_load(&b->x[i][at]), v = level_round(x, inverse, iq4, low, high), r = v_fnma(scale, v, x);
        const vec wv = weigh(b, i, at, weighted, v), wr = weigh(b, i, at, weighted, r);
        s.error = v_fma(wr, r, s.error);
        s.vv = v_fma(wv, v, s.vv);
        s.rv = v_fma(wr, v, s.rv);
    }
    return s;
}

// The value of largest magnitude, with its sign.
INLINE vec level_largest(const struct search_batch *b, int at)
{
    vec largest = v_set(0);
    for (int i = 0; i < b->values; i++) {
        const vec x = v_load(&b->x[i][at]);
        largest = v_if(v_less(v_abs(largest), v_abs(x)), x, largest);
    }
    return largest;
}

INLINE vec level_search(const struct search_batch *b, int at, int weighted, const struct iq4_tables *iq4,
                        const struct level_grid *g)
{
    const vec largest = level_largest(b, at), low = v_set(g->low), high = v_set(g->high);
    vec best = v_set(FLT_MAX), best_scale = largest * v_set(1 / g->low);
    for (int k = 0; k < g->widths * g->sides; k++) {
        const float end = k % g->sides ? -g->low : g->low;
        vec scale = largest * v_set(1 / (end * (g->narrow + g->step * (float)(k / g->sides))));
        for (int round = 0; round < 1 + weighted; round++) { // a second one gains little where all values count alike
            const struct level_sums s = level_measure(b, at, weighted, iq4, scale, low, high);
            const vec change = s.rv * v_inverse(s.vv), error = v_fnma(change, s.rv, s.error);
            const mask better = v_less(error, best);
            best = v_if(better, error, best);
            scale = scale + change;
            best_scale = v_if(better, scale, best_scale);
        }
    }
    const struct level_sums s = level_measure(b, at, weighted, iq4, best_scale, low, high);
    return v_fma(s.rv, v_inverse(s.vv), best_scale);
}

INLINE void level_choose(const struct search_batch *b, int at, int weighted, const struct iq4_tables *iq4, const struct level_grid *g,
                         const float *scale, struct search_result *r, float *error)
{
    const vec d = v_load(r->d + at), s0 = v_round(v_load(scale + at) * v_inverse(d));
    vec best = v_set(FLT_MAX), code = v_set(0);
    for (int ds = -1; ds <= 1; ds++) {
        const vec s = clamp(s0 + v_set((float)ds), v_set((float)g->code_low), v_set((float)g->code_high));
        const vec e = level_measure(b, at, weighted, iq4, d * s, v_set(g->low), v_set(g->high)).error;
        const mask better = v_less(e, best);
        best = v_if(better, e, best);
        code = v_if(better, s, code);
    }
    v_store(r->code + at, code);
    v_store(error + at, best);
}

struct level_moments {
    float vv[BATCH], rv[BATCH];
};

INLINE void level_moments(const struct search_batch *b, int at, int weighted, const struct iq4_tables *iq4, const struct level_grid *g,
                          const struct search_result *r, struct level_moments *to)
{
    const vec scale = v_load(r->d + at) * v_load(r->code + at);
    const struct level_sums s = level_measure(b, at, weighted, iq4, scale, v_set(g->low), v_set(g->high));
    v_store(to->vv + at, s.vv);
    v_store(to->rv + at, s.rv);
}

static void level_refit(const struct level_moments *m, int first, int n, struct search_result *r)
{
    double aa = 0, ra = 0; // a = code * level
    for (int l = first; l < first + n; l++) {
        aa += (double)r->code[l] * (double)r->code[l] * (double)m->vv[l];
        ra += (double)r->code[l] * (double)m->rv[l];
    }
    const double d = aa > 0 ? (double)r->d[first] + ra / aa : 0;
    if (!(fabs(d) > 0 && fabs(d) < 65504))
        return;
    for (int l = first; l < first + n; l++)
        r->d[l] = f16_to_f32(f32_to_f16((float)d));
}

INLINE void level_codes(const struct search_batch *b, int weighted, const struct iq4_tables *iq4, const struct level_grid *g,
                        const float *scale, struct search_result *best)
{
    const int n = 256 / b->values;
    struct search_result now = {0};
    float error[BATCH], best_error[BATCH];
    for (int first = 0; first < b->lanes; first += n) {
        float largest = 0;
        for (int l = first; l < first + n; l++)
            largest = fabsf(scale[l]) > fabsf(largest) ? scale[l] : largest;
        for (int l = first; l < first + n; l++)
            now.d[l] = f16_to_f32(f32_to_f16(largest / (float)g->code_low));
    }
    for (int round = 0; round < 3; round++) {
        struct level_moments m;
        for (int at = 0; at < b->lanes; at += LANES)
            level_choose(b, at, weighted, iq4, g, scale, &now, error);
        for (int first = 0; first < b->lanes; first += n)
            if (round == 0 || lane_sum(error + first, n) < lane_sum(best_error + first, n)) {
                copy_lanes(&now, first, n, best);
                memcpy(best_error + first, error + first, (size_t)n * sizeof(float));
            }
        for (int at = 0; at < b->lanes && round < 2; at += LANES)
            level_moments(b, at, weighted, iq4, g, &now, &m);
        for (int first = 0; first < b->lanes && round < 2; first += n)
            level_refit(&m, first, n, &now);
    }
}

static void level_integers(const struct search_batch *b, const struct iq4_tables *iq4, const struct level_grid *g,
                           struct search_result *r)
{
    for (int at = 0; at < b->lanes; at += LANES) {
        vec scale = v_load(r->d + at);
        if (g->code_low)
            scale = scale * v_load(r->code + at);
        const vec inverse = v_inverse(scale);
        for (int i = 0; i < b->values; i++) {
            float v[LANES];
            v_store(v, level_round(v_load(&b->x[i][at]), inverse, iq4, v_set(g->low), v_set(g->high)));
            for (int l = 0; l < LANES; l++)
                r->q[i][at + l] = (uint8_t)(iq4 ? iq4->index[(int)v[l] + 128] : (int)(v[l] - g->low));
        }
    }
}

INLINE void level_all(const struct search_batch *b, int weighted, const struct iq4_tables *iq4, const struct level_grid *g,
                      struct search_result *r)
{
    float scale[BATCH];
    for (int at = 0; at < b->lanes; at += LANES)
        v_store(scale + at, level_search(b, at, weighted, iq4, g));
    if (g->code_low)
        level_codes(b, weighted, iq4, g, scale, r);
    else
        for (int l = 0; l < b->lanes; l++)
            r->d[l] = f16_to_f32(f32_to_f16(scale[l]));
    level_integers(b, iq4, g, r);
}

void NAME(search_levels)(const struct search_batch *b, const struct level_grid *g, struct search_result *r)
{
    if (b->weighted && g->iq4)
        level_all(b, 1, iq4_tables(), g, r);
    else if (b->weighted)
        level_all(b, 1, NULL, g, r);
    else if (g->iq4)
        level_all(b, 0, iq4_tables(), g, r);
    else
        level_all(b, 0, NULL, g, r);
}
