// feature_cka.c: 1 - linear CKA (Kornblith et al. 2019, section 3, equation 4) between the samples of student and teacher:
//
//   CKA = |Y^T X|^2 / (|X^T X| |Y^T Y|)   (Frobenius norms; X [R, D], Y [R, Dt], their columns' means taken away)
//
// The samples are all of the batch: CKA of a few is near 1 whatever they are.
#include <math.h>

#include "common/tensor/vecmath.h"
#include "distill/feature_samples.h"

static double squares(const float *x, int64_t n) { return vec_dot(x, x, n); }

// All samples [R, D], centred.
static float *centred(struct arena *arena, const struct feature_input *in, const struct tensor *x)
{
    const int64_t R = in->start[in->n_group], D = tensor_columns(x);
    float *to = arena_alloc(arena, (size_t)(R * D) * sizeof *to);
    for (int64_t g = 0; g < in->n_group; g++)
        samples_gather(in, g, x, to + in->start[g] * D);
#pragma omp parallel for schedule(static) if (R * D > PARALLEL_MIN)
    for (int64_t d = 0; d < D; d++) {
        double sum = 0;
        for (int64_t r = 0; r < R; r++)
            sum += (double)to[r * D + d];
        for (int64_t r = 0; r < R; r++)
            to[r * D + d] -= (float)(sum / (double)R);
    }
    return to;
}

// a^T b [A, B]
static float *cross(struct arena *arena, int64_t R, const float *a, int64_t A, const float *b, int64_t B)
{
    float *to = arena_alloc(arena, (size_t)(A * B) * sizeof *to);
    gemm(PRECISION_F32, TRANSPOSED, PLAIN, A, B, R, a, A, b, B, 0, to, B);
    return to;
}

double cka(struct arena *arena, const struct feature_input *in, double k, float *const gradient[2])
{
    const int64_t R = in->start[in->n_group], D = tensor_columns(in->student[0]), Dt = tensor_columns(in->teacher[0]);
    const size_t mark = arena_mark(arena);
    const float *X = centred(arena, in, in->student[0]), *Y = centred(arena, in, in->teacher[0]);
    float *XX = cross(arena, R, X, D, X, D), *YY = cross(arena, R, Y, Dt, Y, Dt), *YX = cross(arena, R, Y, Dt, X, D);
    const double xx = sqrt(squares(XX, D * D)), yy = sqrt(squares(YY, Dt * Dt)), yx = squares(YX, D * Dt);
    const double value = xx > 0 && yy > 0 ? yx / (xx * yy) : 0;
    if (gradient[0] && value > 0) { // dX = -2 Y (Y^T X) / (xx yy) + 2 CKA X (X^T X) / xx^2; its columns have mean 0, as X and Y
        float *dx = arena_alloc(arena, (size_t)(R * D) * sizeof *dx);
        const float of_y = (float)(-2 * k / (xx * yy)), of_x = (float)(2 * k * value / (xx * xx));
        for (int64_t i = 0; i < D * Dt; i++)
            YX[i] *= of_y;
        for (int64_t i = 0; i < D * D; i++)
            XX[i] *= of_x;
        gemm(PRECISION_F32, PLAIN, PLAIN, R, D, Dt, Y, Dt, YX, D, 0, dx, D);
        gemm(PRECISION_F32, PLAIN, PLAIN, R, D, D, X, D, XX, D, 1, dx, D);
        for (int64_t g = 0; g < in->n_group; g++)
            samples_scatter(in, g, D, dx + in->start[g] * D, gradient[0]);
    }
    arena_reset(arena, mark);
    return 1 - value;
}
