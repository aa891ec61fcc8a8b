// inherit.c: a model that begins with another's weights: a classifier with those of a model that learned masked words, a student with every
// other layer of its teacher (DistilBERT, Sanh et al. 2019, section 2.2), or with the means of neighbouring layers.
#include <stdlib.h>
#include <string.h>

#include "common/model/model.h"

// Families with one forward pass have one list of places for their weights, whatever they call them: a DistilBERT takes BERT's.
static int same_place(const struct model *a, const struct parameter *p, const struct model *b, const struct parameter *q)
{
    return a->arch->forward == b->arch->forward && p->spec - a->arch->specs == q->spec - b->arch->specs;
}

// The tensor of `from` in a layer for p's place, of p's shape; NULL: there is none.
static const struct parameter *find(const struct model *m, const struct parameter *p, const struct model *from, int64_t layer)
{
    for (int k = 0; k < from->n_parameter; k++) {
        const struct parameter *q = &from->parameter[k];
        if (same_place(m, p, from, q) && q->layer == layer && p->t.n_dim == q->t.n_dim && memcmp(p->t.dim, q->t.dim, sizeof p->t.dim) == 0)
            return q;
    }
    return NULL;
}

// p becomes the mean of its place in layers first .. last-1; 0 where one of them has another shape.
static int take_mean(const struct model *m, struct parameter *p, const struct model *from, int64_t first, int64_t last)
{
    const int64_t n = tensor_count(&p->t);
    for (int64_t l = first; l < last; l++)
        if (!find(m, p, from, l))
            return 0;
    double *sum = xcalloc((size_t)n, sizeof *sum, "a mean of layers");
    float *one = xmalloc((size_t)n * sizeof *one, "a mean of layers");
    for (int64_t l = first; l < last; l++) {
        const struct tensor *t = &find(m, p, from, l)->t;
        tensor_read_rows(t, 0, tensor_rows(t), one);
        for (int64_t i = 0; i < n; i++)
            sum[i] += (double)one[i];
    }
    for (int64_t i = 0; i < n; i++)
        p->t.data[i] = (float)(sum[i] / (double)(last - first));
    free(sum);
    free(one);
    return 1;
}

int64_t inherit_layer(int64_t layer, int64_t n_layer, int64_t of) { return layer * of / n_layer; }

int64_t model_inherit(struct model *m, const struct model *from, enum inherit_layers layers)
{
    const int64_t L = m->config.n_layer, of = from->config.n_layer;
    int64_t copied = 0;
    for (int i = 0; i < m->n_parameter; i++) {
        struct parameter *p = &m->parameter[i];
        const int64_t first = p->layer < 0 ? -1 : inherit_layer(p->layer, L, of), next = p->layer < 0 ? 0 : inherit_layer(p->layer + 1, L, of);
        if (take_mean(m, p, from, first, layers == INHERIT_MEAN && next > first ? next : first + 1))
            copied += tensor_count(&p->t);
    }
    return copied;
}
