// sweep.c: see sweep.h.
#include "recipes/sweep.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/threads.h"
#include "common/base/timer.h"
#include "common/eval/report.h"
#include "recipes/forecast.h"
#include "recipes/inputs.h"

// ---- the points ----

static void point_init(struct sweep_point *p, struct json *set, int64_t seed, int is_control) {
    const struct json *own = json_get(set, "seed");
    *p = (struct sweep_point){.set = set, .seed = own ? (int64_t)json_number(own) : seed, .is_control = is_control};
    char *name = grid_name(set);
    p->name = xasprintf("%s%s seed=%ld", is_control ? "control: " : "", name, (long)p->seed);
    free(name);
}

static int point_recipe(const struct run *run, const struct sweep_point *p, struct recipe *r, struct error *err) {
    return recipe_variant(r, run->recipe, p->name, p->set, NULL, p->seed, err);
}

// The point with its units chosen at random; NULL where the grid has that already, or the recipe does not prune.
static struct json *control_set(const struct run *run, const struct grid *g, const struct json *point) {
    struct error ignored;
    struct recipe r;
    for (int a = 0; a < g->n; a++)
        for (const struct json *v = json_first(g->axis[a].values); v; v = json_next(v))
            if (strcmp(g->axis[a].key, "prune.score") == 0 && strcmp(json_string(v), "random") == 0)
                return NULL;
    struct json *set = json_copy(point);
    json_set_string(set, "prune.score", "random");
    json_set_bool(set, "prune.guards", 0);
    if (recipe_variant(&r, run->recipe, "control", set, NULL, run->recipe->seed, &ignored) == 0) {
        recipe_release(&r);
        return set;
    }
    json_free(set);
    return NULL;
}

static int is_known(const struct sweep *s, const char *name) {
    for (int64_t i = 0; i < s->n; i++)
        if (strcmp(s->point[i].name, name) == 0)
            return 1;
    return 0;
}

static void list_points(struct sweep *s, const struct run *run, const struct grid *g, int64_t seeds) {
    int64_t n = grid_points(g), first = run->recipe->seed;
    *s = (struct sweep){.grid = g, .point = xcalloc((size_t)(2 * n * seeds), sizeof *s->point, "a sweep's points")};
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < seeds; k++)
            point_init(&s->point[s->n++], grid_point(g, i), first + k, 0);
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < seeds; k++) {
            struct json *point = grid_point(g, i), *set = control_set(run, g, point);
            json_free(point);
            if (!set)
                return;
            struct sweep_point *p = &s->point[s->n];
            point_init(p, set, first + k, 1);
            if (!is_known(s, p->name)) {
                s->n++;
                continue;
            }
            json_free(p->set); // points that differ in the score alone have one control
            free(p->name);
        }
}

static void sweep_release(struct sweep *s) {
    for (int64_t i = 0; i < s->n; i++) {
        struct sweep_point *p = &s->point[i];
        json_free(p->set);
        free(p->name);
        free(p->effective);
        free(p->failure);
        if (!p->same) {
            json_free(p->facts);
            json_free(p->speed);
            json_free(p->stages);
        }
    }
    free(s->point);
    json_free(s->parent);
}

// ---- what a point comes to ----

// The recipe's text, with the shapes that fractions round to in place of the fractions.
static char *effective_text(const struct recipe *r, const struct forecasts *f) {
    struct json *o = recipe_json(r, 0), *shapes = json_array();
    int i = 0;
    for (struct json *stage = json_first(json_get(o, "stages")); stage; stage = json_next(stage), i++) {
        const struct json *prune = json_get(stage, "prune"); // where the fractions decide on the shape and on nothing else:
        if (!prune || json_number(json_get(prune, "steps")) > 1 || json_bool(json_get(prune, "mask")) ||
            strcmp(json_string(json_get(prune, "scope")), "layer") != 0)
            continue;
        json_remove(json_get(stage, "prune"), "heads");
        json_remove(json_get(stage, "prune"), "ffn");
        const struct config *c = &f->stage[i].out;
        for (int64_t l = 0; l < c->n_layer; l++) {
            json_push(shapes, json_from_number((double)c->layer[l].n_head));
            json_push(shapes, json_from_number((double)c->layer[l].n_kv_head));
            json_push(shapes, json_from_number((double)c->layer[l].n_ff));
        }
    }
    json_set(o, "shapes", shapes);
    char *text = json_text(o, 0);
    json_free(o);
    return text;
}

