// stage_select.c: difference sampling (Gu et al. 2024, MiniPLM, section 2.2): of the text to learn from, the windows that a large model finds more
// likely than a small one does, by most. What the small one knows already, and what is noise to both, goes.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/progress.h"
#include "common/base/threads.h"
#include "common/eval/difference.h"
#include "common/eval/evaluate.h"
#include "recipes/inputs.h"
#include "recipes/sampled.h"
#include "recipes/selected.h"
#include "recipes/stage.h"

#define SCORES "scores" // f64, little-endian, one a window of the text; gone on with after a kill

struct select_options {
    char *teacher, *reference;
    double keep;
    int64_t batch;
};
#define ROW(name, kind, field) name, kind, offsetof(struct select_options, field)
static const struct option table[] = {
    {ROW("reference", OPTION_STRING, reference), NULL, 0, 0, NULL, "MODEL", "directory or .gguf file: the small model, which learned from like text"},
    {ROW("teacher", OPTION_STRING, teacher), NULL, 0, 0, NULL, "MODEL", "the large one; by default the recipe's model"},
    {ROW("keep", OPTION_DOUBLE, keep), "0.5", 1e-9, 1, NULL, "R", "share of the windows that stays: those where the large model is ahead by most"},
    {ROW("batch", OPTION_INT, batch), "8", 1, 65536, NULL, "N", "windows at a time"},
    {.name = NULL}};
#undef ROW

static int needs_text(const struct stage *s) {
    (void)s;
    return 1;
}

static const char *teacher_path(const struct stage *s, size_t i) {
    const struct select_options *o = s->options;
    return i == 0 ? o->reference : i == 1 ? o->teacher : NULL;
}

static int validate(struct recipe *r, int index, const char *where, struct error *err) {
    const struct select_options *o = r->stage[index].options;
    if (r->data.n_source)
        return error_set(err, "%s: it compares windows of one text, and data.sources are several, whose weights its choice would undo; give \"data\": "
                         "{\"train\": [...]}", where);
    return o->reference ? 0 : error_set(err, "%s: \"reference\" is missing: the small model that the text is compared by", where);
}

static int check_model(const struct forecast *f, const char *which, const struct config *c, struct error *err) {
    const long most = (long)model_positions(c);
    if (!model_is_causal(c) || c->vocab != f->in.vocab || (most && most < f->recipe->data.seq_len))
        return error_set(err, "%s: stages[%d].select.%s: a %s model with %ld vocabulary entries and %s positions; expected one that predicts the next token "
                         "of the recipe's model's vocabulary, %ld entries, at data.seq_len %ld", f->recipe->where, f->index, which, c->model_type,
                         (long)c->vocab, most ? "fewer" : "enough", (long)f->in.vocab, (long)f->recipe->data.seq_len);
    return 0;
}

static int shape_of(const struct forecast *f, const char *named, struct config *c, struct error *err) {
    if (!named) {
        config_copy(c, f->parent);
        return 0;
    }
    char *path = recipe_path(f->recipe, named);
    int status = shape_read(c, path, err);
    free(path);
    return status;
}

static int64_t tokens_of(const struct recipe *r) {
    int64_t bytes = 0;
    for (size_t i = 0; i < r->data.train.count; i++) {
        char *path = recipe_path(r, r->data.train.item[i]);
        bytes += file_size(path) > 0 ? file_size(path) : 0;
        free(path);
    }
    return bytes / 3; // a token stands for three bytes, at least about
}

static int forecast(struct forecast *f, struct error *err) {
    const struct select_options *o = f->recipe->stage[f->index].options;
    const int64_t seq_len = f->recipe->data.seq_len, tokens = tokens_of(f->recipe);
    struct config large = {0}, small = {0};
    int status = shape_of(f, o->teacher, &large, err);
    if (status == 0)
        status = shape_of(f, o->reference, &small, err);
    if (status == 0)
        status = check_model(f, "teacher", &large, err);
    if (status == 0)
        status = check_model(f, "reference", &small, err);
    if (status == 0) {
        f->flops = (double)tokens * (model_flops_per_token(&large, seq_len) + model_flops_per_token(&small, seq_len));
        f->memory = eval_memory(&large, &small, o->batch * seq_len) + 4 * config_parameters(&small) + (o->teacher ? 4 * config_parameters(&large) : 0);
        f->uses_parent = !o->teacher;
        f->disk = (int64_t)(o->keep * (double)tokens * 4) + tokens / seq_len * 24;
        snprintf(f->what, sizeof f->what, "keep %g of the text's windows, where %s is ahead of %s by most: the text for the stages after it", o->keep,
                 o->teacher ? o->teacher : "the parent", o->reference);
    }
    config_release(&large);
    config_release(&small);
    return status;
}

