// distill.c: see distill.h.
//
// The loss of a micro-batch (Hinton, Vinyals and Dean 2015, with the usual T^2 so that alpha means the same at any
// temperature):
//
//   alpha T^2 KL(teacher || student, both at T) + (1 - alpha) CE  +  sum of weighted losses on features (feature.h)
//
// where other divergences (common/tensor/divergence.h) may stand beside KL or instead of it.
//
// The teacher runs on a tape of its own that records nothing, on the same micro-batch; its final hidden states go
// straight into the fused output head, so neither model's logits are ever held whole.
#include "distill/distill.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/hash.h"
#include "distill/answers.h"
#include "distill/feature.h"

#define AT(member) offsetof(struct distill_options, member)

const struct option distill_option_table[] = {
    {"teacher", OPTION_STRING, AT(teacher), NULL, 0, 0, NULL, "MODEL",
     "directory or .gguf file; by default the recipe's model before pruning"},
    {"shape", OPTION_STRING, AT(shape), NULL, 0, 0, NULL, "DIR",
     "the student begins with fresh random weights of this folder's shape, and the stage's input is the teacher"},
    {"inherit", OPTION_BOOL, AT(inherit), "false", 0, 0, NULL, NULL,
     "with shape: begin with the teacher's weights where they fit, its layers evenly spread"},
    {"alpha", OPTION_DOUBLE, AT(alpha), "0.7", 0, 1, NULL, "R",
     "weight of the soft targets; the hard ones get the rest"},
    {"temperature", OPTION_DOUBLE, AT(temperature), "2", 0.1, 100, NULL, "R", "temperature of the soft targets"},
    {"temperature_rule", OPTION_CHOICE, AT(temperature_rule), "constant", 0, 0, "constant|falling|rising", NULL,
     "falling: 3 * 0.9^(step/1000), not below 1; rising: from 1 to temperature"},
    {"order", OPTION_CHOICE, AT(order), "mixed", 0, 0, "mixed|hard_first", NULL,
     "hard_first: alpha rises from 0 to its value in the first half of the run"},
    {"divergence", OPTION_JSON, AT(divergence), NULL, 0, 0, NULL, "NAME",
     "of the soft targets: " DIVERGENCE_NAMES ", or an object of these with weights"},
    {"beta", OPTION_DOUBLE, AT(beta), "0.5", 0.001, 0.999, NULL, "R", "divergence js: the teacher's share of the mean"},
    {"hidden", OPTION_DOUBLE, AT(hidden), "0", 0, 1e6, NULL, "R", "weight of the hidden states' mean squared error"},
    {"teacher_cache", OPTION_STRING, AT(teacher_cache), NULL, 0, 0, NULL, "FILE|auto",
     "learn from this file of the teacher's likeliest answers, made where it lacks some; auto: in the run's folder"},
    {"top_k", OPTION_INT, AT(top_k), "32", 1, 65535, NULL, "N", "with teacher_cache: answers a token that it holds"},
    {"layer_map", OPTION_JSON, AT(layer_map), NULL, 0, 0, NULL, "MAP",
     "which student layer follows which teacher layer: " LAYER_MAPS ", or [[S,T],...] from 0"},
    {"features", OPTION_JSON, AT(features), NULL, 0, 0, NULL, "[{...},...]", "losses on features"},
    TRAIN_OPTION_ROWS(struct distill_options, train.),
    {0}};

struct distillation { // lifetime: one run
    struct model *student, *teacher;
    const struct distill_options *options;
    int64_t steps;
    struct tape teacher_tape;
    struct answers answers;
    struct features features;
    struct shown student_shown, teacher_shown; // here, because with checkpoint the backward pass shows again
};

