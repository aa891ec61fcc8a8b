// trainer.c: see trainer.h.
//
// What makes a run repeatable: batch k is a pure function of (data, seed, k), everything computed is independent of
// the number of threads, and the state that a step leaves (weights, moments, best weights, log) is exactly what a
// snapshot holds. When snapshots are taken may depend on the clock; nothing that they hold does.
#include "common/train/trainer.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/hash.h"
#include "common/base/progress.h"
#include "common/base/threads.h"
#include "common/base/timer.h"
#include "common/train/adversary.h"
#include "common/train/groups.h"
#include "common/train/lora.h"
#include "common/train/reweight.h"
#include "common/train/snapshot.h"
#include "common/train/trained.h"

#define SNAPSHOT_SECONDS 120
#define MEAN_STEPS 10 // first_loss and last_loss are means over so many steps

struct run {
    struct trainer *trainer;
    struct model *trained;              // the trainer's model, or the factors of lora
    struct lora lora;                   // without factors: none
    struct groups groups;
    struct adversary adversary;
    struct optimizer optimizer, beside; // of `trained`; of trainer->beside
    struct optimizer *peer;             // [n_peer]
    struct snapshot state;
    struct tape tape;
    struct dataset text;       // the trainer's, with a mixture that may change
    int32_t *inputs, *targets; // [batch * seq_len]
    struct tensor x;           // [batch, inputs] of images
    struct example_batch examples;
    unsigned char *is_zero;    // [model_trained] weights that stay zero; NULL: none
    int64_t steps, step_tokens;
    char identity[HASH_TEXT];
    char *snapshot_path, *log_path; // NULL: no folder
    double snapshot_time, train_seconds;
    double recent_loss;
};

static void log_text(struct run *r, const char *text, size_t n)
{
    struct snapshot *s = &r->state;
    if (s->log_bytes + n + 1 > s->log_capacity) {
        s->log_capacity = 2 * (s->log_bytes + n + 1);
        s->log = xrealloc(s->log, s->log_capacity, "the log of a training run");
    }
    memcpy(s->log + s->log_bytes, text, n + 1);
    s->log_bytes += n;
}

static void log_line(struct run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void log_line(struct run *r, const char *fmt, ...)
{
    char line[512];
    va_list args;
    va_start(args, fmt);
    size_t n = (size_t)vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    log_text(r, line, n);
}

// A snapshot belongs to these inputs. How often snapshots are made is no input.
static void identify(struct run *r)
{
    const struct trainer *t = r->trainer;
    struct hasher *h = hasher_new();
    struct json *options = options_json(train_option_table, &t->options);
    json_remove(options, "snapshot_every");
    char *text = json_text(options, 0);
    hasher_add_text(h, text);
    hasher_add_text(h, t->identity ? t->identity : "");
    int64_t numbers[5] = {t->seq_len, (int64_t)t->seed, t->precision, t->first_step, t->last_step};
    hasher_add(h, numbers, sizeof numbers);
    if (t->images || t->examples)
        hasher_add_text(h, t->images ? t->images->hash : t->examples->hash);
    else {
        dataset_hash_windows(t->data, h);
        if (t->data->n_source)
            hasher_add(h, mixture_weights(&t->data->mixture), (size_t)t->data->n_source * sizeof(double));
    }
    hasher_add(h, t->model->data, (size_t)t->model->n_element * sizeof *t->model->data);
    for (int k = 0; k < 2 && t->first_step; k++)
        if (t->moment[k])
            hasher_add(h, t->moment[k], (size_t)t->model->n_element * sizeof *t->moment[k]);
    if (t->beside)
        hasher_add(h, t->beside->data, (size_t)t->beside->n_element * sizeof *t->beside->data);
    for (int k = 0; k < t->n_peer; k++)
        hasher_add(h, t->peer[k]->data, (size_t)t->peer[k]->n_element * sizeof *t->peer[k]->data);
    hasher_end(h, r->identity);
    free(text);
    json_free(options);
}

// The zeros of the start weights' matrices, where they are to be kept. Without a gradient neither moments nor decay move them.
static void find_zeros(struct run *r)
{
    const struct model *m = r->trained;
    if (!r->is_zero)
        r->is_zero = xcalloc((size_t)model_trained(m), 1, "a mask of zeros");
    unsigned char *at = r->is_zero;
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        if (p->frozen)
            continue;
        for (int64_t k = 0; p->decay && k < p->n_stored; k++)
            at[k] = m->data[p->offset + k] == 0;
        at += p->n_stored;
    }
}

