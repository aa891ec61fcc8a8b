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

static void gather(const struct tensor *from, struct tensor *to, const int64_t *rows, const int64_t *columns)
{
    const int64_t old_columns = tensor_columns(from), R = tensor_rows(to), C = tensor_columns(to);
    for (int64_t r = 0; r < R; r++) {
        const float *old = from->data + (rows ? rows[r] : r) * old_columns;
        for (int64_t i = 0; i < C; i++)
            to->data[r * C + i] = old[columns ? columns[i] : i];
    }
}

static int is_gone(const struct layer_plan *l) { return !l->n_head && !l->n_ff; }

static void cut_parameter(const struct model *m, const struct parameter *old, const struct plan *p, struct tensor *t)
{
    static const struct layer_plan whole; // of the global tensors only the hidden axis is cut
    const struct layer_plan *layer = old->layer >= 0 ? &p->layer[old->layer] : &whole;
    int64_t n_rows = 0, n_columns = 0;
    int64_t *rows = kept_elements(&m->config, old->spec->rows, p, layer, &n_rows);
    int64_t *columns = kept_elements(&m->config, old->spec->columns, p, layer, &n_columns);
    if ((rows && n_rows != tensor_rows(t)) || (columns && n_columns != tensor_columns(t)))
        BUG("shrink: %s is [%ld,%ld], the plan keeps [%ld,%ld]", old->name, (long)tensor_rows(t), (long)tensor_columns(t),
            (long)n_rows, (long)n_columns);
    gather(&old->t, t, rows, columns);
    free(rows);
    free(columns);
}

struct model *shrink(const struct model *m, const struct plan *p)
{
    struct config c;
    config_copy(&c, &m->config);
    int64_t *number = xmalloc((size_t)c.n_layer * sizeof *number, "layers that stay"); // of the old layers; -1: gone
    c.n_layer = 0;
    for (int64_t l = 0; l < m->config.n_layer; l++) {
        const struct layer_plan *from = &p->layer[l];
        number[l] = is_gone(from) ? -1 : c.n_layer++;
        if (number[l] >= 0)
            c.layer[number[l]] = (struct layer_shape){from->n_head, from->n_group, from->n_ff};
    }
    c.hidden = p->hidden ? p->n_hidden : c.hidden;
    struct model *out = model_new(&c, 1);
    config_release(&c);
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *old = &m->parameter[i];
        const int64_t layer = old->layer < 0 ? 0 : number[old->layer] + 1; // slots: 0 is for the global ones
        struct parameter *to = layer || old->layer < 0 ? out->slot[layer * m->arch->n_specs + (old->spec - m->arch->specs)] : NULL;
        if (to)
            cut_parameter(m, old, p, &to->t);
    }
    free(number);
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
