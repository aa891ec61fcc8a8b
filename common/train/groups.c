// groups.c: see groups.h.
#include "common/train/groups.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/error.h"
#include "common/model/name_pattern.h"

int groups_check(const struct train_options *o, const char *where, struct error *err)
{
    if (!o->rates)
        return 0;
    if (json_kind(o->rates) != JSON_OBJECT)
        return error_set(err, "%s.rates: found %s, expected an object of patterns and factors, as {\"*norm*\": 0.1}", where,
                         json_kind_name(json_kind(o->rates)));
    for (const struct json *v = json_first(o->rates); v; v = json_next(v))
        if (json_kind(v) != JSON_NUMBER || !(json_number(v) > 0) || !isfinite(json_number(v)))
            return error_set(err, "%s.rates: \"%s\": expected a number above 0 (\"freeze\" is for what is not to be trained)", where, json_key(v));
    return 0;
}

// Calls see for every parameter that the pattern matches; -1 where there is none.
static int each_match(const struct model *m, const char *pattern, const char *where, void (*see)(struct groups *, int, double), struct groups *g,
                      double value, struct error *err)
{
    int n = 0;
    for (int i = 0; i < m->n_parameter; i++)
        if (name_matches(m, &m->parameter[i], pattern)) {
            see(g, i, value);
            n++;
        }
    return n ? 0 : name_error(m, NULL, pattern, where, err);
}

static void freeze(struct groups *g, int i, double value)
{
    (void)value;
    g->frozen[i] = 1;
}

static void set_factor(struct groups *g, int i, double value) { g->factor[i] = value; }

static int read_freeze(struct groups *g, const struct model *m, const struct train_options *o, const char *where, struct error *err)
{
    char place[160];
    int left = 0;
    snprintf(place, sizeof place, "%s.freeze", where);
    for (size_t k = 0; k < o->freeze.count; k++)
        TRY(each_match(m, o->freeze.item[k], place, freeze, g, 0, err));
    for (int i = 0; i < m->n_parameter; i++)
        left += !g->frozen[i];
    return left ? 0 : error_set(err, "%s: its patterns match all %d tensors, and nothing is left to train; leave one out", place, m->n_parameter);
}

static int read_rates(struct groups *g, const struct model *m, const struct train_options *o, const char *where, struct error *err)
{
    char place[160];
    snprintf(place, sizeof place, "%s.rates", where);
    if (!o->rates)
        return 0;
    g->factor = xmalloc((size_t)m->n_parameter * sizeof *g->factor, "factors of the learning rate");
    for (int i = 0; i < m->n_parameter; i++)
        g->factor[i] = 1;
    for (const struct json *v = json_first(o->rates); v; v = json_next(v))
        TRY(each_match(m, json_key(v), place, set_factor, g, json_number(v), err));
    return 0;
}

int groups_read(struct groups *g, const struct model *m, const struct train_options *o, const char *where, struct error *err)
{
    TRY(groups_check(o, where, err));
    *g = (struct groups){.frozen = xcalloc((size_t)m->n_parameter, 1, "what is frozen")};
    if (read_freeze(g, m, o, where, err) == 0 && read_rates(g, m, o, where, err) == 0)
        return 0;
    groups_release(g);
    return -1;
}

void groups_release(struct groups *g)
{
    free(g->frozen);
    free(g->factor);
    *g = (struct groups){0};
}