static void batch_init(struct run *r)
{
    const struct trainer *t = r->trainer;
    const struct train_options *o = &t->options;
    const size_t n = (size_t)(o->batch * t->seq_len);
    tape_init(&r->tape, t->precision);
    r->tape.recording = 1;
    if (t->data)
        dataset_view(&r->text, t->data);
    r->inputs = xmalloc(n * sizeof *r->inputs, "a batch of tokens");
    r->targets = xmalloc(n * sizeof *r->targets, "a batch of tokens");
    if (t->examples)
        example_batch_init(&r->examples, o->batch, t->examples->longest);
    if (t->images) {
        const int64_t columns = t->model->config.hidden;
        r->x = (struct tensor){.name = "images", .n_dim = 2, .dim = {o->batch, columns, 1}};
        r->x.data = xmalloc((size_t)(o->batch * columns) * sizeof *r->x.data, "a batch of images");
    }
    if (o->fgm > 0)
        adversary_init(&r->adversary, t->model, o->fgm, o->batch * (t->examples ? t->examples->longest : t->seq_len));
}

static void batch_release(struct run *r)
{
    tape_release(&r->tape);
    dataset_drop_view(&r->text);
    free(r->inputs);
    free(r->targets);
    free(r->x.data);
    example_batch_release(&r->examples);
    adversary_release(&r->adversary);
}

// Copies the caller's moments into the optimizer (to_caller 0), or back.
static void copy_moments(struct run *r, int to_caller)
{
    float *own[2] = {r->optimizer.m, r->optimizer.v}, *const *given = r->trainer->moment;
    for (int k = 0; k < 2; k++)
        if (own[k] && given[k])
            memcpy(to_caller ? given[k] : own[k], to_caller ? own[k] : given[k],
                   (size_t)r->trainer->model->n_element * sizeof(float));
}

// What is trained: the model's parameters that are not frozen, or factors beside them. For options that train_check_model found fine.
static void choose_trained(struct run *r)
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
static void forget_trained(struct run *r)
{
    struct model *m = r->trainer->model;
    if (r->groups.frozen)
        model_drop_gradients(m);
    for (int i = 0; r->groups.frozen && i < m->n_parameter; i++)
        m->parameter[i].frozen = 0;
    groups_release(&r->groups);
    lora_detach(&r->lora, m);
}

static void peers_init(struct run *r, const struct optimizer_options *options)
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

static void run_init(struct run *r, struct trainer *t)
{
    const struct train_options *o = &t->options;
    *r = (struct run){.trainer = t, .steps = train_steps(o, t->seq_len)};
    r->step_tokens = o->batch * o->accumulate * t->seq_len;
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
        find_zeros(r);
    batch_init(r);
    if (t->folder) {
        r->snapshot_path = path_join(t->folder, "snapshot");
        r->log_path = path_join(t->folder, "run.jsonl");
    }
    identify(r);
}

static void run_release(struct run *r)
{
    free(r->is_zero);
    optimizer_release(&r->optimizer);
    optimizer_release(&r->beside);
    for (int k = 0; k < r->trainer->n_peer; k++)
        optimizer_release(&r->peer[k]);
    free(r->peer);
    snapshot_release(&r->state);
    batch_release(r);
    forget_trained(r);
    free(r->snapshot_path);
    free(r->log_path);
}

static int write_log(const struct run *r, struct error *err)
{
    return r->log_path ? file_write(r->log_path, r->state.log, r->state.log_bytes, err) : 0;
}

static int take_snapshot(struct run *r, struct error *err)
{
    if (!r->snapshot_path)
        return 0;
    TRY(snapshot_write(r->snapshot_path, r->identity, r->trained, &r->optimizer, &r->state, err));
    r->snapshot_time = timer_now();
    return write_log(r, err);
}

