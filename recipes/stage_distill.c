// stage_distill.c: a smaller model learns from a larger one, by default from the recipe's own before pruning.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "distill/distill.h"
#include "recipes/inputs.h"
#include "recipes/stage.h"

static int needs_text(const struct stage *s) {
    (void)s;
    return 1;
}

static const char *teacher_path(const struct stage *s) {
    return ((const struct distill_options *)s->options)->teacher;
}

static int validate(struct recipe *r, int index, const char *where, struct error *err) {
    struct distill_options *o = r->stage[index].options;
    if (o->inherit && !o->shape)
        return error_set(err, "%s: \"inherit\" is for a student of another shape; give \"shape\", the folder of its config.json", where);
    o->train.keep_zeros |= stage_after_sparsify(r, index);
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
    struct step_cost cost = step_cost(&f->out, &teacher, &o->train, seq_len);
    f->flops = cost.flops * (double)steps;
    f->bytes = cost.bytes * (double)steps;
    f->memory = cost.memory + (o->teacher || o->shape ? 4 * config_parameters(&teacher) : 0);
    if (result == 0) {
        unsigned shows;
        f->memory += distill_feature_bytes(o, &f->out, &teacher, o->train.batch * seq_len, &shows);
        f->memory += shown_memory(&teacher, o->train.batch * seq_len, shows);
    }
    f->uses_parent = !o->teacher && !o->shape;
    f->disk = 4 * config_parameters(&f->out);
    f->scratch = snapshot_scratch(&f->out, &o->train);
    snprintf(f->what, sizeof f->what, "learn from %s on %ld tokens in %ld steps",
             o->teacher ? o->teacher : o->shape ? "the stage's input" : "the parent", (long)(steps * o->train.batch * o->train.accumulate * seq_len),
             (long)steps);
    config_release(&teacher);
    return result;
}

int stage_distill_model(struct stage_run *s, const struct distill_options *o, struct model *student,
                        const char *title, const char *folder, struct train_result *result, struct error *err) {
    struct opened other = {0};
    struct model *teacher = NULL;
    struct trainer trainer;
    struct held_out held_out;
    if (o->teacher || o->shape) {
        char *path = o->teacher ? recipe_path(s->recipe, o->teacher) : xstrdup(s->input);
        int opened = opened_any(&other, path, err);
        free(path);
        if (opened < 0)
            return error_prefix(err, "the teacher");
        teacher = other.model;
    } else if (s->run->parent_is_shape) {
        return error_set(err, "%s: the recipe's model has no weights to learn from; name a \"teacher\"",
                         s->recipe->where);
    } else if (!(teacher = run_parent(s->run, err))) {
        return -1;
    }
    int status = distill_check(o, &student->config, &teacher->config, err);
    if (status == 0 && o->inherit)
        log_info("%s: the student begins with %ld of its %ld weights from the teacher", title, (long)model_inherit(student, teacher),
                 (long)student->n_element);
    stage_trainer(s, &trainer, student, &o->train, title, folder, &held_out);
    if (status == 0)
        status = distill_run(&trainer, teacher, o, result, err);
    opened_release(&other);
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
                                         .validate = validate,
                                         .forecast = forecast,
                                         .run = run};
