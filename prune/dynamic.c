// dynamic.c: dynamic sparse training: every so many steps the smallest weights of each matrix go and as many others grow, from
// zero: where the gradient is largest (RigL; Evci et al. 2020, algorithm 1), or at random (SET; Mocanu et al. 2018).
//
// A weight that grows begins at a value that is as good as zero but not zero, so that a mask can be read off the weights when a run is
// resumed, even where a weight's gradient is zero (an input that is always zero).
#include <math.h>
#include <stdlib.h>

#include "common/base/error.h"
#include "common/base/random.h"
#include "prune/lottery.h"

#define SEED_VALUE 1e-30f

struct candidate {
    int64_t at;
    float score;
};

static int larger_first(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

struct exchange {
    const struct dynamic *dynamic;
    struct model *m;
    unsigned char *is_zero;
    float *first, *second;
    int64_t step;
    double share;
};

static void set_weight(const struct exchange *e, int64_t at, int is_zero)
{
    e->is_zero[at] = (unsigned char)is_zero;
    e->m->data[at] = is_zero ? 0.0f : SEED_VALUE;
    e->first[at] = 0;
    if (e->second)
        e->second[at] = 0;
}

static void exchange_matrix(const struct exchange *e, const struct parameter *p)
{
    const int64_t n = tensor_count(&p->t), from = p->offset;
    struct candidate *kept = xmalloc((size_t)(n + 1) * sizeof *kept, "weights to drop");
    struct candidate *zero = xmalloc((size_t)(n + 1) * sizeof *zero, "weights to grow");
    struct random r;
    int64_t n_kept = 0, n_zero = 0;
    random_init(&r, e->dynamic->seed, p->name, (uint64_t)e->step);
    for (int64_t i = from; i < from + n; i++)
        if (!e->is_zero[i])
            kept[n_kept++] = (struct candidate){i, -fabsf(e->m->data[i])};
    int64_t count = (int64_t)llround(e->share * (double)n_kept);
    count = count < n - n_kept ? count : n - n_kept;
    qsort(kept, (size_t)n_kept, sizeof *kept, larger_first);
    for (int64_t i = 0; i < count; i++)
        set_weight(e, kept[i].at, 1);
    for (int64_t i = from; i < from + n; i++)
        if (e->is_zero[i])
            zero[n_zero++] =
                (struct candidate){i, e->dynamic->grows_by_gradient ? fabsf(e->m->grad[i]) : (float)random_uniform(&r)};
    qsort(zero, (size_t)n_zero, sizeof *zero, larger_first);
    for (int64_t i = 0; i < count; i++)
        set_weight(e, zero[i].at, 0);
    free(kept);
    free(zero);
}

void dynamic_remask(void *context, int64_t step, struct model *m, unsigned char *is_zero, float *first, float *second)
{
    const struct dynamic *d = context;
    if (step == 0 || step % d->every || step >= d->end)
        return;
    const struct exchange e = {.dynamic = d,
                               .m = m,
                               .is_zero = is_zero,
                               .first = first,
                               .second = second,
                               .step = step,
                               .share = d->share / 2 * (1 + cos(M_PI * (double)step / (double)d->end))};
    for (int i = 0; i < m->n_parameter; i++)
        if (mask_is_cut(m, &m->parameter[i]))
            exchange_matrix(&e, &m->parameter[i]);
}
