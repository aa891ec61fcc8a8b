// score_activation.c: units that say little: mean |activation| of a feed-forward channel, mean L2 norm of a head's output
// (Minitron: Muralidharan et al. 2024, section 2.2).
#include <math.h>
#include <stdlib.h>

#include "prune/score.h"

// score[u] += sum over rows of the mean absolute value (width 1) or the L2 norm of unit u's columns
static void add_activations(double *score, const struct tensor *y, int64_t units)
{
    const int64_t N = tensor_rows(y), C = tensor_columns(y), width = C / units;
#pragma omp parallel for schedule(static)
    for (int64_t u = 0; u < units; u++)
        for (int64_t n = 0; n < N; n++) {
            double sum = 0;
            for (int64_t i = n * C + u * width; i < n * C + (u + 1) * width; i++)
                sum += (double)y->data[i] * (double)y->data[i];
            score[u] += sqrt(sum) / (double)N;
        }
}

int score_activation(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err)
{
    (void)err;
    const int64_t n = c->batch * c->seq_len, batches = calibration_batches(c), L = out->n_layer;
    int32_t *inputs = xmalloc((size_t)n * sizeof *inputs, "calibration"), *targets = xmalloc((size_t)n * sizeof *targets, "calibration");
    struct taps taps = {.want = TAP_HEADS | TAP_FF};
    taps.heads = xcalloc((size_t)L, sizeof *taps.heads, "calibration");
    taps.ff = xcalloc((size_t)L, sizeof *taps.ff, "calibration");
    struct tape tape;
    tape_init(&tape, c->precision);
    for (int64_t b = 0; b < batches; b++) {
        calibration_batch(c, b, inputs, targets);
        const struct forward f = {.ids = inputs, .B = c->batch, .T = c->seq_len, .taps = &taps};
        model_forward(m, &tape, &f);
        for (int64_t l = 0; l < L; l++) {
            add_activations(out->head[l], taps.heads[l], m->config.layer[l].n_head);
            add_activations(out->ff[l], taps.ff[l], m->config.layer[l].n_ff);
        }
        tape_reset(&tape);
    }
    tape_release(&tape);
    free(taps.heads);
    free(taps.ff);
    free(inputs);
    free(targets);
    return 0;
}
