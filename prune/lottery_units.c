// lottery_units.c: see lottery_units.h.
#include "prune/lottery_units.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/threads.h"
#include "common/model/compact.h"
#include "common/model/load.h"
#include "common/model/save.h"

#define REINIT_SEED 1000000007u // added to a seed for fresh weights that no other run begins with

// ---- files ----

int lottery_save(struct lottery *l, struct model *m, const char *name, enum dtype dtype, struct error *err)
{
    const struct save_options options = {.dtype = dtype};
    char *folder = path_join(l->folder, name);
    int status = model_save(m, folder, &options, err);
    free(folder);
    return status;
}

static struct model *read_model(struct lottery *l, const char *name, struct error *err)
{
    char *folder = path_join(l->folder, name);
    struct model *m = model_load(folder, err);
    free(folder);
    return m;
}

// A mask is a model's folder whose weights are 0 or 1.
static int save_mask(struct lottery *l, const struct model *m, const unsigned char *mask, const char *unit, struct error *err)
{
    struct model *bits = model_new(&m->config, 1);
    char *name = path_join(unit, "mask");
    for (int64_t i = 0; i < bits->n_element; i++)
        bits->data[i] = mask[i] != 0;
    int status = lottery_save(l, bits, name, DTYPE_F16, err);
    model_free(bits);
    free(name);
    return status;
}

static unsigned char *read_mask(struct lottery *l, const char *unit, struct error *err)
{
    char *name = path_join(unit, "mask");
    struct model *bits = read_model(l, name, err);
    unsigned char *mask = bits ? mask_ones(bits) : NULL;
    for (int64_t i = 0; bits && i < bits->n_element; i++)
        mask[i] = bits->data[i] != 0;
    model_free(bits);
    free(name);
    return mask;
}

int lottery_write_result(struct lottery *l, const char *name, const struct json *result, struct error *err)
{
    char *file = path_join(name, "result.json"), *path = path_join(l->folder, file), *text = json_text(result, 1);
    int status = file_write(path, text, strlen(text), err);
    free(file);
    free(path);
    free(text);
    return status;
}

// ---- weights ----

struct model *lottery_fresh(struct lottery *l, uint64_t seed, struct error *err)
{
    struct model *m = model_new(&l->task->config, 1);
    if (l->task->fill(l->task->context, m, seed, err) < 0) {
        model_free(m);
        return NULL;
    }
    return m;
}

struct model *lottery_rewound(struct lottery *l, int64_t seed, struct error *err)
{
    if (!l->rewind_step)
        return lottery_fresh(l, (uint64_t)seed, err);
    char *name = xasprintf("seed-%ld/rewind", (long)seed);
    struct model *m = read_model(l, name, err);
    free(name);
    return m;
}

void moments_new(const struct config *c, struct model *moment[2])
{
    for (int k = 0; k < 2; k++)
        moment[k] = model_new(c, 1);
}

void moments_free(struct model *moment[2])
{
    for (int k = 0; k < 2; k++) {
        model_free(moment[k]);
        moment[k] = NULL;
    }
}

static char *moment_name(int64_t seed, int which) { return xasprintf("seed-%ld/rewind/moment-%d", (long)seed, which + 1); }

int lottery_moments(struct lottery *l, int64_t seed, struct model *moment[2], struct error *err)
{
    if (!l->rewind_step) {
        moments_new(&l->task->config, moment);
        return 0;
    }
    int status = 0;
    moment[0] = moment[1] = NULL;
    for (int k = 0; k < 2 && status == 0; k++) {
        char *name = moment_name(seed, k);
        moment[k] = read_model(l, name, err);
        status = moment[k] ? 0 : -1;
        free(name);
    }
    if (status < 0)
        moments_free(moment);
    return status;
}

static char *round_name(int64_t seed, int64_t round) { return xasprintf("seed-%ld/round-%02ld", (long)seed, (long)round); }

static void score_weights(const struct lottery *l, const struct model *trained, const struct model *rewound, uint64_t seed,
                          int64_t round, float *score)
{
    switch ((enum ticket_score)l->options->score) {
    case TICKET_MAGNITUDE:
        for (int64_t i = 0; i < trained->n_element; i++)
            score[i] = fabsf(trained->data[i]);
        break;
    case TICKET_MAGNITUDE_INCREASE: // Zhou et al. 2019
        for (int64_t i = 0; i < trained->n_element; i++)
            score[i] = fabsf(trained->data[i]) - fabsf(rewound->data[i]);
        break;
    case TICKET_RANDOM: {
        char *name = xasprintf("random score of round %ld", (long)round);
        mask_random_scores(trained, seed, name, score);
        free(name);
        break;
    }
    }
}

