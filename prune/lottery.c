// lottery.c: see lottery.h. Which trainings there are, in which order they can run, and running them side by side.
//
// A training that is done has left result.json, and is never done again; one that was killed goes on from its snapshot. So a
// lottery that is interrupted anywhere and run again ends in the same files.
#include "prune/lottery.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/threads.h"
#include "common/base/timer.h"
#include "common/model/compact.h"
#include "prune/lottery_units.h"

#define ROW(n, t, f) n, t, offsetof(struct lottery_options, f)
const struct option lottery_option_table[] = {
    {ROW("rounds", OPTION_INT, rounds), "15", 0, 99, NULL, "N", "rounds of pruning after the dense training"},
    {ROW("rate", OPTION_DOUBLE, rate), "0.2", 0, 0.99, NULL, "R", "share of what is left that a round removes"},
    {ROW("output_rate", OPTION_DOUBLE, output_rate), "0.1", 0, 0.99, NULL, "R", "the same for a classifier's output layer"},
    {ROW("granularity", OPTION_CHOICE, granularity), "weights", 0, 0, "weights|units", NULL,
     "units: whole query heads and feed-forward channels"},
    {ROW("scope", OPTION_CHOICE, scope), "layer", 0, 0, "layer|global", NULL,
     "the rate holds in each matrix, or over all of them together"},
    {ROW("score", OPTION_CHOICE, score), "magnitude", 0, 0, "magnitude|magnitude_increase|random", NULL,
     "of the trained weights; what has the least goes"},
    {ROW("rewind", OPTION_JSON, rewind), NULL, 0, 0, NULL, NULL,
     "{\"to\": \"init\", a step, or \"5%\" of the steps; \"weights\": false rewinds the learning rate alone}"},
    {ROW("controls", OPTION_JSON, controls), NULL, 0, 0, NULL, NULL,
     "list of reinit, random_mask, magnitude_at_init: as sparse as the ticket"},
    {ROW("control_rounds", OPTION_JSON, control_rounds), NULL, 0, 0, NULL, NULL,
     "list of rounds that get the controls (default: the last)"},
    {ROW("methods", OPTION_JSON, methods), NULL, 0, 0, NULL, NULL,
     "lists of Pm, per cent of weights remaining, for snip, grasp, synflow, magnitude, random (masks before training), rigl, set "
     "(dynamic): {\"snip\": [5, 2]}"},
    {ROW("score_batches", OPTION_INT, score_batches), "1", 1, 1e6, NULL, "N", "batches that snip and grasp score on"},
    {ROW("fresh_weights", OPTION_BOOL, fresh_weights), "false", 0, 0, NULL, NULL,
     "masks before training: train other random weights than those that were scored, as SNIP's authors do"},
    {ROW("distribution", OPTION_CHOICE, distribution), "erk", 0, 0, "erk|uniform", NULL,
     "how rigl and set spread the weights over matrices: Erdos-Renyi, or equal shares"},
    {ROW("update_every", OPTION_INT, update_every), "100", 1, 1e9, NULL, "N", "rigl, set: steps between exchanges"},
    {ROW("update_share", OPTION_DOUBLE, update_share), "0.3", 0, 1, NULL, "R", "rigl, set: share exchanged at first"},
    {ROW("update_end", OPTION_DOUBLE, update_end), "0.75", 0, 1, NULL, "R", "rigl, set: share of the steps with exchanges"},
    {ROW("stability", OPTION_JSON, stability), NULL, 0, 0, NULL, NULL,
     "{\"at\": list of steps from which two copies differ, \"rounds\": list (default: [0], dense)}"},
    {ROW("seeds", OPTION_JSON, seeds), NULL, 0, 0, NULL, NULL, "list of seeds (default: the recipe's)"},
    {ROW("init", OPTION_BOOL, init), "true", 0, 0, NULL, NULL,
     "begin with fresh random weights of the model's shape; false: with its own, whatever the seed"},
    {ROW("jobs", OPTION_INT, jobs), "0", 0, 1024, NULL, "N", "trainings at once; 0: one for each thread, on text one"},
    TRAIN_OPTION_ROWS(struct lottery_options, train.),
    {.name = NULL}};
#undef ROW

// ---- reading the lists ----

