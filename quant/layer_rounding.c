// layer_rounding.c: see layer_rounding.h.
#include "quant/layer_rounding.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/random.h"
#include "common/base/threads.h"
#include "quant/overlay.h"

#define WINDOWS 8 // of a step

int64_t layer_rounding_windows(int64_t n) { return n < 1 ? 1 : n < WINDOWS ? n : WINDOWS; }

void layer_rounding_begin(struct layer_rounding *r, const struct rounding_options *o, const struct model *m, const struct walk_text *text)
{
    *r = (struct layer_rounding){.options = *o, .ideal = overlay_new(m)};
    layer_walk_begin(&r->target, r->ideal, text);
}

void layer_rounding_end(struct layer_rounding *r)
{
    if (!r->ideal)
        return;
    learned_rounding_release(&r->choices);
    layer_walk_end(&r->target);
    model_free(r->ideal);
    *r = (struct layer_rounding){0};
}

struct rounding_choice *layer_rounding_choice(struct layer_rounding *r, struct tensor *w)
{
    for (int i = 0; i < r->choices.n; i++)
        if (r->choices.choice[i].w == w)
            return &r->choices.choice[i];
    return learned_rounding_add(&r->choices, w);
}

struct layer_loss { // of the layer at hand; lifetime: one layer_rounding_learn
    struct layer_walk *walk;
    const struct layer_walk *target;
    int layer;
    float *x, *y; // [windows of a step, T, D]
};

// From hidden states x [B * T, D] to what the layer shall make of them.
static double run_layer(const struct layer_loss *l, float *x, const float *target, int64_t B, int recording)
{
    struct layer_walk *w = l->walk;
    const int64_t T = w->text.seq_len, D = w->m->config.hidden;
    struct tensor in = {.name = "hidden states", .n_dim = 2, .dim = {B * T, D, 1}, .data = x};
    const struct forward f = {.B = B, .T = T, .x = &in, .first = l->layer, .last = l->layer + 1};
    w->tape.recording = recording;
    struct tensor *loss = op_mse(&w->tape, model_forward(w->m, &w->tape, &f), target, 1);
    const double value = (double)loss->data[0];
    if (recording)
        tape_backward(&w->tape, loss);
    w->tape.recording = 0;
    tape_reset(&w->tape);
    return value;
}

static int64_t windows_of(const struct layer_walk *w) { return w->batches * w->text.batch; }

static double learn(void *context, int64_t step)
{
    const struct layer_loss *l = context;
    const struct layer_walk *w = l->walk;
    const int64_t B = layer_rounding_windows(windows_of(w)), n = w->text.seq_len * w->m->config.hidden;
    for (int64_t b = 0; b < B; b++) {
        const int64_t k = random_shuffled(w->text.seed, "windows of rounding", windows_of(w), step * B + b);
        memcpy(l->x + b * n, w->x + k * n, (size_t)n * sizeof *l->x);
        memcpy(l->y + b * n, l->target->x + k * n, (size_t)n * sizeof *l->y);
    }
    return run_layer(l, l->x, l->y, B, 1);
}

static double measure(void *context)
{
    const struct layer_loss *l = context;
    const int64_t n = l->walk->rows * l->walk->m->config.hidden;
    double sum = 0;
    for (int64_t b = 0; b < l->walk->batches; b++)
        sum += run_layer(l, l->walk->x + b * n, l->target->x + b * n, l->walk->text.batch, 0);
    return sum / (double)l->walk->batches;
}

int layer_rounding_learn(struct layer_rounding *r, struct layer_walk *walk, int layer, struct error *err)
{
    struct rounding_result result;
    struct layer_loss l = {.walk = walk, .target = &r->target, .layer = layer};
    const struct rounding_loss loss = {&l, learn, measure};
    overlay_hold_layer(r->ideal, layer);
    layer_walk_advance(&r->target, layer);
    overlay_drop_layer(r->ideal, layer);
    if (r->choices.n == 0)
        return 0;
    const size_t n = (size_t)(layer_rounding_windows(windows_of(walk)) * walk->text.seq_len * walk->m->config.hidden);
    l.x = xmalloc(2 * n * sizeof *l.x, "hidden states of a step");
    l.y = l.x + n;
    const int rc = learned_rounding_run(&r->choices, &r->options, &loss, &result);
    free(l.x);
    TRY(interrupt_check(err));
    if (rc < 0)
        return error_set(err, "layer %d: what it makes of the calibration text is not finite: the model is broken", layer);
    log_info("layer %d: mean squared error of its outputs %.4g, after %" PRId64 " steps %.4g; %.1f %% of the weights rounded otherwise", layer,
             result.before, r->options.steps, result.after, 100 * result.changed);
    return 0;
}
