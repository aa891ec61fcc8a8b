// variants.c: several versions of one recipe, each for several seeds, compared on the same held-out tokens.
//
//   "variants": [{"name": "ce", "set": {"distill.alpha": 0}},
//                {"name": "kl", "set": {"distill.alpha": 1}, "versus": ["ce"]},
//                {"name": "scratch", "stages": [...], "seeds": [1, 2, 3]}],
//   "seeds": [1, 2, 3]
//
// A variant is the recipe with the members of "set" (named as --set names them) or with other stages. Stage folders
// are named by their hash, so variants with a common beginning share it. A variant's loss is that of what it made last;
// with several seeds the losses of a token are averaged over them, and the comparison pairs these averages token by
// token.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/eval/report.h"
#include "common/eval/statistics.h"
#include "recipes/forecast.h"
#include "recipes/inputs.h"
#include "recipes/rows.h"
#include "recipes/runner.h"

struct variant_options {
    char *name;
    struct json *set, *stages, *seeds;
    struct option_list versus;
};
#define ROW(n, t, f) n, t, offsetof(struct variant_options, f)
static const struct option variant_table[] = {
    {ROW("name", OPTION_STRING, name), NULL, 0, 0, NULL, "NAME", "names the variant in the report"},
    {ROW("set", OPTION_JSON, set), NULL, 0, 0, NULL, NULL, "overrides, named as --set names them"},
    {ROW("stages", OPTION_JSON, stages), NULL, 0, 0, NULL, NULL, "stages instead of the recipe's"},
    {ROW("seeds", OPTION_JSON, seeds), NULL, 0, 0, NULL, NULL, "seeds instead of the recipe's"},
    {ROW("versus", OPTION_LIST, versus), NULL, 0, 0, NULL, "NAME", "variants to compare with"},
    {.name = NULL}};
#undef ROW

struct outcome { // of one variant
    struct variant_options options;
    double *losses; // [n] means over the seeds
    int64_t n;
    struct json *by_seed, *seeds, *runs;
    double parameters;
    double errors; // sum over the seeds, of classifiers of images; NaN: there are none
};

static int read_variant(const struct recipe *r, int index, const struct json *o, struct variant_options *v,
                        struct error *err) {
    char *where = xasprintf("%s: variants[%d]", r->where, index);
    options_init(variant_table, v);
    int status = options_read_json(variant_table, v, o, where, err);
    if (status == 0 && !v->name)
        status = error_set(err, "%s: \"name\" is missing", where);
    if (status == 0 && v->set && json_kind(v->set) != JSON_OBJECT)
        status = error_set(err, "%s: \"set\": expected an object of keys and values, as in {\"prune.ffn\": 0.5}", where);
    free(where);
    if (status < 0)
        options_release(variant_table, v);
    return status;
}

// The variant's seeds: its own list, the recipe's, or the one seed. The caller frees the list, also on failure.
static int read_seeds(const struct recipe *r, const struct variant_options *v, int64_t **seeds, int64_t *n,
                      struct error *err) {
    const struct json *list = v->seeds ? v->seeds : r->seeds;
    *n = list ? json_count(list) : 1;
    if (list && (json_kind(list) != JSON_ARRAY || *n == 0))
        return error_set(err, "%s: \"seeds\": expected a list of whole numbers, as in [1, 2, 3]", r->where);
    *seeds = xcalloc((size_t)*n, sizeof **seeds, "seeds");
    (*seeds)[0] = r->seed;
    int64_t i = 0;
    for (const struct json *s = json_first(list); s; s = json_next(s)) {
        double seed = json_number(s);
        if (json_kind(s) != JSON_NUMBER || seed < 0 || seed != floor(seed) || seed > 1e15)
            return error_set(err, "%s: \"seeds\": expected whole numbers from 0 to 1e15, as in [1, 2, 3]", r->where);
        (*seeds)[i++] = (int64_t)seed;
    }
    return 0;
}

static int has_variant(const struct recipe *r, const char *name) {
    for (const struct json *o = json_first(r->variants); o; o = json_next(o)) {
        const char *found = json_string(json_get(o, "name"));
        if (found && strcmp(found, name) == 0)
            return 1;
    }
    return 0;
}

