// stage.c: the table of stage types and what they share.
#include "recipes/stage.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/eval/evaluate.h"
#include "common/eval/evaluate_classes.h"
#include "common/eval/evaluate_images.h"
#include "common/eval/evaluate_masked.h"
#include "common/eval/evaluate_spans.h"
#include "common/model/save.h"
#include "recipes/inputs.h"
#include "recipes/sources.h"

const struct stage_type *const stage_types[] = {&stage_prune,    &stage_sparsify, &stage_distill, &stage_train,
                                                &stage_lottery, &stage_quantize, &stage_export,   &stage_sample, &stage_select, NULL};

int forecast_from_parent(const struct forecast *f) {
    for (int i = 0; i < f->index; i++)
        if (!f->recipe->stage[i].type->keeps_model)
            return 0;
    return 1;
}

static int check_for_model(const struct config *c, const struct train_options *o, const char *place, struct error *err) {
    const int is_encoder = model_is_language(c) && !model_is_causal(c), drops_inputs = model_has_blocks(c) && o->dropout_input > 0;
    if (is_encoder && o->tokens)
        return error_set(err, "%s: \"tokens\" counts text; give \"steps\" for an encoder", place);
    if (model_is_language(c) && ((o->dropout > 0 && !is_encoder) || drops_inputs || o->jitter > 0 || o->drop_class >= 0))
        return error_set(err, "%s: \"dropout\", \"dropout_input\", \"jitter\" and \"drop_class\" are for classifiers of images; this is a language model", place);
    if (!model_is_causal(c) && (o->hide_tokens > 0 || o->replace_tokens > 0))
        return error_set(err, "%s: \"hide_tokens\" and \"replace_tokens\" change the text that a language model reads; this is a %s model; leave them out",
                         place, c->model_type);
    if (c->head != HEAD_CLASSES && (o->mask_words > 0 || o->ngrams > 0))
        return error_set(err, "%s: \"mask_words\" and \"ngrams\" change the texts of a classifier; this is a %s model without classes of texts", place,
                         c->model_type);
    return 0;
}

int forecast_check_training(struct forecast *f, const struct train_options *o, struct error *err) {
    struct train_extent extent;
    struct model *m = model_new(&f->out, 0);
    char *place = stage_training_place(f->recipe, f->index);
    int status = train_check_model(o, m, place, &extent, err);
    if (status == 0)
        status = check_for_model(&f->out, o, place, err);
    free(place);
    model_free(m);
    TRY(status);
    TRY(sources_check(f, o, err));
    f->draws = train_steps(o, f->recipe->data.seq_len) * o->batch * o->accumulate;
    f->reweight_every = o->reweight_every;
    json_free(f->mixture);
    f->mixture = o->mixture ? json_copy(o->mixture) : NULL;
    f->uses_parent |= sources_ask_parent(&f->recipe->data, o);
    return 0;
}

int forecast_fresh(struct forecast *f, const char *shape, struct error *err) {
    if (!shape)
        return 0;
    char *path = recipe_path(f->recipe, shape);
    config_release(&f->out);
    int status = shape_read(&f->out, path, err);
    free(path);
    if (status < 0)
        return error_prefix(err, "%s: stages[%d].shape", f->recipe->where, f->index);
    const struct config *c = &f->out, *p = f->parent;
    const int is_language = model_is_language(p);
    if (c->vocab != p->vocab || model_is_language(c) != is_language || (!is_language && c->hidden != p->hidden))
        return error_set(err, "%s: stages[%d].shape: a %s of %ld inputs and %ld %s; the recipe's model is a %s of %ld and %ld",
                         f->recipe->where, f->index, c->model_type, (long)c->hidden, (long)c->vocab,
                         is_language ? "vocabulary entries" : "classes", p->model_type, (long)p->hidden, (long)p->vocab);
    return 0;
}

struct model *run_parent(struct run *run, struct error *err) {
    if (run->parent.is_gguf && !run->parent.model->data)
        return opened_widen(&run->parent, err) < 0 ? NULL : run->parent.model;
    return opened_read(&run->parent, err) < 0 ? NULL : run->parent.model;
}

int run_borrow(struct run *run, struct opened *o, const char *path, struct error *err) {
    if (run->parent_is_shape || strcmp(path, run->parent.path) != 0)
        return opened_any(o, path, err);
    if (!run_parent(run, err))
        return -1;
    *o = run->parent;
    o->path = xstrdup(path);
    o->borrowed = 1;
    return 0;
}

