// ticket_mask.c: see ticket_mask.h.
//
// What can be cut lies in pools: a pool is one matrix, of which each weight is an item, or the heads or the channels of one layer,
// of which each is an item with all its weights. Everything else is said of items.
#include "prune/ticket_mask.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/base/random.h"

int mask_is_cut(const struct model *m, const struct parameter *p)
{
    return p->t.n_dim == 2 && (p->layer >= 0 || !model_is_language(&m->config));
}

struct pool {
    const struct model *m;
    const struct parameter *matrix; // of weights; NULL: units
    int layer;
    enum axis axis;
    int64_t n; // items
    int is_output;
};

struct pools { // lifetime: one call
    struct pool *pool;
    int n;
};

static struct pools pools_make(const struct model *m, enum granularity granularity)
{
    static const enum axis axes[] = {AXIS_HEADS, AXIS_FF};
    const size_t most = (size_t)m->n_parameter + 2 * (size_t)m->config.n_layer;
    struct pools s = {.pool = xcalloc(most, sizeof *s.pool, "what can be cut")};
    if (granularity == GRAIN_WEIGHTS)
        for (int i = 0; i < m->n_parameter; i++) {
            const struct parameter *p = &m->parameter[i];
            if (mask_is_cut(m, p))
                s.pool[s.n++] = (struct pool){.m = m, .matrix = p, .n = tensor_count(&p->t), .is_output = p->layer < 0};
        }
    else
        for (int l = 0; l < m->config.n_layer; l++)
            for (int a = 0; a < 2; a++) {
                const int64_t n = axis_size(&m->config, axes[a], l);
                if (n > 0)
                    s.pool[s.n++] =
                        (struct pool){.m = m, .layer = l, .axis = axes[a], .n = n / axis_unit(&m->config, axes[a])};
            }
    return s;
}

// Does this axis of p count the pool's units?
static int counts(const struct pool *pool, const struct parameter *p, enum axis axis)
{
    const int above = pool->layer + 1 < pool->m->config.n_layer ? pool->layer + 1 : -1;
    return (axis == pool->axis && p->layer == pool->layer) ||
           (pool->axis == AXIS_FF && axis == AXIS_BELOW && p->layer == above);
}

// Calls for every run of neighbouring weights that item i has.
static void each_run(const struct pool *pool, int64_t i, void (*see)(void *context, int64_t at, int64_t n), void *context)
{
    if (pool->matrix) {
        see(context, pool->matrix->offset + i, 1);
        return;
    }
    const int64_t unit = axis_unit(&pool->m->config, pool->axis);
    for (int k = 0; k < pool->m->n_parameter; k++) {
        const struct parameter *p = &pool->m->parameter[k];
        const int64_t columns = tensor_columns(&p->t);
        if (!mask_is_cut(pool->m, p))
            continue;
        if (counts(pool, p, p->spec->rows))
            see(context, p->offset + i * unit * columns, unit * columns);
        for (int64_t r = 0; counts(pool, p, p->spec->columns) && r < p->t.dim[0]; r++)
            see(context, p->offset + r * columns + i * unit, unit);
    }
}

struct sums {
    const float *score;
    const unsigned char *mask;
    double score_sum;
    int64_t n, kept;
};

static void add_run(void *context, int64_t at, int64_t n)
{
    struct sums *s = context;
    for (int64_t i = at; i < at + n; i++) {
        s->score_sum += s->score ? (double)s->score[i] : 0;
        s->kept += s->mask ? s->mask[i] != 0 : 0;
    }
    s->n += n;
}

struct setting {
    unsigned char *mask, value;
};

static void set_run(void *context, int64_t at, int64_t n)
{
    const struct setting *s = context;
    memset(s->mask + at, s->value, (size_t)n);
}

static int is_kept(const struct pool *pool, int64_t i, const unsigned char *mask)
{
    if (pool->matrix)
        return mask[pool->matrix->offset + i];
    struct sums s = {.mask = mask};
    each_run(pool, i, add_run, &s);
    return s.kept > 0;
}

static double item_score(const struct pool *pool, int64_t i, const float *score)
{
    if (pool->matrix)
        return (double)score[pool->matrix->offset + i];
    struct sums s = {.score = score};
    each_run(pool, i, add_run, &s);
    return s.score_sum / (double)s.n;
}

struct item {
    const struct pool *pool;
    int64_t index;
    double score;
};

// The least first; of equals the one that comes last.
static int by_score(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? -1 : 1;
    if (x->pool != y->pool)
        return x->pool > y->pool ? -1 : 1;
    return x->index > y->index ? -1 : x->index < y->index;
}

// Items of pools[0 .. n-1], those that mask keeps or (mask NULL) all, sorted. The caller frees.
static struct item *items_make(const struct pool *pool, int n, const unsigned char *mask, const float *score, int64_t *count)
{
    int64_t total = 0;
    for (int p = 0; p < n; p++)
        total += pool[p].n;
    struct item *item = xmalloc((size_t)(total + 1) * sizeof *item, "what can be cut");
    *count = 0;
    for (int p = 0; p < n; p++)
        for (int64_t i = 0; i < pool[p].n; i++)
            if (!mask || is_kept(&pool[p], i, mask))
                item[(*count)++] = (struct item){&pool[p], i, item_score(&pool[p], i, score)};
    qsort(item, (size_t)*count, sizeof *item, by_score);
    return item;
}

