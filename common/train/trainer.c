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
#include "common/train/snapshot.h"

#define SNAPSHOT_SECONDS 120
#define MEAN_STEPS 10 // first_loss and last_loss are means over so many steps

const struct option train_option_table[] = {TRAIN_OPTION_ROWS(struct train_options, ), {0}};

int64_t train_steps(const struct train_options *o, int64_t seq_len)
{
    if (o->steps > 0)
        return o->steps;
    int64_t step_tokens = o->batch * o->accumulate * seq_len;
    return (o->tokens + step_tokens - 1) / step_tokens;
}

int train_check(const struct train_options *o, const char *where, struct error *err)
{
    if ((o->steps > 0) == (o->tokens > 0))
        return error_set(err, "%s: found %s, expected one of \"steps\" and \"tokens\"", where,
                         o->steps > 0 ? "both \"steps\" and \"tokens\"" : "neither \"steps\" nor \"tokens\"");
    if (o->hide_tokens + o->replace_tokens >= 1)
        return error_set(err, "%s: \"hide_tokens\" %g and \"replace_tokens\" %g leave nothing of the text; expected a sum below 1", where,
                         o->hide_tokens, o->replace_tokens);
    if ((o->keep_best || o->patience) && !o->eval_every)
        return error_set(err, "%s.%s: held-out evaluations are off; give \"eval_every\" as well", where,
                         o->keep_best ? "keep_best" : "patience");
    return 0;
}

struct run {
    struct trainer *trainer;
    struct optimizer optimizer, beside; // of the model; of trainer->beside
    struct optimizer *peer;             // [n_peer]
    struct snapshot state;
    struct tape tape;
    int32_t *inputs, *targets; // [batch * seq_len]
    struct tensor x;           // [batch, inputs] of images
    struct example_batch examples;
    unsigned char *is_zero;    // [n_element] weights that stay zero; NULL: none
    int64_t steps, step_tokens;
    char identity[HASH_TEXT];
    char *snapshot_path, *log_path; // NULL: no folder
    double snapshot_time, train_seconds;
    double recent_loss;
};

static void log_line(struct run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void log_line(struct run *r, const char *fmt, ...)
{
    char line[512];
    va_list args;
    va_start(args, fmt);
    size_t n = (size_t)vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    struct snapshot *s = &r->state;
    if (s->log_bytes + n + 1 > s->log_capacity) {
        s->log_capacity = 2 * (s->log_bytes + n + 1);
        s->log = xrealloc(s->log, s->log_capacity, "the log of a training run");
    }
    memcpy(s->log + s->log_bytes, line, n + 1);
    s->log_bytes += n;
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
        hasher_add(h, t->data->token, (size_t)t->data->n_token * sizeof *t->data->token);
        hasher_add(h, t->data->answer, (size_t)t->data->n_question * sizeof *t->data->answer);
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
    const struct model *m = r->trainer->model;
    if (!r->is_zero)
        r->is_zero = xcalloc((size_t)m->n_element, 1, "a mask of zeros");
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        for (int64_t k = p->offset; p->decay && k < p->offset + p->n_stored; k++)
            r->is_zero[k] = m->data[k] == 0;
    }
}

static void batch_init(struct run *r)
{
    const struct trainer *t = r->trainer;
    const struct train_options *o = &t->options;
    const size_t n = (size_t)(o->batch * t->seq_len);
    tape_init(&r->tape, t->precision);
    r->tape.recording = 1;
    r->inputs = xmalloc(n * sizeof *r->inputs, "a batch of tokens");
    r->targets = xmalloc(n * sizeof *r->targets, "a batch of tokens");
    if (t->examples)
        example_batch_init(&r->examples, o->batch, t->examples->longest);
    if (t->images) {
        const int64_t columns = t->model->config.hidden;
        r->x = (struct tensor){.name = "images", .n_dim = 2, .dim = {o->batch, columns, 1}};
        r->x.data = xmalloc((size_t)(o->batch * columns) * sizeof *r->x.data, "a batch of images");
    }
}

static void batch_release(struct run *r)
{
    tape_release(&r->tape);
    free(r->inputs);
    free(r->targets);
    free(r->x.data);
    example_batch_release(&r->examples);
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
    model_want_gradients(t->model);
    memset(t->model->grad, 0, (size_t)t->model->n_element * sizeof *t->model->grad);
    optimizer_init(&r->optimizer, &oo, t->model);
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
    if (o->keep_zeros || t->remask)
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
    TRY(snapshot_write(r->snapshot_path, r->identity, r->trainer->model, &r->optimizer, &r->state, err));
    r->snapshot_time = timer_now();
    return write_log(r, err);
}