// Micro-batch number `index`; returns its targets. dropout lives as long as the batch is used.
static const int32_t *make_batch(struct run *r, int64_t index, const struct dropout *dropout, struct forward *forward)
{
    const struct trainer *t = r->trainer;
    const struct train_options *o = &t->options;
    const int32_t *targets = r->targets;
    *forward = (struct forward){.ids = r->inputs, .B = o->batch, .T = t->seq_len, .checkpoint = o->checkpoint};
    if (o->dropout_input > 0 || o->dropout > 0)
        forward->dropout = dropout;
    if (t->examples) {
        struct example_batch *b = &r->examples;
        examples_batch(t->examples, t->seed, index, o->batch, b);
        forward->ids = b->ids;
        forward->T = b->T;
        forward->length = b->length;
        forward->types = b->types;
        targets = example_targets(t->examples, b);
        if (o->mask_words > 0 || o->ngrams > 0)
            examples_augment(t->examples, o->mask_words, o->ngrams, t->seed, (uint64_t)index, b);
        if (t->model->config.head == HEAD_MASKED) {
            examples_mask(t->examples, o->mask_share, t->seed, (uint64_t)index, b);
            forward->rows = b->hidden;
            forward->n_rows = b->n_hidden;
            targets = b->word;
        }
    } else if (t->images) {
        forward->x = &r->x;
        images_batch(t->images, t->seed, o->jitter, index * o->batch, o->batch, r->x.data, r->targets);
    } else {
        dataset_batch(&r->text, t->seq_len, t->seed, index * o->batch, o->batch, r->inputs, r->targets);
        if (o->hide_tokens > 0 || o->replace_tokens > 0)
            dataset_noise(&r->text, o->hide_tokens, o->replace_tokens, NO_TOKEN, t->seed, (uint64_t)index, r->inputs, o->batch * t->seq_len);
    }
    return targets;
}

// A pass there and back; the gradient is added to what is there.
static struct loss_parts add_pass(struct run *r, const struct forward *forward, const int32_t *targets, double weight)
{
    const struct trainer *t = r->trainer;
    struct loss_parts parts = {0};
    struct tensor *loss = t->loss(t->context, &r->tape, forward, targets, weight, r->state.step, &parts);
    if (loss->needs_grad) // not where what is trained has no part in this batch
        tape_backward(&r->tape, loss);
    tape_reset(&r->tape);
    return parts;
}

// The gradient of micro-batch number `index`, times weight, added to what is there.
static struct loss_parts add_gradient(struct run *r, int64_t index, double weight)
{
    const struct train_options *o = &r->trainer->options;
    const struct dropout dropout = {
        .input = o->dropout_input, .hidden = o->dropout, .seed = r->trainer->seed, .step = (uint64_t)index};
    struct adversary *a = &r->adversary;
    struct forward forward;
    const int32_t *targets = make_batch(r, index, &dropout, &forward);
    r->trainer->first_window = index * o->batch;
    if (!a->shift.data)
        return add_pass(r, &forward, targets, weight);
    adversary_watch(a, forward.B, forward.T);
    forward.shift = &a->shift;
    struct loss_parts parts = add_pass(r, &forward, targets, weight);
    adversary_move(a, forward.B, forward.T);
    forward.again = 1;
    const double moved = add_pass(r, &forward, targets, weight).loss;
    parts.loss += moved;
    parts.term[parts.n_term++] = (struct loss_term){"fgm", moved};
    return parts;
}

// Gradients of all micro-batches of a step; parts become their means.
static void accumulate_gradients(struct run *r, struct loss_parts *parts)
{
    const int64_t n = r->trainer->options.accumulate;
    const double weight = 1.0 / (double)n;
    *parts = (struct loss_parts){0};
    for (int64_t i = 0; i < n; i++) {
        const struct loss_parts p = add_gradient(r, r->state.step * n + i, weight);
        parts->loss += weight * p.loss;
        parts->ce += weight * p.ce;
        parts->kl += weight * p.kl;
        parts->mse += weight * p.mse;
        parts->n_term = p.n_term;
        for (int k = 0; k < p.n_term; k++) {
            parts->term[k].name = p.term[k].name;
            parts->term[k].value += weight * p.term[k].value;
        }
    }
}

