// runner.c: see runner.h.
#include "recipes/runner.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/threads.h"
#include "common/base/timer.h"
#include "common/eval/report.h"
#include "common/tensor/cpu.h"
#include "recipes/command.h"
#include "recipes/forecast.h"
#include "recipes/inputs.h"
#include "recipes/lottery_report.h"
#include "recipes/report_html.h"
#include "recipes/sweep.h"

// ---- the folder of a run ----

static int lock_folder(struct run *run, struct error *err) {
    char *path = path_join(run->out, ".lock");
    run->lock = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0666);
    int status = 0;
    if (run->lock < 0)
        status = error_set(err, "%s: cannot be made (%m); expected a folder that can be written", path);
    else if (flock(run->lock, LOCK_EX | LOCK_NB) < 0) {
        status = error_set(err, "%s: another pdq works in this folder; wait for it, or name another folder with -o",
                           run->out);
        close(run->lock);
        run->lock = -1; // the folder is the other one's
    }
    free(path);
    return status;
}

// What is in the way at run->out: 0 nothing, 1 this very run, -1 something else (the message says what).
static int look_at_folder(const struct run *run, const char *recipe_text, int *is_run, struct error *err) {
    *is_run = 0;
    if (!file_exists(run->out))
        return 0;
    if (!file_is_directory(run->out))
        return error_set(err, "%s: a file is there; name another folder with -o", run->out);
    char **names;
    size_t n;
    TRY(directory_list(run->out, &names, &n, err));
    int empty = 1; // but for what is left where a run was killed as it began
    for (size_t i = 0; i < n; i++)
        empty &= strcmp(names[i], ".lock") == 0 || strncmp(names[i], "recipe.json.tmp-", 16) == 0;
    names_free(names, n);
    if (empty)
        return 0;
    char *path = path_join(run->out, "recipe.json"), *text = NULL;
    size_t len;
    int status = 1;
    *is_run = file_exists(path);
    if (!*is_run)
        status = error_set(err, "%s: this folder holds other things, and no run of pdq; name another folder with -o",
                           run->out);
    else if (file_read(path, &text, &len, err) < 0)
        status = -1;
    else if (strcmp(text, recipe_text) != 0)
        status = error_set(
            err,
            "%s: this folder belongs to a run of another recipe or other options (its recipe.json); name another "
            "folder with -o, or replace it with --force",
            run->out);
    free(text);
    free(path);
    return status;
}

static struct json *grid_json(const struct runner_options *o) {
    struct json *sweep = json_object(), *vary = json_object();
    for (int a = 0; a < o->grid->n; a++)
        json_set(vary, o->grid->axis[a].key, json_copy(o->grid->axis[a].values));
    json_set(sweep, "vary", vary);
    json_set_number(sweep, "seeds", (double)o->seeds);
    return sweep;
}

static int claim_folder(struct run *run, const struct runner_options *options, struct error *err) {
    struct json *o = recipe_json(run->recipe, 1);
    if (options->grid)
        json_set(o, "sweep", grid_json(options));
    char *text = json_text(o, 1), *path = path_join(run->out, "recipe.json");
    int is_run, found = look_at_folder(run, text, &is_run, err), status = found < 0 ? -1 : 0;
    if (found < 0 && options->force && is_run) {
        log_info("%s: replaced (--force)", run->out);
        status = directory_remove(run->out, err);
        found = 0;
    }
    run->made_folder = !file_exists(run->out);
    if (status == 0)
        status = directory_make(run->out, err);
    if (status == 0)
        status = lock_folder(run, err);
    if (status == 0 && found == 0)
        status = file_write(path, text, strlen(text), err);
    free(text);
    free(path);
    json_free(o);
    return status;
}

// What failed before there was anything to go on from leaves nothing: with other options the folder would belong to another run.
static void release_folder(struct run *run, int status) {
    static const char *const bare[] = {".lock", "recipe.json", "INPUTS", NULL};
    if (run->lock < 0)
        return;
    if (status < 0 && run->made_folder)
        directory_remove_bare(run->out, bare);
    close(run->lock);
}

