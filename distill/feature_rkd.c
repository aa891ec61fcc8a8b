// feature_rkd.c: relational knowledge distillation (Park et al. 2019): distances between two samples (section 3.2.1) and angles between
// three (section 3.2.2), each compared by Huber's loss with delta 1.
//
//   distances  |x_i - x_j| / mean over the pairs of |x_i - x_j|
//   angles     cos of the angle at j between i and k: <e_ij, e_kj>, e_ij = (x_i - x_j) / |x_i - x_j|
//
// Losses are means over the pairs and triples of different samples, where the paper has sums. Samples that coincide give no gradient.
#include <math.h>
#include <string.h>

#include "common/tensor/vecmath.h"
#include "distill/feature_samples.h"

static double huber(double d, double *slope)
{
    *slope = d > 1 ? 1 : d < -1 ? -1 : d;
    return fabs(d) <= 1 ? 0.5 * d * d : fabs(d) - 0.5;
}

static double distance(const float *a, const float *b, int64_t D)
{
    double sum = 0;
    for (int64_t d = 0; d < D; d++) {
        const double gap = (double)a[d] - (double)b[d];
        sum += gap * gap;
    }
    return sqrt(sum);
}

// All distances [n, n]; returns their mean over the pairs.
static double distances(const float *x, int64_t n, int64_t D, double *to)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++) {
            to[i * n + j] = to[j * n + i] = distance(x + i * D, x + j * D, D);
            sum += 2 * to[i * n + j];
        }
    return sum / (double)(n * (n - 1));
}

static int64_t distance_scratch(int64_t n, int64_t D, int64_t Dt)
{
    (void)D;
    (void)Dt;
    return 2 * 2 * n * n + 2; // doubles, aligned
}

static double *doubles_at(float *at) { return (double *)(((uintptr_t)at + 7) / 8 * 8); }

static double distance_loss(const struct group *g, double k)
{
    const int64_t n = g->n, D = g->D;
    double *own = doubles_at(g->scratch), *other = own + n * n, loss = 0, sum = 0;
    if (n < 2)
        return 0;
    const double mean = distances(g->x[0], n, D, own), mean_t = distances(g->t[0], n, g->Dt, other), pair = 1 / (double)(n * (n - 1));
    if (mean == 0 || mean_t == 0)
        return 0;
    for (int64_t i = 0; i < n * n; i++) {
        if (i % n == i / n)
            continue;
        double slope;
        loss += huber(own[i] / mean - other[i] / mean_t, &slope);
        sum += slope * own[i];
        other[i] = slope;
    }
    const double of_mean = pair * sum / (mean * mean); // the distances' mean moves, too
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            if (i == j || own[i * n + j] == 0)
                continue;
            const float factor = (float)(2 * k * pair * (other[i * n + j] / mean - of_mean) / own[i * n + j]);
            for (int64_t d = 0; d < D; d++)
                g->dx[0][i * D + d] += factor * (g->x[0][i * D + d] - g->x[0][j * D + d]);
        }
    return pair * loss;
}

double rkd_distance(struct arena *arena, const struct feature_input *in, double k, float *const gradient[2])
{
    return mean_over_groups(arena, in, k, gradient, distance_scratch, distance_loss);
}

static int64_t angle_scratch(int64_t n, int64_t D, int64_t Dt)
{
    const int64_t widest = max_i64(D, Dt);
    return n * (2 * D + Dt) + 2 * n * n + n + max_i64(gemm_packed_floats(n, widest), gemm_packed_floats(D, n));
}

// e [n, D] of directions from sample j, their cosines [n, n]; length [n], NULL: not wanted.
static void angles_at(const float *x, int64_t n, int64_t D, int64_t j, float *e, float *packed, float *cosine, float *length)
{
    for (int64_t i = 0; i < n; i++) {
        const double far = distance(x + i * D, x + j * D, D);
        const float inverse = far > 0 ? (float)(1 / far) : 0;
        if (length)
            length[i] = (float)far;
        for (int64_t d = 0; d < D; d++)
            e[i * D + d] = inverse * (x[i * D + d] - x[j * D + d]);
    }
    gemm_pack(TRANSPOSED, n, D, 1, e, D, packed);
    gemm_packed(PLAIN, n, n, D, e, D, packed, D, 0, cosine, n);
}

// de [n, D] of the directions from j becomes the samples' gradient: through e = u / |u|, u = x_i - x_j.
static void back_from_directions(const struct group *g, int64_t j, const float *e, const float *length, const float *de)
{
    const int64_t D = g->D;
    for (int64_t i = 0; i < g->n; i++) {
        if (length[i] == 0)
            continue;
        const float along = (float)vec_dot(e + i * D, de + i * D, D), inverse = 1 / length[i];
        for (int64_t d = 0; d < D; d++) {
            const float du = inverse * (de[i * D + d] - along * e[i * D + d]);
            g->dx[0][i * D + d] += du;
            g->dx[0][j * D + d] -= du;
        }
    }
}

static double angle_loss(const struct group *g, double k)
{
    const int64_t n = g->n, D = g->D;
    float *e = g->scratch, *de = e + n * D, *e_t = de + n * D, *own = e_t + n * g->Dt, *other = own + n * n, *length = other + n * n;
    float *packed = length + n;
    if (n < 3)
        return 0;
    const double triple = 1 / ((double)n * (double)(n - 1) * (double)(n - 2));
    double loss = 0;
    for (int64_t j = 0; j < n; j++) {
        angles_at(g->t[0], n, g->Dt, j, e_t, packed, other, NULL);
        angles_at(g->x[0], n, D, j, e, packed, own, length);
        for (int64_t i = 0; i < n * n; i++) {
            double slope = 0;
            if (i / n != i % n && i / n != j && i % n != j)
                loss += huber((double)own[i] - (double)other[i], &slope);
            own[i] = (float)(2 * k * triple * slope); // the matrix is symmetric: e_i counts in its row and in its column
        }
        gemm_pack(PLAIN, D, n, 1, e, D, packed);
        gemm_packed(PLAIN, n, D, n, own, n, packed, n, 0, de, D);
        back_from_directions(g, j, e, length, de);
    }
    return triple * loss;
}

double rkd_angle(struct arena *arena, const struct feature_input *in, double k, float *const gradient[2])
{
    return mean_over_groups(arena, in, k, gradient, angle_scratch, angle_loss);
}