static int check_numbers(const struct json *list, const char *where, const char *key, double min, double max, int whole,
                         struct error *err)
{
    if (list && json_kind(list) != JSON_ARRAY)
        return error_set(err, "%s: \"%s\" is %s; expected a list of numbers", where, key, json_kind_name(json_kind(list)));
    for (const struct json *v = json_first(list); v; v = json_next(v)) {
        const double x = json_kind(v) == JSON_NUMBER ? json_number(v) : (double)NAN;
        if (!(x >= min && x <= max) || (whole && x != floor(x)))
            return error_set(err, "%s: \"%s\": found %s, expected %s from %g to %g", where, key,
                             json_kind(v) == JSON_NUMBER ? "another number" : json_kind_name(json_kind(v)),
                             whole ? "whole numbers" : "numbers", min, max);
    }
    return 0;
}

static const char *const control_names[] = {"reinit", "random_mask", "magnitude_at_init", NULL};

static const char **method_names(void) // static, ends with NULL
{
    static const char *names[16];
    int n = 0;
    for (const struct at_init *a = at_init_methods; a->name; a++)
        names[n++] = a->name;
    names[n++] = "rigl";
    names[n++] = "set";
    names[n] = NULL;
    return names;
}

static int index_of(const char *word, const char *const *names)
{
    for (int i = 0; word && names[i]; i++)
        if (!strcmp(word, names[i]))
            return i;
    return -1;
}

static int check_names(const struct json *list, const char *where, const char *key, const char *const *names, struct error *err)
{
    char all[160] = "";
    for (int i = 0; names[i]; i++)
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i ? ", " : "", names[i]);
    if (list && json_kind(list) != JSON_ARRAY)
        return error_set(err, "%s: \"%s\" is %s; expected a list of: %s", where, key, json_kind_name(json_kind(list)), all);
    for (const struct json *v = json_first(list); v; v = json_next(v))
        if (index_of(json_string(v), names) < 0)
            return error_set(err, "%s: \"%s\": found %s, expected of: %s", where, key,
                             json_string(v) ? json_string(v) : json_kind_name(json_kind(v)), all);
    return 0;
}

static int check_methods(const struct json *methods, const char *where, struct error *err)
{
    if (methods && json_kind(methods) != JSON_OBJECT)
        return error_set(err, "%s: \"methods\" is %s; expected lists of Pm by method, as in {\"snip\": [5, 2]}", where,
                         json_kind_name(json_kind(methods)));
    for (const struct json *v = json_first(methods); v; v = json_next(v)) {
        struct json *name = json_array();
        json_push(name, json_from_string(json_key(v)));
        int status = check_names(name, where, "methods", method_names(), err);
        json_free(name);
        TRY(status);
        TRY(check_numbers(v, where, json_key(v), 0.01, 100, 0, err));
    }
    return 0;
}

static int read_rewind(const struct lottery_options *o, const char *where, int64_t *step, int *weights, struct error *err)
{
    const struct json *r = o->rewind, *to = json_get(r, "to");
    *step = 0;
    *weights = 1;
    if (r && json_kind(r) != JSON_OBJECT)
        return error_set(err, "%s: \"rewind\" is %s; expected {\"to\": \"init\"}", where, json_kind_name(json_kind(r)));
    for (const struct json *v = json_first(r); v; v = json_next(v))
        if (strcmp(json_key(v), "to") != 0 && strcmp(json_key(v), "weights") != 0)
            return error_set(err, "%s: rewind: unknown key \"%s\"; expected to, weights", where, json_key(v));
    TRY(json_get_bool(r, where, "weights", 1, weights, err));
    const char *text = json_string(to);
    char *end = NULL;
    double x = json_kind(to) == JSON_NUMBER ? json_number(to) : text ? strtod(text, &end) : 0;
    if (text && end != text && strcmp(end, "%") == 0)
        x = floor(x / 100 * (double)o->train.steps);
    else if (text && strcmp(text, "init") == 0)
        x = 0;
    else if (text || (to && json_kind(to) != JSON_NUMBER) || x != floor(x))
        x = -1;
    if (x < 0 || x >= (double)o->train.steps)
        return error_set(err, "%s: rewind.to: expected \"init\", a step before the last (%lld), or a share as \"5%%\"", where,
                         (long long)o->train.steps);
    *step = (int64_t)x;
    return 0;
}

