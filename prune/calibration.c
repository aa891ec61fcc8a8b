// calibration.c: running a model over the calibration text, for whoever looks on: at activations, or at gradients of the
// gates. Batches are a pure function of the text, the seed and their number.
#include <stdlib.h>
#include <string.h>

#include "common/base/progress.h"
#include "common/tensor/vecmath.h"
#include "prune/score.h"

int64_t calibration_batches(const struct calibration *c)
{
    return max_i64(1, c->tokens / (c->batch * c->seq_len));
}

static void batch_read(const struct calibration *c, int64_t number, int32_t *inputs, int32_t *targets)
{
    dataset_batch(c->data, c->seq_len, c->seed, number * c->batch, c->batch, inputs, targets);
}

void calibration_forward(struct model *m, const struct calibration *c, unsigned want, calibration_taps *see, void *context)
{
    const int64_t n = c->batch * c->seq_len, batches = calibration_batches(c), L = m->config.n_layer;
    int32_t *ids = xmalloc((size_t)(2 * n) * sizeof *ids, "calibration");
    struct tensor **seen = xcalloc((size_t)(6 * L + 1), sizeof *seen, "calibration");
    struct taps taps = {.want = want,         .heads = seen,          .ff = seen + L, .middle = seen + 2 * L,
                        .attention_in = seen + 3 * L, .ff_in = seen + 4 * L, .hidden = seen + 5 * L};
    struct tape tape;
    struct progress progress;
    tape_init(&tape, c->precision);
    progress_begin(&progress, "calibrate", "tokens", batches * n, 0);
    for (int64_t b = 0; b < batches; b++) {
        batch_read(c, b, ids, ids + n);
        const struct forward f = {.ids = ids, .B = c->batch, .T = c->seq_len, .taps = &taps};
        model_forward(m, &tape, &f);
        see(context, &taps, n);
        tape_reset(&tape);
        progress_update(&progress, (b + 1) * n, "activations");
    }
    progress_end(&progress, "activations");
    tape_release(&tape);
    free(ids);
    free(seen);
}

void calibration_gradients(struct model *m, const struct calibration *c, calibration_gates *see, void *context)
{
    const int64_t n = c->batch * c->seq_len, batches = calibration_batches(c);
    int32_t *ids = xmalloc((size_t)(2 * n) * sizeof *ids, "calibration");
    struct tape tape;
    struct progress progress;
    tape_init(&tape, c->precision);
    tape.recording = 1;
    model_add_gates(m, 1);
    progress_begin(&progress, "calibrate", "tokens", batches * n, 0);
    for (int64_t b = 0; b < batches; b++) {
        batch_read(c, b, ids, ids + n);
        const struct forward f = {.ids = ids, .B = c->batch, .T = c->seq_len};
        const struct head_spec spec = {.targets = ids + n, .temperature = 1, .weight = 1};
        struct tensor *x = model_forward(m, &tape, &f);
        struct tensor *loss = op_head_loss(&tape, x, model_head(m), &spec, NULL);
        tape_backward(&tape, loss);
        tape_reset(&tape);
        for (int64_t l = 0; l < m->config.n_layer; l++) {
            struct tensor *heads = m->gate[l].heads, *ff = m->gate[l].ff;
            see(context, l, heads->grad, ff->grad);
            memset(heads->grad, 0, (size_t)tensor_count(heads) * sizeof *heads->grad);
            memset(ff->grad, 0, (size_t)tensor_count(ff) * sizeof *ff->grad);
        }
        progress_update(&progress, (b + 1) * n, "gradients");
    }
    progress_end(&progress, "gradients");
    model_drop_gates(m);
    tape_release(&tape);
    free(ids);
}

double calibration_loss(struct model *m, const struct calibration *c, int64_t first, int64_t windows, double *losses)
{
    const int64_t T = c->seq_len;
    int32_t *ids = xmalloc((size_t)(2 * T) * sizeof *ids, "calibration");
    double *nll = xmalloc((size_t)T * sizeof *nll, "calibration"), total = 0;
    struct tape tape;
    tape_init(&tape, PRECISION_F32);
    for (int64_t w = 0; w < windows; w++) {
        dataset_batch(c->data, T, c->seed, first + w, 1, ids, ids + T);
        const struct forward f = {.ids = ids, .B = 1, .T = T, .checkpoint = 1};
        const struct tensor *x = model_forward(m, &tape, &f);
        const struct head_eval eval = {.targets = ids + T, .nll = nll};
        op_head_eval(&tape, x, model_head(m), &eval);
        tape_reset(&tape);
        int64_t count = 0;
        losses[w] = 0;
        for (int64_t t = 0; t < T; t++)
            if (ids[T + t] >= 0) { // past the stream's end there is no target
                losses[w] += nll[t];
                count++;
            }
        losses[w] /= (double)max_i64(1, count);
        total += losses[w] / (double)windows;
    }
    tape_release(&tape);
    free(ids);
    free(nll);
    return total;
}
