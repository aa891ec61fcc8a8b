// distill.c: see distill.h.
//
// The loss of a micro-batch (Hinton, Vinyals and Dean 2015, with the usual T^2 so that alpha means the same at any
// temperature):
//
//   alpha T^2 KL(teacher || student, both at T) + (1 - alpha) CE  +  hidden * mean over mapped layers of MSE(hidden
//   states)
//
// The teacher runs on a tape of its own that records nothing, on the same micro-batch; its final hidden states go
// straight into the fused output head, so neither model's logits are ever held whole.
#include "distill/distill.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/hash.h"

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
    {"hidden", OPTION_DOUBLE, AT(hidden), "0", 0, 1e6, NULL, "R", "weight of the hidden states' mean squared error"},
    {"layer_map", OPTION_JSON, AT(layer_map), NULL, 0, 0, NULL, "[[S,T],...]",
     "which student layer follows which teacher layer, from 0; by default evenly spread"},
    TRAIN_OPTION_ROWS(struct distill_options, train.),
    {0}};

struct distillation { // lifetime: one run
    struct model *student, *teacher;
    const struct distill_options *options;
    int64_t steps;
    struct tape teacher_tape;
    int64_t n_pair;
    int64_t *student_layer, *teacher_layer;           // [n_pair]
    struct tensor **student_hidden, **teacher_hidden; // [n_layer + 1]
    struct taps student_taps; // here, because with checkpoint the backward pass reads it again
};

static int read_layer(const struct json *v, const char *whose, int64_t n_layer, int64_t pair, int64_t *out,
                      struct error *err)
{
    double layer = json_number(v);
    if (!v || json_kind(v) != JSON_NUMBER || layer != floor(layer) || layer < 0 || layer >= (double)n_layer)
        return error_set(err, "distill.layer_map[%lld]: expected a %s layer from 0 to %lld", (long long)pair, whose,
                         (long long)n_layer - 1);
    *out = (int64_t)layer;
    return 0;
}

// Pairs of layers into two arrays [max(1, pairs)] that the caller frees; also on failure.
static int64_t map_layers(const struct distill_options *o, const struct config *student, const struct config *teacher,
                          int64_t **from, int64_t **to, struct error *err)
{
    int64_t n = o->layer_map ? json_count(o->layer_map) : student->n_layer;
    size_t bytes = (size_t)(n > 0 ? n : 1) * sizeof **from;
    *from = xmalloc(bytes, "the layer map");
    *to = xmalloc(bytes, "the layer map");
    if (!o->layer_map) {
        for (int64_t i = 0; i < n; i++) {
            (*from)[i] = i;
            (*to)[i] = ((i + 1) * teacher->n_layer + n - 1) / n - 1; // the last follows the last
        }
        return n;
    }
    if (json_kind(o->layer_map) != JSON_ARRAY || n < 1)
        return error_set(err, "distill.layer_map: expected a list of [student layer, teacher layer] pairs");
    const struct json *pair = json_first(o->layer_map);
    for (int64_t i = 0; i < n; i++, pair = json_next(pair)) {
        if (json_kind(pair) != JSON_ARRAY || json_count(pair) != 2)
            return error_set(err, "distill.layer_map[%lld]: expected [student layer, teacher layer]", (long long)i);
        const struct json *first = json_first(pair);
        TRY(read_layer(first, "student", student->n_layer, i, &(*from)[i], err));
        TRY(read_layer(json_next(first), "teacher", teacher->n_layer, i, &(*to)[i], err));
    }
    return n;
}

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
    if (o->hidden > 0 && student->hidden != teacher->hidden)
        return error_set(
            err,
            "distill.hidden: the teacher's hidden states are %lld wide, the student's %lld; set it to 0 or take a "
            "teacher of the student's width",
            (long long)teacher->hidden, (long long)student->hidden);
    int64_t *from, *to;
    int64_t n = map_layers(o, student, teacher, &from, &to, err);
    free(from);
    free(to);
    return n < 0 ? -1 : 0;
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

static double alpha_at(const struct distillation *d, int64_t step)
{
    double half = (double)d->steps / 2;
    if (d->options->order == TARGETS_HARD_FIRST && (double)step < half)
        return d->options->alpha * (double)step / half;
    return d->options->alpha;
}