static struct mask_options mask_options_of(const struct lottery_options *o)
{
    return (struct mask_options){.granularity = (enum granularity)o->granularity,
                                 .scope = (enum mask_scope)o->scope,
                                 .output_factor = o->rate > 0 ? o->output_rate / o->rate : 1};
}

unsigned char *lottery_mask(struct lottery *l, int64_t seed, int64_t round, struct model **trained, struct error *err)
{
    struct model *m = round ? NULL : lottery_fresh(l, (uint64_t)seed, err), *rewound = NULL;
    unsigned char *mask = NULL;
    if (!round) {
        mask = m ? mask_ones(m) : NULL;
    } else {
        char *before = round_name(seed, round - 1);
        m = read_model(l, before, err);
        rewound = m ? lottery_rewound(l, seed, err) : NULL;
        mask = rewound ? read_mask(l, before, err) : NULL;
        free(before);
    }
    if (mask && round) {
        const struct mask_options options = mask_options_of(l->options);
        float *score = xmalloc((size_t)m->n_element * sizeof *score, "scores");
        score_weights(l, m, rewound, (uint64_t)seed, round, score);
        mask_cut(m, mask, score, l->options->rate, &options);
        free(score);
    }
    model_free(rewound);
    if (mask && trained)
        *trained = m;
    else
        model_free(m);
    return mask;
}

// ---- one training ----

struct watch { // what the held-out function needs
    const struct lottery *lottery;
    struct model *model;
};

// The test data are looked at only where the validation loss is the least so far.
static int watch_held_out(void *context, double best, double *loss, char note[HELD_OUT_NOTE], struct error *err)
{
    const struct watch *w = context;
    const struct lottery_task *task = w->lottery->task;
    struct lottery_measure m;
    TRY(task->measure(task->context, w->model, 0, &m, err));
    *loss = m.loss;
    if (!task->has_test || m.loss >= best)
        return 0;
    TRY(task->measure(task->context, w->model, 1, &m, err));
    snprintf(note, HELD_OUT_NOTE, ",\"test_loss\":%.9g,\"test_accuracy\":%.9g", m.loss, m.accuracy);
    return 0;
}

static double number_after(const char *line, const char *end, const char *key)
{
    const char *at = strstr(line, key);
    return at && at < end ? strtod(at + strlen(key), NULL) : (double)NAN;
}

static int read_record(const char *folder, struct training_record *out, struct error *err)
{
    char *path = path_join(folder, "run.jsonl"), *log;
    size_t len;
    int status = file_read(path, &log, &len, err);
    free(path);
    TRY(status);
    *out = (struct training_record){
        .validation_loss = (double)NAN, .test_loss = (double)NAN, .test_accuracy = (double)NAN, .final_loss = (double)NAN};
    for (const char *line = log, *end; *line; line = *end ? end + 1 : end) {
        end = line + strcspn(line, "\n");
        const double loss = number_after(line, end, "\"held_out\":"), step = number_after(line, end, "\"step\":");
        out->steps = (int64_t)step;
        if (isnan(loss))
            continue;
        out->final_loss = loss;
        if (loss >= out->validation_loss)
            continue;
        out->validation_loss = loss;
        out->early_stop = (int64_t)step;
        out->test_loss = number_after(line, end, "\"test_loss\":");
        out->test_accuracy = number_after(line, end, "\"test_accuracy\":");
    }
    free(log);
    return 0;
}

// Sparse products are worth their while with few rows; a language model's steps have thousands, and the dense ones are faster.
static double compact_share(const struct lottery *l) { return l->task->is_language ? 0 : COMPACT_SHARE; }

// Moments in the layout of the model that is trained, and back. A weight that is masked has none, or it would move.
static void moments_to_work(const struct lottery *l, const struct training *t, struct model *work_moment[2], float *moment[2])
{
    for (int k = 0; k < 2 && t->moment; k++) {
        if (t->mask)
            mask_zero(t->moment[k], t->mask);
        work_moment[k] = t->mask && !t->dynamic ? model_compact(t->moment[k], t->mask, compact_share(l)) : t->moment[k];
        moment[k] = work_moment[k]->data;
    }
}