int lottery_check(const struct lottery_options *o, const char *where, struct error *err)
{
    int64_t step;
    int weights;
    if (o->train.steps < 1)
        return error_set(err, "%s: \"steps\" is missing; expected the steps of one training", where);
    if (o->train.tokens || o->train.patience || o->train.keep_best || o->train.drop_class >= 0)
        return error_set(err,
                         "%s: \"tokens\", \"patience\", \"keep_best\" and \"drop_class\" have no place in a lottery; give "
                         "\"steps\"",
                         where);
    if (o->train.eval_every < 1)
        return error_set(err, "%s: \"eval_every\" is missing; expected the steps between looks at the validation data", where);
    TRY(train_check_plain(&o->train, where, err));
    TRY(read_rewind(o, where, &step, &weights, err));
    TRY(check_names(o->controls, where, "controls", control_names, err));
    TRY(check_methods(o->methods, where, err));
    TRY(check_numbers(o->control_rounds, where, "control_rounds", 1, (double)o->rounds, 1, err));
    TRY(check_numbers(o->seeds, where, "seeds", 0, 1e15, 1, err));
    TRY(check_numbers(json_get(o->stability, "at"), where, "stability.at", 0, (double)o->train.steps - 1, 1, err));
    TRY(check_numbers(json_get(o->stability, "rounds"), where, "stability.rounds", 0, (double)o->rounds, 1, err));
    if (json_count(o->methods) && o->granularity == GRAIN_UNITS)
        return error_set(err, "%s: \"methods\" cut weights; give \"granularity\": \"weights\"", where);
    return 0;
}

// ---- the trainings ----

static int add_unit(struct lottery *l, struct unit u)
{
    if (l->n_unit == l->capacity) {
        l->capacity = l->capacity ? 2 * l->capacity : 64;
        l->unit = xrealloc(l->unit, (size_t)l->capacity * sizeof *l->unit, "trainings");
    }
    l->unit[l->n_unit] = u;
    return l->n_unit++;
}

static int has_round(const struct lottery_options *o, int64_t round)
{
    if (!json_count(o->control_rounds))
        return round == o->rounds;
    for (const struct json *v = json_first(o->control_rounds); v; v = json_next(v))
        if ((int64_t)json_number(v) == round)
            return 1;
    return 0;
}

static void add_controls(struct lottery *l, int64_t seed, int64_t round, int needs)
{
    const struct lottery_options *o = l->options;
    for (const struct json *v = json_first(o->controls); v && has_round(o, round); v = json_next(v)) {
        const int which = index_of(json_string(v), control_names);
        add_unit(l, (struct unit){.kind = (enum unit_kind)(UNIT_REINIT + which),
                                  .seed = seed,
                                  .round = round,
                                  .name = xasprintf("seed-%ld/round-%02ld-%s", (long)seed, (long)round, control_names[which]),
                                  .needs = needs});
    }
}

static void add_methods(struct lottery *l, int64_t seed)
{
    for (const struct json *v = json_first(l->options->methods); v; v = json_next(v))
        for (const struct json *level = json_first(v); level; level = json_next(level)) {
            const char *name = json_key(v);
            struct unit u = {.seed = seed, .level = json_number(level), .needs = -1};
            u.kind = !strcmp(name, "rigl") ? UNIT_RIGL : !strcmp(name, "set") ? UNIT_SET : UNIT_AT_INIT;
            u.at_init = u.kind == UNIT_AT_INIT ? &at_init_methods[index_of(name, method_names())] : NULL;
            u.name = xasprintf("seed-%ld/%s-pm%g", (long)seed, name, u.level);
            add_unit(l, u);
        }
}

// The ticket of `round` for `seed` among the trainings so far; -1: none.
static int find_ticket(const struct lottery *l, int64_t seed, int64_t round)
{
    for (int i = 0; i < l->n_unit; i++)
        if (l->unit[i].kind == UNIT_TICKET && l->unit[i].seed == seed && l->unit[i].round == round)
            return i;
    return -1;
}

static void add_stability(struct lottery *l, int64_t seed)
{
    struct json *dense = json_array();
    json_push(dense, json_from_number(0));
    const struct json *rounds = json_get(l->options->stability, "rounds");
    for (const struct json *r = json_first(rounds ? rounds : dense); r; r = json_next(r))
        for (const struct json *at = json_first(json_get(l->options->stability, "at")); at; at = json_next(at)) {
            struct unit u = {.kind = UNIT_STABILITY, .seed = seed, .round = (int64_t)json_number(r), .at = (int64_t)json_number(at)};
            u.name = xasprintf("seed-%ld/stability-%02ld-at-%ld", (long)seed, (long)u.round, (long)u.at);
            u.needs = u.round ? find_ticket(l, seed, u.round - 1) : -1;
            add_unit(l, u);
        }
    json_free(dense);
}