// The gradient of micro-batch number `index`, times weight, added to what is there.
static struct loss_parts add_gradient(struct run *r, int64_t index, double weight)
{
    const struct trainer *t = r->trainer;
    const struct train_options *o = &t->options;
    const struct dropout dropout = {
        .input = o->dropout_input, .hidden = o->dropout, .seed = t->seed, .step = (uint64_t)index};
    struct forward forward = {.ids = r->inputs, .B = o->batch, .T = t->seq_len, .checkpoint = o->checkpoint};
    struct loss_parts parts = {0};
    if (o->dropout_input > 0 || o->dropout > 0)
        forward.dropout = &dropout;
    const int32_t *targets = r->targets;
    if (t->examples) {
        struct example_batch *b = &r->examples;
        examples_batch(t->examples, t->seed, index, o->batch, b);
        forward.ids = b->ids;
        forward.T = b->T;
        forward.length = b->length;
        forward.types = b->types;
        targets = example_targets(t->examples, b);
        if (o->mask_words > 0 || o->ngrams > 0)
            examples_augment(t->examples, o->mask_words, o->ngrams, t->seed, (uint64_t)index, b);
        if (t->model->config.head == HEAD_MASKED) {
            examples_mask(t->examples, o->mask_share, t->seed, (uint64_t)index, b);
            forward.rows = b->hidden;
            forward.n_rows = b->n_hidden;
            targets = b->word;
        }
    } else if (t->images) {
        forward.x = &r->x;
        images_batch(t->images, t->seed, o->jitter, index * o->batch, o->batch, r->x.data, r->targets);
    } else {
        dataset_batch(t->data, t->seq_len, t->seed, index * o->batch, o->batch, r->inputs, r->targets);
        if (o->hide_tokens > 0 || o->replace_tokens > 0)
            dataset_noise(t->data, o->hide_tokens, o->replace_tokens, NO_TOKEN, t->seed, (uint64_t)index, r->inputs, o->batch * t->seq_len);
    }
    r->trainer->first_window = index * o->batch;
    struct tensor *loss = t->loss(t->context, &r->tape, &forward, targets, weight, r->state.step, &parts);
    tape_backward(&r->tape, loss);
    tape_reset(&r->tape);
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
    const struct model *m = r->trainer->model;
#pragma omp parallel for schedule(static) if (r->is_zero != NULL)
    for (int64_t k = 0; k < (r->is_zero ? m->n_element : 0); k++)
        m->grad[k] = r->is_zero[k] ? 0.0f : m->grad[k]; // no branch: a mask is as good as random
}

static double norm_of_all(const struct trainer *t)
{
    const double norm = gradient_norm(t->model);
    return t->beside ? hypot(norm, gradient_norm(t->beside)) : norm;
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
    accumulate_gradients(r, &parts);
    if (t->remask)
        t->remask(t->remask_context, r->state.step, t->model, r->is_zero, r->optimizer.m, r->optimizer.v);
    drop_gradients_of_zeros(r);
    const int logged = (r->state.step + 1) % o->log_every == 0;
    double norm = o->clip > 0 || logged ? norm_of_all(t) : 0;
    if (!isfinite(parts.loss) || !isfinite(norm))
        return diverged(r, parts.loss, norm, err);
    int64_t warmup = o->warmup < 0 ? r->steps / 20 : o->warmup;
    const struct schedule schedule = {.kind = o->schedule, .peak = o->learning_rate, .floor = o->floor, .warmup = warmup,
                                      .decay = o->decay, .decay_every = o->decay_every};
    double rate = schedule_rate(&schedule, r->steps, r->state.step);
    double scale = clip_scale(o, norm);
    optimizer_step(&r->optimizer, t->model, rate, scale);
    if (t->beside)
        optimizer_step(&r->beside, t->beside, rate, scale);
    TRY(step_peers(r, parts.loss, rate, err));
    r->state.step++;
    if (logged)
        log_step(r, &parts, rate, norm);
    r->recent_loss = r->recent_loss == 0 ? parts.loss : 0.9 * r->recent_loss + 0.1 * parts.loss;
    r->train_seconds += timer_now() - started;
    return 0;
}

static int64_t last_step(const struct run *r) { return r->trainer->last_step ? r->trainer->last_step : r->steps; }

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
    double loss;
    char note[HELD_OUT_NOTE] = "";
    if (t->held_out(t->held_out_context, s->best_held_out, &loss, note, err) < 0)
        return interrupted() ? 0 : -1;
    if (!isfinite(loss))
        return error_set(err, "%s: the held-out loss at step %lld is %g; look at the evaluation text", t->title,
                         (long long)s->step, loss);
    log_line(r, "{\"step\":%lld,\"held_out\":%.9g%s}\n", (long long)s->step, loss, note);
    s->evaluated = s->step;
    if (!isnan(s->best_held_out) && !(loss < s->best_held_out))
        return 0;
    s->best_held_out = loss;
    if (!o->keep_best)
        return 0;
    size_t bytes = (size_t)t->model->n_element * sizeof(float);
    if (!s->best)
        s->best = xmalloc(bytes, "the best weights so far");
    memcpy(s->best, t->model->data, bytes);
    return 0;
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
    if (r->state.best)
        memcpy(r->trainer->model->data, r->state.best, (size_t)r->trainer->model->n_element * sizeof(float));
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

static int check_inputs(const struct trainer *t, struct error *err)
{
    TRY(train_check(&t->options, t->title, err));
    if (!t->model->data)
        return error_set(err, "%s: the model's weights are quantized; train the unquantized model", t->title);
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
        if (snapshot_read(r.snapshot_path, r.identity, t->model, &r.optimizer, &r.state, err) < 0)
            goto out;
        first = r.state.step;
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
