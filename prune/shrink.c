// shrink.c: cuts a model. Every axis of every tensor that counts a removed unit loses it; which axes those are is in the
// architecture's weight table, so nothing here knows an architecture.
#include <stdlib.h>
#include <string.h>

#include "prune/prune.h"

// The kept units of an axis; NULL: all of them.
static const int64_t *kept_units(const struct plan *p, const struct layer_plan *l, enum axis axis, int64_t *n)
{
    switch (axis) {
    case AXIS_HIDDEN: *n = p->n_hidden; return p->hidden;
    case AXIS_HEADS: *n = l->n_head; return l->head;
    case AXIS_GROUPS: *n = l->n_group; return l->group;
    case AXIS_FF: *n = l->n_ff; return l->ff;
    default: return NULL;
    }
}

// Elements of an axis that stay, as indices into the old one; NULL: all of them.
static int64_t *kept_elements(const struct config *c, enum axis axis, const struct plan *p, const struct layer_plan *l, int64_t *n)
{
    int64_t units;
    const int64_t *unit = kept_units(p, l, axis, &units), width = axis_unit(c, axis);
    if (!unit)
        return NULL;
    int64_t *element = xmalloc((size_t)(units * width) * sizeof *element, "kept elements");
    for (int64_t u = 0; u < units; u++)
        for (int64_t i = 0; i < width; i++)
            element[u * width + i] = unit[u] * width + i;
    *n = units * width;
    return element;
}

static int is_gone(const struct layer_plan *l) { return !l->n_head && !l->n_ff; }

// One parameter of the smaller model: which rows and columns of the larger one's it is.
struct cut_weight {
    struct weight_hook hook; // its context is this struct
    const struct tensor *from;
    int64_t *rows, *columns; // NULL: all
};

struct cut_owner { // the view's owner_context
    struct cut_weight *weight; // [n_parameter]
    float **vector;            // [n_parameter]; NULL for matrices
    int n_parameter;
};

static void cut_rows(void *context, const struct tensor *w, int64_t row0, int64_t n, float *to)
{
    const struct cut_weight *c = context;
    const int64_t C = tensor_columns(w);
    float *whole = xmalloc((size_t)tensor_columns(c->from) * sizeof *whole, "a row");
    for (int64_t r = 0; r < n; r++) {
        const int64_t row = c->rows ? c->rows[row0 + r] : row0 + r;
        if (!c->columns) {
            tensor_read_rows(c->from, row, 1, to + r * C);
            continue;
        }
        tensor_read_rows(c->from, row, 1, whole);
        for (int64_t i = 0; i < C; i++)
            to[r * C + i] = whole[c->columns[i]];
    }
    free(whole);
}

static void cut_release(void *context)
{
    struct cut_owner *owner = context;
    for (int i = 0; i < owner->n_parameter; i++) {
        free(owner->weight[i].rows);
        free(owner->weight[i].columns);
        free(owner->vector[i]);
    }
    free(owner->weight);
    free(owner->vector);
    free(owner);
}

static void cut_parameter(const struct model *m, const struct parameter *old, const struct plan *p, struct tensor *t,
                          struct cut_weight *c)
{
    static const struct layer_plan whole; // of the global tensors only the hidden axis is cut
    const struct layer_plan *layer = old->layer >= 0 ? &p->layer[old->layer] : &whole;
    int64_t n_rows = 0, n_columns = 0;
    *c = (struct cut_weight){.hook = {.context = c, .rows = cut_rows}, .from = &old->t};
    c->rows = kept_elements(&m->config, old->spec->rows, p, layer, &n_rows);
    c->columns = kept_elements(&m->config, old->spec->columns, p, layer, &n_columns);
    if ((c->rows && n_rows != tensor_rows(t)) || (c->columns && n_columns != tensor_columns(t)))
        BUG("shrink: %s is [%ld,%ld], the plan keeps [%ld,%ld]", old->name, (long)tensor_rows(t), (long)tensor_columns(t),
            (long)n_rows, (long)n_columns);
}

// The shape that stays; number[l]: the old layer's new number, -1: gone.
static void cut_config(struct config *c, const struct config *from, const struct plan *p, int64_t *number)
{
    config_copy(c, from);
    c->n_layer = 0;
    for (int64_t l = 0; l < from->n_layer; l++) {
        const struct layer_plan *layer = &p->layer[l];
        number[l] = is_gone(layer) ? -1 : c->n_layer++;
        if (number[l] < 0)
            continue;
        c->layer[number[l]] = (struct layer_shape){layer->n_head, layer->n_group, layer->n_ff};
        config_set_sliding(c, number[l], config_slides(from, l)); // a layer keeps its window wherever it comes to stand
    }
    c->hidden = p->hidden ? p->n_hidden : c->hidden;
}