static int check_variant(const struct recipe *r, int index, const struct json *o, struct error *err) {
    struct variant_options v;
    struct recipe recipe = {0};
    int64_t *seeds = NULL, n;
    TRY(read_variant(r, index, o, &v, err));
    int status = read_seeds(r, &v, &seeds, &n, err);
    if (status == 0 && json_get(v.set, "seed"))
        status = error_set(err, "%s: variant \"%s\": \"seed\": a variant has a list of them; give it \"seeds\": [N] beside \"set\"", r->where, v.name);
    if (status == 0)
        status = recipe_variant(&recipe, r, v.name, v.set, v.stages, seeds[0], err);
    for (size_t i = 0; i < v.versus.count && status == 0; i++)
        if (!has_variant(r, v.versus.item[i]))
            status = error_set(err, "%s: variants[%d]: \"versus\": no variant is named \"%s\"", r->where, index,
                               v.versus.item[i]);
    recipe_release(&recipe);
    free(seeds);
    options_release(variant_table, &v);
    return status;
}

int variants_check(const struct recipe *r, struct error *err) {
    if (json_kind(r->variants) != JSON_ARRAY || json_count(r->variants) == 0)
        return error_set(err, "%s: \"variants\": expected a list of objects with \"name\" and \"set\" or \"stages\"",
                         r->where);
    int i = 0;
    for (const struct json *o = json_first(r->variants); o; o = json_next(o))
        TRY(check_variant(r, i++, o, err));
    return 0;
}

static int forecast_variant(const struct run *run, int index, const struct json *o, int print, struct json *list, struct error *err) {
    const struct recipe *r = run->recipe;
    struct variant_options v;
    struct recipe recipe = {0};
    struct forecasts f;
    int64_t *seeds = NULL, n = 0;
    TRY(read_variant(r, index, o, &v, err));
    int status = read_seeds(r, &v, &seeds, &n, err);
    if (status == 0)
        status = recipe_variant(&recipe, r, v.name, v.set, v.stages, seeds[0], err);
    struct run one = *run;
    one.recipe = &recipe;
    if (status == 0)
        status = forecasts_make(&f, &one, 1, err);
    if (status == 0) {
        struct json *j = forecasts_json(&f, &recipe, &run->inputs->train.data);
        json_set_string(j, "variant", v.name);
        json_set_number(j, "seeds", (double)n);
        json_push(list, j);
        if (print) {
            printf("variant %s, %ld seed%s; for each:\n", v.name, (long)n, n > 1 ? "s" : "");
            forecasts_print(&f, &recipe, &run->inputs->train.data, stdout);
        }
        forecasts_release(&f);
    }
    recipe_release(&recipe);
    free(seeds);
    options_release(variant_table, &v);
    return status;
}

int variants_forecast(const struct run *run, enum forecast_output output, struct error *err) {
    struct json *o = json_object(), *list = json_array();
    int i = 0, status = 0;
    for (const struct json *v = json_first(run->recipe->variants); v && status == 0; v = json_next(v))
        status = forecast_variant(run, i++, v, output == FORECAST_TEXT, list, err);
    json_set_string(o, "name", run->recipe->name);
    json_set(o, "variants", list);
    if (status == 0 && output == FORECAST_JSON) {
        char *text = json_text(o, 1);
        puts(text);
        free(text);
    }
    json_free(o);
    return status;
}

static int add_losses(struct outcome *out, const struct chain *c, int64_t n_seeds, struct error *err) {
    double *losses;
    int64_t n;
    TRY(row_losses(c->last, &losses, &n, err));
    double mean = 0;
    if (!out->losses) {
        out->losses = xcalloc((size_t)n, sizeof *out->losses, "losses of tokens");
        out->n = n;
    }
    int status = 0;
    if (n != out->n)
        status = error_set(err, "%s: %ld losses, expected %ld; remove the folder and run again", c->last->folder,
                           (long)n, (long)out->n);
    for (int64_t i = 0; i < n && status == 0; i++) {
        mean += losses[i] / (double)n;
        out->losses[i] += losses[i] / (double)n_seeds;
    }
    json_push(out->by_seed, json_from_number(mean));
    free(losses);
    return status;
}

