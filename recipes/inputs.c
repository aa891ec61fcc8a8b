// inputs.c: see inputs.h.
#include "recipes/inputs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/eval/evaluate.h"
#include "prune/prune.h"
#include "recipes/sampled.h"
#include "recipes/selected.h"
#include "recipes/sources.h"
#include "recipes/stage.h"

// 1: the recipe's files for a text are there. 0: none are named, or one is absent and drawing is allowed. -1: one is
// absent.
static int files_exist(const struct recipe *r, const char *key, const struct option_list *files, struct error *err) {
    if (files->count == 0)
        return 0;
    for (size_t i = 0; i < files->count; i++) {
        char *path = recipe_path(r, files->item[i]);
        int there = file_exists(path);
        if (!there && r->data.sample)
            log_info("%s: not there; \"data.sample\" draws the text from the model instead", path);
        else if (!there)
            error_set(
                err,
                "%s: data.%s: no such file; give the path of a text, or let \"data\": {\"sample\": {}} draw one from "
                "the model",
                path, key);
        free(path);
        if (!there)
            return r->data.sample ? 0 : -1;
    }
    return 1;
}

// The recipe's paths of a list of files; the caller frees with free_paths.
static char **make_paths(const struct recipe *r, const struct option_list *files) {
    char **paths = xcalloc(files->count + 1, sizeof *paths, "paths");
    for (size_t i = 0; i < files->count; i++)
        paths[i] = recipe_path(r, files->item[i]);
    return paths;
}

static void free_paths(char **paths) {
    for (size_t i = 0; paths[i]; i++)
        free(paths[i]);
    free(paths);
}

static void hash_tokens(struct text_input *t) {
    struct hasher *h = hasher_new();
    dataset_hash_windows(&t->data, h);
    hasher_end(h, t->windows);
    memcpy(t->hash, t->windows, HASH_TEXT);
    if (!t->data.n_source)
        return;
    h = hasher_new();
    hasher_add_text(h, t->windows);
    hasher_add(h, mixture_weights(&t->data.mixture), (size_t)t->data.n_source * sizeof(double));
    hasher_end(h, t->hash);
}

// Keeps the first n tokens, with the bytes of the text that they stand for.
static void cut(struct dataset *d, const struct tokenizer *t, int64_t n) {
    if (d->n_token <= n)
        return;
    size_t len;
    free(tokenizer_decode(t, d->token, (size_t)n, &len));
    d->n_token = n;
    d->text_bytes = (int64_t)len;
}

// Held-out text: of several files the same number of whole windows each, so that eval_tokens speaks for all of them.
static int read_eval(struct text_input *t, const struct recipe *r, const struct tokenizer *tokenizer,
                     char *const *paths, size_t n, struct error *err) {
    int64_t window = r->data.seq_len, windows = r->data.eval_tokens / (int64_t)n / (window - 1) + 1;
    for (size_t i = 0; i < n; i++) {
        struct dataset one = {0};
        const char *const path[] = {paths[i]};
        TRY(eval_stream(&one, tokenizer, EVAL_WINDOWS, path, 1, err));
        if (n > 1 && !one.n_question)
            cut(&one, tokenizer, windows * window);
        if (dataset_append(&t->data, &one, "data.eval", err) < 0) {
            dataset_release(&one);
            return -1;
        }
    }
    return 0;
}

static int read_files(struct text_input *t, const struct recipe *r, const struct tokenizer *tokenizer,
                      const struct option_list *files, int is_eval, struct error *err) {
    char **paths = make_paths(r, files);
    int result = is_eval
                     ? read_eval(t, r, tokenizer, paths, files->count, err)
                     : dataset_read(&t->data, tokenizer, (const char *const *)paths, files->count, "data.train", err);
    free_paths(paths);
    if (result == 0)
        result = dataset_fits(&t->data, r->data.seq_len, is_eval ? "data.eval" : "data.train", err);
    if (result == 0)
        hash_tokens(t);
    return result;
}

// The train text of source k behind those before it.
static int read_source(struct dataset *d, const struct recipe *r, const struct tokenizer *t, int k, struct error *err) {
    const struct option_list *files = &r->data.source[k].train;
    char **paths = make_paths(r, files), *where = xasprintf("%s: data.sources[%d].train", r->where, k);
    struct dataset one = {0};
    int status = dataset_read(&one, t, (const char *const *)paths, files->count, where, err);
    if (status == 0)
        status = dataset_fits(&one, r->data.seq_len, where, err);
    if (status == 0)
        status = dataset_add_source(d, &one, where, err);
    dataset_release(&one);
    free(where);
    free_paths(paths);
    return status;
}