static void moments_from_work(const struct training *t, struct model *work_moment[2])
{
    for (int k = 0; k < 2 && t->moment; k++)
        if (work_moment[k] != t->moment[k]) {
            model_expand(work_moment[k], t->moment[k]);
            model_free(work_moment[k]);
        }
}

int training_run(struct lottery *l, const struct training *t, struct training_record *out, struct error *err)
{
    const struct lottery_task *task = l->task;
    // What a dynamic mask grows must have a place, so such a model stays dense.
    struct model *work = t->mask && !t->dynamic ? model_compact(t->model, t->mask, compact_share(l)) : t->model, *moment[2];
    struct watch watch = {l, work};
    struct trainer trainer = {.model = work};
    struct train_result result;
    task->attach(task->context, &trainer, work);
    moments_to_work(l, t, moment, trainer.moment);
    trainer.options = l->options->train;
    trainer.options.keep_zeros = t->mask != NULL;
    trainer.seed = t->data_seed;
    trainer.first_step = t->first;
    trainer.last_step = t->last;
    trainer.title = t->title;
    trainer.quiet = 1;
    trainer.folder = t->folder;
    trainer.identity = t->title;
    trainer.held_out = watch_held_out;
    trainer.held_out_context = &watch;
    if (t->dynamic) {
        trainer.remask = dynamic_remask;
        trainer.remask_context = (void *)(uintptr_t)t->dynamic; // it is only read
    }
    int status = trainer_run(&trainer, &result, err);
    if (status == 0)
        status = read_record(t->folder, out, err);
    moments_from_work(t, moment);
    if (work != t->model) {
        model_expand(work, t->model);
        model_free(work);
    } else {
        model_drop_gradients(work);
    }
    return status;
}

static struct json *result_json(const struct unit *u, const char *kind, int64_t rewind, double pm, const struct training_record *r)
{
    struct json *o = json_object();
    json_set_string(o, "kind", kind);
    json_set_number(o, "seed", (double)u->seed);
    json_set_number(o, "round", (double)u->round);
    json_set_number(o, "rewind", (double)rewind);
    json_set_number(o, "pm", pm);
    json_set_number(o, "sparsity", 100 - pm);
    json_set_number(o, "early_stop", (double)r->early_stop);
    json_set_number(o, "validation_loss", r->validation_loss);
    json_set_number(o, "test_acc", r->test_accuracy);
    json_set_number(o, "test_loss", r->test_loss);
    json_set_number(o, "final_validation_loss", r->final_loss);
    json_set_number(o, "steps", (double)r->steps);
    json_set_string(o, "folder", u->name);
    return o;
}

// Where a dynamic mask has ended.
static void mask_of_zeros(const struct model *m, unsigned char *mask)
{
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        for (int64_t k = p->offset; mask_is_cut(m, p) && k < p->offset + tensor_count(&p->t); k++)
            mask[k] = m->data[k] != 0;
    }
}

// Trains m under mask in the unit's folder; leaves weights, mask and result there.
static int train_unit(struct lottery *l, const struct unit *u, const char *kind, struct model *m, unsigned char *mask,
                      int64_t first, struct model **moment, const struct dynamic *dynamic, struct error *err)
{
    char *folder = path_join(l->folder, u->name);
    struct training_record record;
    struct lottery_measure test = {.accuracy = (double)NAN};
    const struct training t = {.folder = folder,
                               .title = u->name,
                               .model = m,
                               .mask = u->kind == UNIT_TICKET && u->round == 0 ? NULL : mask,
                               .data_seed = (uint64_t)u->seed,
                               .first = first,
                               .moment = moment,
                               .dynamic = dynamic};
    mask_zero(m, mask);
    const double pm = mask_pm(m, mask); // dynamic masks change, not how much of a matrix they keep
    int status = training_run(l, &t, &record, err);
    if (status == 0 && l->task->has_test)
        status = l->task->measure(l->task->context, m, 1, &test, err);
    if (dynamic)
        mask_of_zeros(m, mask);
    if (status == 0)
        status = save_mask(l, m, mask, u->name, err);
    if (status == 0)
        status = lottery_save(l, m, u->name, DTYPE_F32, err);
    if (status == 0) {
        struct json *o = result_json(u, kind, first, pm, &record);
        json_set_number(o, "final_test_acc", test.accuracy);
        status = lottery_write_result(l, u->name, o, err);
        json_free(o);
    }
    free(folder);
    return status;
}