// ---- opening what a run needs ----

static int open_parent(struct run *run, struct error *err) {
    const struct recipe *r = run->recipe;
    char *path = recipe_path(r, r->model);
    int status = 0;
    run->parent_is_shape = recipe_starts_fresh(r);
    if (run->parent_is_shape && path_is_gguf(path) && !file_is_directory(path))
        status = error_set(err,
                           "%s: a GGUF file; training from random weights starts from a folder with config.json and a "
                           "tokenizer",
                           path);
    else
        status = opened_look(&run->parent, path, !run->parent_is_shape, err);
    if (status == 0)
        status = model_hash(path, run->parent_is_shape, run->parent_hash, err);
    free(path);
    return status;
}

int recipe_needs_text(const struct recipe *r) {
    for (int i = 0; i < r->n_stage && !stage_after_sample(r, i); i++)
        if (r->stage[i].type->needs_text && r->stage[i].type->needs_text(&r->stage[i]))
            return 1;
    return 0;
}

// With variants the stages that matter are theirs.
static int run_needs_text(const struct recipe *r) { return r->variants || recipe_needs_text(r); }

#define DEFAULT_WINDOW 256
#define DEFAULT_EXAMPLE 128
#define DEFAULT_ANSWERS 384 // as in BERT's code

static int settle_window(struct recipe *r, const struct config *c, struct error *err) {
    if (!model_is_language(c)) { // an image is one token
        r->data.seq_len = 1;
        return 0;
    }
    const int64_t most = c->head == HEAD_SPANS ? DEFAULT_ANSWERS : DEFAULT_EXAMPLE;
    if (r->data.seq_len == 0 && (head_is_labelled(c->head) || c->head == HEAD_MASKED)) // of examples: as long as they may become
        r->data.seq_len = c->context < most ? c->context : most;
    if (r->data.seq_len == 0)
        r->data.seq_len = c->context > 0 && c->context < DEFAULT_WINDOW ? c->context : DEFAULT_WINDOW;
    if (r->data.seq_len < 2 || (c->context > 0 && r->data.seq_len > c->context))
        return error_set(
            err,
            "%s: data.seq_len: found %ld, expected 2 to the model's context, %ld tokens (max_position_embeddings)",
            r->where, (long)r->data.seq_len, (long)c->context);
    return 0;
}

// ---- the report ----

static struct json *text_json(const struct text_input *t, const struct option_list *files) {
    if (t->data.n_token == 0)
        return json_null();
    struct json *o = json_object(), *list = json_array();
    for (size_t i = 0; i < files->count && !t->sampled; i++)
        json_push(list, json_from_string(files->item[i]));
    json_set(o, "files", list);
    json_set_bool(o, "drawn_from_parent", t->sampled);
    json_set_number(o, "tokens", (double)t->data.n_token);
    json_set_number(o, "bytes", (double)t->data.text_bytes);
    json_set_number(o, "bytes_not_utf8", (double)t->data.invalid_bytes);
    json_set_string(o, "hash", t->hash);
    return o;
}

// Names, files, tokens and weights of the train text's sources.
static struct json *train_json(const struct text_input *t, const struct data_options *d) {
    struct json *o = text_json(t, &d->train), *list = json_array();
    for (int k = 0; k < t->data.n_source; k++) {
        struct json *one = json_object(), *files = json_array();
        for (size_t i = 0; i < d->source[k].train.count; i++)
            json_push(files, json_from_string(d->source[k].train.item[i]));
        json_set_string(one, "name", d->source[k].name);
        json_set(one, "files", files);
        json_set_number(one, t->data.n_question ? "questions" : "tokens", (double)(t->data.source[k + 1] - t->data.source[k]));
        json_set_number(one, "weight", mixture_weights(&t->data.mixture)[k]);
        json_push(list, one);
    }
    if (t->data.n_source)
        json_set(o, "sources", list);
    else
        json_free(list);
    return o;
}

