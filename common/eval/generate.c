// generate.c: see generate.h. One sequence, keys and values cached; only the last row of a forward pass meets the
// output head.
#include "common/eval/generate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/random.h"
#include "common/base/threads.h"
#include "common/base/timer.h"
#include "common/eval/statistics.h"
#include "common/tensor/ops.h"

#define SPEED_RUNS 5         // measured, of a small model
#define SPEED_PARAMETERS 1e8 // in all measured runs: a large model gets fewer

struct decoder { // lifetime: one text
    struct model *model;
    struct tape tape;
    struct kv_cache cache;
};

static void decoder_init(struct decoder *d, struct model *m, int64_t capacity) {
    d->model = m;
    tape_init(&d->tape, PRECISION_F32);
    kv_cache_init(&d->cache, m, capacity);
}

static void decoder_release(struct decoder *d) {
    kv_cache_release(&d->cache);
    tape_release(&d->tape);
}

// Takes n more tokens in; the logits [V] after the last of them live until the next call.
static const float *decoder_step(struct decoder *d, const int32_t *ids, int64_t n) {
    tape_reset(&d->tape);
    const struct forward f = {.ids = ids, .B = 1, .T = n, .cache = &d->cache, .checkpoint = 1};
    struct tensor *x = model_forward(d->model, &d->tape, &f);
    int64_t D = tensor_columns(x);
    struct tensor *last = tape_tensor(&d->tape, x->name, 2, 1, D, 1);
    memcpy(last->data, x->data + (n - 1) * D, (size_t)D * sizeof(float));
    return model_logits(d->model, &d->tape, last)->data;
}

static int are_finite(const float *x, int64_t n) {
    int64_t i = 0;
    while (i < n && isfinite(x[i]))
        i++;
    return i == n;
}

int64_t generate(struct model *m, const int32_t *prompt, int64_t n, const struct generate_options *o,
                 int (*emit)(void *context, int32_t id), void *context) {
    if (n < 1)
        BUG("generate: a prompt of %ld tokens", (long)n);
    struct decoder d;
    decoder_init(&d, m, n + o->tokens);
    struct random random;
    random_init(&random, o->seed, "generate", 0);
    int64_t count = 0;
    int32_t *order = xmalloc((size_t)m->config.vocab * sizeof *order, "tokens by likelihood");
    const int32_t *next = prompt;
    int64_t n_next = n;
    int32_t id;
    while (count < o->tokens && !interrupted()) {
        const float *logits = decoder_step(&d, next, n_next);
        if (!are_finite(logits, m->config.vocab)) {
            count = -1;
            break;
        }
        id = draw_token(logits, m->config.vocab, &o->draw, &random, order);
        if (o->stop_at_eos && id == m->config.eos_id)
            break;
        count++;
        if (emit(context, id))
            break;
        next = &id;
        n_next = 1;
    }
    free(order);
    decoder_release(&d);
    return count;
}

int speed_runs(int64_t parameters) {
    double runs = SPEED_PARAMETERS / (double)parameters;
    return 1 + (runs < 1 ? 1 : runs > SPEED_RUNS ? SPEED_RUNS : (int)runs);
}

// Seconds to take in `total` tokens, `at_once` at a time, from an empty context.
static double run_tokens(struct decoder *d, const int32_t *ids, int64_t total, int64_t at_once) {
    d->cache.length = 0;
    double started = timer_now();
    for (int64_t i = 0; i < total; i += at_once)
        decoder_step(d, ids + i, total - i < at_once ? total - i : at_once);
    return timer_now() - started;
}

// The median of several runs after one more.
static double time_tokens(struct model *m, const int32_t *ids, int64_t total, int64_t at_once) {
    double seconds[SPEED_RUNS + 1];
    int runs = speed_runs(m->n_element);
    struct decoder d;
    decoder_init(&d, m, total);
    for (int run = 0; run < runs; run++)
        seconds[run] = run_tokens(&d, ids, total, at_once);
    decoder_release(&d);
    sort_doubles(seconds + 1, runs - 1);
    return seconds[1 + (runs - 1) / 2];
}

static int32_t *random_tokens(int64_t n, int64_t vocab) {
    int32_t *ids = xmalloc((size_t)n * sizeof *ids, "tokens of a speed measurement");
    struct random random;
    random_init(&random, 1, "speed", 0);
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)random_below(&random, vocab);
    return ids;
}

void speed_timer_init(struct speed_timer *t, struct model *m, int64_t B, int64_t T) {
    *t = (struct speed_timer){.model = m, .ids = random_tokens(B * T, m->config.vocab), .B = B, .T = T};
    tape_init(&t->tape, PRECISION_F32);
}

double speed_timer_run(struct speed_timer *t) {
    double started = timer_now();
    tape_reset(&t->tape);
    const struct forward f = {.ids = t->ids, .B = t->B, .T = t->T, .checkpoint = 1};
    const struct tensor *x = model_forward(t->model, &t->tape, &f);
    const int64_t D = tensor_columns(x), T = tensor_rows(x) / t->B; // of whole sequences one row each comes out
    struct tensor *last = tape_tensor(&t->tape, x->name, 2, t->B, D, 1);
    for (int64_t b = 0; b < t->B; b++)
        memcpy(last->data + b * D, x->data + ((b + 1) * T - 1) * D, (size_t)D * sizeof(float));
    model_logits(t->model, &t->tape, last);
    return timer_now() - started;
}

void speed_timer_release(struct speed_timer *t) {
    tape_release(&t->tape);
    free(t->ids);
}

double speed_decode(struct model *m, int64_t n) {
    int32_t *ids = random_tokens(n, m->config.vocab);
    struct decoder d;
    decoder_init(&d, m, n);
    double seconds = run_tokens(&d, ids, n, 1);
    decoder_release(&d);
    free(ids);
    return seconds;
}

double speed_prefill(struct model *m, int64_t prompt_tokens) {
    int32_t *ids = random_tokens(prompt_tokens, m->config.vocab);
    double seconds = time_tokens(m, ids, prompt_tokens, prompt_tokens);
    free(ids);
    return seconds;
}

void speed_measure(struct model *m, int64_t prompt_tokens, int64_t new_tokens, struct speed_result *r) {
    int32_t *ids = random_tokens(new_tokens, m->config.vocab);
    r->prefill = (double)prompt_tokens / speed_prefill(m, prompt_tokens);
    r->decode = (double)new_tokens / time_tokens(m, ids, new_tokens, 1);
    free(ids);
}
