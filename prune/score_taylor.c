// score_taylor.c: how much the loss would change, to first order, if a unit's gate went from 1 to 0:
// |dL/d gate|, averaged over calibration batches (Michel et al. 2019, eq. 2; Molchanov et al. 2019, eq. 9).
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/progress.h"
#include "prune/score.h"

static void add_and_clear(double *score, struct tensor *gate)
{
    const int64_t n = tensor_count(gate);
    for (int64_t i = 0; i < n; i++)
        score[i] += fabs((double)gate->grad[i]);
    memset(gate->grad, 0, (size_t)n * sizeof *gate->grad);
}

int score_taylor(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err)
{
    (void)err;
    const int64_t n = c->batch * c->seq_len, batches = calibration_batches(c);
    int32_t *inputs = xmalloc((size_t)n * sizeof *inputs, "calibration"), *targets = xmalloc((size_t)n * sizeof *targets, "calibration");
    struct tape tape;
    struct progress progress;
    tape_init(&tape, c->precision);
    tape.recording = 1;
    model_add_gates(m, 1);
    progress_begin(&progress, "score", "tokens", batches * n, 0);
    for (int64_t b = 0; b < batches; b++) {
        calibration_batch(c, b, inputs, targets);
        const struct forward f = {.ids = inputs, .B = c->batch, .T = c->seq_len};
        const struct head_spec spec = {.targets = targets, .temperature = 1, .weight = 1};
        struct tensor *x = model_forward(m, &tape, &f);
        struct tensor *loss = op_head_loss(&tape, x, model_head(m), &spec, NULL);
        tape_backward(&tape, loss);
        tape_reset(&tape);
        for (int64_t l = 0; l < out->n_layer; l++) {
            add_and_clear(out->head[l], m->gate[l].heads);
            add_and_clear(out->ff[l], m->gate[l].ff);
        }
        progress_update(&progress, (b + 1) * n, "taylor");
    }
    progress_end(&progress, "taylor");
    model_drop_gates(m);
    tape_release(&tape);
    free(inputs);
    free(targets);
    return 0;
}