static int run_seed(struct run *run, struct outcome *out, int64_t seed, int64_t n_seeds, struct error *err) {
    struct recipe r;
    struct chain chain;
    TRY(recipe_variant(&r, run->recipe, out->options.name, out->options.set, out->options.stages, seed, err));
    log_info("variant \"%s\", seed %ld", out->options.name, (long)seed);
    int status = chain_run(run, &r, 1, MEASURE_LOSS, &chain, err);
    if (status == 0) {
        const struct json *row = NULL;
        for (const struct json *one = json_first(chain.rows); one; one = json_next(one))
            if (chain.last && strcmp(json_string(json_get(one, "path")), chain.last->shown) == 0)
                row = one;
        if (!row || !json_get(row, "nll"))
            status = error_set(
                err, "%s: variants are compared on held-out text: give data.eval, and a stage that makes a model or a file",
                run->recipe->where);
        else
            status = add_losses(out, &chain, n_seeds, err);
        struct json *one = json_object();
        json_set_number(one, "seed", (double)seed);
        json_set(one, "stages", json_copy(chain.stages));
        json_set(one, "rows", json_copy(chain.rows));
        json_push(out->runs, one);
        out->parameters = json_number(json_get(row, "parameters"));
        out->errors += json_get(row, "errors") ? json_number(json_get(row, "errors")) : (double)NAN;
        chain_release(&chain);
    }
    recipe_release(&r);
    return status;
}

static int run_variant(struct run *run, struct outcome *out, struct error *err) {
    int64_t *seeds = NULL, n;
    int status = read_seeds(run->recipe, &out->options, &seeds, &n, err);
    for (int64_t i = 0; i < n && status == 0; i++) {
        json_push(out->seeds, json_from_number((double)seeds[i]));
        status = run_seed(run, out, seeds[i], n, err);
    }
    free(seeds);
    return status;
}

static struct json *outcome_json(const struct outcome *out) {
    struct json *o = json_object();
    double mean = 0;
    for (int64_t i = 0; i < out->n; i++)
        mean += out->losses[i] / (double)out->n;
    json_set_string(o, "name", out->options.name);
    json_set(o, "seeds", json_copy(out->seeds));
    json_set_number(o, "parameters", out->parameters);
    json_set_number(o, "tokens", (double)out->n);
    json_set_number(o, "nll", mean);
    json_set_number(o, "ppl", exp(mean));
    if (!isnan(out->errors))
        json_set_number(o, "errors", out->errors / (double)json_count(out->seeds));
    json_set(o, "nll_by_seed", json_copy(out->by_seed));
    json_set(o, "runs", json_copy(out->runs));
    return o;
}

static void compare(const struct outcome *all, int64_t n, const struct outcome *one, struct json *comparisons) {
    for (size_t v = 0; v < one->options.versus.count; v++)
        for (int64_t i = 0; i < n; i++) {
            const struct outcome *other = &all[i];
            if (strcmp(other->options.name, one->options.versus.item[v]) != 0)
                continue;
            struct paired d = paired_compare(one->losses, other->losses, one->n < other->n ? one->n : other->n);
            struct json *o = json_object();
            json_set_string(o, "variant", one->options.name);
            json_set_string(o, "versus", other->options.name);
            json_set_number(o, "difference", d.mean);
            json_set_number(o, "difference_low", d.low);
            json_set_number(o, "difference_high", d.high);
            json_push(comparisons, o);
        }
}

static void outcome_release(struct outcome *out) {
    options_release(variant_table, &out->options);
    free(out->losses);
    json_free(out->by_seed);
    json_free(out->seeds);
    json_free(out->runs);
}

int variants_run(struct run *run, struct json *report, struct error *err) {
    const struct recipe *r = run->recipe;
    int64_t n = json_count(r->variants), made = 0;
    struct outcome *all = xcalloc((size_t)n, sizeof *all, "variants");
    int status = 0;
    for (const struct json *o = json_first(r->variants); o && status == 0; o = json_next(o)) {
        struct outcome *out = &all[made];
        status = read_variant(r, (int)made, o, &out->options, err);
        if (status < 0)
            break;
        made++;
        out->by_seed = json_array();
        out->seeds = json_array();
        out->runs = json_array();
        status = run_variant(run, out, err);
    }
    if (status == 0) {
        struct json *variants = json_array(), *comparisons = json_array();
        for (int64_t i = 0; i < n; i++) {
            json_push(variants, outcome_json(&all[i]));
            compare(all, n, &all[i], comparisons);
        }
        json_set(report, "variants", variants);
        json_set(report, "comparisons", comparisons);
    }
    for (int64_t i = 0; i < made; i++)
        outcome_release(&all[i]);
    free(all);
    return status;
}