// ---- the kinds ----

static int run_rewind(struct lottery *l, struct unit *u, struct error *err)
{
    char *folder = path_join(l->folder, u->name);
    struct training_record record;
    struct model *m = lottery_fresh(l, (uint64_t)u->seed, err), *moment[2];
    moments_new(&l->task->config, moment);
    const struct training t = {.folder = folder, .title = u->name, .model = m, .data_seed = (uint64_t)u->seed,
                               .last = l->rewind_step, .moment = moment};
    int status = m ? 0 : -1;
    char *initial = xasprintf("seed-%ld/initial", (long)u->seed);
    if (status == 0)
        status = lottery_save(l, m, initial, DTYPE_F32, err);
    if (status == 0 && l->rewind_step)
        status = training_run(l, &t, &record, err);
    if (status == 0)
        status = lottery_save(l, m, u->name, DTYPE_F32, err);
    for (int k = 0; k < 2 && l->rewind_step && status == 0; k++) {
        char *name = moment_name(u->seed, k);
        status = lottery_save(l, moment[k], name, DTYPE_F32, err);
        free(name);
    }
    if (status == 0) {
        struct json *o = json_object();
        json_set_number(o, "step", (double)l->rewind_step);
        status = lottery_write_result(l, u->name, o, err);
        json_free(o);
    }
    free(initial);
    free(folder);
    moments_free(moment);
    model_free(m);
    return status;
}

static int run_ticket(struct lottery *l, struct unit *u, struct error *err)
{
    struct model *trained = NULL, *m, *moment[2] = {NULL, NULL};
    unsigned char *mask = lottery_mask(l, u->seed, u->round, &trained, err);
    if (!mask)
        return -1;
    // Where the rate alone goes back, the moments of that step are not those of the weights: they begin empty.
    const int rewinds = l->rewind_weights || u->round == 0;
    if (rewinds) {
        m = lottery_rewound(l, u->seed, err);
        model_free(trained);
    } else {
        m = trained;
    }
    int status = m ? 0 : -1;
    if (status == 0 && rewinds)
        status = lottery_moments(l, u->seed, moment, err);
    if (status == 0)
        status = train_unit(l, u, u->round ? "ticket" : "dense", m, mask, l->rewind_step, rewinds ? moment : NULL, NULL, err);
    free(mask);
    moments_free(moment);
    model_free(m);
    return status;
}

static int run_control(struct lottery *l, struct unit *u, struct error *err)
{
    static const char *const names[] = {
        [UNIT_REINIT] = "reinit", [UNIT_RANDOM_MASK] = "random_mask", [UNIT_MAGNITUDE_AT_INIT] = "magnitude_at_init"};
    unsigned char *mask = lottery_mask(l, u->seed, u->round, NULL, err);
    struct model *m = NULL, *moment[2] = {NULL, NULL};
    const uint64_t seed = (uint64_t)u->seed;
    const int rewinds = u->kind == UNIT_RANDOM_MASK;
    if (mask)
        m = rewinds ? lottery_rewound(l, u->seed, err) : lottery_fresh(l, u->kind == UNIT_REINIT ? seed + REINIT_SEED : seed, err);
    int status = m ? 0 : -1;
    if (status == 0 && rewinds)
        status = lottery_moments(l, u->seed, moment, err);
    if (status == 0 && u->kind != UNIT_REINIT) {
        float *score = xmalloc((size_t)m->n_element * sizeof *score, "scores");
        unsigned char *other = mask_ones(m);
        if (rewinds)
            mask_random_scores(m, seed, u->name, score);
        for (int64_t i = 0; !rewinds && i < m->n_element; i++)
            score[i] = fabsf(m->data[i]);
        mask_like(m, mask, score, (enum granularity)l->options->granularity, other);
        memcpy(mask, other, (size_t)m->n_element);
        free(other);
        free(score);
    }
    if (status == 0)
        status = train_unit(l, u, names[u->kind], m, mask, rewinds ? l->rewind_step : 0, rewinds ? moment : NULL, NULL, err);
    free(mask);
    moments_free(moment);
    model_free(m);
    return status;
}

