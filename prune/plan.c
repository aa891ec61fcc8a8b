// plan.c: how many units stay, and which.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "prune/score.h"

#define SAY_ABOVE 0.02 // a fraction that alignment moved by more is said

// The number of units from 1 to n, units * width a multiple of align, nearest to `wanted` (of two, the larger); 0: none.
static int64_t nearest_aligned(int64_t n, int64_t width, int64_t align, double wanted)
{
    int64_t best = 0;
    for (int64_t i = 1; i <= n; i++)
        if (i * width % align == 0 && (!best || fabs((double)i - wanted) <= fabs((double)best - wanted)))
            best = i;
    return best;
}

// n units of `width` elements, a fraction of which goes.
static int count_kept(const char *key, int64_t layer, int64_t n, int64_t width, int64_t align, double removed, int says, int64_t *kept,
                      struct error *err)
{
    *kept = n;
    if (removed <= 0)
        return 0;
    if (n == 1)
        return error_set(err, "prune.%s: layer %ld has one unit of %ld elements, and at least one must stay; leave \"%s\" out, or "
                         "choose \"heads_by\": the other of group and query", key, (long)layer, (long)width, key);
    *kept = nearest_aligned(n, width, align, (double)n * (1 - removed));
    if (!*kept)
        return error_set(err, "prune.%s: layer %ld has %ld units of %ld elements, and no number of them is a multiple of "
                         "align = %ld; give a smaller \"align\" (32 suits Q8_0 and Q4_0, 256 the K types)", key, (long)layer,
                         (long)n, (long)width, (long)align);
    const double got = 1 - (double)*kept / (double)n;
    if (says && layer == 0 && fabs(got - removed) > SAY_ABOVE)
        log_info("prune.%s: %.4g asked, %.4g done: %ld of %ld stay, so that widths are multiples of %ld", key, removed, got,
                 (long)*kept, (long)n, (long)align);
    return 0;
}

int plan_counts(const struct config *c, const struct layer_shape *whole, const struct prune_options *o, double progress,
                struct layer_shape *counts, struct error *err)
{
    const int64_t align = o->align ? o->align : 32, E = c->head_dim;
    const double heads = o->heads * progress, ffn = o->ffn * progress;
    const int says = progress >= 1; // of a step on the way nobody asked for its fraction
    for (int64_t l = 0; l < c->n_layer; l++) {
        const struct layer_shape *s = &whole[l];
        const int64_t per_group = s->n_kv_head ? s->n_head / s->n_kv_head : 0;
        int64_t kept;
        counts[l] = c->layer[l];
        if (!c->layer[l].n_head || heads <= 0) {
            // nothing there, or nothing to do
        } else if (o->mask && o->heads_by == HEADS_BY_QUERY) {
            TRY(count_kept("heads", l, s->n_head, E, align, heads, says, &counts[l].n_head, err));
        } else if (o->heads_by == HEADS_BY_GROUP) {
            TRY(count_kept("heads", l, s->n_kv_head, per_group * E, align, heads, says, &kept, err));
            counts[l].n_kv_head = kept;
            counts[l].n_head = kept * per_group;
        } else {
            TRY(count_kept("heads", l, per_group, s->n_kv_head * E, align, heads, says, &kept, err));
            counts[l].n_head = kept * s->n_kv_head;
        }
        if (c->layer[l].n_ff)
            TRY(count_kept("ffn", l, s->n_ff, 1, align, ffn, says, &counts[l].n_ff, err));
    }
    return 0;
}

int64_t hidden_count(int64_t whole, double removed, int64_t align)
{
    return nearest_aligned(whole, 1, align ? align : 32, (double)whole * (1 - removed));
}

struct ranked {
    double score;
    int64_t index;
};