// Names the point, finds an earlier one of the same effect; *seconds: what it takes for itself.
static int look_at_point(const struct run *run, struct sweep *s, int64_t index, double *seconds, struct error *err) {
    struct sweep_point *p = &s->point[index];
    struct recipe r;
    struct forecasts f;
    TRY(point_recipe(run, p, &r, err));
    grid_hash(&r, p->hash);
    struct run one = *run;
    one.recipe = &r;
    int status = forecasts_make(&f, &one, 1, err);
    if (status == 0) {
        struct json *o = forecasts_json(&f, &r, &run->inputs->train.data);
        p->effective = effective_text(&r, &f);
        *seconds = json_number(json_get(o, "seconds"));
        json_free(o);
        forecasts_release(&f);
        for (int64_t i = 0; i < index && !p->same; i++)
            if (s->point[i].effective && strcmp(s->point[i].effective, p->effective) == 0)
                p->same = s->point[i].same ? s->point[i].same : &s->point[i];
    }
    recipe_release(&r);
    return status;
}

static int write_json(const struct json *o, const char *folder, const char *name, struct error *err) {
    char *text = json_text(o, 1), *path = path_join(folder, name);
    int status = file_write(path, text, strlen(text), err);
    free(text);
    free(path);
    return status;
}

static int write_point(const struct run *run, const struct sweep_point *p, const struct recipe *r, struct error *err) {
    char *inside = xasprintf("points/%s", p->hash), *folder = path_join(run->out, inside);
    struct json *recipe = recipe_json(r, 0), *o = json_object();
    json_set(o, "set", json_copy(p->set));
    json_set(o, "facts", json_copy(p->facts));
    int status = directory_make(folder, err);
    if (status == 0)
        status = write_json(recipe, folder, "recipe.json", err);
    if (status == 0)
        status = write_json(o, folder, "point.json", err);
    json_free(recipe);
    json_free(o);
    free(inside);
    free(folder);
    return status;
}

static const struct json *last_of(const struct json *list) {
    const struct json *last = NULL;
    for (const struct json *v = json_first(list); v; v = json_next(v))
        last = v;
    return last;
}

static int run_point(struct run *run, struct sweep *s, struct sweep_point *p, struct error *err) {
    struct recipe r;
    struct chain chain;
    TRY(point_recipe(run, p, &r, err));
    // Speeds are for the process that works alone at the end.
    int status = chain_run(run, &r, 1, sweep_worker() ? MEASURE_LOSS : MEASURE_ALL, &chain, err);
    if (status == 0) {
        const struct json *row = last_of(chain.rows), *speed = last_of(chain.row_speeds);
        if (!row || json_kind(json_get(row, "nll")) != JSON_NUMBER)
            status = error_set(err, "%s: a sweep compares losses on held-out text: give data.eval, and a stage that changes the model",
                               run->recipe->where);
        else {
            p->facts = json_copy(row);
            p->speed = json_copy(speed);
            p->stages = json_copy(chain.stages);
            if (!s->parent)
                s->parent = json_copy(json_first(chain.rows));
            status = write_point(run, p, &r, err);
        }
        chain_release(&chain);
    }
    recipe_release(&r);
    return status;
}

// ---- what is written ----

static const struct {
    const char *column, *fact;
    int is_speed;
} columns[] = {
    {"params", "parameters", 0}, {"flops", "flops_per_token", 0}, {"bytes", "bytes", 0},
    {"nll", "nll", 0},           {"nll_se", "nll_se", 0},         {"ppl", "ppl", 0},
    {"kld", "kld", 0},           {"top1", "top1", 0},             {"answered", "answered", 0},
    {"questions", "questions", 0}, {"accuracy", "accuracy", 0},   {"f1", "f1", 0},
    {"prefill_tps", "prefill_tokens_per_second", 1},
    {"decode_tps", "decode_tokens_per_second", 1},
};
#define COLUMNS (sizeof columns / sizeof *columns)

