// pad.c: see pad.h.
#include "common/model/pad.h"

#include <stdlib.h>
#include <string.h>

struct layer_shape pad_shape(const struct config *c)
{
    struct layer_shape s = {0};
    int64_t per_group = 0;
    for (int64_t l = 0; l < c->n_layer; l++) {
        const struct layer_shape *from = &c->layer[l];
        s.n_kv_head = from->n_kv_head > s.n_kv_head ? from->n_kv_head : s.n_kv_head;
        s.n_ff = from->n_ff > s.n_ff ? from->n_ff : s.n_ff;
        if (from->n_kv_head && from->n_head / from->n_kv_head > per_group)
            per_group = from->n_head / from->n_kv_head;
    }
    s.n_head = s.n_kv_head * per_group;
    if (config_has_full_heads(c))
        s.n_head = s.n_kv_head = c->hidden / c->head_dim;
    return s;
}

int64_t pad_source(const struct config *c, const struct layer_shape *to, enum axis axis, int layer, int64_t i)
{
    if (layer < 0 || axis == AXIS_ONE || axis == AXIS_HIDDEN || axis == AXIS_VOCAB || axis == AXIS_HEAD_WIDTH)
        return i;
    const struct layer_shape *from = &c->layer[layer];
    if (axis == AXIS_FF)
        return i < from->n_ff ? i : -1;
    const int64_t E = c->head_dim, unit = i / E;
    if (axis == AXIS_GROUPS)
        return unit < from->n_kv_head ? i : -1;
    if (!from->n_kv_head)
        return -1;
    const int64_t ratio_to = to->n_head / to->n_kv_head, ratio_from = from->n_head / from->n_kv_head;
    const int64_t group = unit / ratio_to, member = unit % ratio_to;
    return group < from->n_kv_head && member < ratio_from ? (group * ratio_from + member) * E + i % E : -1;
}

static void copy_parameter(const struct model *m, const struct parameter *from, struct parameter *to, const struct layer_shape *shape)
{
    const int64_t columns = tensor_columns(&from->t), R = tensor_rows(&to->t), C = tensor_columns(&to->t);
    const enum axis row_axis = from->spec->rows, column_axis = from->spec->columns;
    float *values = xmalloc((size_t)columns * sizeof *values, "row");
    for (int64_t r = 0; r < R; r++) {
        const int64_t row = from->t.n_dim == 1 ? 0 : pad_source(&m->config, shape, row_axis, from->layer, r);
        if (row < 0)
            continue;
        tensor_read_rows(&from->t, row, 1, values);
        for (int64_t k = 0; k < C; k++) {
            const int64_t column = pad_source(&m->config, shape, column_axis, from->layer, k);
            if (column >= 0)
                to->t.data[r * C + k] = values[column];
        }
    }
    free(values);
}

struct model *model_pad(const struct model *m, const struct layer_shape *layer)
{
    struct config c;
    config_copy(&c, &m->config);
    memcpy(c.layer, layer, (size_t)c.n_layer * sizeof *layer);
    struct model *out = model_new(&c, 1);
    config_release(&c);
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *from = &m->parameter[i];
        copy_parameter(m, from, model_find(out, from->name), from->layer < 0 ? NULL : &layer[from->layer]);
    }
    return out;
}