int stage_borrow_input(const struct stage_run *s, struct opened *o, struct error *err) {
    if (run_borrow(s->run, o, s->input, err) < 0)
        return error_prefix(err, "stage %d (%s)", s->index, s->stage->type->name);
    return 0;
}

int stage_map_input(const struct stage_run *s, struct opened *o, struct error *err) {
    if (strcmp(s->input, s->run->parent.path) == 0 && s->run->parent.model->data)
        return stage_borrow_input(s, o, err);
    if (opened_look(o, s->input, 1, err) == 0) {
        if (opened_map(o, err) == 0)
            return 0;
        opened_release(o);
    }
    return error_prefix(err, "stage %d (%s)", s->index, s->stage->type->name);
}

int stage_open_input(const struct stage_run *s, struct opened *o, struct error *err) {
    if (opened_any(o, s->input, err) < 0)
        return error_prefix(err, "stage %d (%s)", s->index, s->stage->type->name);
    return 0;
}

int stage_open_fresh(const struct stage_run *s, const char *shape, struct opened *o, struct error *err) {
    char *path = shape ? recipe_path(s->recipe, shape) : xstrdup(s->input);
    int status = opened_shape(o, path, err);
    free(path);
    if (status < 0)
        return error_prefix(err, "stage %d (%s)", s->index, s->stage->type->name);
    model_initialise(o->model, (uint64_t)s->recipe->seed);
    return 0;
}

void stage_add_product(struct stage_run *s, const char *name, const char *path) {
    struct json *list = json_get(s->facts, "products");
    if (!list) {
        json_set(s->facts, "products", json_array());
        list = json_get(s->facts, "products");
    }
    struct json *product = json_object();
    json_set_string(product, "name", name);
    json_set_string(product, "path", path);
    json_push(list, product);
}

struct json *stage_provenance(const struct stage_run *s) {
    struct json *o = json_object(), *stages = json_array();
    json_set_string(o, "version", PDQ_VERSION);
    json_set_string(o, "recipe", s->recipe->name);
    json_set_string(o, "model", s->recipe->model);
    json_set_string(o, "model_hash", s->run->parent_hash);
    if (s->train->data.n_token)
        json_set_string(o, "text_hash", s->train->hash);
    json_set_number(o, "seed", (double)s->recipe->seed);
    for (int i = 0; i <= s->index; i++) {
        const struct stage *stage = &s->recipe->stage[i];
        if (i < s->index && stage->type->keeps_model)
            continue; // this file did not come through it
        struct json *one = json_object();
        json_set(one, stage->type->name, options_json(stage->type->table, stage->options));
        json_push(stages, one);
    }
    json_set(o, "stages", stages);
    json_set_string(o, "inputs_hash", s->hash);
    return o;
}

// transformers 5 wants tokenizer.json and tokenizer_config.json; a model that came with tokenizer.model alone, or from a
// GGUF file, gets ones that give the same ids.
static int complete_tokenizer(const struct tokenizer *t, const char *folder, struct error *err) {
    static const struct {
        const char *name;
        int (*write)(const struct tokenizer *t, const char *path, struct error *err);
    } files[] = {{"tokenizer.json", tokenizer_write_json}, {"tokenizer_config.json", tokenizer_write_config}};
    if (!tokenizer_needs_json(t))
        return 0;
    char *model = path_join(folder, "tokenizer.model"), *json = path_join(folder, "tokenizer.json");
    int result = 0, needed = file_exists(model) || !file_exists(json);
    for (size_t i = 0; i < 2 && result == 0 && needed; i++) {
        char *path = path_join(folder, files[i].name);
        result = file_exists(path) ? 0 : files[i].write(t, path, err);
        free(path);
    }
    free(model);
    free(json);
    return result;
}

int stage_save(const struct stage_run *s, const struct model *m, const char *folder, enum dtype dtype,
               int64_t shard_bytes, struct error *err) {
    struct json *provenance = stage_provenance(s);
    struct save_options options = {
        .dtype = dtype,
        .shard_bytes = shard_bytes,
        .carry_from = path_is_gguf(s->input) && !file_is_directory(s->input) ? NULL : s->input,
        .provenance = provenance};
    int result = model_save(m, folder, &options, err);
    json_free(provenance);
    return result < 0 ? result : stage_complete_tokenizer(s, folder, err);
}

int stage_complete_tokenizer(const struct stage_run *s, const char *folder, struct error *err) {
    return s->run->parent.tokenizer ? complete_tokenizer(s->run->parent.tokenizer, folder, err) : 0;
}

