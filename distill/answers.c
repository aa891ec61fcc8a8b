// answers.c: see answers.h.
#include "distill/answers.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base/options.h"

static int find(const char *name, const char *where, struct error *err)
{
    const char *names[DIVERGENCES + 1] = {NULL};
    for (int d = 0; d < DIVERGENCES; d++)
        names[d] = divergence_names[d];
    for (int d = 0; d < DIVERGENCES; d++)
        if (strcmp(names[d], name) == 0)
            return d;
    const char *near = nearest_name(name, names);
    if (near)
        return error_set(err, "%s: found \"%s\"; did you mean \"%s\"?", where, name, near);
    return error_set(err, "%s: found \"%s\", expected one of " DIVERGENCE_NAMES, where, name);
}

int answers_read(struct answers *a, const struct distill_options *o, int64_t steps, const char *where, struct error *err)
{
    char place[PLACE_MAX], part[PLACE_MAX + 64];
    const struct json *v = o->divergence;
    snprintf(place, sizeof place, "%s.divergence", where);
    *a = (struct answers){.steps = steps};
    if (!v || json_kind(v) == JSON_STRING) {
        const int d = v ? find(json_string(v), place, err) : DIVERGENCE_KL;
        TRY(d);
        a->weight[d] = (struct loss_weight){1, 1, 0, 1};
        return 0;
    }
    if (json_kind(v) != JSON_OBJECT || !json_count(v))
        return error_set(err, "%s: expected one of " DIVERGENCE_NAMES ", or an object of these with their weights", place);
    for (const struct json *item = json_first(v); item; item = json_next(item)) {
        const int d = find(json_key(item), place, err);
        TRY(d);
        snprintf(part, sizeof part, "%s.divergence.%s", where, divergence_names[d]);
        TRY(loss_weight_read(&a->weight[d], item, part, err));
    }
    return 0;
}

// At a share of the run.
void answers_at(const struct answers *a, double share, double weight[DIVERGENCES])
{
    for (int d = 0; d < DIVERGENCES; d++)
        weight[d] = loss_weight_at(&a->weight[d], share);
}

int answers_has(const struct answers *a, int divergence) { return a->weight[divergence].from > 0 || a->weight[divergence].to > 0; }

// In run.jsonl, where "mse" is that of hidden states.
static const char *log_name(int divergence) { return divergence == DIVERGENCE_MSE ? "logit_mse" : divergence_names[divergence]; }

double distill_share_done(int64_t steps, int64_t step) { return steps > 1 ? (double)step / (double)(steps - 1) : 0; }

static double temperature_at(const struct distill_options *o, int64_t steps, int64_t step)
{
    double done = steps > 1 ? (double)step / (double)(steps - 1) : 1;
    switch ((enum temperature_rule)o->temperature_rule) {
    case TEMPERATURE_CONSTANT:
        return o->temperature;
    case TEMPERATURE_FALLING:
        return fmax(1, 3 * pow(0.9, (double)step / 1000));
    case TEMPERATURE_RISING:
        return 1 + (o->temperature - 1) * done;
    }
    BUG("distill: temperature rule %d", o->temperature_rule);
}

struct tensor *answers_loss(const struct answers *a, const struct distill_options *o, struct model *student, struct tape *tape,
                            const struct forward *f, struct tensor *x, struct head_spec *spec, int64_t step, struct loss_parts *parts)
{
    double weight[DIVERGENCES];
    struct head_result head;
    answers_at(a, distill_share_done(a->steps, step), weight);
    spec->alpha = distill_alpha(o, a->steps, step);
    spec->temperature = temperature_at(o, a->steps, step);
    spec->divergence = weight;
    spec->beta = o->beta;
    struct tensor *loss = model_head_loss(student, tape, f, x, spec, &head);
    *parts = (struct loss_parts){.loss = (1 - spec->alpha) * head.ce, .ce = head.ce, .kl = head.kl};
    for (int k = 0; k < DIVERGENCES; k++) {
        parts->loss += spec->alpha * weight[k] * divergence_scale(k, spec->temperature) * head.divergence[k];
        if (k != DIVERGENCE_KL && answers_has(a, k))
            parts->term[parts->n_term++] = (struct loss_term){log_name(k), head.divergence[k]};
    }
    return loss;
}