const struct dataset *inputs_mixed(struct inputs *in, const struct recipe *r, const struct text_input *text, const struct json *mixture) {
    if (!mixture)
        return &text->data;
    dataset_drop_view(&in->mixed);
    dataset_view(&in->mixed, &text->data);
    sources_mix(&r->data, mixture, &in->mixed);
    return &in->mixed;
}

static int read_sources(struct inputs *in, const struct recipe *r, const struct tokenizer *t, struct error *err) {
    for (int k = 0; k < r->data.n_source; k++)
        TRY(read_source(&in->train.data, r, t, k, err));
    sources_mix(&r->data, NULL, &in->train.data);
    hash_tokens(&in->train);
    return 0;
}

// Held-out text of each source by itself, and what decides a change of weights beside it: into the hash of the evaluation.
static int read_source_evals(struct inputs *in, const struct recipe *r, const struct tokenizer *t, struct error *err) {
    const int n = r->data.n_source;
    struct hasher *h = hasher_new();
    int status = 0;
    hasher_add_text(h, in->eval.hash);
    in->source_eval = xcalloc((size_t)n, sizeof *in->source_eval, "held-out texts");
    in->reference = xcalloc((size_t)n, sizeof *in->reference, "losses of sources");
    in->n_source = n;
    for (int k = 0; k < n && status == 0; k++) {
        const struct source *s = &r->data.source[k];
        struct dataset *d = &in->source_eval[k];
        char **paths = make_paths(r, &s->eval), *where = xasprintf("%s: data.sources[%d].eval", r->where, k);
        if (s->eval.count)
            status = eval_stream(d, t, EVAL_WINDOWS, (const char *const *)paths, s->eval.count, err);
        if (status < 0)
            error_prefix(err, "%s", where);
        else
            status = dataset_fits(d, r->data.seq_len, where, err);
        in->reference[k] = s->has_reference ? s->reference : (double)NAN;
        hasher_add_text(h, s->name);
        hasher_add(h, &in->reference[k], sizeof in->reference[k]);
        dataset_hash_windows(d, h);
        free(where);
        free_paths(paths);
    }
    hasher_end(h, in->eval.hash);
    return status;
}

// Draws documents from the parent, or takes them from an earlier run of the same drawing.
static int draw(struct text_input *t, const struct recipe *r, struct opened *parent, const char *parent_hash,
                const char *folder, const char *purpose, int64_t documents, struct error *err) {
    char name[HASH_TEXT];
    struct json *key = options_json(sample_option_table, &r->sample);
    json_set_string(key, "model", parent_hash);
    json_set_string(key, "purpose", purpose);
    json_set_number(key, "documents", (double)documents);
    json_set_number(key, "seed", (double)r->seed);
    char *text = json_text(key, 0);
    hash_text(text, name);
    free(text);
    json_free(key);
    char *file = xasprintf("drawn-%s-%.12s.tokens", purpose, name), *path = path_join(folder, file);
    const struct sample_plan plan = {.documents = documents,
                                     .length = r->sample.length,
                                     .batch = SAMPLE_BATCH,
                                     .bos = tokenizer_bos(parent->tokenizer),
                                     .eos = tokenizer_eos(parent->tokenizer),
                                     .draw = {.temperature = 1, .top_p = 1},
                                     .seed = (uint64_t)r->seed * 2 + (strcmp(purpose, "eval") == 0)};
    int result = 0;
    if (!file_exists(path)) {
        log_info("drawing %ld documents of %ld tokens from the model (%s)", (long)documents, (long)r->sample.length, purpose);
        result = sampled_write(path, parent->model, &plan, err);
    }
    if (result == 0)
        result = sampled_read(t, path, parent->tokenizer, err);
    if (result == 0)
        hash_tokens(t);
    free(file);
    free(path);
    return result;
}

int inputs_take_sampled(struct inputs *in, const struct tokenizer *t, const char *folder, const char *hash, struct error *err) {
    if (in->sampled_from && strcmp(in->sampled_from, folder) == 0)
        return 0;
    char *path = path_join(folder, SAMPLED_TOKENS);
    dataset_release(&in->sampled.data);
    free(in->sampled_from);
    in->sampled_from = NULL;
    int status = sampled_read(&in->sampled, path, t, err);
    if (status == 0)
        status = selected_windows(&in->sampled.data, folder, err);
    if (status == 0) {
        in->sampled_from = xstrdup(folder);
        memcpy(in->sampled.hash, hash, HASH_TEXT);
        memcpy(in->sampled.windows, hash, HASH_TEXT);
    }
    free(path);
    return status;
}

