// inherit.c: a model that begins with another's weights: a classifier with those of a model that learned masked words, a student with every
// other layer of its teacher (DistilBERT, Sanh et al. 2019, section 2.2).
#include <string.h>

#include "common/model/model.h"

// Families with one forward pass have one list of places for their weights, whatever they call them: a DistilBERT takes BERT's.
static int same_place(const struct model *a, const struct parameter *p, const struct model *b, const struct parameter *q)
{
    return a->arch->forward == b->arch->forward && p->spec - a->arch->specs == q->spec - b->arch->specs;
}

int64_t model_inherit(struct model *student, const struct model *teacher)
{
    const int64_t L = student->config.n_layer, of = teacher->config.n_layer;
    int64_t copied = 0;
    for (int i = 0; i < student->n_parameter; i++) {
        struct parameter *p = &student->parameter[i];
        for (int k = 0; k < teacher->n_parameter; k++) {
            const struct parameter *q = &teacher->parameter[k];
            const int64_t layer = p->layer < 0 ? -1 : p->layer * of / L; // evenly spread
            if (!same_place(student, p, teacher, q) || q->layer != layer || p->t.n_dim != q->t.n_dim ||
                memcmp(p->t.dim, q->t.dim, sizeof p->t.dim) != 0)
                continue;
            tensor_read_rows(&q->t, 0, tensor_rows(&q->t), p->t.data);
            copied += tensor_count(&p->t);
        }
    }
    return copied;
}