static struct json *images_json(const struct image_data *d, const struct data_options *o) {
    struct json *images = json_object();
    json_set_string(images, "folder", o->images ? o->images : "Debian's dataset-fashion-mnist");
    json_set_number(images, "train", (double)d->train.n);
    json_set_number(images, "validation", (double)d->validation.n);
    json_set_number(images, "test", (double)d->test.n);
    json_set_string(images, "train_hash", d->train.hash);
    json_set_string(images, "test_hash", d->test.hash);
    return images;
}

// Of questions with spans these are counted, not their windows.
static double count_examples(const struct examples *e) { return (double)(e->question ? e->n_question : e->n); }

static struct json *examples_json(const struct inputs *in) {
    struct json *o = json_object();
    json_set_number(o, "train", count_examples(&in->examples));
    json_set_number(o, "validation", count_examples(&in->validation));
    json_set_number(o, "test", count_examples(&in->test));
    json_set_string(o, "train_hash", in->train.hash);
    json_set_string(o, "test_hash", in->eval.hash);
    return o;
}

static struct json *report_begin(const struct run *run) {
    const struct recipe *r = run->recipe;
    const char *why;
    struct json *o = json_object(), *inputs = json_object(), *model = json_object();
    json_set_string(o, "pdq", PDQ_VERSION);
    json_set_string(o, "name", r->name);
    json_set(o, "recipe", recipe_json(r, 0));
    json_set_number(o, "seed", (double)r->seed);
    json_set_string(o, "precision",
                    gemm_precision((enum precision)r->precision, &why) == PRECISION_BF16 ? "bf16" : "f32");
    json_set_string(model, "path", r->model);
    json_set_string(model, "hash", run->parent_hash);
    json_set(inputs, "model", model);
    json_set(inputs, "train", train_json(&run->inputs->train, &r->data));
    json_set(inputs, "eval", text_json(&run->inputs->eval, &r->data.eval));
    if (run->inputs->has_images)
        json_set(inputs, "images", images_json(&run->inputs->images, &r->data));
    if (run->inputs->has_examples)
        json_set(inputs, "examples", examples_json(run->inputs));
    json_set(o, "inputs", inputs);
    return o;
}

static struct json *measured_begin(void) {
    struct json *o = json_object();
    char date[32];
    time_t now = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    json_set_string(o, "date", date);
    json_set_string(o, "cpu", cpu_get()->name);
    json_set_string(o, "kernels", gemm_description());
    json_set_number(o, "threads", threads_count());
    json_set_number(o, "peak_memory_bytes", (double)memory_peak());
    return o;
}

static int report_end(const struct run *run, struct json *report, struct error *err) {
    char *path = path_join(run->out, "report.json"), *html = path_join(run->out, "report.html");
    int status = report_write(report, path, err);
    if (status == 0)
        status = report_html_write(report, run->out, html, err);
    if (status == 0) {
        report_print(report, stdout);
        if (json_get(report, "rounds"))
            lottery_print(json_get(report, "rounds"), stdout);
        printf("report: %s\n", html);
    }
    free(path);
    free(html);
    return status;
}

// The trainings of all lottery stages in one list, with means over the seeds, beside what was published.
static void add_rounds(struct json *report, const struct json *stages) {
    struct json *all = json_array();
    for (const struct json *s = json_first(stages); s; s = json_next(s))
        for (const struct json *o = json_first(json_get(s, "rounds")); o; o = json_next(o))
            json_push(all, json_copy(o));
    if (json_count(all)) {
        struct json *groups = lottery_groups(all);
        json_set(report, "published", lottery_published(groups));
        json_set(report, "groups", groups);
        json_set(report, "rounds", all);
    } else {
        json_free(all);
    }
}

