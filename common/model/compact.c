// compact.c: see compact.h.
#include "common/model/compact.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/tensor/sparse_weight.h"

struct compact { // what the hooks need; model lifetime
    struct sparse_weight *weight;
    int n;
};

static void compact_free(void *context)
{
    struct compact *c = context;
    for (int i = 0; i < c->n; i++)
        sparse_weight_release(&c->weight[i]);
    free(c->weight);
    free(c);
}

static double kept_share(const unsigned char *mask, int64_t n)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++)
        kept += mask[i] != 0;
    return (double)kept / (double)n;
}

struct model *model_compact(const struct model *m, const unsigned char *mask, double share)
{
    struct model *to = model_new(&m->config, 0);
    struct compact *c = xcalloc(1, sizeof *c, "a compact model");
    c->weight = xcalloc((size_t)m->n_parameter, sizeof *c->weight, "a compact model");
    to->owner_context = c;
    to->owner_release = compact_free;
    to->n_element = 0;
    struct sparse_weight **of = xcalloc((size_t)m->n_parameter, sizeof *of, "a compact model");
    for (int i = 0; i < m->n_parameter; i++) {
        const unsigned char *its = mask + m->parameter[i].offset;
        struct parameter *p = &to->parameter[i];
        if (p->t.n_dim == 2 && kept_share(its, p->n_stored) <= share) {
            of[i] = &c->weight[c->n++];
            sparse_weight_init(of[i], p->t.dim[0], p->t.dim[1], its);
            p->t.hook = &of[i]->hook;
            p->n_stored = of[i]->kept;
        }
        p->offset = to->n_element;
        to->n_element += p->n_stored;
    }
    to->data = xmalloc((size_t)(to->n_element + 1) * sizeof *to->data, "parameters");
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *from = &m->parameter[i];
        struct parameter *p = &to->parameter[i];
        p->t.data = to->data + p->offset;
        if (of[i])
            sparse_weight_gather(of[i], from->t.data, p->t.data);
        for (int64_t k = 0; !of[i] && k < p->n_stored; k++)
            p->t.data[k] = mask[from->offset + k] ? from->t.data[k] : 0.0f;
    }
    free(of);
    return to;
}

void model_expand(const struct model *compact, struct model *to)
{
    for (int i = 0; i < to->n_parameter; i++) {
        const struct parameter *p = &compact->parameter[i];
        if (p->t.hook)
            sparse_weight_scatter(p->t.hook->context, p->t.data, to->parameter[i].t.data);
        else
            memcpy(to->parameter[i].t.data, p->t.data, (size_t)p->n_stored * sizeof *p->t.data);
    }
}