int distill_check(const struct distill_options *o, const struct config *student, const struct config *teacher,
                  struct error *err)
{
    if (student->head != teacher->head || student->n_label != teacher->n_label)
        return error_set(err, "distill: the teacher's head (architectures in config.json) is another than the student's, or has other classes "
                         "(%lld, the student %lld); expected the same", (long long)teacher->n_label, (long long)student->n_label);
    TRY(train_check(&o->train, "distill", err));
    if (student->vocab != teacher->vocab)
        return error_set(
            err,
            "distill: the teacher's vocabulary has %lld entries, the student's %lld; take a teacher with the "
            "student's tokenizer",
            (long long)teacher->vocab, (long long)student->vocab);
    if (!model_has_blocks(student) && (o->hidden > 0 || o->features || o->inherit))
        return error_set(err, "distill.%s: a %s student has no layers like its teacher's; leave it out, logits are what it can learn from",
                         o->features ? "features" : o->hidden > 0 ? "hidden" : "inherit", student->model_type);
    if (student->head == HEAD_SPANS && o->divergence)
        return error_set(err, "distill.divergence: answers as spans are learned by KL alone; leave it out");
    struct answers answers;
    struct features features;
    TRY(answers_read(&answers, o->divergence, err));
    TRY(features_read(&features, o, student, teacher, err));
    features_release(&features);
    return 0;
}

static double temperature_at(const struct distillation *d, int64_t step)
{
    const struct distill_options *o = d->options;
    double done = d->steps > 1 ? (double)step / (double)(d->steps - 1) : 1;
    switch ((enum temperature_rule)o->temperature_rule) {
    case TEMPERATURE_CONSTANT:
        return o->temperature;
    case TEMPERATURE_FALLING:
        return fmax(1, 3 * pow(0.9, (double)step / 1000));
    case TEMPERATURE_RISING:
        return 1 + (o->temperature - 1) * done;
    }
    BUG("distill: temperature rule %d", o->temperature_rule);
}

double distill_alpha(const struct distill_options *o, int64_t steps, int64_t step)
{
    double half = (double)steps / 2;
    if (o->order == TARGETS_HARD_FIRST && (double)step < half)
        return o->alpha * (double)step / half;
    return o->alpha;
}

static double share_done(const struct distillation *d, int64_t step) { return d->steps > 1 ? (double)step / (double)(d->steps - 1) : 0; }

// The soft targets' and the hard ones' loss, from the fused head; all divergences but KL are further terms of the log.
static struct tensor *answers_loss(const struct distillation *d, struct tape *tape, const struct forward *f, struct tensor *x,
                                   struct head_spec *spec, int64_t step, struct loss_parts *parts)
{
    double weight[DIVERGENCES];
    struct head_result head;
    answers_at(&d->answers, share_done(d, step), weight);
    spec->divergence = weight;
    spec->beta = d->options->beta;
    struct tensor *loss = model_head_loss(d->student, tape, f, x, spec, &head);
    *parts = (struct loss_parts){.loss = (1 - spec->alpha) * head.ce, .ce = head.ce, .kl = head.kl};
    for (int k = 0; k < DIVERGENCES; k++) {
        parts->loss += spec->alpha * weight[k] * divergence_scale(k, spec->temperature) * head.divergence[k];
        if (k != DIVERGENCE_KL && answers_has(&d->answers, k))
            parts->term[parts->n_term++] = (struct loss_term){answers_log_name(k), head.divergence[k]};
    }
    return loss;
}

// Adds the losses on features to the answers' loss, and notes each.
static struct tensor *add_features(struct distillation *d, struct tape *tape, const struct forward *forward, struct tensor *loss,
                                   double weight, int64_t step, struct loss_parts *parts)
{
    const struct features *f = &d->features;
    const double share = share_done(d, step);
    const struct feature_batch batch = {.forward = forward,
                                        .student = &d->student_shown,
                                  .teacher = &d->teacher_shown,
                                        .student_config = &d->student->config,
                                  .teacher_config = &d->teacher->config,
                                        .causal = !d->student->arch->reads_both_ways};
    double *value = arena_alloc(&tape->arena, (size_t)f->n * sizeof *value);
    struct tensor *sum = features_loss(f, tape, &batch, weight, share, value);
    for (int i = 0; i < f->n; i++) {
        parts->loss += loss_weight_at(&f->item[i].weight, share) * value[i];
        if (i == 0 && d->options->hidden > 0)
            parts->mse = value[i];
        else
            parts->term[parts->n_term++] = (struct loss_term){f->item[i].name, value[i]};
    }
    return sum ? op_sum(tape, loss, sum) : loss;
}

