// training_run.c: see training_run.h.
#include "common/train/training_run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/train/kept_zeros.h"
#include "common/train/trained.h"
#include "common/train/trainer_inputs.h"

// Copies the caller's moments into the optimizer (to_caller 0), or back.
static void copy_moments(const struct training_run *r, int to_caller)
{
    float *own[2] = {r->optimizer.m, r->optimizer.v}, *const *given = r->trainer->moment;
    for (int k = 0; k < 2; k++)
        if (own[k] && given[k])
            memcpy(to_caller ? given[k] : own[k], to_caller ? own[k] : given[k],
                   (size_t)r->trainer->model->n_element * sizeof(float));
}

void training_run_give_moments(const struct training_run *r) { copy_moments(r, 1); }

// What is trained: the model's parameters that are not frozen, or factors beside them. For options that train_check_model found fine.
static void choose_trained(struct training_run *r)
{
    struct trainer *t = r->trainer;
    struct error err;
    r->trained = t->model;
    if (t->options.lora) {
        struct lora_options lora;
        if (lora_options_read(&lora, t->options.lora, t->title, &err) < 0)
            BUG("%s", err.text);
        lora_attach(&r->lora, t->model, &lora, t->seed, t->options.keep_zeros);
        lora_options_release(&lora);
        r->trained = r->lora.factors;
    } else if (t->options.freeze.count || t->options.rates) {
        if (groups_read(&r->groups, t->model, &t->options, t->title, &err) < 0)
            BUG("%s", err.text);
        model_drop_gradients(t->model);
        for (int i = 0; i < t->model->n_parameter; i++)
            t->model->parameter[i].frozen = r->groups.frozen[i];
    }
    model_want_gradients(r->trained);
    memset(r->trained->grad, 0, (size_t)model_trained(r->trained) * sizeof *r->trained->grad);
}

// The model as any other again.
static void forget_trained(struct training_run *r)
{
    struct model *m = r->trainer->model;
    if (r->groups.frozen)
        model_drop_gradients(m);
    for (int i = 0; r->groups.frozen && i < m->n_parameter; i++)
        m->parameter[i].frozen = 0;
    groups_release(&r->groups);
    lora_detach(&r->lora, m);
}

static void peers_init(struct training_run *r, const struct optimizer_options *options)
{
    const struct trainer *t = r->trainer;
    r->peer = xcalloc((size_t)t->n_peer + 1, sizeof *r->peer, "optimizers");
    for (int k = 0; k < t->n_peer; k++) {
        struct model *m = t->peer[k];
        model_want_gradients(m);
        memset(m->grad, 0, (size_t)m->n_element * sizeof *m->grad);
        optimizer_init(&r->peer[k], options, m);
    }
    r->state.peer = t->peer;
    r->state.peer_optimizer = r->peer;
    r->state.n_peer = t->n_peer;
}

void training_run_init(struct training_run *r, struct trainer *t)
{
    const struct train_options *o = &t->options;
    *r = (struct training_run){.trainer = t, .steps = train_steps(o, t->seq_len)};
    r->step_tokens = training_run_draws(r) * t->seq_len;
    r->state.best_held_out = (double)NAN;
    r->state.step = t->first_step;
    struct optimizer_options oo = {.kind = o->optimizer,
                                   .beta1 = o->beta1,
                                   .beta2 = o->beta2,
                                   .eps = o->eps,
                                   .weight_decay = o->weight_decay,
                                   .momentum = o->momentum};
    choose_trained(r);
    optimizer_init(&r->optimizer, &oo, r->trained);
    r->optimizer.factor = r->groups.factor;
    if (o->ema > 0) {
        r->state.average = xmalloc((size_t)model_trained(r->trained) * sizeof(float), "the average of the weights");
        trained_copy(r->trained, r->state.average);
    }
    if (t->beside) {
        model_want_gradients(t->beside);
        optimizer_init(&r->beside, &oo, t->beside);
        r->state.beside = t->beside;
        r->state.beside_optimizer = &r->beside;
    }
    peers_init(r, &oo);
    copy_moments(r, 0);
    if (t->moment[0])
        r->optimizer.step = t->first_step;
    if ((o->keep_zeros && !o->lora) || t->remask)
        r->is_zero = kept_zeros_find(r->trained, NULL);
    gradients_init(&r->gradients, t);
    if (t->folder) {
        r->snapshot_path = path_join(t->folder, "snapshot");
        r->log_path = path_join(t->folder, "run.jsonl");
    }
    trainer_inputs_hash(t, r->identity);
}

void training_run_release(struct training_run *r)
{
    free(r->is_zero);
    optimizer_release(&r->optimizer);
    optimizer_release(&r->beside);
    for (int k = 0; k < r->trainer->n_peer; k++)
        optimizer_release(&r->peer[k]);
    free(r->peer);
    snapshot_release(&r->state);
    gradients_release(&r->gradients);
    forget_trained(r);
    free(r->snapshot_path);
    free(r->log_path);
}

int64_t training_run_last_step(const struct training_run *r) { return r->trainer->last_step ? r->trainer->last_step : r->steps; }

int64_t training_run_draws(const struct training_run *r) { return r->trainer->options.batch * r->trainer->options.accumulate; }
