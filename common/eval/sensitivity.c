// sensitivity.c: see sensitivity.h. A gate of 0 takes a unit out exactly (what masked = sliced rests on), so one model serves
// all measurements, and the differences are paired over the same tokens (Michel et al. 2019, section 3.2, for heads).
#include "common/eval/sensitivity.h"

#include <stdlib.h>

#include "common/base/progress.h"
#include "common/base/threads.h"
#include "common/eval/statistics.h"

const char *const unit_kind_name[UNIT_KINDS] = {"head", "group", "slice", "attention", "ffn"};

static int64_t min_count(int64_t a, int64_t b) { return a < b ? a : b; }

int64_t sensitivity_units(const struct config *c, int64_t slices) {
    int64_t n = 0;
    for (int64_t l = 0; l < c->n_layer; l++)
        n += c->layer[l].n_head + c->layer[l].n_kv_head + min_count(slices, c->layer[l].n_ff) + 2;
    return n;
}

// `parts` units of a kind share the layer's `gates` as evenly as it goes.
static void add_units(struct sensitivity *s, enum unit_kind kind, int64_t layer, int64_t gates, int64_t parts) {
    for (int64_t i = 0; i < parts; i++) {
        int64_t first = gates * i / parts;
        s->unit[s->n++] = (struct unit_loss){
            .kind = kind, .layer = layer, .index = i, .first = first, .count = gates * (i + 1) / parts - first};
    }
}

static void list_units(struct sensitivity *s, const struct config *c, int64_t slices) {
    s->unit = xcalloc((size_t)sensitivity_units(c, slices), sizeof *s->unit, "units");
    for (int64_t l = 0; l < c->n_layer; l++) {
        const struct layer_shape *shape = &c->layer[l];
        add_units(s, UNIT_HEAD, l, shape->n_head, shape->n_head);
        add_units(s, UNIT_GROUP, l, shape->n_head, shape->n_kv_head);
        add_units(s, UNIT_SLICE, l, shape->n_ff, min_count(slices, shape->n_ff));
        add_units(s, UNIT_ATTENTION, l, shape->n_head, 1);
        add_units(s, UNIT_FF, l, shape->n_ff, 1);
    }
}

static void set_gates(struct model *m, const struct unit_loss *u, float value) {
    int is_ff = u->kind == UNIT_SLICE || u->kind == UNIT_FF;
    struct tensor *gate = is_ff ? m->gate[u->layer].ff : m->gate[u->layer].heads;
    for (int64_t i = u->first; i < u->first + u->count; i++)
        gate->data[i] = value;
}

static int measure_units(struct sensitivity *s, struct model *m, const struct dataset *stream, const struct tokenizer *t,
                         const struct eval_options *options, const double *whole, struct error *err) {
    struct progress progress;
    progress_begin(&progress, "sensitivity", "units", s->n, 0);
    for (int64_t i = 0; i < s->n; i++) {
        struct unit_loss *u = &s->unit[i];
        struct eval_result without = {0};
        set_gates(m, u, 0);
        int status = evaluate(&without, m, NULL, stream, t, options, err);
        set_gates(m, u, 1);
        TRY(status);
        struct paired d = paired_compare(without.token_nll, whole, without.tokens);
        u->rise = d.mean;
        u->low = d.low;
        u->high = d.high;
        eval_result_release(&without);
        if (interrupted())
            return error_set(err, "interrupted after %ld of %ld units; nothing is kept", (long)i + 1, (long)s->n);
        progress_update(&progress, i + 1, "loss %+.4f", u->rise);
    }
    progress_end(&progress, "units");
    return 0;
}

int sensitivity_measure(struct sensitivity *s, struct model *m, const struct dataset *stream, const struct tokenizer *t,
                        const struct eval_options *options, int64_t slices, struct error *err) {
    struct eval_options quiet = *options;
    struct eval_result whole = {0};
    *s = (struct sensitivity){0};
    quiet.quiet = 1;
    list_units(s, &m->config, slices);
    model_add_gates(m, 0);
    int status = evaluate(&whole, m, NULL, stream, t, &quiet, err);
    if (status == 0) {
        s->nll = whole.nll;
        s->tokens = whole.tokens;
        status = measure_units(s, m, stream, t, &quiet, whole.token_nll, err);
        eval_result_release(&whole);
    }
    model_drop_gates(m);
    if (status < 0)
        sensitivity_release(s);
    return status;
}

void sensitivity_release(struct sensitivity *s) {
    free(s->unit);
    *s = (struct sensitivity){0};
}

struct json *sensitivity_json(const struct sensitivity *s) {
    struct json *o = json_object(), *units = json_array();
    json_set_number(o, "tokens", (double)s->tokens);
    json_set_number(o, "nll", s->nll);
    for (int64_t i = 0; i < s->n; i++) {
        const struct unit_loss *u = &s->unit[i];
        struct json *one = json_object();
        json_set_string(one, "kind", unit_kind_name[u->kind]);
        json_set_number(one, "layer", (double)u->layer);
        json_set_number(one, "index", (double)u->index);
        json_set_number(one, "first", (double)u->first);
        json_set_number(one, "count", (double)u->count);
        json_set_number(one, "rise", u->rise);
        json_set_number(one, "low", u->low);
        json_set_number(one, "high", u->high);
        json_push(units, one);
    }
    json_set(o, "units", units);
    return o;
}