static void set_items(const struct item *item, int64_t n, unsigned char *mask, unsigned char value)
{
    struct setting s = {mask, value};
    for (int64_t i = 0; i < n; i++)
        each_run(item[i].pool, item[i].index, set_run, &s);
}

static void cut_pools(const struct pool *pool, int n, unsigned char *mask, const float *score, double rate)
{
    int64_t count;
    struct item *item = items_make(pool, n, mask, score, &count);
    int64_t cut = (int64_t)llround(rate * (double)count);
    set_items(item, cut < count ? cut : count, mask, 0);
    free(item);
}

void mask_cut(const struct model *m, unsigned char *mask, const float *score, double rate, const struct mask_options *o)
{
    struct pools s = pools_make(m, o->granularity);
    if (o->scope == MASK_GLOBAL)
        cut_pools(s.pool, s.n, mask, score, rate);
    else
        for (int p = 0; p < s.n; p++)
            cut_pools(&s.pool[p], 1, mask, score, s.pool[p].is_output ? rate * o->output_factor : rate);
    free(s.pool);
}

// Keeps `keep` items of a pool.
static void keep_best(const struct pool *pool, const float *score, int64_t keep, unsigned char *mask)
{
    int64_t count;
    struct item *item = items_make(pool, 1, NULL, score, &count);
    set_items(item, count - keep, mask, 0);
    free(item);
}

void mask_like(const struct model *m, const unsigned char *like, const float *score, enum granularity granularity,
               unsigned char *mask)
{
    struct pools s = pools_make(m, granularity);
    int64_t *keep = xcalloc((size_t)s.n + 1, sizeof *keep, "how many are kept");
    for (int p = 0; p < s.n; p++)
        for (int64_t i = 0; i < s.pool[p].n; i++)
            keep[p] += is_kept(&s.pool[p], i, like) != 0;
    memset(mask, 1, (size_t)m->n_element);
    for (int p = 0; p < s.n; p++)
        keep_best(&s.pool[p], score, keep[p], mask);
    free(keep);
    free(s.pool);
}

// density[p] = min(1, e * (rows + columns) / (rows * columns)) with the e for which `share` of all weights remain.
static void erdos_renyi_density(const struct pools *s, double share, double *density)
{
    double total = 0;
    for (int p = 0; p < s->n; p++)
        total += (double)s->pool[p].n;
    double low = 0, high = total;
    for (int step = 0; step < 200; step++) {
        const double e = (low + high) / 2;
        double kept = 0;
        for (int p = 0; p < s->n; p++) {
            const struct tensor *t = &s->pool[p].matrix->t;
            density[p] = fmin(1, e * (double)(t->dim[0] + t->dim[1]) / (double)tensor_count(t));
            kept += density[p] * (double)s->pool[p].n;
        }
        if (kept < share * total)
            low = e;
        else
            high = e;
    }
}

void mask_distribute(const struct model *m, double share, int erdos_renyi, const float *score, unsigned char *mask)
{
    struct pools s = pools_make(m, GRAIN_WEIGHTS);
    double *density = xmalloc((size_t)(s.n + 1) * sizeof *density, "densities");
    for (int p = 0; p < s.n; p++)
        density[p] = share;
    if (erdos_renyi)
        erdos_renyi_density(&s, share, density);
    memset(mask, 1, (size_t)m->n_element);
    for (int p = 0; p < s.n; p++)
        keep_best(&s.pool[p], score, (int64_t)llround(density[p] * (double)s.pool[p].n), mask);
    free(density);
    free(s.pool);
}

unsigned char *mask_ones(const struct model *m)
{
    unsigned char *mask = xmalloc((size_t)m->n_element + 1, "a mask");
    memset(mask, 1, (size_t)m->n_element);
    return mask;
}

int64_t mask_total(const struct model *m)
{
    int64_t n = 0;
    for (int i = 0; i < m->n_parameter; i++)
        n += mask_is_cut(m, &m->parameter[i]) ? tensor_count(&m->parameter[i].t) : 0;
    return n;
}

int64_t mask_kept(const struct model *m, const unsigned char *mask)
{
    int64_t n = 0;
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        for (int64_t k = 0; mask_is_cut(m, p) && k < tensor_count(&p->t); k++)
            n += mask[p->offset + k] != 0;
    }
    return n;
}

double mask_pm(const struct model *m, const unsigned char *mask)
{
    return 100 * (double)mask_kept(m, mask) / (double)mask_total(m);
}

void mask_random_scores(const struct model *m, uint64_t seed, const char *name, float *score)
{
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        char *stream = xasprintf("%s of %s", name, p->name);
        struct random r;
        random_init(&r, seed, stream, 0);
        for (int64_t k = 0; k < tensor_count(&p->t); k++)
            score[p->offset + k] = (float)random_uniform(&r);
        free(stream);
    }
}

void mask_zero(struct model *m, const unsigned char *mask)
{
    for (int64_t k = 0; k < m->n_element; k++)
        if (!mask[k])
            m->data[k] = 0;
}