// Round by round over the seeds, so that each seed's chain goes on while others work; what nothing waits for comes last.
static void plan(struct lottery *l, int64_t default_seed)
{
    const struct lottery_options *o = l->options;
    struct json *own = json_array();
    json_push(own, json_from_number((double)default_seed));
    const struct json *seeds = json_count(o->seeds) ? o->seeds : own;
    for (const struct json *s = json_first(seeds); s; s = json_next(s))
        add_unit(l, (struct unit){.kind = UNIT_REWIND,
                                  .seed = (int64_t)json_number(s),
                                  .name = xasprintf("seed-%ld/rewind", (long)json_number(s)),
                                  .needs = -1});
    for (int64_t round = 0; round <= o->rounds; round++) {
        int i = 0;
        for (const struct json *s = json_first(seeds); s; s = json_next(s), i++) {
            const int64_t seed = (int64_t)json_number(s);
            const int before = round ? find_ticket(l, seed, round - 1) : i;
            add_unit(l, (struct unit){.kind = UNIT_TICKET,
                                      .seed = seed,
                                      .round = round,
                                      .name = xasprintf("seed-%ld/round-%02ld", (long)seed, (long)round),
                                      .needs = before});
            if (round)
                add_controls(l, seed, round, before);
        }
    }
    for (const struct json *s = json_first(seeds); s; s = json_next(s)) {
        add_methods(l, (int64_t)json_number(s));
        add_stability(l, (int64_t)json_number(s));
    }
    json_free(own);
}

static void release(struct lottery *l)
{
    for (int i = 0; i < l->n_unit; i++)
        free(l->unit[i].name);
    free(l->unit);
}

// Of a dense training's products, what one under this training's mask has.
static double work_share(const struct lottery_options *o, const struct unit *u)
{
    double kept = u->kind == UNIT_AT_INIT ? u->level / 100 : pow(1 - o->rate, (double)u->round);
    if (u->kind == UNIT_RIGL || u->kind == UNIT_SET)
        kept = 1;
    return kept <= COMPACT_SHARE ? kept : 1;
}

int64_t lottery_count(const struct lottery_options *o, int64_t default_seed, int weighted, double *steps)
{
    struct lottery l = {.options = o};
    struct error ignored;
    int64_t n = 0;
    *steps = 0;
    read_rewind(o, "", &l.rewind_step, &l.rewind_weights, &ignored);
    plan(&l, default_seed);
    for (int i = 0; i < l.n_unit; i++) {
        const struct unit *u = &l.unit[i];
        const int64_t whole = o->train.steps, tail = whole - l.rewind_step;
        n += u->kind == UNIT_REWIND ? l.rewind_step > 0 : u->kind == UNIT_STABILITY ? 2 : 1;
        const double its = u->kind == UNIT_REWIND      ? (double)l.rewind_step
                           : u->kind == UNIT_STABILITY ? (double)(2 * whole - u->at)
                           : u->kind == UNIT_TICKET || u->kind == UNIT_RANDOM_MASK ? (double)tail : (double)whole;
        *steps += its * (weighted ? work_share(o, u) : 1);
    }
    release(&l);
    return n;
}

// ---- running them ----

static char *result_path(const struct lottery *l, const struct unit *u)
{
    char *file = path_join(u->name, "result.json"), *path = path_join(l->folder, file);
    free(file);
    return path;
}

// A training that can begin: its number. -1: those that are left wait for others; -2: none is left.
static int next_unit(const struct lottery *l)
{
    int waiting = 0;
    for (int i = 0; i < l->n_unit; i++) {
        const struct unit *u = &l->unit[i];
        if (u->status == 0 && (u->needs < 0 || l->unit[u->needs].status == 2))
            return i;
        waiting |= u->status < 2;
    }
    return waiting ? -1 : -2;
}

