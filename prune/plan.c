// plan.c: how many units stay, and which.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "prune/prune.h"

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
static int count_kept(const char *key, int64_t layer, int64_t n, int64_t width, int64_t align, double removed, int64_t *kept,
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
    if (layer == 0 && fabs(got - removed) > SAY_ABOVE)
        log_info("prune.%s: %.4g asked, %.4g done: %ld of %ld stay, so that widths are multiples of %ld", key, removed, got,
                 (long)*kept, (long)n, (long)align);
    return 0;
}

int plan_counts(const struct config *c, const struct prune_options *o, struct layer_shape *counts, struct error *err)
{
    const int64_t align = o->align ? o->align : 32, E = c->head_dim;
    for (int64_t l = 0; l < c->n_layer; l++) {
        const struct layer_shape *s = &c->layer[l];
        const int64_t per_group = s->n_head / s->n_kv_head;
        int64_t kept;
        counts[l] = *s;
        if (o->heads_by == HEADS_BY_GROUP) {
            TRY(count_kept("heads", l, s->n_kv_head, per_group * E, align, o->heads, &kept, err));
            counts[l].n_kv_head = kept;
            counts[l].n_head = kept * per_group;
        } else {
            TRY(count_kept("heads", l, per_group, s->n_kv_head * E, align, o->heads, &kept, err));
            counts[l].n_head = kept * s->n_kv_head;
        }
        TRY(count_kept("ffn", l, s->n_ff, 1, align, o->ffn, &counts[l].n_ff, err));
    }
    return 0;
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
static int choose(const double *score, int64_t total, int64_t n, int64_t base, int64_t *to, const char *what, int64_t layer,
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

static int choose_heads(struct layer_plan *p, const struct layer_shape *s, const double *head, const double *group, int heads_by,
                        int64_t layer, struct error *err)
{
    const int64_t per_group = s->n_head / s->n_kv_head, kept_per_group = p->n_head / p->n_group;
    if (heads_by == HEADS_BY_GROUP) {
        double *score = xmalloc((size_t)s->n_kv_head * sizeof *score, "ranking");
        for (int64_t g = 0; g < s->n_kv_head; g++) {
            score[g] = group[g];
            for (int64_t h = g * per_group; h < (g + 1) * per_group; h++)
                score[g] += head[h];
        }
        const int rc = choose(score, s->n_kv_head, p->n_group, 0, p->group, "key/value group", layer, err);
        free(score);
        TRY(rc);
    } else {
        for (int64_t g = 0; g < p->n_group; g++)
            p->group[g] = g;
    }
    for (int64_t i = 0; i < p->n_group; i++) {
        const int64_t first = p->group[i] * per_group;
        TRY(choose(head + first, per_group, kept_per_group, first, p->head + i * kept_per_group, "head", layer, err));
    }
    return 0;
}

int plan_make(struct plan *p, const struct config *c, const struct prune_scores *s, const struct layer_shape *counts,
              int heads_by, struct error *err)
{
    p->n_layer = c->n_layer;
    p->layer = xcalloc((size_t)c->n_layer, sizeof *p->layer, "plan");
    for (int64_t l = 0; l < c->n_layer; l++) {
        struct layer_plan *lp = &p->layer[l];
        lp->n_head = counts[l].n_head;
        lp->n_group = counts[l].n_kv_head;
        lp->n_ff = counts[l].n_ff;
        lp->head = xmalloc((size_t)lp->n_head * sizeof *lp->head, "plan");
        lp->group = xmalloc((size_t)lp->n_group * sizeof *lp->group, "plan");
        lp->ff = xmalloc((size_t)lp->n_ff * sizeof *lp->ff, "plan");
        if (choose_heads(lp, &c->layer[l], s->head[l], s->group[l], heads_by, l, err) < 0 ||
            choose(s->ff[l], c->layer[l].n_ff, lp->n_ff, 0, lp->ff, "feed-forward channel", l, err) < 0) {
            plan_release(p);
            return -1;
        }
    }
    return 0;
}

void plan_release(struct plan *p)
{
    for (int64_t l = 0; p->layer && l < p->n_layer; l++) {
        free(p->layer[l].head);
        free(p->layer[l].group);
        free(p->layer[l].ff);
    }
    free(p->layer);
    *p = (struct plan){0};
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
    return o;
}
