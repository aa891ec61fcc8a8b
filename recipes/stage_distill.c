// stage_distill.c: a smaller model learns from a larger one, by default from the recipe's own before pruning.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "distill/distill.h"
#include "recipes/heir.h"
#include "recipes/teacher_answers.h"
#include "recipes/inputs.h"
#include "recipes/quantize_aware.h"
#include "recipes/stage.h"
#include "recipes/students.h"

#define ANSWER_BYTES 3 // of an entry of a teacher cache, about
#define DRAW_BYTES 1   // of a possible draw there, about
#define CACHE_WINDOWS 8 // that are made at a time

static int needs_text(const struct stage *s) {
    (void)s;
    return 1;
}

static const char *teacher_path(const struct stage *s, size_t i) {
    const struct option_list *teacher = &((const struct distill_options *)s->options)->teacher;
    return i < teacher->count ? teacher->item[i] : NULL;
}

static int files(const struct stage *s, stage_file *add, void *context, struct error *err) {
    const struct distill_options *o = s->options;
    TRY(add(context, o->shape, 1, err));
    return students_files(o, add, context, err);
}

static int has_teachers(const struct distill_options *o) { return o->teacher.count > 0; }

int stage_check_distilling(const struct recipe *r, const struct distill_options *o, const char *where, struct error *err) {
    TRY(distill_check_cached(o, where, err));
    if (o->teacher.count > TEACHERS_MOST)
        return error_set(err, "%s: \"teacher\" names %zu models, expected at most %d", where, o->teacher.count, TEACHERS_MOST);
    return stage_check_training(r, &o->train, where, err);
}

static int validate(struct recipe *r, int index, const char *where, struct error *err) {
    struct distill_options *o = r->stage[index].options;
    TRY(heir_check(o->inherit, o->shape, o->inherit_layers, o->inherit_score, where, err));
    o->train.keep_zeros |= stage_after_sparsify(r, index);
    TRY(quantize_aware_check(&o->fake, &o->train, where, err));
    if (o->fake.quantize_scales == SCALES_LEARNED && (o->features || o->hidden > 0))
        return error_set(err, "%s: \"quantize_scales\": learned scales do not go with losses on features, which may learn projections; leave one of "
                         "them out", where);
    TRY(students_validate(r, o, where, err));
    return stage_check_distilling(r, o, where, err);
}

struct shapes { // of the teachers; owned
    struct config config[TEACHERS_MOST];
    const struct config *teacher[TEACHERS_MOST];
    int n;
};

static void shapes_release(struct shapes *s) {
    for (int i = 0; i < s->n; i++)
        config_release(&s->config[i]);
}

// The named ones', or the parent's. Released by the caller, also on failure.
static int teacher_shapes(const struct forecast *f, const struct distill_options *o, struct shapes *s, struct error *err) {
    *s = (struct shapes){0};
    for (size_t i = 0; i < o->teacher.count; i++) {
        char *path = recipe_path(f->recipe, o->teacher.item[i]);
        int result = shape_read(&s->config[i], path, err);
        free(path);
        TRY(result);
        s->teacher[s->n] = &s->config[s->n];
        s->n++;
    }
    if (!s->n) {
        config_copy(&s->config[0], o->shape ? &f->in : f->parent);
        s->teacher[0] = &s->config[0];
        s->n = 1;
    }
    return 0;
}

static int check_positions(const struct forecast *f, const struct shapes *s, const char *where, struct error *err) {
    for (int i = 0; i < s->n; i++) {
        const long most = (long)model_positions(s->teacher[i]);
        if (most && f->recipe->data.seq_len > most)
            return error_set(err, "%s: data.seq_len is %ld, and the teacher has learned positions for %ld", where, (long)f->recipe->data.seq_len, most);
    }
    return 0;
}

static int check_teaching(const struct forecast *f, const struct distill_options *o, const struct config *student, const struct shapes *s,
                          struct error *err) {
    char *place = stage_training_place(f->recipe, f->index);
    int status = distill_check(o, student, s->teacher, s->n, place, err);
    if (status == 0)
        status = check_positions(f, s, place, err);
    free(place);
    return status;
}

int forecast_check_distilling(const struct forecast *f, const struct distill_options *o, const struct config *student, struct error *err) {
    struct shapes shapes;
    int status = teacher_shapes(f, o, &shapes, err);
    if (status == 0)
        status = check_teaching(f, o, student, &shapes, err);
    shapes_release(&shapes);
    return status;
}