static struct tensor *distill_loss(void *context, struct tape *tape, const struct forward *forward,
                                   const int32_t *targets, double weight, int64_t step, struct loss_parts *parts)
{
    struct distillation *d = context;
    const int shows = d->features.n > 0;
    struct forward teacher_forward = *forward, student_forward = *forward;
    student_forward.taps = shows ? &d->student_shown.taps : NULL;
    teacher_forward.taps = shows ? &d->teacher_shown.taps : NULL;
    teacher_forward.dropout = NULL;
    // Drops a layer's inner values, where nobody asks for them; nothing records there.
    teacher_forward.checkpoint = !(d->teacher_shown.taps.want & TAP_QKV);

    tape_reset(&d->teacher_tape); // here, not below: the backward pass still reads the teacher's values
    struct tensor *reference = model_forward(d->teacher, &d->teacher_tape, &teacher_forward);
    struct tensor *x = model_forward(d->student, tape, &student_forward);
    struct head_spec spec = {.targets = targets,
                             .teacher_x = reference->data,
                             .teacher_w = model_head(d->teacher),
                             .bias = model_head_bias(d->student),
                             .teacher_bias = model_head_bias(d->teacher),
                             .alpha = distill_alpha(d->options, d->steps, step),
                             .temperature = temperature_at(d, step),
                             .weight = weight};
    struct tensor *loss = answers_loss(d, tape, &student_forward, x, &spec, step, parts);
    return shows ? add_features(d, tape, forward, loss, weight, step, parts) : loss;
}

// Paths are no inputs, what lies there is.
void distill_identify(const struct trainer *t, const struct distill_options *o, const struct model *teacher, const char *instead,
                      char out[HASH_TEXT])
{
    struct hasher *h = hasher_new();
    struct json *options = options_json(distill_option_table, o);
    json_remove(options, "teacher");
    json_remove(options, "teacher_cache");
    json_remove(options, "snapshot_every");
    char *text = json_text(options, 0);
    hasher_add_text(h, text);
    hasher_add_text(h, t->identity ? t->identity : "");
    if (instead)
        hasher_add_text(h, instead);
    if (teacher && teacher->data)
        hasher_add(h, teacher->data, (size_t)teacher->n_element * sizeof *teacher->data);
    hasher_end(h, out);
    free(text);
    json_free(options);
}

int distill_run(struct trainer *t, struct model *teacher, const struct distill_options *o, struct train_result *r,
                struct error *err)
{
    const struct config *student_config = &t->model->config, *teacher_config = &teacher->config;
    TRY(distill_check(o, student_config, teacher_config, err));
    struct distillation d = {
        .student = t->model, .teacher = teacher, .options = o, .steps = train_steps(&o->train, t->seq_len)};
    TRY(answers_read(&d.answers, o->divergence, err));
    TRY(features_read(&d.features, o, student_config, teacher_config, err));
    features_initialise(&d.features, t->seed);
    const unsigned want = features_want(&d.features);
    shown_init(&d.student_shown, student_config, want);
    shown_init(&d.teacher_shown, teacher_config, want);
    tape_init(&d.teacher_tape, t->precision);
    char identity[HASH_TEXT];
    distill_identify(t, o, teacher, NULL, identity);
    struct trainer trainer = *t;
    trainer.options = o->train;
    trainer.loss = distill_loss;
    trainer.context = &d;
    trainer.identity = identity;
    trainer.beside = d.features.projections;
    int status = trainer_run(&trainer, r, err);
    tape_release(&d.teacher_tape);
    shown_release(&d.student_shown);
    shown_release(&d.teacher_shown);
    features_release(&d.features);
    return status;
}