static void put_csv_value(FILE *f, const struct json *v) {
    const char *s = json_string(v);
    if (!s) {
        char *text = v && json_kind(v) != JSON_NULL ? json_text(v, 0) : xstrdup("");
        fputs(text, f);
        free(text);
    } else if (!strpbrk(s, ",\"\n")) {
        fputs(s, f);
    } else {
        fputc('"', f);
        for (; *s; s++)
            fprintf(f, *s == '"' ? "\"\"" : "%c", *s);
        fputc('"', f);
    }
}

// Questions and classes are there or not; what every point lacks is no column.
static int is_column(const struct sweep *s, size_t c) {
    static const char *const optional[] = {"answered", "questions", "accuracy", "f1"};
    int may_lack = 0;
    for (size_t i = 0; i < sizeof optional / sizeof *optional; i++)
        may_lack |= strcmp(columns[c].fact, optional[i]) == 0;
    if (!may_lack)
        return 1;
    for (int64_t i = 0; i < s->n; i++)
        if (json_get(s->point[i].facts, columns[c].fact))
            return 1;
    return 0;
}

static void put_csv(FILE *f, const struct sweep *s) {
    for (int a = 0; a < s->grid->n; a++)
        if (strcmp(s->grid->axis[a].key, "seed") != 0)
            fprintf(f, "%s,", s->grid->axis[a].key);
    fputs("seed", f);
    for (size_t c = 0; c < COLUMNS; c++)
        if (is_column(s, c))
            fprintf(f, ",%s", columns[c].column);
    fputc('\n', f);
    for (int64_t i = 0; i < s->n; i++) {
        const struct sweep_point *p = &s->point[i];
        if (p->is_control || !p->facts)
            continue;
        for (const struct json *v = json_first(p->set); v; v = json_next(v)) {
            if (strcmp(json_key(v), "seed") == 0)
                continue;
            put_csv_value(f, v);
            fputc(',', f);
        }
        fprintf(f, "%ld", (long)p->seed);
        for (size_t c = 0; c < COLUMNS; c++) {
            if (!is_column(s, c))
                continue;
            fputc(',', f);
            put_csv_value(f, json_get(columns[c].is_speed ? p->speed : p->facts, columns[c].fact));
        }
        fputc('\n', f);
    }
}

static struct json *point_json(const struct sweep_point *p) {
    struct json *o = json_object();
    json_set_string(o, "name", p->name);
    json_set_string(o, "hash", p->hash);
    json_set(o, "set", json_copy(p->set));
    json_set_number(o, "seed", (double)p->seed);
    if (p->same)
        json_set_string(o, "same_as", p->same->hash);
    for (size_t c = 0; c < COLUMNS && p->facts; c++)
        if (!columns[c].is_speed && json_get(p->facts, columns[c].fact))
            json_set(o, columns[c].column, json_copy(json_get(p->facts, columns[c].fact)));
    if (p->failure)
        json_set_string(o, "failure", p->failure);
    return o;
}

static struct json *sweep_json(const struct run *run, const struct sweep *s) {
    struct json *o = json_object(), *points = json_array(), *controls = json_array(), *failures = json_array();
    struct json *speeds = json_array(), *measured = json_object();
    json_set_string(o, "pdq", PDQ_VERSION);
    json_set_string(o, "name", run->recipe->name);
    json_set(o, "recipe", recipe_json(run->recipe, 0));
    json_set(o, "parent", s->parent ? json_copy(s->parent) : json_null());
    for (int64_t i = 0; i < s->n; i++) {
        const struct sweep_point *p = &s->point[i];
        json_push(p->failure ? failures : p->is_control ? controls : points, point_json(p));
        if (p->speed) {
            struct json *speed = json_copy(p->speed);
            json_set_string(speed, "hash", p->hash);
            json_push(speeds, speed);
        }
    }
    json_set(o, "points", points);
    json_set(o, "controls", controls);
    json_set(o, "failures", failures);
    json_set(measured, "speeds", speeds);
    json_set_number(measured, "threads", threads_count());
    json_set(o, "measured", measured);
    return o;
}

static int write_all(const struct run *run, const struct sweep *s, struct error *err) {
    struct file_writer w;
    struct json *o = sweep_json(run, s);
    char *csv = path_join(run->out, "sweep.csv");
    int status = file_writer_open(&w, csv, err);
    if (status == 0) {
        put_csv(w.stream, s);
        status = file_writer_commit(&w, err);
    }
    if (status == 0)
        status = write_json(o, run->out, "sweep.json", err);
    if (status == 0)
        status = sweep_html_write(s, o, run->out, err);
    free(csv);
    json_free(o);
    return status;
}

