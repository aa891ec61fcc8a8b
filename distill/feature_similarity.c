// feature_similarity.c: similarity-preserving distillation (Tung and Mori 2019, equations 1 to 4): samples that are alike for the teacher
// are alike for the student.
//
//   G = X X^T [n, n], each row divided by its norm,   loss = 1/n^2 |G_student - G_teacher|^2
//
// In the paper the samples are a batch's images; here the tokens of a sequence, or the batch's first tokens.
#include <math.h>

#include "common/tensor/vecmath.h"
#include "distill/feature_samples.h"

static int64_t scratch(int64_t n, int64_t D, int64_t Dt)
{
    return 2 * n * n + max_i64(gemm_packed_floats(n, max_i64(D, Dt)), gemm_packed_floats(D, n));
}

static void gram(const float *x, int64_t n, int64_t D, float *packed, float *G)
{
    gemm_pack(TRANSPOSED, n, D, 1, x, D, packed);
    gemm_packed(PLAIN, n, n, D, x, D, packed, D, 0, G, n);
}

static double inverse_norm(const float *row, int64_t n)
{
    const double norm = sqrt(vec_dot(row, row, n));
    return norm > 0 ? 1 / norm : 0;
}

// One row of G, which becomes k times the gradient.
static double row_loss(float *own, const float *other, int64_t n, double k)
{
    const double s = inverse_norm(own, n), t = inverse_norm(other, n);
    double loss = 0, along = 0;
    for (int64_t j = 0; j < n; j++) {
        const double a = s * (double)own[j], d = a - t * (double)other[j];
        loss += d * d;
        along += a * d;
    }
    for (int64_t j = 0; j < n; j++) {
        const double a = s * (double)own[j];
        own[j] = (float)(2 * k * s * (a - t * (double)other[j] - a * along));
    }
    return loss;
}

static double group_loss(const struct group *g, double k)
{
    const int64_t n = g->n, D = g->D;
    float *own = g->scratch, *other = own + n * n, *packed = other + n * n;
    const double entry = 1 / ((double)n * (double)n);
    gram(g->x[0], n, D, packed, own);
    gram(g->t[0], n, g->Dt, packed, other);
    double loss = 0;
    for (int64_t i = 0; i < n; i++)
        loss += row_loss(own + i * n, other + i * n, n, k * entry);
    gemm_pack(PLAIN, D, n, 1, g->x[0], D, packed); // dX = (dG + dG^T) X
    gemm_packed(PLAIN, n, D, n, own, n, packed, n, 1, g->dx[0], D);
    gemm_packed(TRANSPOSED, n, D, n, own, n, packed, n, 1, g->dx[0], D);
    return entry * loss;
}

double similarity(struct arena *arena, const struct feature_input *in, double k, float *const gradient[2])
{
    return mean_over_groups(arena, in, k, gradient, scratch, group_loss);
}
