// stage_train.c: cross-entropy alone: pretraining (with `init`), or the control beside distillation.
#include <stdio.h>
#include <string.h>

#include "recipes/heir.h"
#include "recipes/inputs.h"
#include "recipes/stage.h"
#include "recipes/stage_train.h"

const struct option stage_train_option_table[] = {
    TRAIN_OPTION_ROWS(struct stage_train_options, train.),
    {"init", OPTION_BOOL, offsetof(struct stage_train_options, init), "false", 0, 0, NULL, NULL,
     "start from fresh random weights of the model's shape (it needs no weights then)"},
    {"shape", OPTION_STRING, offsetof(struct stage_train_options, shape), NULL, 0, 0, NULL, "DIR",
     "start from fresh random weights of this folder's shape instead (its config.json)"},
    {"inherit", OPTION_BOOL, offsetof(struct stage_train_options, inherit), "false", 0, 0, NULL, NULL,
     "with shape: begin with the stage's input's weights, of a wider model with its best heads and channels"},
    {"inherit_layers", OPTION_CHOICE, offsetof(struct stage_train_options, inherit_layers), "spread", 0, 0, "spread|mean", NULL,
     "of a deeper model: layers evenly spread, or the means of neighbours"},
    {"inherit_score", OPTION_STRING, offsetof(struct stage_train_options, inherit_score), "magnitude", 0, 0, NULL, "NAME",
     "of a wider model: the score that ranks its heads and channels, one of prune's"},
    FAKE_QUANT_ROWS(struct stage_train_options, fake.),
    {.name = NULL}};

static int needs_text(const struct stage *s) {
    (void)s;
    return 1;
}

static int files(const struct stage *s, stage_file *add, void *context, struct error *err) {
    return add(context, ((const struct stage_train_options *)s->options)->shape, 1, err);
}

static int validate(struct recipe *r, int index, const char *where, struct error *err) {
    struct stage_train_options *o = r->stage[index].options;
    TRY(heir_check(o->inherit, o->shape, o->inherit_layers, o->inherit_score, where, err));
    o->train.keep_zeros |= stage_after_sparsify(r, index);
    TRY(quantize_aware_check(&o->fake, &o->train, where, err));
    return stage_check_training(r, &o->train, where, err);
}

static int forecast(struct forecast *f, struct error *err) {
    const struct stage_train_options *o = f->recipe->stage[f->index].options;
    TRY(forecast_fresh(f, o->shape, err));
    TRY(forecast_check_training(f, &o->train, err));
    int64_t seq_len = f->recipe->data.seq_len, steps = train_steps(&o->train, seq_len);
    struct step_cost cost = step_cost(&f->out, NULL, &o->train, seq_len);
    f->flops = cost.flops * (double)steps;
    f->bytes = cost.bytes * (double)steps;
    f->memory = cost.memory;
    f->disk = 4 * config_parameters(&f->out);
    f->scratch = snapshot_scratch(&f->out, &o->train);
    snprintf(f->what, sizeof f->what, "cross-entropy%s on %ld tokens in %ld steps",
             o->inherit ? " from what fits of the stage's input" : o->init || o->shape ? " from fresh random weights" : "",
             (long)(steps * o->train.batch * o->train.accumulate * seq_len), (long)steps);
    return quantize_aware_forecast(f, &o->fake, steps, o->init || o->shape, err);
}

static int inherit(struct stage_run *s, struct model *m, struct error *err) {
    struct opened from = {0};
    TRY(stage_open_input(s, &from, err));
    const struct stage_train_options *o = s->stage->options;
    const int status = heir_take(s, m, from.model, o->inherit_layers, o->inherit_score, "train", err);
    opened_release(&from);
    return status;
}

static int run(struct stage_run *s, struct error *err) {
    const struct stage_train_options *o = s->stage->options;
    struct opened in = {0};
    struct trainer trainer;
    struct held_out held_out;
    struct train_result result;
    struct fake_quant rounding = {0};
    int status = -1;
    if ((o->init || o->shape ? stage_open_fresh(s, o->shape, &in, err) : stage_open_input(s, &in, err)) < 0)
        return -1;
    if (o->inherit && inherit(s, in.model, err) < 0)
        goto out;
    stage_trainer(s, &trainer, in.model, &o->train, "train", s->folder, &held_out);
    trainer.loss = train_cross_entropy;
    trainer.context = in.model;
    if (quantize_aware_start(s, in.model, &o->fake, s->folder, err) < 0 || quantize_aware_begin(&rounding, &trainer, &o->fake, err) < 0 || trainer_run(&trainer, &result, err) < 0 ||
        fake_quant_settle(&rounding, err) < 0)
        goto out;
    fake_quant_end(&rounding); // what is saved are the weights behind it
    if (stage_save(s, in.model, s->folder, DTYPE_F32, 0, err) < 0)
        goto out;
    trainer_drop_snapshot(s->folder);
    quantize_aware_forget(s->folder);
    stage_add_training(s, &result, "run.jsonl");
    stage_add_missing_class(s, in.model, o->train.drop_class);
    stage_add_product(s, quantize_aware_product(&o->fake, "trained"), ".");
    status = 0;
out:
    fake_quant_end(&rounding);
    opened_release(&in);
    return status;
}

const struct stage_type stage_train = {.name = "train",
                                       .table = stage_train_option_table,
                                       .size = sizeof(struct stage_train_options),
                                       .needs_text = needs_text,
                                       .takes_images = 1,
                                       .takes_examples = 1,
                                       .takes_words = 1,
                                       .files = files,
                                       .validate = validate,
                                       .forecast = forecast,
                                       .run = run};
