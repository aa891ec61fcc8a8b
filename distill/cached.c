// cached.c: distillation from a cache of the teacher's answers (teacher_cache.h): no teacher runs.
//
//   alpha T^2 KL(teacher || student, both at T) + (1 - alpha) CE
//
// where KL is an estimate from the teacher's k likeliest tokens and draws from all others: its mean over the draws, and its gradient's, is that
// of the whole teacher (op_head_top in ops.h). Entries alone, brought to a sum of 1, would be a biased picture of the teacher (Anshumann et
// al. 2025, Sparse Logit Sampling): a student would give the rest nothing.
#include <stdlib.h>

#include "common/base/hash.h"
#include "distill/answers.h"
#include "distill/distill.h"
#include "distill/teacher_cache.h"

struct cached { // lifetime: one run
    const struct distill_options *options;
    const struct teacher_cache *cache;
    const struct trainer *trainer;
    struct head_top top; // of a batch
    struct answers answers;
};

// Rows of the batch at hand. What a run reads was found whole before it began (teacher_cache_lacks).
static void read_batch(struct cached *c, const int32_t *targets)
{
    const struct trainer *t = c->trainer;
    const int64_t T = t->seq_len;
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t b = 0; b < t->options.batch; b++) {
        const struct head_top rows = top_rows_at(&c->top, b * T);
        struct error err;
        if (teacher_cache_read(c->cache, dataset_window(t->data, T, t->seed, t->first_window + b), targets + b * T, &rows, &err) < 0)
            BUG("while it was in use: %s", err.text);
    }
}

static struct tensor *cached_loss(void *context, struct tape *tape, const struct forward *forward, const int32_t *targets, double weight,
                                  int64_t step, struct loss_parts *parts)
{
    struct cached *c = context;
    struct model *student = c->trainer->model;
    const double T = c->options->temperature, alpha = distill_alpha(c->options, c->answers.steps, step);
    double divergence[DIVERGENCES];
    answers_at(&c->answers, distill_share_done(c->answers.steps, step), divergence);
    if (!forward->again)
        read_batch(c, targets);
    struct tensor *x = model_forward(student, tape, forward);
    const struct head_spec spec = {.targets = targets,
                                   .top = &c->top,
                                   .divergence = divergence,
                                   .bias = model_head_bias(student),
                                   .cap = student->config.logit_cap,
                                   .alpha = alpha,
                                   .temperature = T,
                                   .weight = weight};
    struct head_result head;
    struct tensor *loss = op_head_loss(tape, x, model_head(student), &spec, &head);
    *parts = (struct loss_parts){.loss = alpha * divergence[DIVERGENCE_KL] * T * T * head.kl + (1 - alpha) * head.ce, .ce = head.ce, .kl = head.kl};
    return loss;
}

int distill_check_cached(const struct distill_options *o, const char *where, struct error *err)
{
    if (!o->teacher_cache)
        return 0;
    if (o->hidden > 0 || o->features)
        return error_set(err, "%s: \"%s\" needs more of the teacher than its answers, and a teacher cache holds those alone; leave one of "
                         "them out", where, o->features ? "features" : "hidden");
    struct answers answers;
    TRY(answers_read(&answers, o, 1, where, err));
    for (int d = 0; d < DIVERGENCES; d++)
        if (d != DIVERGENCE_KL && answers_has(&answers, d))
            return error_set(err, "%s: divergence \"%s\" needs the teacher's probability of every token, and a teacher cache holds the likeliest and "
                             "draws from the others, from which \"kl\" alone has an unbiased estimate; leave one of the two out", where,
                             divergence_names[d]);
    if (o->teacher.count > 1)
        return error_set(err, "%s: \"teacher\" names %zu models, and a teacher cache holds the answers of one; leave one of the two out", where,
                         o->teacher.count);
    if (o->train.reweight_every)
        return error_set(err, "%s: \"reweight_every\" decides while training which windows come, and a teacher cache is made of those before; leave one of "
                         "the two out", where);
    if (o->temperature_rule != TEMPERATURE_CONSTANT)
        return error_set(err, "%s: \"temperature_rule\" changes the temperature, and a teacher cache is made at one; expected \"constant\"",
                         where);
    return 0;
}

unsigned char *distill_wanted_windows(const struct trainer *t, const struct train_options *o)
{
    const int64_t windows = dataset_windows(t->data, t->seq_len), batches = train_steps(o, t->seq_len) * o->accumulate * o->batch;
    unsigned char *wanted = xcalloc((size_t)windows, 1, "windows of a run");
    for (int64_t i = 0; i < batches; i++)
        wanted[dataset_window(t->data, t->seq_len, t->seed, i)] = 1;
    return wanted;
}

int distill_run_cached(struct trainer *t, const struct teacher_cache *cache, const struct distill_options *o, struct train_result *r,
                       struct error *err)
{
    TRY(train_check(&o->train, DISTILL_PLACE, err));
    TRY(distill_check_cached(o, DISTILL_PLACE, err));
    struct answers answers;
    TRY(answers_read(&answers, o, train_steps(&o->train, t->seq_len), DISTILL_PLACE, err));
    struct trainer trainer = *t;
    trainer.options = o->train;
    struct cached c = {.options = o,
                       .answers = answers,
                       .cache = cache,
                       .trainer = &trainer,
                       .top = top_rows_new(o->train.batch * t->seq_len, cache->shape.k, cache->shape.m)};
    char identity[HASH_TEXT];
    distill_identify(t, o, NULL, 0, cache->key, identity);
    trainer.loss = cached_loss;
    trainer.context = &c;
    trainer.identity = identity;
    int status = trainer_run(&trainer, r, err);
    top_rows_free(&c.top);
    return status;
}
