// distill.c: see distill.h.
//
// The loss of a micro-batch (Hinton, Vinyals and Dean 2015, with the usual T^2 so that alpha means the same at any
// temperature):
//
//   alpha T^2 KL(teacher || student, both at T) + (1 - alpha) CE  +  sum of weighted losses on features (feature.h)
//
// where other divergences (common/tensor/divergence.h) may stand beside KL or instead of it.
//
// Several teachers speak as one: the mean of their probabilities at T, weighted (op_head_mean.c).
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
    {"teacher", OPTION_LIST, AT(teacher), NULL, 0, 0, NULL, "MODEL",
     "directory or .gguf file, or several; by default the recipe's model before pruning"},
    {"teacher_weights", OPTION_JSON, AT(teacher_weights), NULL, 0, 0, NULL, "[R,...]",
     "of several teachers: the share of each in the mean of their answers; by default all the same"},
    {"shape", OPTION_STRING, AT(shape), NULL, 0, 0, NULL, "DIR",
     "the student begins with fresh random weights of this folder's shape, and the stage's input is the teacher"},
    {"inherit", OPTION_BOOL, AT(inherit), "false", 0, 0, NULL, NULL,
     "with shape: begin with the teacher's weights, of a wider teacher with its best heads and channels"},
    {"inherit_layers", OPTION_CHOICE, AT(inherit_layers), "spread", 0, 0, "spread|mean", NULL,
     "of a deeper teacher: layers evenly spread, or the means of neighbours"},
    {"inherit_score", OPTION_STRING, AT(inherit_score), "magnitude", 0, 0, NULL, "NAME",
     "of a wider teacher: the score that ranks its heads and channels, one of prune's"},
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
    {"tail_draws", OPTION_INT, AT(tail_draws), "64", 0, 65535, NULL, "N",
     "with teacher_cache: draws from all other answers, one for each 1/N of the mass; 0: their mass alone"},
    {"layer_map", OPTION_JSON, AT(layer_map), NULL, 0, 0, NULL, "MAP",
     "which student layer follows which teacher layer: " LAYER_MAPS ", or [[S,T],...] from 0"},
    {"features", OPTION_JSON, AT(features), NULL, 0, 0, NULL, "[{...},...]", "losses on features"},
    FAKE_QUANT_ROWS(struct distill_options, fake.),
    {"students", OPTION_JSON, AT(students), NULL, 0, 0, NULL, "[{...},...]",
     "further students, each {\"shape\": DIR} or {\"model\": MODEL}: all learn from each other, without a teacher"},
    {"go_on", OPTION_CHOICE, AT(go_on), "first", 0, 0, "first|best", NULL,
     "of several students, the one that the following stages go on from: the stage's own, or the best on data.eval"},
    TRAIN_OPTION_ROWS(struct distill_options, train.),
    {0}};

struct teacher { // one of several, or the only one; lifetime: one run
    struct model *model;
    double weight;
    struct tape tape;
    struct shown shown; // here, because with checkpoint the backward pass shows again
    struct tensor *x;   // its final hidden states of the micro-batch
};

struct distillation { // lifetime: one run
    struct model *student;
    struct teacher teacher[TEACHERS_MOST];
    int n_teacher;
    const struct distill_options *options;
    int64_t steps;
    struct answers answers;
    struct features features;
    struct shown student_shown; // here, as above
};

int teacher_weights_read(double weight[TEACHERS_MOST], const struct distill_options *o, int n, const char *where, struct error *err)
{
    const struct json *v = json_first(o->teacher_weights);
    double sum = 0;
    if (n > TEACHERS_MOST)
        return error_set(err, "%s.teacher: %d models, expected at most %d", where, n, TEACHERS_MOST);
    if (o->teacher_weights && (json_kind(o->teacher_weights) != JSON_ARRAY || json_count(o->teacher_weights) != n))
        return error_set(err, "%s.teacher_weights: expected a list of %d numbers, one for each teacher", where, n);
    for (int i = 0; i < n; i++, v = v ? json_next(v) : NULL) {
        weight[i] = v ? json_number(v) : 1;
        if ((v && json_kind(v) != JSON_NUMBER) || !(weight[i] > 0) || !isfinite(weight[i]))
            return error_set(err, "%s.teacher_weights[%d]: expected a number above 0; leave a teacher out that is not to count", where, i);
        sum += weight[i];
    }
    for (int i = 0; i < n; i++)
        weight[i] /= sum;
    return 0;
}