struct model *shrink_view(const struct model *m, const struct plan *p)
{
    struct config c;
    int64_t *number = xmalloc((size_t)m->config.n_layer * sizeof *number, "layers that stay");
    cut_config(&c, &m->config, p, number);
    struct model *out = model_new(&c, 0);
    config_release(&c);
    struct cut_owner *owner = xcalloc(1, sizeof *owner, "a smaller model");
    owner->n_parameter = out->n_parameter;
    owner->weight = xcalloc((size_t)out->n_parameter, sizeof *owner->weight, "a smaller model");
    owner->vector = xcalloc((size_t)out->n_parameter, sizeof *owner->vector, "a smaller model");
    out->owner_context = owner;
    out->owner_release = cut_release;
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *old = &m->parameter[i];
        const int64_t slot = old->layer < 0 ? 0 : number[old->layer] + 1; // 0 is for the global ones
        struct parameter *to = slot || old->layer < 0 ? out->slot[slot * m->arch->n_specs + (old->spec - m->arch->specs)] : NULL;
        if (!to)
            continue;
        struct cut_weight *w = &owner->weight[to - out->parameter];
        cut_parameter(m, old, p, &to->t, w);
        to->t.hook = &w->hook;
        if (to->t.n_dim > 1)
            continue;
        float *values = xmalloc((size_t)tensor_count(&to->t) * sizeof *values, to->name); // ops read vectors where they lie
        tensor_read_rows(&to->t, 0, 1, values);
        to->t.hook = NULL;
        to->t.data = owner->vector[to - out->parameter] = values;
    }
    free(number);
    return out;
}

struct model *shrink(const struct model *m, const struct plan *p)
{
    struct model *view = shrink_view(m, p), *out = model_new(&view->config, 1);
    for (int i = 0; i < out->n_parameter; i++) {
        struct tensor *t = &out->parameter[i].t;
        const int64_t columns = tensor_columns(t);
#pragma omp parallel for schedule(static)
        for (int64_t r = 0; r < tensor_rows(t); r++)
            tensor_read_rows(&view->parameter[i].t, r, 1, t->data + r * columns);
    }
    model_free(view);
    return out;
}

// 1 for elements of an axis that stay; NULL: all.
static unsigned char *stays(const struct config *c, enum axis axis, int layer, const struct plan *p, const struct layer_plan *l)
{
    int64_t n, *element = kept_elements(c, axis, p, l, &n);
    if (!element)
        return NULL;
    unsigned char *flag = xcalloc((size_t)axis_size(c, axis, layer), 1, "kept elements");
    for (int64_t i = 0; i < n; i++)
        flag[element[i]] = 1;
    free(element);
    return flag;
}

struct model *zero_removed(const struct model *m, const struct plan *p)
{
    struct model *out = model_new(&m->config, 1);
    memcpy(out->data, m->data, (size_t)m->n_element * sizeof *out->data);
    struct config cut; // whether a block is there decides on its norm and its biases
    config_copy(&cut, &m->config);
    for (int64_t l = 0; l < cut.n_layer; l++)
        cut.layer[l] = (struct layer_shape){p->layer[l].n_head, p->layer[l].n_group, p->layer[l].n_ff};
    for (int i = 0; i < out->n_parameter; i++) {
        const struct parameter *q = &out->parameter[i];
        if (q->layer < 0)
            continue;
        const struct layer_plan *l = &p->layer[q->layer];
        if (q->spec->present && !q->spec->present(&cut, q->layer))
            memset(q->t.data, 0, (size_t)tensor_count(&q->t) * sizeof *q->t.data);
        unsigned char *row = stays(&m->config, q->spec->rows, q->layer, p, l);
        unsigned char *column = stays(&m->config, q->spec->columns, q->layer, p, l);
        const int64_t C = tensor_columns(&q->t);
        for (int64_t k = 0; k < tensor_count(&q->t); k++)
            if ((row && !row[k / C]) || (column && !column[k % C]))
                q->t.data[k] = 0;
        free(row);
        free(column);
    }
    config_release(&cut);
    return out;
}
