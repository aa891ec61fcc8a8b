// bit_plan.c: see bit_plan.h: solver and files.
#include "quant/bit_plan.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNITS 20000 // that what can be spent is counted in, at most

static int64_t smallest_bytes(const struct bit_plan *p)
{
    int64_t bytes = p->fixed_bytes;
    for (int64_t i = 0; i < p->n_tensor; i++)
        bytes += p->tensor[i].choice[0].bytes;
    return bytes;
}

// What choice c costs beyond the smallest one, in units, to the nearest.
static int64_t extra_units(const struct bit_tensor *t, int c, double unit)
{
    return llround((double)(t->choice[c].bytes - t->choice[0].bytes) / unit);
}

// best[u]: the least divergence of the tensors so far in u units; choice[u]: what the last one took there.
static void spend(const struct bit_tensor *t, double unit, int64_t n, double *best, double *next, signed char *choice)
{
    for (int64_t u = 0; u < n; u++) {
        next[u] = DBL_MAX;
        for (int c = 0; c < t->n_choice; c++) {
            const int64_t left = u - extra_units(t, c, unit);
            if (left >= 0 && best[left] + t->choice[c].kld < next[u]) {
                next[u] = best[left] + t->choice[c].kld;
                choice[u] = (signed char)c;
            }
        }
    }
    memcpy(best, next, (size_t)n * sizeof *best);
}

// The plan that was found for u units.
static void take_choices(struct bit_plan *p, double unit, int64_t n, int64_t u, const signed char *choice)
{
    p->bytes = p->fixed_bytes;
    p->kld = 0;
    for (int64_t i = p->n_tensor - 1; i >= 0; i--) {
        struct bit_tensor *t = &p->tensor[i];
        t->chosen = choice[i * n + u];
        u -= extra_units(t, t->chosen, unit);
        p->bytes += t->choice[t->chosen].bytes;
        p->kld += t->choice[t->chosen].kld;
    }
}

int bit_plan_check(const struct bit_plan *p, int64_t bytes, struct error *err)
{
    const int64_t least = smallest_bytes(p);
    if (bytes >= least)
        return 0;
    return error_set(err, "the target, %" PRId64 " bytes (%.3f bits per weight), is below the smallest possible size: with every matrix "
                         "in the smallest type that may be used the file has %" PRId64 " bytes (%.3f bits per weight)", bytes,
                         8 * (double)bytes / (double)p->weights, least, 8 * (double)least / (double)p->weights);
}

// As rounding to units may add up either way, some more units than there are are looked at, and of them the most that fit.
void bit_plan_solve(struct bit_plan *p, int64_t bytes)
{
    const double spare = (double)(bytes - smallest_bytes(p)), unit = spare > UNITS ? spare / UNITS : 1;
    const int64_t n = (int64_t)(spare / unit) + 1 + (unit > 1 ? p->n_tensor : 0);
    double *best = xcalloc((size_t)n, sizeof *best, "bit plan"), *next = xcalloc((size_t)n, sizeof *next, "bit plan");
    signed char *choice = xcalloc((size_t)(p->n_tensor * n), 1, "bit plan"); // the smallest type, where a loss is no number
    for (int64_t i = 0; i < p->n_tensor; i++)
        spend(&p->tensor[i], unit, n, best, next, choice + i * n);
    int64_t u = n;
    do
        take_choices(p, unit, n, --u, choice);
    while (p->bytes > bytes);
    free(best);
    free(next);
    free(choice);
}

struct json *bit_plan_json(const struct bit_plan *p)
{
    struct json *o = json_object(), *tensors = json_object();
    json_set_number(o, "bytes", (double)p->bytes);
    json_set_number(o, "bits_per_weight", 8 * (double)p->bytes / (double)p->weights);
    json_set_number(o, "predicted_kld", p->kld);
    json_set_number(o, "tokens", (double)p->tokens);
    for (int64_t i = 0; i < p->n_tensor; i++) {
        const struct bit_tensor *t = &p->tensor[i];
        struct json *one = json_object(), *choices = json_object();
        json_set_string(one, "type", t->choice[t->chosen].format->name);
        for (int c = 0; c < t->n_choice; c++)
            json_set_number(choices, t->choice[c].format->name, t->choice[c].kld);
        json_set(one, "kld_alone", choices);
        json_append(tensors, t->name, one);
    }
    json_set(o, "tensors", tensors);
    return o;
}

void bit_plan_release(struct bit_plan *p)
{
    free(p->tensor);
    *p = (struct bit_plan){0};
}

// ---- a plan's types ----

static int read_type(struct gguf_types *to, const struct json *item, struct error *err)
{
    const char *name = json_key(item), *type = json_string(json_kind(item) == JSON_OBJECT ? json_get(item, "type") : item);
    const struct block_format *f = type ? block_format_find(type) : NULL;
    if (!f)
        return error_set(err, "%s: tensors: %s: found type \"%s\", expected one that a matrix can be stored in, as in {\"type\": \"Q4_K\"}",
                         to->path, name, type ? type : json_kind_name(json_kind(item)));
    to->tensor = xrealloc(to->tensor, (size_t)(to->n_tensor + 1) * sizeof *to->tensor, "plan");
    struct gguf_type_of *t = &to->tensor[to->n_tensor++];
    t->format = f;
    if ((size_t)snprintf(t->name, sizeof t->name, "%s", name) >= sizeof t->name)
        return error_set(err, "%s: tensors: \"%s\" is longer than any tensor's name", to->path, name);
    return 0;
}

int gguf_types_read(struct gguf_types *to, const char *path, struct error *err)
{
    *to = (struct gguf_types){.path = xstrdup(path)};
    struct json *o = json_read(path, err);
    const struct json *tensors = json_get(o, "tensors");
    int rc = o ? 0 : -1;
    if (rc == 0 && json_kind(tensors) != JSON_OBJECT)
        rc = error_set(err, "%s: \"tensors\": found %s, expected an object of tensors' names and types, as pdq bits writes it", path,
                       json_kind_name(json_kind(tensors)));
    for (const struct json *item = rc == 0 ? json_first(tensors) : NULL; item && rc == 0; item = json_next(item))
        rc = read_type(to, item, err);
    json_free(o);
    if (rc < 0)
        gguf_types_release(to);
    return rc;
}

const struct block_format *gguf_types_find(const struct gguf_types *types, const char *name)
{
    for (int64_t i = 0; types && i < types->n_tensor; i++)
        if (strcmp(types->tensor[i].name, name) == 0)
            return types->tensor[i].format;
    return NULL;
}

int gguf_types_check(const struct gguf_types *types, const struct gguf_plan *plan, struct error *err)
{
    for (int64_t i = 0; i < types->n_tensor; i++) {
        int64_t at = 0;
        while (at < plan->n_tensor && strcmp(plan->tensor[at].name, types->tensor[i].name) != 0)
            at++;
        if (at == plan->n_tensor || plan->tensor[at].n_dim != 2)
            return error_set(err, "%s: tensors: %s is no matrix of this model: a plan for another one?", types->path, types->tensor[i].name);
    }
    return 0;
}

void gguf_types_release(struct gguf_types *types)
{
    free(types->path);
    free(types->tensor);
    *types = (struct gguf_types){0};
}