// Larger scores first; equal ones in their order.
static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static int by_index(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

// Writes the indices (plus base) of the n best of `total` scores, ascending.
int plan_choose(const double *score, int64_t total, int64_t n, int64_t base, int64_t *to, const char *what, int64_t layer,
                struct error *err)
{
    struct ranked *r = xmalloc((size_t)total * sizeof *r, "ranking");
    for (int64_t i = 0; i < total; i++) {
        r[i] = (struct ranked){score[i], i};
        if (!isfinite(score[i])) {
            free(r);
            return error_set(err, "prune: the score of %s %ld in layer %ld is %g, expected a finite number; look for NaN in the "
                             "checkpoint, or take another score", what, (long)i, (long)layer, score[i]);
        }
    }
    qsort(r, (size_t)total, sizeof *r, by_score);
    for (int64_t i = 0; i < n; i++)
        to[i] = base + r[i].index;
    qsort(to, (size_t)n, sizeof *to, by_index);
    free(r);
    return 0;
}

double *plan_head_units(const struct layer_shape *s, const double *head, const double *group, int heads_by, int mask,
                        int64_t *units)
{
    const int64_t G = s->n_kv_head, per_group = G ? s->n_head / G : 0;
    *units = heads_by == HEADS_BY_GROUP ? G : mask ? s->n_head : per_group;
    double *score = xcalloc((size_t)*units, sizeof *score, "ranking");
    if (heads_by == HEADS_BY_QUERY && mask) {
        memcpy(score, head, (size_t)s->n_head * sizeof *score);
        return score;
    }
    struct ranked *r = xmalloc((size_t)per_group * sizeof *r, "ranking");
    for (int64_t g = 0; g < G; g++) {
        for (int64_t i = 0; i < per_group; i++)
            r[i] = (struct ranked){head[g * per_group + i], i};
        if (heads_by == HEADS_BY_QUERY) // best first
            qsort(r, (size_t)per_group, sizeof *r, by_score);
        for (int64_t i = 0; i < per_group; i++)
            score[heads_by == HEADS_BY_GROUP ? g : i] += r[i].score;
        if (heads_by == HEADS_BY_GROUP)
            score[g] += group[g];
    }
    free(r);
    return score;
}

static int choose_heads(struct layer_plan *p, const struct layer_shape *s, const double *head, const double *group, int heads_by,
                        int mask, int64_t layer, struct error *err)
{
    if (!p->n_head)
        return 0;
    const int64_t per_group = s->n_head / s->n_kv_head;
    if (heads_by == HEADS_BY_GROUP) {
        int64_t units;
        double *score = plan_head_units(s, head, group, heads_by, mask, &units);
        const int rc = plan_choose(score, units, p->n_group, 0, p->group, "key/value group", layer, err);
        free(score);
        TRY(rc);
    } else {
        for (int64_t g = 0; g < p->n_group; g++)
            p->group[g] = g;
        if (mask)
            return plan_choose(head, s->n_head, p->n_head, 0, p->head, "head", layer, err);
    }
    const int64_t kept_per_group = p->n_head / p->n_group;
    for (int64_t i = 0; i < p->n_group; i++) {
        const int64_t first = p->group[i] * per_group;
        TRY(plan_choose(head + first, per_group, kept_per_group, first, p->head + i * kept_per_group, "head", layer, err));
    }
    return 0;
}

static void layer_plan_new(struct layer_plan *p, int64_t heads, int64_t groups, int64_t ff)
{
    *p = (struct layer_plan){.n_head = heads, .n_group = groups, .n_ff = ff};
    p->head = xmalloc((size_t)heads * sizeof *p->head, "plan");
    p->group = xmalloc((size_t)groups * sizeof *p->group, "plan");
    p->ff = xmalloc((size_t)ff * sizeof *p->ff, "plan");
}

int plan_make(struct plan *p, const struct config *c, const struct prune_scores *s, const struct layer_shape *counts,
              int heads_by, int mask, struct error *err)
{
    *p = (struct plan){.n_layer = c->n_layer, .layer = xcalloc((size_t)c->n_layer, sizeof *p->layer, "plan")};
    for (int64_t l = 0; l < c->n_layer; l++) {
        struct layer_plan *lp = &p->layer[l];
        layer_plan_new(lp, counts[l].n_head, counts[l].n_head ? counts[l].n_kv_head : 0, counts[l].n_ff);
        if (choose_heads(lp, &c->layer[l], s->head[l], s->group[l], heads_by, mask, l, err) < 0 ||
            plan_choose(s->ff[l], c->layer[l].n_ff, lp->n_ff, 0, lp->ff, "feed-forward channel", l, err) < 0) {
            plan_release(p);
            return -1;
        }
    }
    return 0;
}

static void count_up(int64_t *to, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = i;
}

void plan_whole(struct plan *p, const struct config *c)
{
    *p = (struct plan){.n_layer = c->n_layer, .layer = xcalloc((size_t)c->n_layer, sizeof *p->layer, "plan")};
    for (int64_t l = 0; l < c->n_layer; l++) {
        const struct layer_shape *s = &c->layer[l];
        layer_plan_new(&p->layer[l], s->n_head, s->n_kv_head, s->n_ff);
        count_up(p->layer[l].head, s->n_head);
        count_up(p->layer[l].group, s->n_kv_head);
        count_up(p->layer[l].ff, s->n_ff);
    }
}

static void layer_plan_release(struct layer_plan *p)
{
    free(p->head);
    free(p->group);
    free(p->ff);
    *p = (struct layer_plan){0};
}

void plan_release(struct plan *p)
{
    for (int64_t l = 0; p->layer && l < p->n_layer; l++)
        layer_plan_release(&p->layer[l]);
    free(p->layer);
    free(p->hidden);
    *p = (struct plan){0};
}

static void through(int64_t *index, int64_t n, const int64_t *before)
{
    for (int64_t i = 0; i < n; i++)
        index[i] = before[index[i]];
}

void plan_compose(struct plan *kept, struct plan *after)
{
    if (!kept->n_layer)
        return;
    struct plan all = {.n_layer = kept->n_layer, .layer = xcalloc((size_t)kept->n_layer, sizeof *all.layer, "plan")};
    int64_t at = 0; // layer of the model between
    for (int64_t l = 0; l < kept->n_layer; l++) {
        const struct layer_plan *before = &kept->layer[l];
        if (!before->n_head && !before->n_ff) {
            layer_plan_new(&all.layer[l], 0, 0, 0);
            continue;
        }
        struct layer_plan *a = &all.layer[l];
        *a = after->layer[at];
        after->layer[at++] = (struct layer_plan){0};
        through(a->head, a->n_head, before->head);
        through(a->group, a->n_group, before->group);
        through(a->ff, a->n_ff, before->ff);
    }
    all.hidden = after->hidden ? after->hidden : kept->hidden;
    all.n_hidden = after->hidden ? after->n_hidden : kept->n_hidden;
    if (after->hidden && kept->hidden)
        through(all.hidden, all.n_hidden, kept->hidden);
    if (after->hidden)
        after->hidden = NULL;
    else
        kept->hidden = NULL;
    plan_release(kept);
    plan_release(after);
    *after = all;
}

static struct json *indices(const int64_t *index, int64_t n)
{
    struct json *a = json_array();
    for (int64_t i = 0; i < n; i++)
        json_push(a, json_from_number((double)index[i]));
    return a;
}

struct json *plan_json(const struct plan *p)
{
    struct json *o = json_object(), *layers = json_array();
    for (int64_t l = 0; l < p->n_layer; l++) {
        struct json *layer = json_object();
        json_set(layer, "heads", indices(p->layer[l].head, p->layer[l].n_head));
        json_set(layer, "groups", indices(p->layer[l].group, p->layer[l].n_group));
        json_set(layer, "ff", indices(p->layer[l].ff, p->layer[l].n_ff));
        json_push(layers, layer);
    }
    json_set(o, "layers", layers);
    if (p->hidden)
        json_set(o, "hidden", indices(p->hidden, p->n_hidden));
    return o;
}

static int64_t *read_indices(const struct json *list, int64_t *n)
{
    *n = list ? json_count(list) : 0;
    int64_t *to = xcalloc((size_t)*n, sizeof *to, "plan"), i = 0;
    for (const struct json *v = list ? json_first(list) : NULL; v; v = json_next(v))
        to[i++] = (int64_t)json_number(v);
    return to;
}

void plan_from_json(struct plan *p, const struct json *o)
{
    const struct json *layers = json_get(o, "layers"), *hidden = json_get(o, "hidden");
    *p = (struct plan){.n_layer = json_count(layers)};
    p->layer = xcalloc((size_t)p->n_layer, sizeof *p->layer, "plan");
    struct layer_plan *to = p->layer;
    for (const struct json *v = json_first(layers); v; v = json_next(v), to++) {
        to->head = read_indices(json_get(v, "heads"), &to->n_head);
        to->group = read_indices(json_get(v, "groups"), &to->n_group);
        to->ff = read_indices(json_get(v, "ff"), &to->n_ff);
    }
    if (hidden)
        p->hidden = read_indices(hidden, &p->n_hidden);
}
