// trained.c: see trained.h. Every element is computed alone: the bits do not depend on the number of threads.
#include "common/train/trained.h"

#include <math.h>
#include <string.h>

void trained_copy(const struct model *m, float *to)
{
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        if (p->frozen)
            continue;
        memcpy(to, m->data + p->offset, (size_t)p->n_stored * sizeof *to);
        to += p->n_stored;
    }
}

void trained_put(struct model *m, const float *from)
{
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        if (p->frozen)
            continue;
        memcpy(m->data + p->offset, from, (size_t)p->n_stored * sizeof *from);
        from += p->n_stored;
    }
}

void trained_swap(struct model *m, float *other)
{
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        float *w = m->data + p->offset;
        if (p->frozen)
            continue;
        for (int64_t k = 0; k < p->n_stored; k++) {
            const float kept = w[k];
            w[k] = other[k];
            other[k] = kept;
        }
        other += p->n_stored;
    }
}

double average_decay(double decay, int64_t step)
{
    return fmin(decay, (1 + (double)step) / (10 + (double)step));
}

void average_add(float *average, const struct model *m, double d)
{
    const float share = (float)(1 - d);
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        const float *w = m->data + p->offset;
        if (p->frozen)
            continue;
#pragma omp parallel for schedule(static)
        for (int64_t k = 0; k < p->n_stored; k++)
            average[k] += share * (w[k] - average[k]);
        average += p->n_stored;
    }
}