// Cuts a fresh model's weights to the level, in steps of equal ratio.
static int mask_at_init(struct lottery *l, const struct unit *u, struct model *m, unsigned char *mask, struct error *err)
{
    const struct mask_options all = {.granularity = GRAIN_WEIGHTS, .scope = MASK_GLOBAL};
    const struct at_init *a = u->at_init;
    struct trainer trainer = {.model = m};
    float *score = xmalloc((size_t)m->n_element * sizeof *score, "scores"), *weight = NULL;
    l->task->attach(l->task->context, &trainer, m);
    trainer.options = l->options->train;
    trainer.seed = (uint64_t)u->seed;
    model_want_gradients(m);
    weight = xmalloc((size_t)m->n_element * sizeof *weight, "weights");
    memcpy(weight, m->data, (size_t)m->n_element * sizeof *weight);
    int status = 0;
    for (int i = 1; i <= a->rounds && status == 0; i++) {
        status = a->score(&trainer, m, l->options->score_batches, score, err);
        const double target = pow(u->level / 100, (double)i / (double)a->rounds);
        const double left = (double)mask_kept(m, mask) / (double)mask_total(m);
        if (status == 0 && target < left)
            mask_cut(m, mask, score, 1 - target / left, &all);
        mask_zero(m, mask);
    }
    memcpy(m->data, weight, (size_t)m->n_element * sizeof *weight);
    model_drop_gradients(m);
    free(score);
    free(weight);
    return status;
}

static int run_at_init(struct lottery *l, struct unit *u, struct error *err)
{
    struct model *m = lottery_fresh(l, (uint64_t)u->seed, err);
    unsigned char *mask = m ? mask_ones(m) : NULL;
    int status = m ? mask_at_init(l, u, m, mask, err) : -1;
    if (status == 0 && l->options->fresh_weights) {
        model_free(m);
        m = lottery_fresh(l, (uint64_t)u->seed + REINIT_SEED, err);
        status = m ? 0 : -1;
    }
    if (status == 0)
        status = train_unit(l, u, u->at_init->name, m, mask, 0, NULL, NULL, err);
    free(mask);
    model_free(m);
    return status;
}

static int run_dynamic(struct lottery *l, struct unit *u, struct error *err)
{
    const struct lottery_options *o = l->options;
    struct model *m = lottery_fresh(l, (uint64_t)u->seed, err);
    if (!m)
        return -1;
    const struct dynamic dynamic = {.grows_by_gradient = u->kind == UNIT_RIGL,
                                    .every = o->update_every,
                                    .end = (int64_t)(o->update_end * (double)o->train.steps),
                                    .share = o->update_share,
                                    .seed = (uint64_t)u->seed};
    unsigned char *mask = mask_ones(m);
    float *score = xmalloc((size_t)m->n_element * sizeof *score, "scores");
    mask_random_scores(m, (uint64_t)u->seed, "a dynamic mask", score);
    mask_distribute(m, u->level / 100, o->distribution == 0, score, mask);
    free(score);
    int status = train_unit(l, u, u->kind == UNIT_RIGL ? "rigl" : "set", m, mask, 0, NULL, &dynamic, err);
    free(mask);
    model_free(m);
    return status;
}

void unit_drop_snapshots(const struct lottery *l, const struct unit *u)
{
    static const char *const parts[] = {"", "start", "a", "b"}; // the last three: of a test of stability
    for (int i = 0; i < 4; i++) {
        char *inner = path_join(u->name, parts[i]), *folder = path_join(l->folder, inner);
        trainer_drop_snapshot(folder);
        free(inner);
        free(folder);
    }
}

int unit_run(struct lottery *l, struct unit *u, struct error *err)
{
    char *folder = path_join(l->folder, u->name);
    int status = directory_make(folder, err);
    free(folder);
    TRY(status);
    switch (u->kind) {
    case UNIT_REWIND: return run_rewind(l, u, err);
    case UNIT_TICKET: return run_ticket(l, u, err);
    case UNIT_REINIT:
    case UNIT_RANDOM_MASK:
    case UNIT_MAGNITUDE_AT_INIT: return run_control(l, u, err);
    case UNIT_AT_INIT: return run_at_init(l, u, err);
    case UNIT_RIGL:
    case UNIT_SET: return run_dynamic(l, u, err);
    case UNIT_STABILITY: return stability_run(l, u, err);
    }
    BUG("lottery: unit of kind %d", (int)u->kind);
}
