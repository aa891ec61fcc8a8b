// budget.c: see budget.h.
#include "recipes/budget.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "quant/gguf_export.h"
#include "recipes/latency.h"

#define MS_TOLERANCE 0.02 // a shape that is nearer to the limit than this, from below, is not chosen anew

// The later stage that writes GGUF; -1: none.
static int writer_of(const struct recipe *r, int index) {
    for (int i = r->n_stage - 1; i > index; i--)
        if (stage_writes_gguf(&r->stage[i]))
            return i;
    return -1;
}

// As the later stage will write it: with the provenance that it will have, since that is part of the file.
static double file_bytes(void *context, const struct config *shape) {
    const struct budget *b = context;
    int writer = writer_of(b->recipe, b->index);
    char hash[HASH_TEXT];
    memset(hash, '0', sizeof hash - 1);
    hash[sizeof hash - 1] = 0;
    struct gguf_export_options options = stage_gguf_options(&b->recipe->stage[writer]);
    struct json *provenance = NULL;
    if (b->run) {
        const struct stage_run later = {.run = b->run->run,
                                        .recipe = b->recipe,
                                        .stage = &b->recipe->stage[writer],
                                        .index = writer,
                                        .hash = hash,
                                        .train = b->run->train};
        provenance = stage_provenance(&later);
    }
    options.provenance = provenance;
    options.name = b->recipe->name;
    struct model *m = model_new(shape, 0);
    struct gguf_plan plan;
    struct error err;
    double bytes = HUGE_VAL; // a shape that cannot be written
    if (gguf_plan_make(&plan, m, b->tokenizer, &options, &err) == 0) {
        bytes = (double)plan.file_bytes;
        gguf_plan_release(&plan);
    }
    json_free(provenance);
    model_free(m);
    return bytes;
}

static double parameters(void *context, const struct config *shape) {
    (void)context;
    return (double)config_parameters(shape);
}

static double flops(void *context, const struct config *shape) {
    const struct budget *b = context;
    return model_flops_per_token(shape, b->recipe->data.seq_len);
}

static double milliseconds(void *context, const struct config *shape) {
    const struct budget *b = context;
    return latency_predict(shape) * b->correction;
}

// What the table says is off where blocks run in each other's wake: the shape that it led to is measured.
static int correct_milliseconds(void *context, const struct config *chosen) {
    struct budget *b = context;
    double measured = b->parent * latency_ratio(chosen, &b->original), predicted = milliseconds(b, chosen);
    log_info("budget: this shape takes %.3f ms, the table said %.3f; at most %.3f are wanted", measured, predicted, b->prune.limit);
    b->correction *= measured / predicted;
    return measured > b->prune.limit || measured < (1 - MS_TOLERANCE) * b->prune.limit;
}

static const struct {
    const char *key, *unit;
    double (*cost)(void *context, const struct config *shape);
    int (*again)(void *context, const struct config *chosen);
} budget_kinds[] = {
    {"params", "parameters", parameters, NULL},
    {"bytes", "bytes of the GGUF file", file_bytes, NULL},
    {"flops", "FLOPs a token", flops, NULL},
    {"ms", "ms of prefill", milliseconds, correct_milliseconds},
};
#define KINDS (sizeof budget_kinds / sizeof *budget_kinds)

static int kind_of(const char *key) {
    for (size_t i = 0; i < KINDS; i++)
        if (strcmp(budget_kinds[i].key, key) == 0)
            return (int)i;
    return -1;
}

int budget_check(const struct recipe *r, int index, const struct json *budget, const char *where, struct error *err) {
    const struct json *v = json_kind(budget) == JSON_OBJECT ? json_first(budget) : NULL;
    if (!v || json_count(budget) != 1)
        return error_set(err, "%s: \"budget\": expected an object with one of params, bytes, flops, ms, as in {\"bytes\": 4e6}",
                         where);
    int kind = kind_of(json_key(v));
    if (kind < 0) {
        const char *names[KINDS + 1] = {NULL};
        for (size_t i = 0; i < KINDS; i++)
            names[i] = budget_kinds[i].key;
        const char *near = nearest_name(json_key(v), names);
        return error_set(err, "%s: \"budget\": unknown key \"%s\"; expected params, bytes, flops or ms%s%s%s", where, json_key(v),
                         near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    }
    if (json_kind(v) != JSON_NUMBER || !(json_number(v) > 0))
        return error_set(err, "%s: \"budget\".%s: expected a positive number (below 1: a share of the parent's)", where, json_key(v));
    if (budget_kinds[kind].cost == file_bytes && writer_of(r, index) < 0)
        return error_set(err, "%s: \"budget\".bytes is the size of the file that a later quantize stage (or an export to GGUF) writes, "
                         "and there is none; add one, or give \"params\"", where);
    return 0;
}

int budget_open(struct budget *b, const struct recipe *r, int index, const struct json *budget, const struct config *original,
                const struct tokenizer *tokenizer, const struct stage_run *run, struct error *err) {
    const struct json *v = json_first(budget);
    int kind = kind_of(json_key(v));
    *b = (struct budget){.recipe = r, .index = index, .tokenizer = tokenizer, .run = run, .correction = 1};
    b->original = *original; // a shallow copy: its layers are the caller's
    b->prune = (struct prune_budget){.cost = budget_kinds[kind].cost, .again = budget_kinds[kind].again,
                                      .unit = budget_kinds[kind].unit, .context = b};
    if (budget_kinds[kind].cost == milliseconds) {
        b->parent = latency_measure(original); // the table is right for the model as it is
        b->correction = b->parent / latency_predict(original);
    } else {
        b->parent = b->prune.cost(b, original);
    }
    double limit = json_number(v);
    b->prune.limit = limit < 1 ? limit * b->parent : limit;
    if (isinf(b->parent))
        b->parent = b->prune.limit; // it cannot be written itself: the first step goes all the way
    if (b->prune.limit > b->parent)
        return error_set(err, "%s: stages[%d].prune.budget: %.10g %s are more than the parent's %.10g: nothing is to be removed", r->where,
                         index, b->prune.limit, b->prune.unit, b->parent);
    return 0;
}

double budget_limit(const struct budget *b, double progress) {
    return progress >= 1 ? b->prune.limit : b->parent - progress * (b->parent - b->prune.limit);
}
