// divergence.c: see divergence.h.
#include "common/tensor/divergence.h"

#include "common/base/error.h"
#include "common/tensor/vecmath.h"

const char *const divergence_names[DIVERGENCES] = {"kl", "reverse_kl", "js", "tv", "mse"};

double divergence_scale(enum divergence which, double temperature)
{
    static const int power[DIVERGENCES] = {[DIVERGENCE_KL] = 2, [DIVERGENCE_REVERSE_KL] = 2, [DIVERGENCE_JS] = 2, [DIVERGENCE_TV] = 1};
    return power[which] == 2 ? temperature * temperature : power[which] == 1 ? temperature : 1;
}

// What one entry adds to the divergence, and the divergence's slope in q there, up to what is the same for all entries.
struct term {
    float value, slope;
};
typedef struct term term_function(float log_q, float log_p, float beta);

static inline struct term reverse_kl(float log_q, float log_p, float beta)
{
    (void)beta;
    return (struct term){vec_exp(log_q) * (log_q - log_p), log_q - log_p};
}

// With log m the slope is (1 - b) log(q / m): what comes from m cancels.
static inline struct term js(float log_q, float log_p, float beta)
{
    const float p = vec_exp(log_p), q = vec_exp(log_q), log_m = vec_log(beta * p + (1 - beta) * q);
    return (struct term){beta * p * (log_p - log_m) + (1 - beta) * q * (log_q - log_m), (1 - beta) * (log_q - log_m)};
}

static inline struct term total_variation(float log_q, float log_p, float beta)
{
    (void)beta;
    const float d = vec_exp(log_q) - vec_exp(log_p);
    return (struct term){0.5f * fabsf(d), d > 0 ? 0.5f : d < 0 ? -0.5f : 0.0f};
}

// Through the softmax: dz = q (slope - sum q slope) / T. Inlined into one loop for each divergence.
static inline __attribute__((always_inline)) double through_softmax(const struct divergence_row *row, const struct divergence_sums *sums,
                                                                    double k, float *dz, term_function *term)
{
    const float inverse = (float)(1 / row->temperature), sum_s = (float)sums->log_sum_s, sum_t = (float)sums->log_sum_t;
    const float *zs = row->zs, *zt = row->zt, top_s = sums->top_s, top_t = sums->top_t, beta = (float)row->beta;
    double total = 0, mean = 0;
    for (int64_t i = 0; i < row->V; i += SUM_BLOCK) {
        const int64_t end = min_i64(row->V, i + SUM_BLOCK);
        float value = 0, slope = 0;
#pragma omp simd reduction(+ : value, slope)
        for (int64_t j = i; j < end; j++) {
            const float log_q = (zs[j] - top_s) * inverse - sum_s;
            const struct term t = term(log_q, (zt[j] - top_t) * inverse - sum_t, beta);
            value += t.value;
            slope += vec_exp(log_q) * t.slope;
        }
        total += (double)value;
        mean += (double)slope;
    }
    const float factor = (float)(k / row->temperature), middle = (float)mean;
#pragma omp simd
    for (int64_t j = 0; j < row->V; j++) {
        const float log_q = (zs[j] - top_s) * inverse - sum_s;
        dz[j] += factor * vec_exp(log_q) * (term(log_q, (zt[j] - top_t) * inverse - sum_t, beta).slope - middle);
    }
    return total;
}

static double mean_squared(const struct divergence_row *row, double k, float *dz)
{
    const float factor = (float)(2 * k / (double)row->V);
    double total = 0;
    for (int64_t i = 0; i < row->V; i++) {
        const float d = row->zs[i] - row->zt[i];
        total += (double)d * (double)d;
        dz[i] += factor * d;
    }
    return total / (double)row->V;
}

double divergence_add(enum divergence which, const struct divergence_row *row, const struct divergence_sums *sums, double k, float *dz)
{
    switch (which) {
    case DIVERGENCE_REVERSE_KL: return through_softmax(row, sums, k, dz, reverse_kl);
    case DIVERGENCE_JS: return through_softmax(row, sums, k, dz, js);
    case DIVERGENCE_TV: return through_softmax(row, sums, k, dz, total_variation);
    case DIVERGENCE_MSE: return mean_squared(row, k, dz);
    case DIVERGENCE_KL:
    case DIVERGENCES: break;
    }
    BUG("divergence %d", (int)which);
}