static int write_scores(struct file_writer *w, const struct stage_run *s, struct model *large, struct model *small, int64_t windows, struct error *err) {
    const struct select_options *o = s->stage->options;
    const int64_t each = (int64_t)sizeof(double), there = w->offset / each < windows ? w->offset / each / o->batch * o->batch : windows;
    double *score = xmalloc((size_t)o->batch * sizeof *score, "scores of windows");
    struct progress progress;
    int status = file_writer_cut(w, there * each, err);
    progress_begin(&progress, "select", "windows", windows, there);
    for (int64_t first = there; first < windows && status == 0; first += o->batch) {
        const int64_t n = windows - first < o->batch ? windows - first : o->batch;
        window_differences(large, small, &s->train->data, s->recipe->data.seq_len, (enum precision)s->recipe->precision, first, n, score);
        status = interrupted() ? error_set(err, "select: interrupted after %ld of %ld windows; run the same command again to go on", (long)first,
                                           (long)windows)
                               : file_writer_put(w, score, (size_t)(n * each), err);
        progress_update(&progress, first + n, "%s", "");
    }
    progress_end(&progress, "%s", "");
    free(score);
    return status;
}

static int make_scores(const struct stage_run *s, const char *path, struct model *large, int64_t windows, struct error *err) {
    const struct select_options *o = s->stage->options;
    struct opened small = {0};
    struct file_writer w;
    char *named = recipe_path(s->recipe, o->reference);
    int status = opened_open(&small, named, err);
    free(named);
    if (status < 0)
        return error_prefix(err, "the reference");
    status = file_writer_continue(&w, path, err);
    if (status == 0) {
        status = write_scores(&w, s, large, small.model, windows, err);
        if (status == 0)
            status = file_writer_commit(&w, err);
        else
            file_writer_abort(&w);
    }
    opened_release(&small);
    return status;
}

// NULL: it cannot be had.
static struct model *open_large(const struct stage_run *s, struct opened *other, struct error *err) {
    const struct select_options *o = s->stage->options;
    if (!o->teacher && s->run->parent_is_shape) {
        error_set(err, "%s: the recipe's model has no weights to compare by; name a \"teacher\"", s->recipe->where);
        return NULL;
    }
    if (!o->teacher)
        return run_parent(s->run, err);
    char *path = recipe_path(s->recipe, o->teacher);
    int status = opened_open(other, path, err);
    free(path);
    if (status < 0)
        error_prefix(err, "the teacher");
    return status < 0 ? NULL : other->model;
}

// The largest first, of equal ones the first.
static int by_score(const void *a, const void *b, void *scores) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    const double *score = scores;
    if (score[x] != score[y])
        return score[x] > score[y] ? -1 : 1;
    return x < y ? -1 : x > y;
}

static int by_number(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

// The windows that stay, in the text's order; the caller frees.
static int64_t *choose(double *score, int64_t windows, int64_t kept) {
    int64_t *window = xmalloc((size_t)windows * sizeof *window, "windows");
    for (int64_t i = 0; i < windows; i++)
        window[i] = i;
    qsort_r(window, (size_t)windows, sizeof *window, by_score, score);
    qsort(window, (size_t)kept, sizeof *window, by_number);
    return window;
}

static double mean(const double *score, const int64_t *window, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += score[window ? window[i] : i];
    return sum / (double)n;
}

static int keep_best(struct stage_run *s, const char *path, int64_t windows, struct error *err) {
    const struct select_options *o = s->stage->options;
    struct file_map map;
    TRY(file_map(&map, path, err));
    if (map.size != (size_t)windows * sizeof(double)) {
        file_unmap(&map);
        return error_set(err, "%s: damaged; remove the stage's folder to select again", path);
    }
    double *score = xmalloc(map.size, "scores of windows");
    memcpy(score, map.data, map.size);
    file_unmap(&map);
    for (int64_t i = 0; i < windows; i++)
        if (!isfinite(score[i])) {
            free(score);
            unlink(path);
            return error_set(err, "select: window %ld of the text has no difference of likelihoods: the teacher or the reference is broken", (long)i);
        }
    const double share = o->keep * (double)windows;
    const int64_t kept = share < 1 ? 1 : (int64_t)(share + 0.5);
    int64_t *window = choose(score, windows, kept);
    struct dataset chosen;
    dataset_choose(&chosen, &s->train->data, s->recipe->data.seq_len, window, kept);
    const int status = selected_write(&chosen, s->folder, err);
    json_set_number(s->facts, "windows", (double)windows);
    json_set_number(s->facts, "kept", (double)kept);
    json_set_number(s->facts, "tokens", (double)chosen.n_token);
    json_set_number(s->facts, "difference", mean(score, NULL, windows)); // nats per token
    json_set_number(s->facts, "difference_of_kept", mean(score, window, kept));
    dataset_release(&chosen);
    free(window);
    free(score);
    return status;
}

static int run(struct stage_run *s, struct error *err) {
    const int64_t windows = dataset_windows(&s->train->data, s->recipe->data.seq_len);
    struct opened other = {0};
    char *path = path_join(s->folder, SCORES);
    struct model *large = open_large(s, &other, err);
    int status = large ? 0 : -1;
    if (status == 0 && !file_exists(path))
        status = make_scores(s, path, large, windows, err);
    if (status == 0)
        status = keep_best(s, path, windows, err);
    opened_release(&other);
    free(path);
    return status;
}

const struct stage_type stage_select = {.name = "select",
                                        .table = table,
                                        .size = sizeof(struct select_options),
                                        .keeps_model = 1,
                                        .makes_text = 1,
                                        .needs_text = needs_text,
                                        .teacher = teacher_path,
                                        .validate = validate,
                                        .forecast = forecast,
                                        .run = run};
