// overlay.c: see overlay.h.
#include "quant/overlay.h"

#include <stdlib.h>
#include <string.h>

#define ROW_BLOCK 64 // rows read at once: where they lie transposed, pieces of that length are read

struct owned { // of one parameter
    float *values;              // NULL: the base's, or by its factors
    struct weight_hook hook;    // of values whose products round their inputs
    struct scaled_rows *scaled; // NULL: no factors
};

struct owner { // model lifetime: overlay->owner_context
    const struct model *base;
    struct owned *own; // [n_parameter]
    int n;
};

static void owner_release(void *context)
{
    struct owner *o = context;
    for (int i = 0; i < o->n; i++) {
        free(o->own[i].values);
        scaled_rows_free(o->own[i].scaled);
    }
    free(o->own);
    free(o);
}

static void share(struct model *overlay, int64_t i)
{
    const struct owner *o = overlay->owner_context;
    overlay->parameter[i].t.data = o->base->parameter[i].t.data;
    overlay->parameter[i].t.hook = o->own[i].scaled ? &o->own[i].scaled->hook : o->base->parameter[i].t.hook;
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
        share(o, i);
    return o;
}

static void read_shared(struct model *overlay, int64_t i)
{
    const struct owner *o = overlay->owner_context;
    struct tensor *t = &overlay->parameter[i].t;
    const int64_t rows = tensor_rows(t), columns = tensor_columns(t);
    float *to = o->own[i].values;
    share(overlay, i);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r += ROW_BLOCK)
        tensor_read_rows(t, r, rows - r < ROW_BLOCK ? rows - r : ROW_BLOCK, to + r * columns);
}

float *overlay_values(struct model *overlay, const struct parameter *p)
{
    struct owner *o = overlay->owner_context;
    const int64_t i = p - o->base->parameter;
    if (!o->own[i].values) {
        o->own[i].values = xmalloc((size_t)tensor_count(&p->t) * sizeof(float), "a quantized matrix");
        read_shared(overlay, i);
    }
    overlay->parameter[i].t.data = o->own[i].values;
    overlay->parameter[i].t.hook = NULL;
    return o->own[i].values;
}

void overlay_replace(struct model *overlay, const struct gguf_plan *plan, const struct gguf_plan_tensor *t, const unsigned char *blocks)
{
    const struct owner *o = overlay->owner_context;
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
            gguf_rows_to_own(&rows, row, o->own[p - o->base->parameter].values + own * rows.own_columns);
        }
        free(row);
    }
    gguf_rows_release(&rows);
}

void overlay_drop(struct model *overlay, const struct parameter *p)
{
    struct owner *o = overlay->owner_context;
    const int64_t i = p - o->base->parameter;
    free(o->own[i].values);
    o->own[i].values = NULL;
    share(overlay, i);
}

void overlay_restore(struct model *overlay, const struct gguf_plan_tensor *t)
{
    for (int k = 0; k < t->n_part; k++)
        if (t->source[k])
            overlay_drop(overlay, t->source[k]);
}

void overlay_hold_layer(struct model *overlay, int64_t layer)
{
    struct owner *o = overlay->owner_context;
    for (int i = 0; i < o->n; i++) {
        const struct parameter *p = &o->base->parameter[i];
        if (p->layer != layer || p->t.n_dim != 2)
            continue;
        const struct weight_hook *shared = overlay->parameter[i].t.hook;
        float *values = overlay_values(overlay, p);
        if (!shared || !shared->inputs)
            continue;
        o->own[i].hook = (struct weight_hook){.context = shared->context, .rows = shared->rows, .values = values, .inputs = shared->inputs};
        overlay->parameter[i].t.hook = &o->own[i].hook;
    }
}

void overlay_drop_layer(struct model *overlay, int64_t layer)
{
    const struct owner *o = overlay->owner_context;
    for (int i = 0; i < o->n; i++)
        if (o->base->parameter[i].layer == layer && o->base->parameter[i].t.n_dim == 2)
            overlay_drop(overlay, &o->base->parameter[i]);
}

// The factors of a parameter, none at first.
static struct scaled_rows *scaled_of(struct model *overlay, const struct parameter *p)
{
    struct owner *o = overlay->owner_context;
    struct owned *own = &o->own[p - o->base->parameter];
    if (!own->scaled)
        own->scaled = scaled_rows_new(&p->t);
    return own->scaled;
}

static void refresh(struct model *overlay, const struct parameter *p)
{
    const struct owner *o = overlay->owner_context;
    const int64_t i = p - o->base->parameter;
    if (!o->own[i].values) {
        share(overlay, i);
        return;
    }
    read_shared(overlay, i);
    overlay_values(overlay, p);
}

void overlay_multiply_columns(struct model *overlay, const struct parameter *p, const double *factor)
{
    scaled_rows_multiply_columns(scaled_of(overlay, p), factor);
    refresh(overlay, p);
}

void overlay_divide_rows(struct model *overlay, const struct parameter *p, const double *factor)
{
    scaled_rows_divide_rows(scaled_of(overlay, p), factor);
    refresh(overlay, p);
}

void overlay_cut(struct model *overlay, const struct parameter *p, int64_t group, const uint8_t *cut)
{
    scaled_rows_cut(scaled_of(overlay, p), group, cut);
    refresh(overlay, p);
}
