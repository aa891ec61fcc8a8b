// to_shape.c: the best part of a model for a given, smaller shape: where a student of any widths begins.
//
// Layers first, evenly spread or as means of neighbours (model_inherit), then of these the best heads and channels by a score, and the hidden
// channels with the largest activations: what weight subcloning does for two shapes of one family (Samragh et al. 2023, section 3), with this
// folder's scores.
#include <stdlib.h>
#include <string.h>

#include "common/model/arch.h"
#include "prune/prune.h"

const struct prune_score *prune_score_named(const char *name)
{
    for (const struct prune_score *s = prune_score_table; s->name; s++)
        if (strcmp(s->name, name) == 0)
            return s;
    return NULL;
}

// Does each layer of `to` fit into the one of `from` that it takes, with query heads removed by `heads_by`?
static int fits_by(const struct config *from, const struct config *to, enum heads_by heads_by)
{
    for (int64_t l = 0; l < to->n_layer; l++) {
        const struct layer_shape *a = &from->layer[inherit_layer(l, to->n_layer, from->n_layer)], *b = &to->layer[l];
        const int heads = heads_by == HEADS_BY_GROUP ? a->n_head * b->n_kv_head == b->n_head * a->n_kv_head : a->n_kv_head == b->n_kv_head && b->n_kv_head > 0 && b->n_head % b->n_kv_head == 0;
        if (b->n_head > a->n_head || b->n_kv_head > a->n_kv_head || b->n_ff > a->n_ff || !b->n_head || !b->n_ff || !heads)
            return 0;
    }
    return 1;
}

static int is_narrower(const struct config *from, const struct config *to)
{
    int less = to->hidden < from->hidden;
    for (int64_t l = 0; l < to->n_layer; l++) {
        const struct layer_shape *a = &from->layer[inherit_layer(l, to->n_layer, from->n_layer)], *b = &to->layer[l];
        less |= b->n_head < a->n_head || b->n_ff < a->n_ff;
    }
    return less;
}

int prune_shape_fits(const struct config *from, const struct config *to)
{
    return model_has_blocks(from) && model_has_blocks(to) && strcmp(from->model_type, to->model_type) == 0 && from->head_dim == to->head_dim &&
           to->n_layer <= from->n_layer && to->hidden <= from->hidden && (to->hidden == from->hidden || !config_hidden_refusal(from)) &&
           is_narrower(from, to) && (fits_by(from, to, HEADS_BY_GROUP) || fits_by(from, to, HEADS_BY_QUERY));
}

// A model of `n` layers of m's widths, with m's weights.
static struct model *take_layers(const struct model *m, int64_t n, enum inherit_layers layers)
{
    struct plan p;
    plan_whole(&p, &m->config);
    for (int64_t l = 0, next = 0; l < m->config.n_layer; l++) {
        if (next < n && inherit_layer(next, n, m->config.n_layer) == l)
            next++;
        else
            p.layer[l].n_head = p.layer[l].n_group = p.layer[l].n_ff = 0;
    }
    struct model *out = shrink(m, &p);
    plan_release(&p);
    if (layers == INHERIT_MEAN)
        model_inherit(out, m, layers);
    return out;
}

static struct model *cut(struct model *m, struct plan *p, struct model **out)
{
    *out = shrink(m, p);
    plan_release(p);
    model_free(m);
    return *out;
}

// Frees m.
static int cut_widths(struct model *m, const struct config *to, const struct prune_score *score, const struct calibration *c, struct model **out,
                      struct error *err)
{
    struct prune_scores scores;
    struct plan p;
    prune_scores_init(&scores, &m->config);
    int status = score->compute(m, c, &scores, err);
    if (status == 0)
        status = plan_make(&p, &m->config, &scores, to->layer, fits_by(&m->config, to, HEADS_BY_GROUP) ? HEADS_BY_GROUP : HEADS_BY_QUERY, 0, err);
    prune_scores_release(&scores);
    if (status == 0)
        m = cut(m, &p, out);
    if (status == 0 && to->hidden < m->config.hidden) {
        status = hidden_plan(m, to->hidden, 0, c, &p, err);
        if (status == 0)
            m = cut(m, &p, out);
    }
    if (status < 0)
        model_free(m);
    return status;
}

int prune_to_shape(const struct model *from, const struct config *to, enum inherit_layers layers, const struct prune_score *score,
                   const struct calibration *c, struct model **out, struct error *err)
{
    return cut_widths(take_layers(from, to->n_layer, layers), to, score, c, out, err);
}