double trainer_gradient(struct trainer *t, int64_t first, int64_t batches)
{
    struct run r = {.trainer = t};
    batch_init(&r);
    double loss = 0;
    memset(t->model->grad, 0, (size_t)t->model->n_element * sizeof *t->model->grad);
    for (int64_t i = 0; i < batches; i++)
        loss += add_gradient(&r, first + i, 1.0 / (double)batches).loss / (double)batches;
    batch_release(&r);
    return loss;
}

static void drop_gradients_of_zeros(struct run *r)
{
    const struct model *m = r->trained;
    const int64_t n = r->is_zero ? model_trained(m) : 0;
#pragma omp parallel for schedule(static) if (r->is_zero != NULL)
    for (int64_t k = 0; k < n; k++)
        m->grad[k] = r->is_zero[k] ? 0.0f : m->grad[k]; // no branch: a mask is as good as random
}

static double norm_of_all(const struct run *r)
{
    const double norm = gradient_norm(r->trained);
    return r->trainer->beside ? hypot(norm, gradient_norm(r->trainer->beside)) : norm;
}

static void log_step(struct run *r, const struct loss_parts *parts, double rate, double norm)
{
    log_line(r,
             "{\"step\":%lld,\"tokens\":%lld,\"loss\":%.9g,\"ce\":%.9g,\"kl\":%.9g,\"mse\":%.9g,\"lr\":%.9g,"
             "\"norm\":%.9g",
             (long long)r->state.step, (long long)(r->state.step * r->step_tokens), parts->loss, parts->ce, parts->kl,
             parts->mse, rate, norm);
    for (int k = 0; k < parts->n_term; k++)
        log_line(r, ",\"%s\":%.9g", parts->term[k].name, parts->term[k].value);
    log_line(r, "}\n");
}

static int diverged(const struct run *r, double loss, double norm, struct error *err)
{
    if (r->state.step == 0) // nothing was learned yet
        return error_set(err, "%s: the loss of the first step is %g, its gradient's norm %g: the model that it begins with is broken, or its teacher, or their "
                         "numbers are too large for f32; look at both with pdq eval", r->trainer->title, loss, norm);
    return error_set(
        err,
        "%s: the run diverged at step %lld (loss %g, gradient norm %g); give a smaller learning_rate "
        "than %g or a longer warmup",
        r->trainer->title, (long long)r->state.step + 1, loss, norm, r->trainer->options.learning_rate);
}

static double clip_scale(const struct train_options *o, double norm) { return o->clip > 0 && norm > o->clip ? o->clip / norm : 1; }

static int step_peers(struct run *r, double loss, double rate, struct error *err)
{
    const struct trainer *t = r->trainer;
    for (int k = 0; k < t->n_peer; k++) {
        const double norm = gradient_norm(t->peer[k]);
        if (!isfinite(norm))
            return diverged(r, loss, norm, err);
        optimizer_step(&r->peer[k], t->peer[k], rate, clip_scale(&t->options, norm));
    }
    return 0;
}

static int train_step(struct run *r, struct error *err)
{
    const struct trainer *t = r->trainer;
    const struct train_options *o = &t->options;
    double started = timer_now();
    struct loss_parts parts;
    if (t->refresh)
        TRY(t->refresh(t->refresh_context, err));
    accumulate_gradients(r, &parts);
    if (t->remask)
        t->remask(t->remask_context, r->state.step, t->model, r->is_zero, r->optimizer.m, r->optimizer.v);
    drop_gradients_of_zeros(r);
    const int logged = (r->state.step + 1) % o->log_every == 0;
    double norm = o->clip > 0 || logged ? norm_of_all(r) : 0;
    if (!isfinite(parts.loss) || !isfinite(norm))
        return diverged(r, parts.loss, norm, err);
    int64_t warmup = o->warmup < 0 ? r->steps / 20 : o->warmup;
    const struct schedule schedule = {.kind = o->schedule, .peak = o->learning_rate, .floor = o->floor, .warmup = warmup,
                                      .decay = o->decay, .decay_every = o->decay_every};
    double rate = schedule_rate(&schedule, r->steps, r->state.step);
    double scale = clip_scale(o, norm);
    optimizer_step(&r->optimizer, r->trained, rate, scale);
    if (t->beside)
        optimizer_step(&r->beside, t->beside, rate, scale);
    TRY(step_peers(r, parts.loss, rate, err));
    if (r->state.average)
        average_add(r->state.average, r->trained, average_decay(o->ema, r->state.step));
    r->state.step++;
    if (logged)
        log_step(r, &parts, rate, norm);
    r->recent_loss = r->recent_loss == 0 ? parts.loss : 0.9 * r->recent_loss + 0.1 * parts.loss;
    r->train_seconds += timer_now() - started;
    return 0;
}