static void print_table(const struct sweep *s) {
    const struct json *first = s->n ? s->point[0].facts : NULL;
    const int has_answers = json_get(first, "questions") != NULL;
    const int has_classes = json_get(first, "accuracy") != NULL;
    printf("%-48s %9s %9s %8s %9s %8s%s %9s\n", "", "params M", "MB", "loss", has_classes ? "errors" : "ppl", has_classes ? "accuracy" : "KLD",
           has_answers ? "    answered" : "", has_classes ? "F1" : "decode/s");
    for (int64_t i = 0; i < s->n; i++) {
        const struct sweep_point *p = &s->point[i];
        if (!p->facts) {
            printf("%-48s failed: %s\n", p->name, p->failure);
            continue;
        }
        if (has_classes) {
            printf("%-48s %9.3f %9.2f %8.4f %9.0f %8.2f %9.2f\n", p->name, json_number(json_get(p->facts, "parameters")) / 1e6,
                   json_number(json_get(p->facts, "bytes")) / 1e6, json_number(json_get(p->facts, "nll")),
                   json_number(json_get(p->facts, "errors")), json_number(json_get(p->facts, "accuracy")), json_number(json_get(p->facts, "f1")));
            continue;
        }
        printf("%-48s %9.3f %9.2f %8.4f %9.3f %8.4f", p->name, json_number(json_get(p->facts, "parameters")) / 1e6,
               json_number(json_get(p->facts, "bytes")) / 1e6, json_number(json_get(p->facts, "nll")),
               json_number(json_get(p->facts, "ppl")), json_number(json_get(p->facts, "kld")));
        if (has_answers)
            printf(" %4.0f of %4.0f", json_number(json_get(p->facts, "answered")), json_number(json_get(p->facts, "questions")));
        printf(" %9.0f\n", json_number(json_get(p->speed, "decode_tokens_per_second")));
    }
}

// ---- all of it ----

// ---- jobs ----

#define WORKER "PDQ_SWEEP_WORKER"

int sweep_worker(void) { return getenv(WORKER) != NULL; }

// Points are taken by whoever comes first: a worker holds its point's lock as long as it lives.
static int claim_point(const struct run *run, const struct sweep_point *p) {
    char *name = xasprintf(".locks/point-%s", p->hash), *path = path_join(run->out, name);
    int descriptor = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0666);
    int mine = descriptor >= 0 && flock(descriptor, LOCK_EX | LOCK_NB) == 0;
    if (!mine && descriptor >= 0)
        close(descriptor);
    free(name);
    free(path);
    return mine;
}

// This program again, with the same words, told to be worker number i.
static pid_t start_worker(const struct run *run, int64_t i, int64_t jobs) {
    char *data, *words[256], number[32], threads[32];
    size_t len;
    struct error err;
    int n = 0;
    if (file_read("/proc/self/cmdline", &data, &len, &err) < 0)
        return -1;
    for (size_t at = 0; at < len && n < 255; at += strlen(data + at) + 1)
        words[n++] = data + at;
    words[n] = NULL;
    int share = threads_count() / (int)jobs;
    snprintf(number, sizeof number, "%ld", (long)i);
    snprintf(threads, sizeof threads, "%d", share > 0 ? share : 1);
    fflush(NULL);
    char *name = xasprintf("job-%ld.log", (long)i), *path = path_join(run->out, name);
    int log = open(path, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0666);
    pid_t parent = getpid(), child = fork();
    if (child == 0) { // exec at once: nothing that uses threads may run in a forked process
        dup2(log, 1);
        dup2(log, 2);
        setenv(WORKER, number, 1);
        setenv("PDQ_THREADS", threads, 1);
        prctl(PR_SET_PDEATHSIG, SIGKILL); // what it leaves behind is gone on with, like after any kill
        if (getppid() == parent)
            execv("/proc/self/exe", words);
        _exit(1);
    }
    close(log);
    free(data);
    free(name);
    free(path);
    return child;
}

