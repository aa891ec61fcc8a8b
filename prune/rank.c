// rank.c: how many units stay in each layer, by one ranking over all of them, to fractions of all units or to a budget.
//
// What goes at once is a step: so many units of one layer that its width stays a multiple of `align`. A layer's steps go in the
// order of their scores. Over layers they are compared by their scores a parameter (or what else a budget counts, a unit of it)
// where the score estimates a loss (taylor squared, fisher), else by their mean relative to the layer's root mean square, since activations and weights grow over the layers (as FLAP
// standardises: An et al. 2024, eq. 6). With the layers' own scope a step's rank is its place in its layer, so that all layers
// lose at the same rate.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "prune/score.h"

enum kind { KIND_HEADS, KIND_FF };

struct step {
    double rank;
    enum kind kind;
    int64_t layer, place, units; // place: the how many-th of its layer
};

struct ranking {
    const struct config *config;
    const struct layer_shape *whole;
    const struct prune_options *options;
    const struct prune_budget *budget; // NULL: none
    struct step *step;
    int64_t n;
};

static int64_t gcd(int64_t a, int64_t b)
{
    while (b) {
        const int64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static int by_rank(const void *a, const void *b)
{
    const struct step *x = a, *y = b;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    if (x->kind != y->kind)
        return x->kind < y->kind ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

// Adds the steps of one layer's units; score [n] is sorted on the way. width: elements of a unit; price: what a unit takes.
static void add_steps(struct ranking *r, enum kind kind, int64_t layer, double *score, int64_t n, int64_t whole, int64_t width,
                      double price)
{
    const struct prune_options *o = r->options;
    const int64_t align = o->align ? o->align : 32, size = align / gcd(align, width);
    const int64_t floor_units = (int64_t)ceil(o->floor * (double)whole - 1e-9), least = (floor_units + size - 1) / size * size;
    const int power = prune_score_table[o->score].power, even = o->scope == SCOPE_LAYER;
    double squares = 0;
    qsort(score, (size_t)n, sizeof *score, ascending);
    for (int64_t i = 0; i < n; i++)
        squares += score[i] * score[i] / (double)n;
    const double scale = squares > 0 ? sqrt(squares) : 1;
    const int64_t steps = n > least ? (n - least + size - 1) / size : 0;
    for (int64_t gone = 0, place = 0; gone < n - least; place++) {
        const int64_t ragged = (n - gone) % size, units = ragged ? ragged : size;
        double sum = 0;
        for (int64_t i = gone; i < gone + units; i++)
            sum += power == 2 ? score[i] * score[i] : score[i];
        const double mean = sum / (double)units;
        r->step[r->n++] = (struct step){.rank = even         ? (double)(place + 1) / (double)steps
                                                : power ? mean / price
                                                        : mean / scale,
                                        .kind = kind, .layer = layer, .place = place, .units = units};
        gone += units;
    }
}

static void take(const struct ranking *r, const struct step *step, struct layer_shape *counts)
{
    struct layer_shape *c = &counts[step->layer];
    const struct layer_shape *now = &r->config->layer[step->layer];
    if (step->kind == KIND_FF) {
        c->n_ff -= step->units;
        return;
    }
    if (r->options->heads_by == HEADS_BY_GROUP) {
        c->n_kv_head -= step->units;
        c->n_head -= step->units * (now->n_head / now->n_kv_head);
    } else {
        c->n_head -= step->units * (r->options->mask ? 1 : now->n_kv_head);
    }
    if (!c->n_head)
        c->n_kv_head = 0;
}

// What a unit of a layer takes of the budget: the mean over all but one. Without a budget, its parameters.
static double price(const struct ranking *r, enum kind kind, int64_t l, int64_t units, double parameters)
{
    const struct config *c = r->config;
    if (!r->budget || units < 2)
        return parameters;
    struct config shape = *c;
    shape.layer = xmalloc((size_t)c->n_layer * sizeof *shape.layer, "ranking");
    memcpy(shape.layer, c->layer, (size_t)c->n_layer * sizeof *shape.layer);
    const double all = r->budget->cost(r->budget->context, &shape);
    const struct step most = {.kind = kind, .layer = l, .units = units - 1};
    take(r, &most, shape.layer);
    const double one = r->budget->cost(r->budget->context, &shape), each = (all - one) / (double)(units - 1);
    free(shape.layer);
    return isfinite(each) && each > 0 ? each : parameters;
}

static void rank_layer(struct ranking *r, const struct prune_scores *s, int64_t l, int heads, int ff)
{
    const struct prune_options *o = r->options;
    const struct layer_shape *now = &r->config->layer[l], *whole = &r->whole[l];
    const double D = (double)r->config->hidden, E = (double)r->config->head_dim;
    if (heads && now->n_head) {
        int64_t units, groups = now->n_kv_head, per_group = now->n_head / groups;
        const int by_group = o->heads_by == HEADS_BY_GROUP;
        double *score = plan_head_units(now, s->head[l], s->group[l], o->heads_by, o->mask, &units);
        const int64_t q_heads = by_group ? per_group : o->mask ? 1 : groups; // that go with a unit
        const int64_t whole_units = by_group ? whole->n_kv_head : o->mask ? whole->n_head : whole->n_head / whole->n_kv_head;
        add_steps(r, KIND_HEADS, l, score, units, whole_units, q_heads * r->config->head_dim,
                  price(r, KIND_HEADS, l, units, 2 * D * E * (double)(q_heads + (by_group ? 1 : 0))));
        free(score);
    }
    if (ff && now->n_ff) {
        double *score = xmalloc((size_t)now->n_ff * sizeof *score, "ranking");
        memcpy(score, s->ff[l], (size_t)now->n_ff * sizeof *score);
        add_steps(r, KIND_FF, l, score, now->n_ff, whole->n_ff, 1, price(r, KIND_FF, l, now->n_ff, 3 * D));
        free(score);
    }
}

static int64_t units_of(const struct ranking *r, const struct layer_shape *s, enum kind kind)
{
    if (kind == KIND_FF || !s->n_kv_head)
        return kind == KIND_FF ? s->n_ff : 0;
    return r->options->heads_by == HEADS_BY_GROUP ? s->n_kv_head : r->options->mask ? s->n_head : s->n_head / s->n_kv_head;
}

// The fraction of all the units of a kind, as near as steps come to it.
static void take_fraction(const struct ranking *r, enum kind kind, double fraction, struct layer_shape *counts)
{
    double total = 0, left = 0;
    for (int64_t l = 0; l < r->config->n_layer; l++) {
        total += (double)units_of(r, &r->whole[l], kind);
        left += (double)units_of(r, &counts[l], kind);
    }
    double to_go = fraction * total - (total - left);
    for (int64_t i = 0; i < r->n && to_go > 0; i++) {
        const struct step *step = &r->step[i];
        if (step->kind != kind)
            continue;
        if (to_go < (double)step->units / 2)
            break;
        take(r, step, counts);
        to_go -= (double)step->units;
    }
}

static double cost_after(const struct ranking *r, int64_t n, const struct prune_budget *budget, struct layer_shape *counts)
{
    struct config shape = *r->config;
    memcpy(counts, r->config->layer, (size_t)shape.n_layer * sizeof *counts);
    for (int64_t i = 0; i < n; i++)
        take(r, &r->step[i], counts);
    shape.layer = counts;
    return budget->cost(budget->context, &shape);
}

// Numbers of steps after which the pruning may end, ascending: with the layers' own scope, whole rounds.
static int64_t list_ends(const struct ranking *r, int64_t *end)
{
    int64_t n = 0;
    for (int64_t i = 0; i <= r->n; i++)
        if (i == 0 || i == r->n || r->options->scope == SCOPE_GLOBAL || r->step[i].rank != r->step[i - 1].rank)
            end[n++] = i;
    return n;
}

// The fewest steps that meet the budget.
static int take_to_budget(const struct ranking *r, const struct prune_budget *budget, struct layer_shape *counts, struct error *err)
{
    const double least = cost_after(r, r->n, budget, counts);
    if (least > budget->limit)
        return error_set(err, "prune.budget: %.10g %s cannot be reached: with every layer at its floor (%g of its units, multiples of "
                         "align) %.10g are left, the smallest; raise the budget, lower \"floor\" or \"align\", or remove layers as well",
                         budget->limit, budget->unit, r->options->floor, least);
    int64_t *end = xmalloc((size_t)(r->n + 1) * sizeof *end, "ranking");
    int64_t low = 0, high = list_ends(r, end) - 1; // end[high] is enough
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (cost_after(r, end[middle], budget, counts) <= budget->limit)
            high = middle;
        else
            low = middle + 1;
    }
    cost_after(r, end[high], budget, counts);
    free(end);
    return 0;
}

static int check_finite(const struct config *c, const struct prune_scores *s, struct error *err)
{
    for (int64_t l = 0; l < c->n_layer; l++) {
        const int64_t n[2] = {c->layer[l].n_head, c->layer[l].n_ff};
        const double *score[2] = {s->head[l], s->ff[l]};
        for (int k = 0; k < 2; k++)
            for (int64_t i = 0; i < n[k]; i++)
                if (!isfinite(score[k][i]))
                    return error_set(err, "prune: the score of %s %ld in layer %ld is %g, expected a finite number; look for NaN "
                                     "in the checkpoint, or take another score", k ? "feed-forward channel" : "head", (long)i,
                                     (long)l, score[k][i]);
    }
    return 0;
}

int rank_counts(const struct config *c, const struct layer_shape *whole, const struct prune_options *o,
                const struct prune_scores *s, double progress, const struct prune_budget *budget, struct layer_shape *counts,
                struct error *err)
{
    struct ranking r = {.config = c, .whole = whole, .options = o, .budget = budget};
    int64_t room = 0;
    TRY(check_finite(c, s, err));
    for (int64_t l = 0; l < c->n_layer; l++)
        room += c->layer[l].n_head + c->layer[l].n_ff;
    r.step = xcalloc((size_t)room, sizeof *r.step, "ranking");
    for (int64_t l = 0; l < c->n_layer; l++)
        rank_layer(&r, s, l, budget || o->heads > 0, budget || o->ffn > 0);
    qsort(r.step, (size_t)r.n, sizeof *r.step, by_rank);
    memcpy(counts, c->layer, (size_t)c->n_layer * sizeof *counts);
    int rc = 0;
    if (budget) {
        rc = take_to_budget(&r, budget, counts, err);
    } else {
        take_fraction(&r, KIND_HEADS, o->heads * progress, counts);
        take_fraction(&r, KIND_FF, o->ffn * progress, counts);
    }
    free(r.step);
    return rc;
}