// Answers from a file: they take room where they are to be made; where they are there, no teacher runs. Returns whether one does.
static int forecast_answers(struct forecast *f, const struct distill_options *o, int64_t tokens, int *has_teacher, struct error *err) {
    *has_teacher = 1;
    if (!o->teacher_cache)
        return 0;
    if (!model_is_causal(&f->out))
        return error_set(err, "%s: stages[%d].distill: \"teacher_cache\" holds answers about the next token of a text; this model is a classifier",
                         f->recipe->where, f->index);
    char *path = answers_file(f->recipe, o);
    *has_teacher = !path || !file_exists(path);
    if (*has_teacher)
        f->disk += tokens * (o->top_k * ANSWER_BYTES + o->tail_draws * DRAW_BYTES);
    free(path);
    return 0;
}

static void forecast_cost(struct forecast *f, const struct distill_options *o, const struct shapes *s, int has_teacher) {
    const int64_t seq_len = f->recipe->data.seq_len, steps = train_steps(&o->train, seq_len), rows = o->train.batch * seq_len;
    unsigned shows[TEACHERS_MOST];
    const int asks = distill_asks_teachers(o);
    struct step_cost cost = step_cost(&f->out, has_teacher && asks ? s->teacher[0] : NULL, &o->train, seq_len);
    int64_t weights = 0, shown = distill_feature_bytes(o, &f->out, s->teacher, s->n, rows, shows);
    for (int i = 0; i < s->n; i++) {
        if (i && asks)
            step_cost_add_teacher(&cost, &f->out, s->teacher[i], &o->train, seq_len);
        weights += 4 * config_parameters(s->teacher[i]);
        shown += shown_memory(s->teacher[i], rows, shows[i]);
    }
    if (has_teacher && o->teacher_cache) { // it speaks before the student learns
        const int64_t alone = step_cost(&f->out, NULL, &o->train, seq_len).memory;
        const int64_t making = 4 * config_parameters(&f->out) + eval_memory(s->teacher[0], NULL, CACHE_WINDOWS * seq_len);
        cost.memory = alone > making ? alone : making;
    }
    f->flops = cost.flops * (double)steps;
    f->bytes = cost.bytes * (double)steps;
    f->memory = cost.memory + (has_teachers(o) || o->shape ? weights : 0) + shown;
}

static int forecast_teaching(struct forecast *f, const struct distill_options *o, const struct shapes *s, struct error *err) {
    const int64_t seq_len = f->recipe->data.seq_len, steps = train_steps(&o->train, seq_len);
    const int64_t tokens = steps * o->train.batch * o->train.accumulate * seq_len;
    int has_teacher;
    TRY(check_teaching(f, o, &f->out, s, err));
    f->disk = 4 * config_parameters(&f->out);
    TRY(forecast_answers(f, o, tokens, &has_teacher, err));
    forecast_cost(f, o, s, has_teacher);
    f->uses_parent |= !has_teachers(o) && !o->shape;
    f->scratch = snapshot_scratch(&f->out, &o->train);
    int n = snprintf(f->what, sizeof f->what, "learn from %s", has_teachers(o) ? o->teacher.item[0] : o->shape ? "the stage's input" : "the parent");
    for (size_t i = 1; i < o->teacher.count && n < (int)sizeof f->what; i++)
        n += snprintf(f->what + n, sizeof f->what - (size_t)n, "%s%s", i + 1 < o->teacher.count ? ", " : " and ", o->teacher.item[i]);
    if (n < (int)sizeof f->what)
        snprintf(f->what + n, sizeof f->what - (size_t)n, "%s on %ld tokens in %ld steps", o->teacher_cache ? "'s answers on disk" : "", (long)tokens,
                 (long)steps);
    return quantize_aware_forecast(f, &o->fake, steps, o->shape != NULL, err);
}

static int forecast(struct forecast *f, struct error *err) {
    const struct distill_options *o = f->recipe->stage[f->index].options;
    struct shapes shapes;
    TRY(forecast_fresh(f, o->shape, err));
    TRY(forecast_check_training(f, &o->train, err));
    if (o->students)
        return students_forecast(f, o, err);
    int result = teacher_shapes(f, o, &shapes, err);
    if (result == 0)
        result = forecast_teaching(f, o, &shapes, err);
    shapes_release(&shapes);
    return result;
}

struct teaching { // lifetime: one training
    struct stage_run *stage;
    const struct distill_options *options;
    const struct config *student;
    struct opened other[TEACHERS_MOST]; // the teachers, where it is not the parent
    struct model *teacher[TEACHERS_MOST];
    int n;
};

// A model that the recipe names, or the stage's input.
static int open_other(struct teaching *t, const char *named, struct error *err) {
    char *path = named ? recipe_path(t->stage->recipe, named) : xstrdup(t->stage->input);
    int status = opened_any(&t->other[t->n], path, err);
    free(path);
    if (status < 0)
        return error_prefix(err, "the teacher");
    t->teacher[t->n] = t->other[t->n].model;
    t->n++;
    return 0;
}