static int run_workers(const struct run *run, int64_t jobs, struct error *err) {
    pid_t *child = xcalloc((size_t)jobs, sizeof *child, "jobs");
    for (int64_t i = 0; i < jobs; i++)
        child[i] = start_worker(run, i, jobs);
    int failed = 0;
    for (int64_t i = 0; i < jobs; i++) {
        int state = 0;
        while (child[i] > 0 && waitpid(child[i], &state, 0) < 0 && errno == EINTR)
            if (interrupted())
                kill(child[i], SIGTERM);
        failed |= child[i] < 0 || (WIFSIGNALED(state) && !interrupted());
    }
    free(child);
    log_info("%ld jobs have ended; what is left and all speeds are done now", (long)jobs);
    if (interrupted())
        return error_set(err, "interrupted; run the same command again to go on");
    if (failed)
        log_warn("a job of the sweep ended early; its points are done now");
    return 0;
}

static int run_all(struct run *run, struct sweep *s, int64_t *failures, struct error *err) {
    for (int64_t i = 0; i < s->n; i++) {
        struct sweep_point *p = &s->point[i];
        double unused;
        log_info("point %ld/%ld: %s", (long)i + 1, (long)s->n, p->name);
        int status = look_at_point(run, s, i, &unused, err);
        if (status == 0 && p->same && p->same->facts) {
            log_info("the same as %s: its widths round to the same shape", p->same->name);
            p->facts = p->same->facts;
            p->speed = p->same->speed;
            p->stages = p->same->stages;
            continue;
        }
        if (sweep_worker() && (status < 0 || p->same || !claim_point(run, p)))
            continue; // not its own; what fails is reported by the one that started it
        p->same = NULL;
        if (status == 0)
            status = run_point(run, s, p, err);
        if (interrupted())
            return error_set(err, "interrupted; run the same command again to go on");
        if (status < 0) {
            p->failure = xstrdup(err->text);
            log_warn("point %s failed: %s", p->name, p->failure);
            ++*failures;
        }
    }
    return 0;
}

int sweep_run(struct run *run, const struct grid *g, int64_t seeds, int64_t jobs, struct error *err) {
    struct sweep s;
    int64_t failures = 0;
    char *locks = path_join(run->out, ".locks");
    int status = directory_make(locks, err);
    free(locks);
    TRY(status);
    if (jobs > 1 && !sweep_worker())
        TRY(run_workers(run, jobs, err));
    list_points(&s, run, g, seeds);
    status = run_all(run, &s, &failures, err);
    if (sweep_worker()) {
        sweep_release(&s);
        return status;
    }
    if (status == 0)
        status = write_all(run, &s, err);
    if (status == 0) {
        print_table(&s);
        printf("report: %s/sweep.html\n", run->out);
        if (failures)
            status = error_set(err, "%ld of %ld points failed (sweep.json lists them); the others are in sweep.csv",
                               (long)failures, (long)s.n);
    }
    sweep_release(&s);
    return status;
}

int sweep_check(const struct run *run, const struct grid *g, int64_t seeds, int *needs_text, struct error *err) {
    struct sweep s;
    int status = 0;
    list_points(&s, run, g, seeds);
    for (int64_t i = 0; i < s.n && status == 0; i++) {
        struct recipe r;
        status = point_recipe(run, &s.point[i], &r, err);
        if (status == 0) {
            *needs_text |= recipe_needs_text(&r);
            recipe_release(&r);
        }
    }
    sweep_release(&s);
    return status;
}

int sweep_forecast(struct run *run, const struct grid *g, int64_t seeds, struct error *err) {
    struct sweep s;
    double total = 0;
    int status = 0;
    list_points(&s, run, g, seeds);
    for (int64_t i = 0; i < s.n && status == 0; i++) {
        double seconds = 0;
        status = look_at_point(run, &s, i, &seconds, err);
        if (status == 0)
            printf("%s  %-48s %s%s\n", s.point[i].hash, s.point[i].name, s.point[i].same ? "the same as " : "",
                   s.point[i].same ? s.point[i].same->name : "");
        total += s.point[i].same ? 0 : seconds;
    }
    if (status == 0)
        printf("%ld points, at most about %.0f s (stages that points share are run once)\n", (long)s.n, total);
    sweep_release(&s);
    return status;
}
