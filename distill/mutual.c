// mutual.c: deep mutual learning (Zhang et al. 2018): students that begin differently and teach each other while they learn.
//
//   loss of student k = alpha T^2 KL(mean of the others' probabilities || student k, both at T) + (1 - alpha) CE
//
// The paper's eq. 8 takes the mean of the KL to each of the others, with the weights that alpha = 1/2 gives, times two. That differs from the
// KL to their mean by a term without student k, so that its gradient is the same. In other divergences (answers.h) the others' mean
// stands, too, as of several teachers.
//
// What a student is told is a constant to it. All read the same batch and step together, by what they said before the step; the paper's
// algorithm 1 lets each hear what the one before it says after its step.
#include <stdio.h>

#include "distill/answers.h"
#include "distill/distill.h"

struct mutual { // lifetime: one run
    struct model *const *student; // [n]
    int n;
    const struct distill_options *options;
    struct answers answers;
    char name[STUDENTS_MOST][2][16]; // of each one's cross-entropy and KL in run.jsonl
};

int distill_mutual_check(const struct distill_options *o, const struct config *const *student, int n, const char *where, struct error *err)
{
    const struct {
        const char *name;
        int is_there;
    } others[] = {{"teacher", o->teacher.count > 0}, {"teacher_weights", o->teacher_weights != NULL}, {"teacher_cache", o->teacher_cache != NULL},
                  {"features", o->features != NULL}, {"hidden", o->hidden > 0}, {"inherit", o->inherit}, {"keep_best", o->train.keep_best},
                  {"keep_zeros", o->train.keep_zeros}, {"quantize", o->fake.quantize != NULL}, {"ema", o->train.ema > 0},
                  {"freeze", o->train.freeze.count > 0}, {"rates", o->train.rates != NULL}, {"lora", o->train.lora != NULL}, {"fgm", o->train.fgm > 0}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (others[i].is_there)
            return error_set(err, "%s.%s: does not go with \"students\", all weights of which learn from each other's answers; leave one of the two out",
                             where, others[i].name);
    if (n > STUDENTS_MOST)
        return error_set(err, "%s.students: %d students with the stage's own, expected at most %d", where, n, STUDENTS_MOST);
    for (int k = 0; k < n; k++) {
        const struct config *other[STUDENTS_MOST];
        for (int i = 0, of = 0; i < n; i++)
            if (i != k)
                other[of++] = student[i];
        if (distill_check(o, student[k], other, n - 1, where, err) < 0)
            return error_set(err, "%s (this is student %d, to which the others are teachers)", err->text, k + 1);
    }
    return 0;
}

// Hidden units are dropped in each student by its own dice.
static const struct dropout *own_dropout(const struct dropout *d, int k, struct tape *tape)
{
    if (!d)
        return NULL;
    struct dropout *own = arena_alloc(&tape->arena, sizeof *own);
    *own = *d;
    own->seed += (uint64_t)k;
    return own;
}

static struct tensor *student_loss(const struct mutual *m, int k, struct tape *tape, const struct forward *f, struct tensor *const *x,
                                   const int32_t *targets, double weight, int64_t step, struct loss_parts *parts)
{
    struct head_teacher other[STUDENTS_MOST];
    int n = 0;
    for (int i = 0; i < m->n; i++)
        if (i != k) {
            struct model *o = m->student[i];
            other[n++] = (struct head_teacher){x[i]->data, model_head(o), model_head_bias(o), 1.0 / (m->n - 1), o->config.logit_cap};
        }
    struct head_spec spec = {.targets = targets,
                             .teacher_x = other[0].x,
                             .teacher_w = other[0].w,
                             .teacher_bias = other[0].bias,
                             .teacher_cap = other[0].cap,
                             .further = other + 1,
                             .n_further = n - 1,
                             .mean_logits = answers_has(&m->answers, DIVERGENCE_MSE),
                             .bias = model_head_bias(m->student[k]),
                             .weight = weight};
    return answers_loss(&m->answers, m->options, m->student[k], tape, f, x[k], &spec, step, parts);
}

// parts become means over the students, and have each one's cross-entropy and KL.
static void note_student(const struct mutual *m, int k, const struct loss_parts *own, struct loss_parts *parts)
{
    const double share = 1.0 / m->n;
    parts->loss += share * own->loss;
    parts->ce += share * own->ce;
    parts->kl += share * own->kl;
    if (k == 0)
        parts->n_term = own->n_term;
    for (int i = 0; i < own->n_term; i++) {
        parts->term[i].name = own->term[i].name;
        parts->term[i].value += share * own->term[i].value;
    }
    parts->term[parts->n_term++] = (struct loss_term){m->name[k][0], own->ce};
    parts->term[parts->n_term++] = (struct loss_term){m->name[k][1], own->kl};
}

static struct tensor *mutual_loss(void *context, struct tape *tape, const struct forward *forward, const int32_t *targets, double weight,
                                  int64_t step, struct loss_parts *parts)
{
    const struct mutual *m = context;
    struct tensor *x[STUDENTS_MOST], *sum = NULL;
    for (int k = 0; k < m->n; k++) {
        struct forward f = *forward;
        f.dropout = own_dropout(forward->dropout, k, tape);
        x[k] = model_forward(m->student[k], tape, &f);
    }
    *parts = (struct loss_parts){0};
    for (int k = 0; k < m->n; k++) {
        struct loss_parts own;
        struct tensor *loss = student_loss(m, k, tape, forward, x, targets, weight, step, &own);
        note_student(m, k, &own, parts);
        sum = sum ? op_sum(tape, sum, loss) : loss;
    }
    return sum;
}

int distill_run_mutual(struct trainer *t, struct model *const *student, int n, const struct distill_options *o, struct train_result *r,
                       struct error *err)
{
    const struct config *config[STUDENTS_MOST] = {NULL};
    for (int k = 0; k < n && k < STUDENTS_MOST; k++)
        config[k] = &student[k]->config;
    TRY(distill_mutual_check(o, config, n, DISTILL_PLACE, err));
    struct mutual m = {.student = student, .n = n, .options = o};
    for (int k = 0; k < n; k++) {
        snprintf(m.name[k][0], sizeof m.name[k][0], "ce_%d", k + 1);
        snprintf(m.name[k][1], sizeof m.name[k][1], "kl_%d", k + 1);
    }
    TRY(answers_read(&m.answers, o, train_steps(&o->train, t->seq_len), DISTILL_PLACE, err));
    char identity[HASH_TEXT];
    distill_identify(t, o, NULL, 0, "students", identity);
    struct trainer trainer = *t;
    trainer.options = o->train;
    trainer.loss = mutual_loss;
    trainer.context = &m;
    trainer.identity = identity;
    trainer.peer = student + 1;
    trainer.n_peer = n - 1;
    return trainer_run(&trainer, r, err);
}