// Mean over the mapped layers of the hidden states' MSE, added to loss with its weight.
static struct tensor *add_hidden_loss(struct distillation *d, struct tape *tape, struct tensor *loss, double weight,
                                      struct loss_parts *parts)
{
    double factor = weight * d->options->hidden / (double)d->n_pair;
    for (int64_t i = 0; i < d->n_pair; i++) {
        struct tensor *x = d->student_hidden[d->student_layer[i] + 1];
        struct tensor *mse = op_mse(tape, x, d->teacher_hidden[d->teacher_layer[i] + 1]->data, factor);
        parts->mse += (double)mse->data[0] / factor / (double)d->n_pair;
        loss = op_sum(tape, loss, mse);
    }
    parts->loss += d->options->hidden * parts->mse;
    return loss;
}

static struct tensor *distill_loss(void *context, struct tape *tape, const struct forward *forward,
                                   const int32_t *targets, double weight, int64_t step, struct loss_parts *parts)
{
    struct distillation *d = context;
    int hidden = d->options->hidden > 0;
    double alpha = alpha_at(d, step), temperature = temperature_at(d, step);
    struct taps teacher_taps = {.want = TAP_HIDDEN, .hidden = d->teacher_hidden};
    struct forward teacher_forward = *forward;
    d->student_taps = (struct taps){.want = TAP_HIDDEN, .hidden = d->student_hidden};
    struct forward student_forward = *forward;
    student_forward.taps = hidden ? &d->student_taps : NULL;
    teacher_forward.taps = hidden ? &teacher_taps : NULL;
    teacher_forward.dropout = NULL;
    teacher_forward.checkpoint = 1; // drops a layer's inner values; nothing records there

    tape_reset(&d->teacher_tape); // here, not below: the backward pass still reads the teacher's hidden states
    struct tensor *reference = model_forward(d->teacher, &d->teacher_tape, &teacher_forward);
    struct tensor *x = model_forward(d->student, tape, &student_forward);
    const struct head_spec spec = {.targets = targets,
                                   .teacher_x = reference->data,
                                   .teacher_w = model_head(d->teacher),
                                   .bias = model_head_bias(d->student),
                                   .teacher_bias = model_head_bias(d->teacher),
                                   .cap = d->student->config.logit_cap,
                                   .teacher_cap = d->teacher->config.logit_cap,
                                   .alpha = alpha,
                                   .temperature = temperature,
                                   .weight = weight};
    struct head_result head;
    struct tensor *loss = op_head_loss(tape, x, model_head(d->student), &spec, &head);
    *parts = (struct loss_parts){.ce = head.ce, .kl = head.kl};
    parts->loss = alpha * temperature * temperature * head.kl + (1 - alpha) * head.ce;
    return hidden ? add_hidden_loss(d, tape, loss, weight, parts) : loss;
}

// What the trainer cannot see: the caller's identity, these options and the teacher. Its path is no input, its
// weights are.
static void identify(const struct trainer *t, const struct distill_options *o, const struct model *teacher,
                     char out[HASH_TEXT])
{
    struct hasher *h = hasher_new();
    struct json *options = options_json(distill_option_table, o);
    json_remove(options, "teacher");
    json_remove(options, "snapshot_every");
    char *text = json_text(options, 0);
    hasher_add_text(h, text);
    hasher_add_text(h, t->identity ? t->identity : "");
    if (teacher->data)
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
    d.n_pair = map_layers(o, student_config, teacher_config, &d.student_layer, &d.teacher_layer, err);
    d.student_hidden = xcalloc((size_t)student_config->n_layer + 1, sizeof *d.student_hidden, "taps");
    d.teacher_hidden = xcalloc((size_t)teacher_config->n_layer + 1, sizeof *d.teacher_hidden, "taps");
    tape_init(&d.teacher_tape, t->precision);
    char identity[HASH_TEXT];
    identify(t, o, teacher, identity);
    struct trainer trainer = *t;
    trainer.options = o->train;
    trainer.loss = distill_loss;
    trainer.context = &d;
    trainer.identity = identity;
    int status = trainer_run(&trainer, r, err);
    tape_release(&d.teacher_tape);
    free(d.student_layer);
    free(d.teacher_layer);
    free(d.student_hidden);
    free(d.teacher_hidden);
    return status;
}
