// stage_distill.c: a smaller model learns from a larger one, by default from the recipe's own before pruning.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "distill/distill.h"
#include "recipes/teacher_answers.h"
#include "recipes/inputs.h"
#include "recipes/stage.h"

#define ANSWER_BYTES 3 // of an entry of a teacher cache, about

static int needs_text(const struct stage *s) {
    (void)s;
    return 1;
}

static const char *teacher_path(const struct stage *s) {
    return ((const struct distill_options *)s->options)->teacher;
}

static int files(const struct stage *s, stage_file *add, void *context, struct error *err) {
    return add(context, ((const struct distill_options *)s->options)->shape, 1, err);
}

static int validate(struct recipe *r, int index, const char *where, struct error *err) {
    struct distill_options *o = r->stage[index].options;
    if (o->inherit && !o->shape)
        return error_set(err, "%s: \"inherit\" is for a student of another shape; give \"shape\", the folder of its config.json", where);
    o->train.keep_zeros |= stage_after_sparsify(r, index);
    TRY(distill_check_cached(o, where, err));
    return stage_check_training(r, &o->train, where, err);
}

// The teacher's shape: the named one's, or the parent's.
static int teacher_shape(const struct forecast *f, const char *named, struct config *c, struct error *err) {
    if (!named) {
        const struct distill_options *o = f->recipe->stage[f->index].options;
        config_copy(c, o->shape ? &f->in : f->parent);
        return 0;
    }
    char *path = recipe_path(f->recipe, named);
    int result = shape_read(c, path, err);
    free(path);
    return result;
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
        f->disk += tokens * o->top_k * ANSWER_BYTES;
    free(path);
    return 0;
}

static int forecast(struct forecast *f, struct error *err) {
    const struct distill_options *o = f->recipe->stage[f->index].options;
    struct config teacher = {0};
    TRY(forecast_fresh(f, o->shape, err));
    TRY(forecast_check_images(f, &o->train, err));
    TRY(teacher_shape(f, o->teacher, &teacher, err));
    int result = distill_check(o, &f->out, &teacher, err);
    if (result < 0)
        error_prefix(err, "%s: stages[%d].distill", f->recipe->where, f->index);
    if (model_positions(&teacher) && f->recipe->data.seq_len > model_positions(&teacher)) {
        const long most = (long)model_positions(&teacher);
        config_release(&teacher);
        return error_set(err, "%s: stages[%d].distill: data.seq_len is %ld, and the teacher has learned positions for %ld", f->recipe->where,
                         f->index, (long)f->recipe->data.seq_len, most);
    }
    int64_t seq_len = f->recipe->data.seq_len, steps = train_steps(&o->train, seq_len);
    int has_teacher;
    f->disk = 4 * config_parameters(&f->out);
    if (result == 0)
        result = forecast_answers(f, o, steps * o->train.batch * o->train.accumulate * seq_len, &has_teacher, err);
    struct step_cost cost = step_cost(&f->out, result == 0 && has_teacher ? &teacher : NULL, &o->train, seq_len);
    f->flops = cost.flops * (double)steps;
    f->bytes = cost.bytes * (double)steps;
    f->memory = cost.memory + (o->teacher || o->shape ? 4 * config_parameters(&teacher) : 0);
    if (result == 0) {
        unsigned shows;
        f->memory += distill_feature_bytes(o, &f->out, &teacher, o->train.batch * seq_len, &shows);
        f->memory += shown_memory(&teacher, o->train.batch * seq_len, shows);
    }
    f->uses_parent = !o->teacher && !o->shape;
    f->scratch = snapshot_scratch(&f->out, &o->train);
    snprintf(f->what, sizeof f->what, "learn from %s%s on %ld tokens in %ld steps",
             o->teacher ? o->teacher : o->shape ? "the stage's input" : "the parent",
             o->teacher_cache ? "'s answers on disk" : "", (long)(steps * o->train.batch * o->train.accumulate * seq_len),
             (long)steps);
    config_release(&teacher);
    return result;
}

struct teaching { // lifetime: one training
    struct stage_run *stage;
    const struct distill_options *options;
    const struct config *student;
    struct opened other; // the teacher, where it is not the parent
    struct model *teacher;
};

// The teacher with its weights, once it is needed; NULL: it cannot be had.
static struct model *open_teacher(void *context, struct error *err) {
    struct teaching *t = context;
    const struct distill_options *o = t->options;
    const struct stage_run *s = t->stage;
    if (t->teacher)
        return t->teacher;
    if (o->teacher || o->shape) {
        char *path = o->teacher ? recipe_path(s->recipe, o->teacher) : xstrdup(s->input);
        if (opened_any(&t->other, path, err) < 0)
            error_prefix(err, "the teacher");
        else
            t->teacher = t->other.model;
        free(path);
    } else if (s->run->parent_is_shape) {
        error_set(err, "%s: the recipe's model has no weights to learn from; name a \"teacher\"", s->recipe->where);
    } else {
        t->teacher = run_parent(s->run, err);
    }
    return t->teacher && distill_check(o, t->student, &t->teacher->config, err) == 0 ? t->teacher : NULL;
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
    int status = (o->inherit || !o->teacher_cache) && !open_teacher(&t, err) ? -1 : 0;
    if (status == 0 && o->inherit)
        log_info("%s: the student begins with %ld of its %ld weights from the teacher", title,
                 (long)model_inherit(student, t.teacher), (long)student->n_element);
    stage_trainer(s, &trainer, student, &o->train, title, folder, &held_out);
    if (status == 0)
        status = o->teacher_cache ? learn_from_cache(&t, &trainer, result, err) : distill_run(&trainer, t.teacher, o, result, err);
    opened_release(&t.other);
    return status;
}

static int run(struct stage_run *s, struct error *err) {
    struct opened in;
    struct train_result result;
    const struct distill_options *o = s->stage->options;
    TRY(o->shape ? stage_open_fresh(s, o->shape, &in, err) : stage_open_input(s, &in, err));
    int status = stage_distill_model(s, o, in.model, "distill", s->folder, &result, err);
    if (status == 0)
        status = stage_save(s, in.model, s->folder, DTYPE_F32, 0, err);
    if (status == 0) {
        trainer_drop_snapshot(s->folder);
        stage_add_training(s, &result, "run.jsonl");
        stage_add_missing_class(s, in.model, o->train.drop_class);
        stage_add_product(s, o->shape ? "distilled" : "recovered", ".");
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
