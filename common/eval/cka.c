// cka.c: see cka.h.
#include "common/eval/cka.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/tensor/gemm.h"

// HSIC without bias, up to a factor that is the same for all pairs.
static double hsic(const float *a, const float *b, int64_t n)
{
    double trace = 0, sum_a = 0, sum_b = 0, rows = 0;
    for (int64_t i = 0; i < n; i++) {
        double row_a = 0, row_b = 0;
        for (int64_t j = 0; j < n; j++) {
            const double x = (double)a[i * n + j], y = (double)b[i * n + j];
            trace += x * y;
            row_a += x;
            row_b += y;
        }
        rows += row_a * row_b;
        sum_a += row_a;
        sum_b += row_b;
    }
    const double k = (double)n;
    return trace + sum_a * sum_b / ((k - 1) * (k - 2)) - 2 * rows / (k - 2);
}

static double normalised(double ab, double aa, double bb) { return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : (double)NAN; }

double cka_of(const float *a, const float *b, int64_t n) { return normalised(hsic(a, b, n), hsic(a, a, n), hsic(b, b, n)); }

// Gram matrices of all layers' hidden states at these positions: [n_layer + 1, n, n].
static float *grams(struct model *m, const struct forward *from, const int32_t *position, int64_t n)
{
    const int64_t D = m->config.hidden, L = m->config.n_layer + 1;
    struct tensor **hidden = xcalloc((size_t)L, sizeof *hidden, "taps");
    struct taps taps = {.want = TAP_HIDDEN, .hidden = hidden};
    float *out = xmalloc((size_t)(L * n * n) * sizeof *out, "Gram matrices"), *x = xmalloc((size_t)(n * D) * sizeof *x, "hidden states");
    struct forward f = *from;
    struct tape tape;
    f.taps = &taps;
    tape_init(&tape, PRECISION_F32);
    model_forward(m, &tape, &f);
    for (int64_t l = 0; l < L; l++) {
        float *g = out + l * n * n;
        for (int64_t i = 0; i < n; i++)
            memcpy(x + i * D, hidden[l]->data + position[i] * D, (size_t)D * sizeof *x);
        gemm(PRECISION_F32, PLAIN, TRANSPOSED, n, n, D, x, D, x, D, 0, g, n);
        for (int64_t i = 0; i < n; i++)
            g[i * n + i] = 0;
    }
    tape_release(&tape);
    free(hidden);
    free(x);
    return out;
}

void cka_measure(struct cka *out, struct model *m, struct model *against, const struct forward *f, const int32_t *position, int64_t n)
{
    if (n < 4)
        BUG("cka: %ld tokens", (long)n);
    *out = (struct cka){.rows = m->config.n_layer + 1, .columns = against->config.n_layer + 1};
    out->value = xmalloc((size_t)(out->rows * out->columns) * sizeof *out->value, "a table of similarities");
    float *a = grams(m, f, position, n), *b = grams(against, f, position, n);
    const int64_t size = n * n;
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (int64_t i = 0; i < out->rows; i++)
        for (int64_t j = 0; j < out->columns; j++)
            out->value[i * out->columns + j] = cka_of(a + i * size, b + j * size, n);
    free(a);
    free(b);
}

void cka_release(struct cka *c)
{
    free(c->value);
    *c = (struct cka){0};
}
