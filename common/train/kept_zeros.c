// kept_zeros.c: see kept_zeros.h. Without a gradient neither moments nor decay move a weight that is zero.
#include "common/train/kept_zeros.h"

unsigned char *kept_zeros_find(const struct model *m, unsigned char *is_zero)
{
    if (!is_zero)
        is_zero = xcalloc((size_t)model_trained(m), 1, "a mask of zeros");
    unsigned char *at = is_zero;
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        if (p->frozen)
            continue;
        for (int64_t k = 0; p->decay && k < p->n_stored; k++)
            at[k] = m->data[p->offset + k] == 0;
        at += p->n_stored;
    }
    return is_zero;
}

void kept_zeros_drop_gradients(const struct model *m, const unsigned char *is_zero)
{
    const int64_t n = is_zero ? model_trained(m) : 0;
#pragma omp parallel for schedule(static) if (is_zero != NULL)
    for (int64_t k = 0; k < n; k++)
        m->grad[k] = is_zero[k] ? 0.0f : m->grad[k]; // no branch: a mask is as good as random
}