int inputs_open(struct inputs *in, const struct recipe *r, const struct tokenizer *t, int need_train,
                struct error *err) {
    memset(in, 0, sizeof *in);
    const int is_mixed = need_train && r->data.n_source > 0;
    int train_files = need_train && !is_mixed ? files_exist(r, "train", &r->data.train, err) : 0;
    if (train_files < 0)
        return -1;
    if (need_train && !train_files && !is_mixed && !r->data.sample)
        return error_set(err,
                         "%s: a stage learns from text, but \"data\" has none: give \"train\" (files), \"sources\" or \"sample\" (on the command "
                         "line --data, or quantize's --calibration)",
                         r->where);
    int eval_files = files_exist(r, "eval", &r->data.eval, err);
    if (eval_files < 0)
        return -1;
    in->draw_train = need_train && !train_files && !is_mixed;
    in->draw_eval = !eval_files && r->data.sample;
    if ((train_files && read_files(&in->train, r, t, &r->data.train, 0, err) < 0) ||
        (is_mixed && read_sources(in, r, t, err) < 0) || (eval_files && read_files(&in->eval, r, t, &r->data.eval, 1, err) < 0) ||
        (r->data.n_source && read_source_evals(in, r, t, err) < 0)) {
        inputs_release(in);
        return -1;
    }
    return 0;
}

static int no_sources(const struct recipe *r, const struct config *c, struct error *err) {
    return r->data.n_source ? error_set(err, "%s: data.sources: texts that predict the next token are mixed; a %s model learns from other examples: give "
                                        "\"train\"", r->where, c->model_type) : 0;
}

#define DEFAULT_IMAGES "/usr/share/datasets/fashion-mnist" // where Debian's package dataset-fashion-mnist puts them

int inputs_open_images(struct inputs *in, const struct recipe *r, const struct config *c, struct error *err) {
    memset(in, 0, sizeof *in);
    TRY(no_sources(r, c, err));
    char *folder = r->data.images ? recipe_path(r, r->data.images) : xstrdup(DEFAULT_IMAGES);
    int status = image_data_read(&in->images, folder, r->data.validation, (uint64_t)r->seed, err);
    if (status < 0 && !r->data.images)
        error_prefix(err, "data.images is not given, and the default (apt-get install dataset-fashion-mnist) is not there");
    const struct images *parts[] = {&in->images.train, &in->images.validation, &in->images.test};
    for (int i = 0; i < 3 && status == 0; i++)
        status = images_check(parts[i], c->hidden, c->vocab, folder, err);
    free(folder);
    if (status < 0) {
        image_data_release(&in->images);
        return -1;
    }
    in->has_images = 1;
    char *both = xasprintf("%s %s", in->images.train.hash, in->images.validation.hash);
    hash_text(both, in->train.hash);
    free(both);
    memcpy(in->eval.hash, in->images.test.hash, sizeof in->eval.hash);
    return 0;
}

static const char *text_column(const struct recipe *r) { return r->data.text ? r->data.text : "sentence"; }

// By the model's head labelled rows, or questions with spans (texts: what evaluation needs of these; NULL: not wanted).
static int read_examples(struct examples *e, struct span_texts *texts, const struct recipe *r, const struct opened *model,
                         const struct option_list *files, const char *where, struct error *err) {
    const struct config *c = &model->model->config;
    const struct example_classes classes = {c->n_label, json_get(c->source, "id2label")};
    const struct example_columns columns = {text_column(r), r->data.pair, r->data.label ? r->data.label : "label"};
    char **paths = make_paths(r, files);
    const char *const *named = (const char *const *)paths;
    int status = c->head == HEAD_SPANS
                     ? spans_read(e, texts, model->tokenizer, named, files->count, r->data.seq_len, r->data.stride, where, err)
                     : examples_read(e, model->tokenizer, &classes, named, files->count, &columns, r->data.seq_len, where, err);
    free_paths(paths);
    if (status == 0 && e->n_cut)
        log_info("%s: %ld of %ld examples are longer than %ld tokens and were cut (data.seq_len)", where, (long)e->n_cut, (long)e->n,
                 (long)r->data.seq_len);
    return status;
}

