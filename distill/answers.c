// answers.c: see answers.h.
#include "distill/answers.h"

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

int answers_read(struct answers *a, const struct json *v, struct error *err)
{
    static const char where[] = "distill.divergence";
    *a = (struct answers){0};
    if (!v || json_kind(v) == JSON_STRING) {
        const int d = v ? find(json_string(v), where, err) : DIVERGENCE_KL;
        TRY(d);
        a->weight[d] = (struct loss_weight){1, 1, 0, 1};
        return 0;
    }
    if (json_kind(v) != JSON_OBJECT || !json_count(v))
        return error_set(err, "%s: expected one of " DIVERGENCE_NAMES ", or an object of these with their weights", where);
    for (const struct json *item = json_first(v); item; item = json_next(item)) {
        const int d = find(json_key(item), where, err);
        char part[64];
        TRY(d);
        snprintf(part, sizeof part, "%s.%s", where, divergence_names[d]);
        TRY(loss_weight_read(&a->weight[d], item, part, err));
    }
    return 0;
}

void answers_at(const struct answers *a, double share, double weight[DIVERGENCES])
{
    for (int d = 0; d < DIVERGENCES; d++)
        weight[d] = loss_weight_at(&a->weight[d], share);
}

int answers_has(const struct answers *a, int divergence) { return a->weight[divergence].from > 0 || a->weight[divergence].to > 0; }

const char *answers_log_name(int divergence) { return divergence == DIVERGENCE_MSE ? "logit_mse" : divergence_names[divergence]; }