static int64_t last_step(const struct run *r) { return r->trainer->last_step ? r->trainer->last_step : r->steps; }

// What measures the weights that the run is to end with.
static int look_at_average(struct run *r, int (*look)(struct run *r, void *found, struct error *err), void *found, struct error *err)
{
    const struct trainer *t = r->trainer;
    if (r->state.average)
        trained_swap(r->trained, r->state.average);
    int status = t->refresh ? t->refresh(t->refresh_context, err) : 0;
    if (status == 0)
        status = look(r, found, err);
    if (r->state.average)
        trained_swap(r->trained, r->state.average);
    return status;
}

struct held_out_found {
    double loss;
    char note[HELD_OUT_NOTE];
};

static int look_at_held_out(struct run *r, void *found, struct error *err)
{
    struct held_out_found *f = found;
    return r->trainer->held_out(r->trainer->held_out_context, r->state.best_held_out, &f->loss, f->note, err);
}

// Returns 0 also when interrupted; then nothing is noted and the resumed run evaluates again.
static int evaluate_held_out(struct run *r, struct error *err)
{
    const struct trainer *t = r->trainer;
    const struct train_options *o = &t->options;
    struct snapshot *s = &r->state;
    int due = t->held_out && o->eval_every && s->step > s->evaluated &&
              (s->step == last_step(r) || s->step % o->eval_every == 0);
    if (!due)
        return 0;
    struct held_out_found found = {.note = ""};
    if (look_at_average(r, look_at_held_out, &found, err) < 0)
        return interrupted() ? 0 : -1;
    const double loss = found.loss;
    if (!isfinite(loss))
        return error_set(err, "%s: the held-out loss at step %lld is %g; look at the evaluation text", t->title,
                         (long long)s->step, loss);
    log_line(r, "{\"step\":%lld,\"held_out\":%.9g%s}\n", (long long)s->step, loss, found.note);
    s->evaluated = s->step;
    if (!isnan(s->best_held_out) && !(loss < s->best_held_out))
        return 0;
    s->best_held_out = loss;
    if (!o->keep_best)
        return 0;
    size_t bytes = (size_t)model_trained(r->trained) * sizeof(float);
    if (!s->best)
        s->best = xmalloc(bytes, "the best weights so far");
    if (s->average)
        memcpy(s->best, s->average, bytes);
    else
        trained_copy(r->trained, s->best);
    return 0;
}

struct sources_found {
    const double *weight;     // [n_source] as they are
    double *loss, *reference; // [n_source]
};

static int look_at_sources(struct run *r, void *found, struct error *err)
{
    const struct sources_found *f = found;
    return r->trainer->source_losses(r->trainer->source_context, f->weight, f->loss, f->reference, err);
}

static int64_t step_draws(const struct run *r) { return r->trainer->options.batch * r->trainer->options.accumulate; }

