// feature_hidden.c: losses that compare hidden states row by row: mean squared error, cosine, PKD's squared error of normalised states.
//
// All are means over the counted rows. The error's gradient lies in rows of its own, so rows are shared out among threads; their losses
// are added in order.
#include "common/tensor/vecmath.h"
#include "distill/feature.h"

// Returns the loss of one row x [D] beside t [D] and, with dx, adds k times its gradient.
typedef double row_function(const float *x, const float *t, int64_t D, double k, float *dx);

static double mean_over_rows(struct arena *arena, const struct feature_input *in, double k, float *gradient, row_function *function)
{
    const int64_t R = in->start[in->n_group], D = tensor_columns(in->student[0]);
    const float *x = in->student[0]->data, *t = in->teacher[0]->data;
    const size_t mark = arena_mark(arena);
    double *loss = arena_alloc(arena, (size_t)R * sizeof *loss), sum = 0;
#pragma omp parallel for schedule(static) if (R * D > PARALLEL_MIN)
    for (int64_t r = 0; r < R; r++) {
        const int64_t at = in->row[r] * D;
        loss[r] = function(x + at, t + at, D, k / (double)R, gradient ? gradient + at : NULL);
    }
    for (int64_t r = 0; r < R; r++)
        sum += loss[r];
    arena_reset(arena, mark);
    return sum / (double)R;
}

static double squared_error(const float *x, const float *t, int64_t D, double k, float *dx)
{
    const float factor = (float)(2 * k / (double)D);
    double sum = 0;
    for (int64_t i = 0; i < D; i++) {
        const double d = (double)x[i] - (double)t[i];
        sum += d * d;
    }
    for (int64_t i = 0; dx && i < D; i++)
        dx[i] += factor * (x[i] - t[i]);
    return sum / (double)D;
}

// 1/(R D) sum (x - t)^2 (FitNets, Romero et al. 2015, equation 3; TinyBERT, Jiao et al. 2020, equations 8 and 9).
double hidden_mse(struct arena *arena, const struct feature_input *in, double k, float *const gradient[2])
{
    return mean_over_rows(arena, in, k, gradient[0], squared_error);
}

#define LEAST_NORM 1e-12 // of a row; a shorter one has no direction, and no gradient

// 1 - cos(x, t); its gradient is that of scale/2 |x/|x| - t/|t||^2 for scale 1: both losses here are multiples of one another, for
// |x/|x| - t/|t||^2 = 2 - 2 cos.
static double directions(const float *x, const float *t, int64_t D, double k, float *dx)
{
    const double norm_x = sqrt(vec_dot(x, x, D)), norm_t = sqrt(vec_dot(t, t, D));
    if (norm_x < LEAST_NORM || norm_t < LEAST_NORM)
        return 1;
    const double cosine = vec_dot(x, t, D) / (norm_x * norm_t);
    const float of_t = (float)(-k / (norm_x * norm_t)), of_x = (float)(k * cosine / (norm_x * norm_x));
    for (int64_t i = 0; dx && i < D; i++)
        dx[i] += of_t * t[i] + of_x * x[i];
    return 1 - cosine;
}

// 1/R sum (1 - cos(x, t)) (DistilBERT, Sanh et al. 2019, section 3).
double hidden_cosine(struct arena *arena, const struct feature_input *in, double k, float *const gradient[2])
{
    return mean_over_rows(arena, in, k, gradient[0], directions);
}

// 1/R sum |x/|x| - t/|t||^2 (Patient Knowledge Distillation, Sun et al. 2019, equation 7, there on first tokens).
double hidden_pkd(struct arena *arena, const struct feature_input *in, double k, float *const gradient[2])
{
    return 2 * mean_over_rows(arena, in, 2 * k, gradient[0], directions);
}
