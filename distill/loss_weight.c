// loss_weight.c: see loss_weight.h.
#include "distill/loss_weight.h"

#include <stddef.h>

#include "common/base/options.h"

#define AT(member) offsetof(struct loss_weight, member)
#define WEIGHT_MOST 1e6
static const struct option weight_table[] = {
    {"from", OPTION_DOUBLE, AT(from), "0", 0, WEIGHT_MOST, NULL, "R", "the weight up to the share `start` of the run"},
    {"to", OPTION_DOUBLE, AT(to), "0", 0, WEIGHT_MOST, NULL, "R", "the weight after the share `end`"},
    {"start", OPTION_DOUBLE, AT(start), "0", 0, 1, NULL, "R", "a share of the run"},
    {"end", OPTION_DOUBLE, AT(end), "1", 0, 1, NULL, "R", "a share of the run"},
    {0}};
#undef AT

static int number_between(const struct json *v, const char *where, double *out, struct error *err)
{
    *out = json_number(v);
    if (!v || json_kind(v) != JSON_NUMBER || !(*out >= 0 && *out <= WEIGHT_MOST))
        return error_set(err, "%s: expected a number from 0 to %g, [from, to], or {\"from\", \"to\", \"start\", \"end\"}", where, WEIGHT_MOST);
    return 0;
}

int loss_weight_read(struct loss_weight *w, const struct json *v, const char *where, struct error *err)
{
    const struct json *first = json_first(v);
    w->start = 0;
    w->end = 1;
    if (!v) {
        w->from = w->to = 1;
    } else if (json_kind(v) == JSON_OBJECT) {
        options_init(weight_table, w);
        TRY(options_read_json(weight_table, w, v, where, err));
    } else if (json_kind(v) == JSON_ARRAY && json_count(v) == 2) {
        TRY(number_between(first, where, &w->from, err));
        TRY(number_between(json_next(first), where, &w->to, err));
    } else {
        TRY(number_between(v, where, &w->from, err));
        w->to = w->from;
    }
    if (w->start >= w->end)
        return error_set(err, "%s: starts to change at %g of the run and ends at %g; expected an end after the start", where, w->start, w->end);
    if (w->from == 0 && w->to == 0)
        return error_set(err, "%s: is 0 over the whole run; expected a weight above 0, or no such entry", where);
    return 0;
}

double loss_weight_at(const struct loss_weight *w, double share)
{
    if (share <= w->start || w->from == w->to)
        return w->from;
    return share >= w->end ? w->to : w->from + (w->to - w->from) * (share - w->start) / (w->end - w->start);
}