static int check_teachers(const struct teaching *t, struct error *err) {
    const struct config *config[TEACHERS_MOST];
    for (int i = 0; i < t->n; i++)
        config[i] = &t->teacher[i]->config;
    char *place = stage_training_place(t->stage->recipe, t->stage->index);
    const int status = distill_check(t->options, t->student, config, t->n, place, err);
    free(place);
    return status;
}

// The teachers with their weights, once they are needed.
static int open_teachers(struct teaching *t, struct error *err) {
    const struct distill_options *o = t->options;
    const struct stage_run *s = t->stage;
    if (t->n)
        return 0;
    for (size_t i = 0; i < o->teacher.count; i++)
        TRY(open_other(t, o->teacher.item[i], err));
    if (!t->n && o->shape)
        TRY(open_other(t, NULL, err));
    if (!t->n && s->run->parent_is_shape)
        return error_set(err, "%s: the recipe's model has no weights to learn from; name a \"teacher\"", s->recipe->where);
    if (!t->n && (t->teacher[0] = run_parent(s->run, err)))
        t->n = 1;
    return t->n ? check_teachers(t, err) : -1;
}

// For the cache, of one teacher. NULL: it cannot be had.
static struct model *open_teacher(void *context, struct error *err) {
    struct teaching *t = context;
    return open_teachers(t, err) < 0 ? NULL : t->teacher[0];
}

static int learn_from_cache(struct teaching *t, struct trainer *trainer, struct train_result *result, struct error *err) {
    struct teacher_cache cache;
    int status = answers_open(&cache, t->stage, t->options, trainer, open_teacher, t, err);
    if (status == 0)
        status = distill_run_cached(trainer, &cache, t->options, result, err);
    teacher_cache_close(&cache);
    return status;
}

int stage_distill_model(struct stage_run *s, const struct distill_options *o, struct model *student,
                        const char *title, const char *folder, struct train_result *result, struct error *err) {
    struct teaching t = {.stage = s, .options = o, .student = &student->config};
    struct trainer trainer;
    struct held_out held_out;
    struct fake_quant rounding = {0};
    int status = o->inherit || !o->teacher_cache ? open_teachers(&t, err) : 0;
    if (status == 0 && o->inherit)
        status = heir_take(s, student, t.teacher[0], o->inherit_layers, o->inherit_score, title, err);
    stage_trainer(s, &trainer, student, &o->train, title, folder, &held_out);
    if (status == 0)
        status = quantize_aware_start(s, student, &o->fake, folder, err);
    if (status == 0)
        status = quantize_aware_begin(&rounding, &trainer, &o->fake, err);
    if (status == 0)
        status = o->teacher_cache ? learn_from_cache(&t, &trainer, result, err) : distill_run(&trainer, t.teacher, t.n, o, result, err);
    if (status == 0)
        status = fake_quant_settle(&rounding, err);
    fake_quant_end(&rounding);
    for (int i = 0; i < TEACHERS_MOST; i++)
        opened_release(&t.other[i]);
    return status;
}

static int run_taught(struct stage_run *s, const struct distill_options *o, struct model *student, struct error *err) {
    struct train_result result;
    TRY(stage_distill_model(s, o, student, "distill", s->folder, &result, err));
    TRY(stage_save(s, student, s->folder, DTYPE_F32, 0, err));
    stage_add_training(s, &result, "run.jsonl");
    stage_add_product(s, quantize_aware_product(&o->fake, o->shape ? "distilled" : "recovered"), ".");
    return 0;
}

static int run(struct stage_run *s, struct error *err) {
    struct opened in;
    const struct distill_options *o = s->stage->options;
    TRY(o->shape ? stage_open_fresh(s, o->shape, &in, err) : stage_open_input(s, &in, err));
    int status = o->students ? students_run(s, o, in.model, err) : run_taught(s, o, in.model, err);
    if (status == 0) {
        trainer_drop_snapshot(s->folder);
        quantize_aware_forget(s->folder);
        stage_add_missing_class(s, in.model, o->train.drop_class);
    }
    opened_release(&in);
    return status;
}

const struct stage_type stage_distill = {.name = "distill",
                                         .table = distill_option_table,
                                         .size = sizeof(struct distill_options),
                                         .needs_text = needs_text,
                                         .takes_images = 1,
                                         .takes_examples = 1,
                                         .takes_words = 1,
                                         .teacher = teacher_path,
                                         .files = files,
                                         .validate = validate,
                                         .forecast = forecast,
                                         .run = run};
