// calibration.c: running a model over the calibration text, or a classifier over its examples, for whoever looks on: at activations, or at
// gradients of the gates. Batches are a pure function of the data, the seed and their number.
#include <stdlib.h>
#include <string.h>

#include "common/base/progress.h"
#include "common/base/random.h"
#include "common/base/threads.h"
#include "common/tensor/vecmath.h"
#include "prune/score.h"

// Tokens of one window; of examples, on average.
static double window_tokens(const struct calibration *c)
{
    return c->examples ? (double)c->examples->start[c->examples->n] / (double)c->examples->n : (double)c->seq_len;
}

int64_t calibration_batches(const struct calibration *c)
{
    return max_i64(1, (int64_t)((double)c->tokens / ((double)c->batch * window_tokens(c))));
}

int64_t calibration_tokens(const struct calibration *c)
{
    return (int64_t)((double)(calibration_batches(c) * c->batch) * window_tokens(c));
}

int64_t calibration_targets(const struct calibration *c) { return c->examples ? 1 : c->seq_len; }

struct windows { // B at once
    const struct calibration *c;
    int64_t B;
    int32_t *ids, *targets;        // of text
    struct example_batch examples;
};

static void windows_init(struct windows *w, const struct calibration *c, int64_t B)
{
    *w = (struct windows){.c = c, .B = B};
    if (c->examples) {
        example_batch_init(&w->examples, B, c->examples->longest);
        return;
    }
    w->ids = xmalloc((size_t)(B * c->seq_len) * sizeof *w->ids, "calibration");
    w->targets = xmalloc((size_t)(B * c->seq_len) * sizeof *w->targets, "calibration");
}

static void windows_release(struct windows *w)
{
    example_batch_release(&w->examples);
    free(w->ids);
    free(w->targets);
}

// Windows number first .. first+B-1; returns what the model is given. *targets: what it is to say.
static struct forward windows_read(struct windows *w, int64_t first, const int32_t **targets)
{
    const struct calibration *c = w->c;
    if (!c->examples) {
        dataset_batch(c->data, c->seq_len, c->seed, first, w->B, w->ids, w->targets);
        *targets = w->targets;
        return (struct forward){.ids = w->ids, .B = w->B, .T = c->seq_len};
    }
    struct example_batch *b = &w->examples;
    int64_t *number = xmalloc((size_t)w->B * sizeof *number, "calibration");
    for (int64_t i = 0; i < w->B; i++)
        number[i] = random_shuffled(c->seed, "calibration", c->examples->n, first + i);
    examples_pick(c->examples, number, w->B, b);
    free(number);
    *targets = example_targets(c->examples, b);
    return (struct forward){.ids = b->ids, .B = w->B, .T = b->T, .length = b->length, .types = b->types};
}

int calibration_forward(struct model *m, const struct calibration *c, unsigned want, calibration_taps *see, void *context, struct error *err)
{
    // Examples go one by one: rows of padding are no activations.
    const int64_t B = c->examples ? 1 : c->batch, batches = calibration_batches(c) * (c->batch / B), L = m->config.n_layer;
    const int32_t *targets;
    struct windows w;
    struct tensor **seen = xcalloc((size_t)(6 * L + 1), sizeof *seen, "calibration");
    struct taps taps = {.want = want,         .heads = seen,          .ff = seen + L, .middle = seen + 2 * L,
                        .attention_in = seen + 3 * L, .ff_in = seen + 4 * L, .hidden = seen + 5 * L};
    struct tape tape;
    struct progress progress;
    tape_init(&tape, c->precision);
    windows_init(&w, c, B);
    progress_begin(&progress, "calibrate", c->examples ? "examples" : "windows", batches * B, 0);
    for (int64_t b = 0; b < batches && !interrupted(); b++) {
        struct forward f = windows_read(&w, b * B, &targets);
        f.taps = &taps;
        model_forward(m, &tape, &f);
        see(context, &taps, f.B * f.T);
        tape_reset(&tape);
        progress_update(&progress, (b + 1) * B, "activations");
    }
    progress_end(&progress, "activations");
    tape_release(&tape);
    windows_release(&w);
    free(seen);
    return interrupt_check(err);
}

int calibration_gradients(struct model *m, const struct calibration *c, calibration_gates *see, void *context, struct error *err)
{
    const int64_t B = c->batch, batches = calibration_batches(c);
    const int32_t *targets;
    struct windows w;
    struct tape tape;
    struct progress progress;
    tape_init(&tape, c->precision);
    tape.recording = 1;
    model_add_gates(m, 1);
    windows_init(&w, c, B);
    progress_begin(&progress, "calibrate", c->examples ? "examples" : "windows", batches * B, 0);
    for (int64_t b = 0; b < batches && !interrupted(); b++) {
        const struct forward f = windows_read(&w, b * B, &targets);
        const struct head_spec spec = {.targets = targets, .temperature = 1, .weight = 1, .bias = model_head_bias(m)};
        struct tensor *x = model_forward(m, &tape, &f);
        struct tensor *loss = model_head_loss(m, &tape, &f, x, &spec, NULL);
        tape_backward(&tape, loss);
        tape_reset(&tape);
        for (int64_t l = 0; l < m->config.n_layer; l++) {
            struct tensor *heads = m->gate[l].heads, *ff = m->gate[l].ff;
            see(context, l, heads->grad, ff->grad);
            memset(heads->grad, 0, (size_t)tensor_count(heads) * sizeof *heads->grad);
            memset(ff->grad, 0, (size_t)tensor_count(ff) * sizeof *ff->grad);
        }
        progress_update(&progress, (b + 1) * B, "gradients");
    }
    progress_end(&progress, "gradients");
    model_drop_gates(m);
    tape_release(&tape);
    windows_release(&w);
    return interrupt_check(err);
}

int calibration_loss(struct model *m, const struct calibration *c, int64_t first, int64_t windows, double *losses, double *mean, struct error *err)
{
    const int32_t *targets;
    struct windows one;
    struct tape tape;
    tape_init(&tape, PRECISION_F32);
    windows_init(&one, c, 1);
    *mean = 0;
    for (int64_t w = 0; w < windows && !interrupted(); w++) {
        struct forward f = windows_read(&one, first + w, &targets);
        f.checkpoint = 1;
        struct tensor *x = model_forward(m, &tape, &f);
        const struct head_spec spec = {.targets = targets, .temperature = 1, .weight = 1, .bias = model_head_bias(m)};
        struct head_result result;
        model_head_loss(m, &tape, &f, x, &spec, &result);
        tape_reset(&tape);
        losses[w] = result.ce;
        *mean += losses[w] / (double)windows;
    }
    tape_release(&tape);
    windows_release(&one);
    return interrupt_check(err);
}