// A student and one of its teachers, who: "the teacher".
static int check_pair(const struct distill_options *o, const struct config *student, const struct config *teacher, const char *where, const char *who,
                      struct error *err)
{
    if (student->head != teacher->head || student->n_label != teacher->n_label)
        return error_set(err, "%s: %s's head (architectures in config.json) is another than the student's, or has other classes "
                         "(%lld, the student %lld); expected the same", where, who, (long long)teacher->n_label, (long long)student->n_label);
    if (!model_is_language(student) && student->hidden != teacher->hidden)
        return error_set(err, "%s: %s reads %lld inputs, the student %lld; expected the same", where, who, (long long)teacher->hidden,
                         (long long)student->hidden);
    if (student->vocab != teacher->vocab)
        return error_set(
            err,
            "%s: %s's vocabulary has %lld entries, the student's %lld; take a teacher with the "
            "student's tokenizer",
            where, who, (long long)teacher->vocab, (long long)student->vocab);
    const int own = model_has_blocks(student), others = model_has_blocks(teacher);
    if (own != others && o->inherit)
        return error_set(err, "%s.inherit: a %s student has nothing of a %s teacher's weights; leave it out", where, student->model_type,
                         teacher->model_type);
    if (!(own && others) && (o->hidden > 0 || o->features))
        return error_set(err, "%s.%s: a %s model has no blocks whose states could be compared; leave it out, a student can learn from the logits",
                         where, o->features ? "features" : "hidden", own ? teacher->model_type : student->model_type);
    return 0;
}

// What several teachers cannot do together.
static int check_several(const struct distill_options *o, const struct config *student, const char *where, struct error *err)
{
    struct answers answers;
    TRY(answers_read(&answers, o, 1, where, err));
    if (student->head == HEAD_SPANS)
        return error_set(err, "%s.teacher: answers as spans are learned from one teacher; name one", where);
    for (int d = 0; d < DIVERGENCES; d++)
        if (d != DIVERGENCE_MSE && answers_has(&answers, d) && answers_has(&answers, DIVERGENCE_MSE))
            return error_set(err, "%s.divergence: of several teachers \"mse\" takes the mean of the logits and \"%s\" that of the "
                             "probabilities; expected one of them", where, divergence_names[d]);
    return 0;
}

int distill_check(const struct distill_options *o, const struct config *student, const struct config *const *teacher, int n,
                  const char *where, struct error *err)
{
    double weight[TEACHERS_MOST];
    TRY(teacher_weights_read(weight, o, n, where, err));
    for (int i = 0; i < n; i++) {
        char who[32] = "the teacher";
        if (n > 1)
            snprintf(who, sizeof who, "teacher %d (from 0)", i);
        TRY(check_pair(o, student, teacher[i], where, who, err));
    }
    if (n > 1)
        TRY(check_several(o, student, where, err));
    TRY(train_check(&o->train, where, err));
    if (student->head == HEAD_SPANS && o->divergence)
        return error_set(err, "%s.divergence: answers as spans are learned by KL alone; leave it out", where);
    struct answers answers;
    struct features features;
    TRY(answers_read(&answers, o, 1, where, err));
    TRY(features_read(&features, o, student, teacher, n, where, err));
    features_release(&features);
    return 0;
}

int64_t distill_feature_bytes(const struct distill_options *o, const struct config *student, const struct config *const *teacher, int n,
                              int64_t rows, unsigned *shows)
{
    struct features features;
    struct error err;
    if (features_read(&features, o, student, teacher, n, DISTILL_PLACE, &err) < 0)
        BUG("distill_feature_bytes: %s", err.text);
    const int64_t bytes = features_bytes(&features, student, teacher, rows);
    for (int i = 0; i < n; i++)
        shows[i] = features_want(&features, i);
    features_release(&features);
    return bytes;
}

double distill_alpha(const struct distill_options *o, int64_t steps, int64_t step)
{
    double half = (double)steps / 2;
    if (o->order == TARGETS_HARD_FIRST && (double)step < half)
        return o->alpha * (double)step / half;
    return o->alpha;
}

// Adds the losses on features to the answers' loss, and notes each.
static struct tensor *add_features(struct distillation *d, struct tape *tape, const struct forward *forward, struct tensor *loss,
                                   double weight, int64_t step, struct loss_parts *parts)
{
    const struct features *f = &d->features;
    const double share = distill_share_done(d->steps, step);
    double *value = arena_alloc(&tape->arena, (size_t)f->n * sizeof *value);
    for (int k = 0; k < d->n_teacher; k++) {
        const struct feature_batch batch = {.forward = forward,
                                            .student = &d->student_shown,
                                            .teacher = &d->teacher[k].shown,
                                            .student_config = &d->student->config,
                                            .teacher_config = &d->teacher[k].model->config,
                                            .causal = !d->student->arch->reads_both_ways,
                                            .which = k};
        struct tensor *sum = features_loss(f, tape, &batch, weight, share, value);
        loss = sum ? op_sum(tape, loss, sum) : loss;
    }
    for (int i = 0; i < f->n; i++) {
        parts->loss += loss_weight_at(&f->item[i].weight, share) * value[i];
        if (i == 0 && d->options->hidden > 0)
            parts->mse = value[i];
        else
            parts->term[parts->n_term++] = (struct loss_term){f->item[i].name, value[i]};
    }
    return loss;
}

int distill_asks_teachers(const struct distill_options *o) { return o->alpha > 0 || o->features || o->hidden > 0; }

