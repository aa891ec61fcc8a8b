// feature_fsp.c: the flow of the solution procedure (Yim et al. 2017, equations 1 and 2): what happens between two layers.
//
//   G = F1^T F2 / n [D, D],   loss = mean over its entries of (G_student - G_teacher)^2
//
// F1 and F2 [n, D] are the hidden states of the group's tokens, the paper's positions of an image, after two layers. The paper sums over
// the entries; the mean keeps weights in reach of those of other losses.
#include "common/tensor/vecmath.h"
#include "distill/feature_samples.h"

static int64_t scratch(int64_t n, int64_t D, int64_t Dt)
{
    (void)Dt; // the same as D
    return 2 * D * D + max_i64(gemm_packed_floats(D, n), gemm_packed_floats(D, D));
}

static void flow(const float *first, const float *second, int64_t n, int64_t D, float *packed, float *G)
{
    gemm_pack(PLAIN, D, n, 1.0f / (float)n, second, D, packed);
    gemm_packed(TRANSPOSED, D, D, n, first, D, packed, n, 0, G, D);
}

static double group_loss(const struct group *g, double k)
{
    const int64_t n = g->n, D = g->D;
    float *own = g->scratch, *other = own + D * D, *packed = other + D * D;
    const double entry = 1 / ((double)D * (double)D);
    const float factor = (float)(2 * k * entry);
    flow(g->x[0], g->x[1], n, D, packed, own);
    flow(g->t[0], g->t[1], n, D, packed, other);
    double loss = 0;
    for (int64_t i = 0; i < D * D; i++) {
        const float d = own[i] - other[i];
        loss += (double)d * (double)d;
        own[i] = factor * d;
    }
    gemm_pack(TRANSPOSED, D, D, 1.0f / (float)n, own, D, packed); // dF1 = F2 dG^T / n
    gemm_packed(PLAIN, n, D, D, g->x[1], D, packed, D, 1, g->dx[0], D);
    gemm_pack(PLAIN, D, D, 1.0f / (float)n, own, D, packed); // dF2 = F1 dG / n
    gemm_packed(PLAIN, n, D, D, g->x[0], D, packed, D, 1, g->dx[1], D);
    return entry * loss;
}

double fsp(struct arena *arena, const struct feature_input *in, double k, float *const gradient[2])
{
    return mean_over_groups(arena, in, k, gradient, scratch, group_loss);
}