// New weights for the steps from here on. Returns 0 also when interrupted, as evaluate_held_out does.
static int reweight_sources(struct run *r, struct error *err)
{
    const struct trainer *t = r->trainer;
    struct mixture *m = &r->text.mixture;
    const int64_t every = t->options.reweight_every, step = r->state.step, draw = step * step_draws(r);
    if (!every || step == 0 || step % every || step == last_step(r) || m->span[m->n_span - 1].first == draw)
        return 0;
    const size_t bytes = (size_t)m->n * sizeof(double);
    struct sources_found found = {mixture_weights(m), xcalloc(1, bytes, "losses of sources"), xcalloc(1, bytes, "losses of sources")};
    double *weight = xmalloc(bytes, "weights of sources");
    memcpy(weight, mixture_weights(m), bytes);
    int status = look_at_average(r, look_at_sources, &found, err), stopped = status < 0 && interrupted();
    for (int k = 0; k < m->n && status == 0; k++)
        if (weight[k] > 0 && !isfinite(found.loss[k]))
            status = error_set(err, "%s: the held-out loss of source %d at step %lld is %g; look at its evaluation text", t->title, k + 1,
                               (long long)step, found.loss[k]);
    if (status == 0) {
        reweight_update(weight, found.loss, found.reference, m->n);
        mixture_reweight(m, draw, weight);
        char *line = reweight_line(step, weight, found.loss, m->n);
        log_text(r, line, strlen(line));
        free(line);
    }
    free(found.loss);
    free(found.reference);
    free(weight);
    return stopped ? 0 : status;
}

// Have the last `patience` evaluations brought nothing better? The log knows, so a resumed run does, too.
static int out_of_patience(const struct run *r)
{
    static const char key[] = "\"held_out\":";
    int64_t patience = r->trainer->options.patience, since = 0;
    double best = HUGE_VAL;
    if (!patience || r->state.evaluated != r->state.step)
        return 0;
    for (const char *at = r->state.log; at && (at = strstr(at, key));) {
        at += sizeof key - 1;
        double loss = strtod(at, NULL);
        since = loss < best ? 0 : since + 1;
        best = loss < best ? loss : best;
    }
    return since >= patience;
}

static int snapshot_is_due(const struct run *r)
{
    int64_t every = r->trainer->options.snapshot_every;
    if (every > 0)
        return r->state.step > 0 && r->state.step % every == 0;
    return timer_now() - r->snapshot_time >= SNAPSHOT_SECONDS;
}

static int train_to_end(struct run *r, struct error *err)
{
    struct progress progress;
    const int quiet = r->trainer->quiet;
    if (!quiet)
        progress_begin(&progress, r->trainer->title, r->trainer->images ? "images" : r->trainer->examples ? "examples" : "tokens", r->steps * r->step_tokens,
                       r->state.step * r->step_tokens);
    r->snapshot_time = timer_now();
    for (;;) {
        TRY(evaluate_held_out(r, err));
        if (!out_of_patience(r))
            TRY(reweight_sources(r, err));
        if (interrupted()) {
            TRY(take_snapshot(r, err));
            return error_set(err, "%s: interrupted after step %lld of %lld%s", r->trainer->title,
                             (long long)r->state.step, (long long)r->steps,
                             r->snapshot_path ? "; run the same command again to go on" : "");
        }
        if (r->state.step == last_step(r) || out_of_patience(r))
            break;
        if (snapshot_is_due(r))
            TRY(take_snapshot(r, err));
        TRY(train_step(r, err));
        if (!quiet)
            progress_update(&progress, r->state.step * r->step_tokens, "loss %.4f", r->recent_loss);
    }
    if (!quiet)
        progress_end(&progress, "loss %.4f", r->recent_loss);
    if (r->state.best || r->state.average)
        trained_put(r->trained, r->state.best ? r->state.best : r->state.average);
    lora_merge(&r->lora);
    return write_log(r, err);
}

static int64_t count_lines(const char *log, const char *key)
{
    int64_t n = 0;
    for (const char *at = log; at && (at = strstr(at, key)); at++)
        n++;
    return n;
}

// First and last losses come from the log, so that a resumed run reports what an uninterrupted one does.
static void read_curve(const struct run *r, struct train_result *result)
{
    static const char key[] = "\"loss\":";
    const int64_t lines = count_lines(r->state.log, key), n = lines < MEAN_STEPS ? lines : MEAN_STEPS;
    int64_t line = 0;
    result->first_loss = result->last_loss = 0;
    for (const char *at = r->state.log; at && (at = strstr(at, key)); line++) {
        at += sizeof key - 1;
        double loss = strtod(at, NULL);
        if (line < n)
            result->first_loss += loss / (double)n;
        if (line >= lines - n)
            result->last_loss += loss / (double)n;
    }
}