// Unlabelled sequences from these files, as long as the recipe's.
static int read_words(struct examples *e, const struct recipe *r, const struct opened *model, const struct option_list *files, const char *where,
                      struct error *err) {
    char **paths = make_paths(r, files);
    int status = examples_read_unlabelled(e, model->tokenizer, (const char *const *)paths, files->count, text_column(r), r->data.seq_len, where, err);
    free_paths(paths);
    return status;
}

// Does a stage train, so that examples are wanted for validation?
static int may_train(const struct recipe *r) {
    int trains = r->variants != NULL;
    for (int i = 0; i < r->n_stage; i++)
        trains |= strcmp(r->stage[i].type->name, "train") == 0 || strcmp(r->stage[i].type->name, "distill") == 0 ||
                  (strcmp(r->stage[i].type->name, "prune") == 0 && ((const struct prune_options *)r->stage[i].options)->recover);
    return trains;
}

int inputs_open_examples(struct inputs *in, const struct recipe *r, const struct opened *model, int need_train, struct error *err) {
    const int is_masked = model->model->config.head == HEAD_MASKED;
    const struct option_list *unlabelled = is_masked ? &r->data.train : &r->data.unlabelled;
    memset(in, 0, sizeof *in);
    TRY(no_sources(r, &model->model->config, err));
    if (need_train && !r->data.train.count)
        return error_set(err, "%s: a stage learns from examples, but \"data\" has none: give \"train\" (%s)", r->where,
                         model->model->config.head == HEAD_SPANS ? "SQuAD's .json, or .jsonl" : ".tsv, .csv or .jsonl");
    int status = need_train && !is_masked ? read_examples(&in->examples, NULL, r, model, &r->data.train, "data.train", err) : 0;
    if (status == 0 && in->examples.n && may_train(r))
        status = examples_set_aside(&in->validation, &in->examples, r->data.validation, (uint64_t)r->seed, r->where, err);
    if (status == 0 && need_train && unlabelled->count)
        status = read_words(&in->words, r, model, unlabelled, is_masked ? "data.train" : "data.unlabelled", err);
    if (status == 0 && in->words.n)
        status = examples_set_aside(&in->words_validation, &in->words, r->data.validation, (uint64_t)r->seed, r->where, err);
    if (status == 0 && r->data.eval.count)
        status = is_masked ? read_words(&in->test, r, model, &r->data.eval, "data.eval", err)
                           : read_examples(&in->test, &in->test_texts, r, model, &r->data.eval, "data.eval", err);
    if (status < 0) {
        inputs_release(in);
        return -1;
    }
    in->has_examples = 1;
    char *both = xasprintf("%s %s", in->examples.hash, in->validation.hash);
    if (in->words.n) {
        char *more = xasprintf("%s %s %s", both, in->words.hash, in->words_validation.hash);
        free(both);
        both = more;
    }
    hash_text(both, in->train.hash);
    free(both);
    memcpy(in->eval.hash, in->test.hash, sizeof in->eval.hash);
    return 0;
}

const struct images *inputs_images_without(struct inputs *in, int64_t label) {
    if (label < 0)
        return &in->images.train;
    if (in->partial.n == 0 || in->left_out != label) {
        images_release(&in->partial);
        images_copy_without(&in->partial, &in->images.train, label);
        in->left_out = label;
    }
    return &in->partial;
}

#define EVAL_SHARE 8 // drawn documents to measure on: one for so many to learn from

int inputs_draw(struct inputs *in, const struct recipe *r, struct opened *parent, const char *parent_hash,
                const char *folder, struct error *err) {
    int64_t documents = r->sample.documents;
    if (in->draw_train)
        TRY(draw(&in->train, r, parent, parent_hash, folder, "train", documents, err));
    if (in->draw_eval)
        TRY(draw(&in->eval, r, parent, parent_hash, folder, "eval", (documents + EVAL_SHARE - 1) / EVAL_SHARE, err));
    return 0;
}

void inputs_release(struct inputs *in) {
    dataset_release(&in->train.data);
    dataset_release(&in->eval.data);
    dataset_release(&in->sampled.data);
    dataset_drop_view(&in->mixed);
    for (int k = 0; k < in->n_source; k++)
        dataset_release(&in->source_eval[k]);
    free(in->source_eval);
    free(in->reference);
    free(in->sampled_from);
    image_data_release(&in->images);
    images_release(&in->partial);
    examples_release(&in->examples);
    examples_release(&in->validation);
    examples_release(&in->test);
    span_texts_release(&in->test_texts);
    examples_release(&in->words);
    examples_release(&in->words_validation);
    memset(in, 0, sizeof *in);
}
