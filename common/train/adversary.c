// adversary.c: see adversary.h. The move is a tensor that is added to the embeddings; as a leaf of the tape it gets the gradient that
// the next one is made of.
#include "common/train/adversary.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

void adversary_init(struct adversary *a, const struct model *m, double epsilon, int64_t rows)
{
    const int64_t width = tensor_columns(&m->slot[m->arch->embed]->t);
    *a = (struct adversary){.epsilon = epsilon, .shift = {.name = "adversarial move", .n_dim = 2, .dim = {rows, width, 1}}};
    const size_t bytes = (size_t)(rows * width) * sizeof(float);
    a->shift.data = xmalloc(bytes, "an adversarial move");
    a->shift.grad = xmalloc(bytes, "an adversarial move's gradient");
}

void adversary_release(struct adversary *a)
{
    free(a->shift.data);
    free(a->shift.grad);
    *a = (struct adversary){0};
}

void adversary_watch(struct adversary *a, int64_t B, int64_t T)
{
    const size_t bytes = (size_t)(B * T * a->shift.dim[1]) * sizeof(float);
    a->shift.dim[0] = B * T;
    a->shift.needs_grad = 1;
    memset(a->shift.data, 0, bytes);
    memset(a->shift.grad, 0, bytes);
}

void adversary_move(struct adversary *a, int64_t B, int64_t T)
{
    const int64_t n = T * a->shift.dim[1];
    a->shift.needs_grad = 0;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < B; b++) {
        const float *g = a->shift.grad + b * n;
        double squares = 0;
        for (int64_t i = 0; i < n; i++)
            squares += (double)g[i] * (double)g[i];
        const double scale = squares > 0 ? a->epsilon / sqrt(squares) : 0; // nothing to learn from this sequence: no move
        for (int64_t i = 0; i < n; i++)
            a->shift.data[b * n + i] = (float)(scale * (double)g[i]);
    }
}