int stage_measure(const struct stage_run *s, struct model *m, int is_test, double *loss, double *accuracy, struct error *err) {
    *accuracy = (double)NAN;
    if (s->run->inputs->has_images) {
        const struct image_data *d = &s->run->inputs->images;
        struct image_result images;
        evaluate_images(&images, m, is_test ? &d->test : &d->validation, 0, 0);
        *loss = images.nll;
        *accuracy = 100 * (1 - (double)images.errors / (double)images.n);
        image_result_release(&images);
        return 0;
    }
    if (m->config.head == HEAD_MASKED) {
        struct masked_result r;
        evaluate_masked(&r, m, is_test ? &s->run->inputs->test : &s->run->inputs->words_validation, PRECISION_F32);
        *loss = r.mean_nll;
        *accuracy = 100 * r.accuracy.share;
        masked_result_release(&r);
        return 0;
    }
    if (m->config.head == HEAD_SPANS) { // of the questions set aside the loss alone
        const struct inputs *in = s->run->inputs;
        struct span_result r;
        evaluate_spans(&r, m, is_test ? &in->test : &in->validation, is_test ? &in->test_texts : NULL, PRECISION_F32);
        *loss = r.mean_nll;
        *accuracy = is_test ? 100 * r.exact_share.share : (double)NAN;
        span_result_release(&r);
        return 0;
    }
    if (s->run->inputs->has_examples) {
        struct class_result r;
        evaluate_classes(&r, m, is_test ? &s->run->inputs->test : &s->run->inputs->validation, PRECISION_F32);
        *loss = r.mean_nll;
        *accuracy = 100 * r.accuracy.share;
        class_result_release(&r);
        return 0;
    }
    struct eval_options options = {.protocol = EVAL_WINDOWS,
                                   .seq_len = s->recipe->data.seq_len,
                                   .tokens = s->recipe->data.eval_tokens,
                                   .precision = PRECISION_F32,
                                   .quiet = 1};
    struct eval_result r;
    TRY(evaluate(&r, m, NULL, &s->run->inputs->eval.data, s->run->parent.tokenizer, &options, err));
    *loss = r.nll;
    eval_result_release(&r);
    return 0;
}

static int held_out_loss(void *context, double best, double *loss, char note[HELD_OUT_NOTE], struct error *err) {
    const struct held_out *h = context;
    double accuracy;
    (void)best;
    TRY(stage_measure(h->stage, h->model, 0, loss, &accuracy, err));
    if (!isnan(accuracy))
        snprintf(note, HELD_OUT_NOTE, ",\"accuracy\":%.9g", accuracy);
    return 0;
}

int run_source_loss(struct run *run, const struct recipe *r, struct model *m, int k, double *loss, int64_t *tokens, struct error *err) {
    const int64_t share = r->data.eval_tokens / r->data.n_source;
    const struct eval_options options = {.protocol = EVAL_WINDOWS,
                                         .seq_len = r->data.seq_len,
                                         .tokens = share > 0 ? share : 1,
                                         .precision = PRECISION_F32,
                                         .quiet = 1};
    struct eval_result result = {0};
    TRY(evaluate(&result, m, NULL, &run->inputs->source_eval[k], run->parent.tokenizer, &options, err));
    *loss = result.nll;
    if (tokens)
        *tokens = result.tokens;
    eval_result_release(&result);
    return 0;
}

// For the trainer: of sources whose weight [n_source] is not 0. What the recipe's model's losses are is measured once in a run.
static int source_losses(void *context, const double *weight, double *loss, double *reference, struct error *err) {
    const struct held_out *h = context;
    struct run *run = h->stage->run;
    struct inputs *in = run->inputs;
    for (int k = 0; k < in->n_source; k++) {
        if (weight[k] == 0)
            continue;
        if (isnan(in->reference[k])) {
            struct model *parent = run_parent(run, err);
            if (!parent)
                return -1;
            TRY(run_source_loss(run, h->stage->recipe, parent, k, &in->reference[k], NULL, err));
        }
        reference[k] = in->reference[k];
        TRY(run_source_loss(run, h->stage->recipe, h->model, k, &loss[k], NULL, err));
    }
    return 0;
}

int recipe_starts_fresh(const struct recipe *r) {
    const struct stage *first = &r->stage[0];
    struct json *options = options_json(first->type->table, first->options);
    int fresh = json_bool(json_get(options, "init"));
    json_free(options);
    return fresh;
}

int stage_after_sparsify(const struct recipe *r, int index) {
    for (int i = 0; i < index; i++)
        if (r->stage[i].type == &stage_sparsify)
            return 1;
    return 0;
}