// What options ask of the model.
static int check_model(const struct trainer *t, struct error *err)
{
    struct train_extent extent;
    TRY(train_check(&t->options, t->title, err));
    if (!t->model->data)
        return error_set(err, "%s: the model's weights are quantized; train the unquantized model", t->title);
    for (int i = 0; t->options.lora && i < t->model->n_parameter; i++)
        if (t->model->parameter[i].t.hook)
            return error_set(err, "%s: %s is not multiplied as it lies (a mask, or quantization while training), so \"lora\" cannot put factors "
                             "beside it; leave one of the two out", t->title, t->model->parameter[i].name);
    if (t->remask || t->moment[0])
        TRY(train_check_plain(&t->options, t->title, err));
    return train_check_model(&t->options, t->model, t->title, &extent, err);
}

static int check_inputs(const struct trainer *t, struct error *err)
{
    TRY(check_model(t, err));
    if (t->examples) {
        const struct config *c = &t->model->config;
        if (t->options.mask_words > 0 && t->examples->mask < 0)
            return error_set(err, "%s.mask_words: the tokenizer has no token that hides a word ([MASK]); leave it out", t->title);
        const int has_head = c->head == HEAD_SPANS ? t->examples->span != NULL
                                                   : c->head == HEAD_CLASSES || (c->head == HEAD_MASKED && t->examples->mask >= 0);
        return has_head && t->examples->longest <= c->context
                   ? 0
                   : error_set(err, "%s: examples of up to %lld tokens, and a model %s", t->title, (long long)t->examples->longest,
                               has_head ? "with positions for fewer" : "without a head for what they say");
    }
    if (t->images)
        return images_check(t->images, t->model->config.hidden, t->model->config.vocab, t->title, err);
    if (t->options.reweight_every && (!t->data->n_source || !t->source_losses))
        return error_set(err, "%s.reweight_every: the text has no sources with held-out text of their own, whose losses would decide their weights",
                         t->title);
    return dataset_check(t->data, t->model->config.vocab, t->title, err);
}

int trainer_run(struct trainer *t, struct train_result *result, struct error *err)
{
    *result = (struct train_result){0};
    TRY(check_inputs(t, err));
    if (t->folder)
        TRY(directory_make(t->folder, err));
    struct run r;
    run_init(&r, t);
    int64_t first = r.state.step;
    int status = -1;
    if (r.snapshot_path) {
        if (snapshot_read(r.snapshot_path, r.identity, r.trained, &r.optimizer, &r.state, err) < 0)
            goto out;
        first = r.state.step;
        reweight_again(&r.text.mixture, r.state.log, step_draws(&r));
        if (t->remask)
            find_zeros(&r); // those of now: a weight that has grown is not zero after its first step
    }
    if (train_to_end(&r, err) < 0)
        goto out;
    r.steps = r.state.step; // fewer where patience or last_step ended
    result->steps = r.steps;
    result->tokens = r.steps * r.step_tokens;
    result->best_held_out = r.state.best_held_out;
    result->seconds = r.train_seconds;
    if (r.train_seconds > 0)
        result->tokens_per_second = (double)((r.steps - first) * r.step_tokens) / r.train_seconds;
    read_curve(&r, result);
    copy_moments(&r, 1);
    status = 0;
out:
    run_release(&r);
    return status;
}

void trainer_drop_snapshot(const char *folder)
{
    char *path = path_join(folder, "snapshot");
    unlink(path); // it need not be there
    free(path);
}

struct tensor *train_cross_entropy(void *context, struct tape *tape, const struct forward *forward,
                                   const int32_t *targets, double weight, int64_t step, struct loss_parts *parts)
{
    (void)step;
    struct model *m = context;
    const struct head_spec spec = {.targets = targets, .temperature = 1, .weight = weight, .bias = model_head_bias(m),
                                   .cap = m->config.logit_cap};
    struct head_result head;
    struct tensor *x = model_forward(m, tape, forward);
    struct tensor *loss = model_head_loss(m, tape, forward, x, &spec, &head);
    *parts = (struct loss_parts){.loss = head.ce, .ce = head.ce};
    return loss;
}
