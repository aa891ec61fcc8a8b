// shrink.c: cuts a model. Every axis of every tensor that counts a removed unit loses it; which axes those are is in the
// architecture's weight table, so nothing here knows an architecture.
#include <stdlib.h>

#include "prune/prune.h"

// Elements of an axis that stay, as indices into the old one; NULL: all of them.
static int64_t *kept_elements(const struct config *c, enum axis axis, const struct layer_plan *p, int64_t *n)
{
    const int64_t *unit = axis == AXIS_HEADS ? p->head : axis == AXIS_GROUPS ? p->group : axis == AXIS_FF ? p->ff : NULL;
    if (!unit)
        return NULL;
    const int64_t units = axis == AXIS_HEADS ? p->n_head : axis == AXIS_GROUPS ? p->n_group : p->n_ff;
    const int64_t width = axis_unit(c, axis);
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

struct model *shrink(const struct model *m, const struct plan *p)
{
    struct config c;
    config_copy(&c, &m->config);
    for (int64_t l = 0; l < c.n_layer; l++)
        c.layer[l] = (struct layer_shape){p->layer[l].n_head, p->layer[l].n_group, p->layer[l].n_ff};
    struct model *out = model_new(&c, 1);
    config_release(&c);
    static const struct layer_plan whole; // of the global tensors nothing is cut
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *old = &m->parameter[i];
        const struct layer_plan *layer = old->layer >= 0 ? &p->layer[old->layer] : &whole;
        int64_t n_rows = 0, n_columns = 0;
        int64_t *rows = kept_elements(&m->config, old->spec->rows, layer, &n_rows);
        int64_t *columns = kept_elements(&m->config, old->spec->columns, layer, &n_columns);
        struct tensor *t = &out->parameter[i].t;
        if ((rows && n_rows != tensor_rows(t)) || (columns && n_columns != tensor_columns(t)))
            BUG("shrink: %s is [%ld,%ld], the plan keeps [%ld,%ld]", old->name, (long)tensor_rows(t), (long)tensor_columns(t),
                (long)n_rows, (long)n_columns);
        gather(&old->t, t, rows, columns);
        free(rows);
        free(columns);
    }
    return out;
}