static int run_plain(struct run *run, const struct runner_options *o, char **last, struct error *err) {
    struct chain chain;
    TRY(chain_run(run, run->recipe, 0, o->no_report ? MEASURE_NOTHING : MEASURE_ALL, &chain, err));
    int status = 0;
    if (last)
        *last = xstrdup(chain.last_product);
    if (!o->no_report) {
        struct json *report = report_begin(run), *measured = measured_begin();
        json_set(report, "rows", json_copy(chain.rows));
        json_set(report, "stages", json_copy(chain.stages));
        add_rounds(report, chain.stages);
        json_set(measured, "rows", json_copy(chain.row_speeds));
        json_set(measured, "stages", json_copy(chain.stage_times));
        json_set(report, "measured", measured);
        status = report_end(run, report, err);
        json_free(report);
    }
    chain_release(&chain);
    return status;
}

static int run_variants(struct run *run, struct error *err) {
    struct json *report = report_begin(run);
    int status = variants_run(run, report, err);
    if (status == 0) {
        json_set(report, "measured", measured_begin());
        status = report_end(run, report, err);
    }
    json_free(report);
    return status;
}

static int print_forecast(const struct forecasts *f, const struct recipe *r, const struct dataset *data, int as_json) {
    if (!as_json) {
        forecasts_print(f, r, data, stdout);
        return 0;
    }
    struct json *o = forecasts_json(f, r, data);
    char *text = json_text(o, 1);
    puts(text);
    free(text);
    json_free(o);
    return 0;
}

// Everything that can be known to be wrong is looked for before the output's folder is touched.
static int check_and_run(struct run *run, const struct runner_options *o, char **last, struct error *err) {
    const struct recipe *r = run->recipe;
    struct forecasts forecasts;
    TRY(forecasts_make(&forecasts, run, !o->no_report, err));
    int status = r->variants ? variants_check(r, err) : 0;
    enum forecast_output output = !o->dry_run ? FORECAST_NOTHING : o->json ? FORECAST_JSON : FORECAST_TEXT;
    int needs_text = run_needs_text(r);
    if (status == 0 && o->grid)
        status = sweep_check(run, o->grid, o->seeds, &needs_text, err);
    if (status == 0)
        status = head_is_labelled(run->parent.model->config.head) || run->parent.model->config.head == HEAD_MASKED
                     ? inputs_open_examples(run->inputs, r, &run->parent, needs_text, err)
                 : model_is_language(&run->parent.model->config)
                     ? inputs_open(run->inputs, r, run->parent.tokenizer, needs_text, err)
                     : inputs_open_images(run->inputs, r, &run->parent.model->config, err);
    if (status == 0 && o->dry_run)
        status = o->grid ? sweep_forecast(run, o->grid, o->seeds, err) : r->variants ? 0 : print_forecast(&forecasts, r, &run->inputs->train.data, o->json);
    if (status == 0 && r->variants)
        status = variants_forecast(run, output, err);
    forecasts_release(&forecasts);
    if (status < 0 || o->dry_run)
        return status;
    if (!sweep_worker())
        TRY(claim_folder(run, o, err));
    if ((run->inputs->draw_train || run->inputs->draw_eval) && !run_parent(run, err))
        return -1;
    TRY(inputs_draw(run->inputs, r, &run->parent, run->parent_hash, run->out, err));
    if (o->grid)
        return sweep_run(run, o->grid, o->seeds, o->jobs, err);
    return r->variants ? run_variants(run, err) : run_plain(run, o, last, err);
}

int runner_run(struct recipe *r, const struct runner_options *o, char **last, struct error *err) {
    struct inputs inputs = {0};
    struct run run = {.recipe = r, .inputs = &inputs, .lock = -1, .is_sweep = o->grid != NULL};
    if (o->out)
        run.out = path_absolute(o->out);
    else if (r->output)
        run.out = recipe_path(r, r->output);
    else
        run.out = xasprintf("runs/%s", r->name);
    interrupt_catch();
    header_print(r->precision);
    int status = open_parent(&run, err);
    if (status == 0)
        status = settle_window(r, &run.parent.model->config, err);
    if (status == 0)
        status = check_and_run(&run, o, last, err);
    release_folder(&run, status);
    inputs_release(&inputs);
    eval_states_release(&run.parent_states);
    score_cache_release(&run.parent_scores);
    opened_release(&run.parent);
    free(run.out);
    return status;
}
