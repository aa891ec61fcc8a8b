// overlay.c: see overlay.h.
#include "quant/overlay.h"

#include <stdlib.h>
#include <string.h>

struct owner { // model lifetime: overlay->owner_context
    const struct model *base;
    float **own; // [n_parameter]: values of replaced ones; NULL: the base's
    int n;
};

static void owner_release(void *context)
{
    struct owner *o = context;
    for (int i = 0; i < o->n; i++)
        free(o->own[i]);
    free(o->own);
    free(o);
}

static void share(struct model *overlay, int i, const struct model *base)
{
    overlay->parameter[i].t.data = base->parameter[i].t.data;
    overlay->parameter[i].t.hook = base->parameter[i].t.hook;
}

struct model *overlay_new(const struct model *m)
{
    struct model *o = model_new(&m->config, 0);
    struct owner *owner = xcalloc(1, sizeof *owner, "overlay");
    *owner = (struct owner){.base = m, .own = xcalloc((size_t)m->n_parameter, sizeof *owner->own, "overlay"), .n = m->n_parameter};
    o->owner_context = owner;
    o->owner_release = owner_release;
    memcpy(o->rope, m->rope, (size_t)(m->config.head_dim / 2) * sizeof *o->rope);
    for (int i = 0; i < m->n_parameter; i++)
        share(o, i, m);
    return o;
}

float *overlay_values(struct model *overlay, const struct parameter *p)
{
    struct owner *o = overlay->owner_context;
    const int64_t i = p - o->base->parameter;
    if (!o->own[i]) {
        o->own[i] = xmalloc((size_t)tensor_count(&p->t) * sizeof **o->own, "a quantized matrix");
        tensor_read_rows(&p->t, 0, tensor_rows(&p->t), o->own[i]);
        overlay->parameter[i].t.data = o->own[i];
        overlay->parameter[i].t.hook = NULL;
    }
    return o->own[i];
}

void overlay_replace(struct model *overlay, const struct gguf_plan *plan, const struct gguf_plan_tensor *t, const unsigned char *blocks)
{
    const int64_t columns = t->dim[1], row_bytes = block_row_bytes(t->format, columns);
    struct gguf_rows rows;
    gguf_rows_init(&rows, plan, t);
    for (int k = 0; k < t->n_part; k++)
        if (t->source[k])
            overlay_values(overlay, t->source[k]);
#pragma omp parallel
    {
        float *row = xmalloc((size_t)columns * sizeof *row, "row");
#pragma omp for schedule(static)
        for (int64_t i = 0; i < t->dim[0]; i++) {
            int64_t own;
            const struct parameter *p = gguf_rows_source(&rows, i, &own);
            if (!p)
                continue;
            t->format->decode(blocks + i * row_bytes, row, columns);
            gguf_rows_to_own(&rows, row, overlay_values(overlay, p) + own * rows.own_columns);
        }
        free(row);
    }
    gguf_rows_release(&rows);
}

void overlay_drop(struct model *overlay, const struct parameter *p)
{
    struct owner *o = overlay->owner_context;
    const int i = (int)(p - o->base->parameter);
    free(o->own[i]);
    o->own[i] = NULL;
    share(overlay, i, o->base);
}

void overlay_restore(struct model *overlay, const struct gguf_plan_tensor *t)
{
    for (int k = 0; k < t->n_part; k++)
        if (t->source[k])
            overlay_drop(overlay, t->source[k]);
}
