// score_slimming.c: gates trained together with the weights under an L1 penalty; what stays near 1 is needed (network slimming, Liu
// et al. 2017, eq. 1, with gates in the place of batch norm's factors).
//
// One pass over the calibration text, a step a batch. The penalty is the mean gradient of the first batch's gates, kind by kind, so
// that about half of the gates are worth it. The weights are put back afterwards: the score looks, and changes nothing.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/progress.h"
#include "common/base/threads.h"
#include "prune/score.h"

#define GATE_RATE 0.02   // of Adam's steps: about 0.6 over the default calibration
#define WEIGHT_RATE 1e-4 // of plain SGD on the weights, by the gradient's norm
#define BETA1 0.9
#define BETA2 0.95

struct moments { // of one gate vector
    double *m, *v;
};

static double mean_size(struct tensor *const *gate, int64_t n)
{
    double sum = 0, count = 0;
    for (int64_t l = 0; l < n; l++)
        for (int64_t i = 0; i < tensor_count(gate[l]); i++, count++)
            sum += fabs((double)gate[l]->grad[i]);
    return count > 0 ? sum / count : 0;
}

static void adam(struct tensor *gate, struct moments *s, double penalty, int64_t step)
{
    for (int64_t i = 0; i < tensor_count(gate); i++) {
        const double g = (double)gate->grad[i] + (gate->data[i] > 0 ? penalty : 0);
        s->m[i] = BETA1 * s->m[i] + (1 - BETA1) * g;
        s->v[i] = BETA2 * s->v[i] + (1 - BETA2) * g * g;
        const double m = s->m[i] / (1 - pow(BETA1, (double)step)), v = s->v[i] / (1 - pow(BETA2, (double)step));
        gate->data[i] = (float)fmax(0, (double)gate->data[i] - GATE_RATE * m / (sqrt(v) + 1e-12));
        gate->grad[i] = 0;
    }
}

// A step along the normalised gradient of all weights.
static void descend(struct model *m)
{
    double squares = 0;
    for (int64_t i = 0; i < m->n_element; i++)
        squares += (double)m->grad[i] * (double)m->grad[i];
    const float scale = squares > 0 ? (float)(WEIGHT_RATE * sqrt((double)m->n_element) / sqrt(squares)) : 0;
    for (int64_t i = 0; i < m->n_element; i++) {
        m->data[i] -= scale * m->grad[i];
        m->grad[i] = 0;
    }
}

static int train(struct model *m, const struct calibration *c, struct tensor **gate, struct error *err)
{
    const int64_t n = c->batch * c->seq_len, batches = calibration_batches(c), L = m->config.n_layer;
    struct moments *s = xcalloc((size_t)(2 * L), sizeof *s, "moments of gates");
    int32_t *ids = xmalloc((size_t)(2 * n) * sizeof *ids, "calibration");
    double penalty[2] = {0, 0};
    struct tape tape;
    struct progress progress;
    for (int64_t l = 0; l < 2 * L; l++) {
        s[l].m = xcalloc((size_t)(2 * tensor_count(gate[l])), sizeof *s[l].m, "moments of gates");
        s[l].v = s[l].m + tensor_count(gate[l]);
    }
    tape_init(&tape, c->precision);
    tape.recording = 1;
    progress_begin(&progress, "calibrate", "tokens", batches * n, 0);
    for (int64_t b = 0; b < batches && !interrupted(); b++) {
        dataset_batch(c->data, c->seq_len, c->seed, b * c->batch, c->batch, ids, ids + n);
        const struct forward f = {.ids = ids, .B = c->batch, .T = c->seq_len};
        const struct head_spec spec = {.targets = ids + n, .temperature = 1, .weight = 1, .cap = m->config.logit_cap};
        struct tensor *x = model_forward(m, &tape, &f);
        tape_backward(&tape, op_head_loss(&tape, x, model_head(m), &spec, NULL));
        tape_reset(&tape);
        for (int kind = 0; kind < 2 && b == 0; kind++)
            penalty[kind] = mean_size(gate + kind * L, L);
        for (int64_t l = 0; l < 2 * L; l++)
            adam(gate[l], &s[l], penalty[l / L], b + 1);
        descend(m);
        progress_update(&progress, (b + 1) * n, "gates");
    }
    progress_end(&progress, "gates");
    tape_release(&tape);
    for (int64_t l = 0; l < 2 * L; l++)
        free(s[l].m);
    free(s);
    free(ids);
    return interrupt_check(err);
}

int score_slimming(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err)
{
    const int64_t L = m->config.n_layer;
    const size_t bytes = (size_t)m->n_element * sizeof *m->data;
    float *weights = memcpy(xmalloc(bytes, "the weights before slimming"), m->data, bytes);
    struct tensor **gate = xmalloc((size_t)(2 * L) * sizeof *gate, "gates");
    model_add_gates(m, 1);
    model_want_gradients(m);
    for (int64_t l = 0; l < L; l++) {
        gate[l] = m->gate[l].heads;
        gate[L + l] = m->gate[l].ff;
    }
    const int rc = train(m, c, gate, err);
    for (int64_t l = 0; l < L && rc == 0; l++) {
        for (int64_t i = 0; i < m->config.layer[l].n_head; i++)
            out->head[l][i] = (double)gate[l]->data[i];
        for (int64_t i = 0; i < m->config.layer[l].n_ff; i++)
            out->ff[l][i] = (double)gate[L + l]->data[i];
    }
    memcpy(m->data, weights, bytes);
    model_drop_gradients(m);
    model_drop_gates(m);
    free(weights);
    free(gate);
    return rc;
}