static void teachers_forward(struct distillation *d, const struct forward *forward)
{
    for (int i = 0; i < d->n_teacher; i++) {
        struct teacher *t = &d->teacher[i];
        struct forward f = *forward;
        f.taps = t->shown.taps.want ? &t->shown.taps : NULL;
        f.dropout = NULL;
        f.shift = NULL; // the student's input alone is moved
        // Drops a layer's inner values, where nobody asks for them; nothing records there.
        f.checkpoint = !(t->shown.taps.want & TAP_QKV);
        tape_reset(&t->tape); // here, not after the step: the backward pass still reads the teacher's values
        t->x = model_forward(t->model, &t->tape, &f);
    }
}

static struct tensor *distill_loss(void *context, struct tape *tape, const struct forward *forward,
                                   const int32_t *targets, double weight, int64_t step, struct loss_parts *parts)
{
    struct distillation *d = context;
    const int shows = d->features.n > 0;
    struct forward student_forward = *forward;
    student_forward.taps = shows ? &d->student_shown.taps : NULL;
    if (!forward->again && distill_asks_teachers(d->options)) // again: what the teachers said is still there
        teachers_forward(d, forward);
    struct tensor *x = model_forward(d->student, tape, &student_forward);
    if (!distill_asks_teachers(d->options)) {
        struct head_spec alone = {.targets = targets, .bias = model_head_bias(d->student), .weight = weight};
        return answers_loss(&d->answers, d->options, d->student, tape, &student_forward, x, &alone, step, parts);
    }
    struct head_teacher further[TEACHERS_MOST];
    for (int i = 1; i < d->n_teacher; i++) {
        const struct teacher *t = &d->teacher[i];
        further[i - 1] = (struct head_teacher){t->x->data, model_head(t->model), model_head_bias(t->model), t->weight, t->model->config.logit_cap};
    }
    struct model *first = d->teacher[0].model;
    struct head_spec spec = {.targets = targets,
                             .teacher_x = d->teacher[0].x->data,
                             .teacher_w = model_head(first),
                             .bias = model_head_bias(d->student),
                             .teacher_bias = model_head_bias(first),
                             .teacher_cap = first->config.logit_cap,
                             .further = further,
                             .n_further = d->n_teacher - 1,
                             .mean_logits = answers_has(&d->answers, DIVERGENCE_MSE),
                             .weight = weight};
    struct tensor *loss = answers_loss(&d->answers, d->options, d->student, tape, &student_forward, x, &spec, step, parts);
    return shows ? add_features(d, tape, forward, loss, weight, step, parts) : loss;
}

// Paths are no inputs, what lies there is.
void distill_identify(const struct trainer *t, const struct distill_options *o, struct model *const *teacher, int n, const char *instead,
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
    for (int i = 0; i < n; i++)
        if (teacher[i]->data)
            hasher_add(h, teacher[i]->data, (size_t)teacher[i]->n_element * sizeof *teacher[i]->data);
    hasher_end(h, out);
    free(text);
    json_free(options);
}

static void teachers_init(struct distillation *d, struct model *const *model, const double *weight, enum precision precision)
{
    unsigned all = 0;
    for (int i = 0; i < d->n_teacher; i++) {
        struct teacher *t = &d->teacher[i];
        *t = (struct teacher){.model = model[i], .weight = weight[i]};
        const unsigned want = features_want(&d->features, i);
        all |= want;
        shown_init(&t->shown, &model[i]->config, want);
        tape_init(&t->tape, precision);
    }
    shown_init(&d->student_shown, &d->student->config, all);
}

static void teachers_release(struct distillation *d)
{
    for (int i = 0; i < d->n_teacher; i++) {
        tape_release(&d->teacher[i].tape);
        shown_release(&d->teacher[i].shown);
    }
    shown_release(&d->student_shown);
}

int distill_run(struct trainer *t, struct model *const *teacher, int n, const struct distill_options *o, struct train_result *r,
                struct error *err)
{
    const struct config *student_config = &t->model->config, *teacher_config[TEACHERS_MOST];
    double weight[TEACHERS_MOST];
    TRY(teacher_weights_read(weight, o, n, DISTILL_PLACE, err));
    for (int i = 0; i < n; i++)
        teacher_config[i] = &teacher[i]->config;
    TRY(distill_check(o, student_config, teacher_config, n, DISTILL_PLACE, err));
    struct distillation d = {.student = t->model, .n_teacher = n, .options = o, .steps = train_steps(&o->train, t->seq_len)};
    TRY(answers_read(&d.answers, o, d.steps, DISTILL_PLACE, err));
    TRY(features_read(&d.features, o, student_config, teacher_config, n, DISTILL_PLACE, err));
    features_initialise(&d.features, t->seed);
    teachers_init(&d, teacher, weight, t->precision);
    char identity[HASH_TEXT];
    distill_identify(t, o, teacher, n, NULL, identity);
    struct trainer trainer = *t;
    trainer.options = o->train;
    trainer.loss = distill_loss;
    trainer.context = &d;
    trainer.identity = identity;
    if (d.features.projections && t->beside)
        BUG("distill_run: projections beside other parameters");
    trainer.beside = t->beside ? t->beside : d.features.projections;
    int status = trainer_run(&trainer, r, err);
    teachers_release(&d);
    features_release(&d.features);
    return status;
}