int stage_after_sample(const struct recipe *r, int index) {
    for (int i = 0; i < index; i++)
        if (r->stage[i].type->makes_text)
            return 1;
    return 0;
}

char *stage_training_place(const struct recipe *r, int index) {
    const struct stage_type *type = r->stage[index].type;
    return xasprintf("%s: stages[%d].%s%s%s", r->where, index, type->name, type->training ? "." : "", type->training ? type->training : "");
}

int stage_check_training(const struct recipe *r, const struct train_options *o, const char *where,
                         struct error *err) {
    TRY(train_check(o, where, err));
    if ((o->eval_every > 0 || o->keep_best) && r->data.eval.count == 0 && !r->data.sample)
        return error_set(err, "%s: \"eval_every\" and \"keep_best\" need held-out text: give data.eval", where);
    return 0;
}

void stage_trainer(const struct stage_run *s, struct trainer *t, struct model *m, const struct train_options *options,
                   const char *title, const char *folder, struct held_out *held_out) {
    const struct inputs *in = s->run->inputs;
    const int is_masked = m->config.head == HEAD_MASKED;
    int has_eval = in->eval.data.n_token > 0 || (is_masked ? in->words_validation.n : in->validation.n) > 0 || (in->has_images && in->images.validation.n > 0);
    *held_out = (struct held_out){.stage = s, .model = m};
    *t = (struct trainer){.model = m,
                          .data = inputs_mixed(s->run->inputs, s->recipe, s->train, options->mixture),
                          .images = in->has_images ? inputs_images_without(s->run->inputs, options->drop_class) : NULL,
                          .examples = !in->has_examples ? NULL : is_masked ? &in->words : &in->examples,
                          .seq_len = in->has_examples ? 1 : s->recipe->data.seq_len,
                          .seed = (uint64_t)s->recipe->seed,
                          .precision = (enum precision)s->recipe->precision,
                          .options = *options,
                          .title = title,
                          .folder = folder,
                          .identity = s->hash,
                          .held_out = has_eval ? held_out_loss : NULL,
                          .held_out_context = held_out,
                          .source_losses = in->source_eval ? source_losses : NULL,
                          .source_context = held_out};
}

#define SHIFT_STEP 0.25
#define SHIFT_MAX 12.0

// How a model that never saw one class does on it, as it is and with that class's bias raised so far that the validation images have the
// fewest errors (Hinton, Vinyals and Dean 2015, section 3, chose it on the test images).
void stage_add_missing_class(struct stage_run *s, struct model *m, int64_t label) {
    const struct image_data *d = &s->run->inputs->images;
    double best_shift = 0;
    int64_t fewest = d->validation.n + 1;
    if (!s->run->inputs->has_images || label < 0 || label >= m->config.vocab)
        return;
    for (double shift = 0; shift <= SHIFT_MAX; shift += SHIFT_STEP) {
        struct image_result r;
        evaluate_images(&r, m, &d->validation, label, shift);
        if (r.errors < fewest) {
            fewest = r.errors;
            best_shift = shift;
        }
        image_result_release(&r);
    }
    struct json *o = json_object();
    json_set_number(o, "class", (double)label);
    for (int corrected = 0; corrected < 2; corrected++) {
        struct image_result r;
        evaluate_images(&r, m, &d->test, label, corrected ? best_shift : 0);
        json_set_number(o, corrected ? "corrected_errors" : "errors", (double)r.errors);
        json_set_number(o, corrected ? "corrected_errors_of_class" : "errors_of_class", (double)r.errors_of_class[label]);
        json_set_number(o, "images_of_class", (double)r.of_class[label]);
        image_result_release(&r);
    }
    json_set_number(o, "bias_shift", best_shift);
    json_set(s->facts, "missing_class", o);
}

void stage_add_training(struct stage_run *s, const struct train_result *r, const char *curve) {
    struct json *list = json_get(s->facts, "trainings");
    if (!list) {
        json_set(s->facts, "trainings", json_array());
        list = json_get(s->facts, "trainings");
    }
    struct json *o = json_object();
    json_set_string(o, "curve", curve);
    json_set_number(o, "steps", (double)r->steps);
    json_set_number(o, "tokens", (double)r->tokens);
    json_set_number(o, "first_loss", r->first_loss);
    json_set_number(o, "last_loss", r->last_loss);
    json_set_number(o, "best_held_out", r->best_held_out);
    json_push(list, o);
    json_set_number(s->measured, "training_seconds",
                    json_number(json_get(s->measured, "training_seconds")) + r->seconds);
    json_set_number(s->measured, "tokens_per_second", r->tokens_per_second);
}