static void tell(const struct lottery *l, const struct unit *u, int done)
{
    struct error ignored;
    char *path = result_path(l, u);
    struct json *o = json_read(path, &ignored);
    if (json_get(o, "early_stop")) {
        char test[64] = "";
        if (l->task->has_test)
            snprintf(test, sizeof test, ", test accuracy there %.2f %%", json_number(json_get(o, "test_acc")));
        log_info("[%d/%d] %s: Pm %.1f %% (sparsity %.1f %%), least validation loss %.4f at step %.0f%s, %.0f s", done, l->n_unit,
                 u->name, json_number(json_get(o, "pm")), json_number(json_get(o, "sparsity")),
                 json_number(json_get(o, "validation_loss")), json_number(json_get(o, "early_stop")), test, u->seconds);
    } else if (json_get(o, "barrier")) {
        log_info("[%d/%d] %s: barrier %.4f nats, %.0f s", done, l->n_unit, u->name, json_number(json_get(o, "barrier")),
                 u->seconds);
    }
    json_free(o);
    free(path);
}

struct pool_state { // shared by the workers
    struct lottery *lottery;
    int failed, done;
    struct error *err;
};

#define WAIT_MICROSECONDS 20000

static void work(struct pool_state *s)
{
    struct lottery *l = s->lottery;
    for (;;) {
        int i;
#pragma omp critical(lottery)
        {
            i = s->failed || interrupted() ? -2 : next_unit(l);
            if (i >= 0)
                l->unit[i].status = 1;
        }
        if (i == -2)
            return;
        if (i == -1) {
            usleep(WAIT_MICROSECONDS);
            continue;
        }
        struct error err = {0};
        const double start = timer_now();
        const int status = unit_run(l, &l->unit[i], &err);
        if (status == 0)
            unit_drop_snapshots(l, &l->unit[i]);
#pragma omp critical(lottery)
        {
            l->unit[i].seconds = timer_now() - start;
            l->unit[i].status = status == 0 ? 2 : 3;
            if (status < 0 && !s->failed) {
                s->failed = 1;
                *s->err = err;
            }
            if (status == 0)
                tell(l, &l->unit[i], ++s->done);
        }
    }
}

static int run_all(struct lottery *l, int jobs, struct error *err)
{
    struct pool_state s = {.lottery = l, .err = err};
    for (int i = 0; i < l->n_unit; i++) {
        char *path = result_path(l, &l->unit[i]);
        l->unit[i].status = file_exists(path) ? 2 : 0;
        s.done += l->unit[i].status == 2;
        if (l->unit[i].status == 2)
            unit_drop_snapshots(l, &l->unit[i]); // killed between the result and this
        free(path);
    }
    if (s.done)
        log_info("%d of %d trainings were done before", s.done, l->n_unit);
    if (jobs > 1) {
        omp_set_max_active_levels(1); // each training then uses one thread
#pragma omp parallel num_threads(jobs)
        work(&s);
    } else {
        work(&s);
    }
    if (!s.failed && interrupted())
        return error_set(err, "lottery: interrupted; run the same command again to go on");
    return s.failed ? -1 : 0;
}

static int collect(const struct lottery *l, struct json *results, struct json *seconds, struct error *err)
{
    for (int i = 0; i < l->n_unit; i++) {
        const struct unit *u = &l->unit[i];
        if (u->seconds > 0)
            json_set_number(seconds, u->name, u->seconds);
        if (u->kind == UNIT_REWIND)
            continue;
        char *path = result_path(l, u);
        struct json *o = json_read(path, err);
        free(path);
        if (!o)
            return -1;
        json_push(results, o);
    }
    return 0;
}

int lottery_run(const struct lottery_task *task, const struct lottery_options *o, const char *folder, int64_t default_seed,
                struct json **results, struct json **seconds, struct error *err)
{
    struct lottery l = {.task = task, .options = o, .folder = folder};
    TRY(lottery_check(o, "lottery", err));
    TRY(read_rewind(o, "lottery", &l.rewind_step, &l.rewind_weights, err));
    plan(&l, default_seed);
    const int jobs = o->jobs ? (int)o->jobs : task->is_language ? 1 : threads_count();
    int status = run_all(&l, jobs, err);
    *results = json_array();
    *seconds = json_object();
    if (status == 0)
        status = collect(&l, *results, *seconds, err);
    if (status < 0) {
        json_free(*results);
        json_free(*seconds);
    }
    release(&l);
    return status;
}
