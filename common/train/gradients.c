// gradients.c: see gradients.h.
#include "common/train/gradients.h"

#include <string.h>

void gradients_init(struct gradients *g, struct trainer *t)
{
    *g = (struct gradients){.trainer = t};
    tape_init(&g->tape, t->precision);
    g->tape.recording = 1;
    batches_init(&g->batches, t);
    if (t->options.fgm > 0)
        adversary_init(&g->adversary, t->model, t->options.fgm, t->options.batch * batches_longest(t));
}

void gradients_release(struct gradients *g)
{
    tape_release(&g->tape);
    batches_release(&g->batches);
    adversary_release(&g->adversary);
}

// A pass there and back; the gradient is added to what is there.
static struct loss_parts add_pass(struct gradients *g, const struct forward *forward, const int32_t *targets, double weight, int64_t step)
{
    const struct trainer *t = g->trainer;
    struct loss_parts parts = {0};
    struct tensor *loss = t->loss(t->context, &g->tape, forward, targets, weight, step, &parts);
    if (loss->needs_grad) // not where what is trained has no part in this batch
        tape_backward(&g->tape, loss);
    tape_reset(&g->tape);
    return parts;
}

// The gradient of micro-batch number `index`, times weight, added to what is there.
static struct loss_parts add_gradient(struct gradients *g, int64_t index, double weight, int64_t step)
{
    const struct train_options *o = &g->trainer->options;
    const struct dropout dropout = {
        .input = o->dropout_input, .hidden = o->dropout, .seed = g->trainer->seed, .step = (uint64_t)index};
    struct adversary *a = &g->adversary;
    struct forward forward;
    const int32_t *targets = batches_make(&g->batches, index, &dropout, &forward);
    g->trainer->first_window = index * o->batch;
    if (!a->shift.data)
        return add_pass(g, &forward, targets, weight, step);
    adversary_watch(a, forward.B, forward.T);
    forward.shift = &a->shift;
    struct loss_parts parts = add_pass(g, &forward, targets, weight, step);
    adversary_move(a, forward.B, forward.T);
    forward.again = 1;
    const double moved = add_pass(g, &forward, targets, weight, step).loss;
    parts.loss += moved;
    parts.term[parts.n_term++] = (struct loss_term){"fgm", moved};
    return parts;
}

void gradients_accumulate(struct gradients *g, int64_t step, struct loss_parts *parts)
{
    const int64_t n = g->trainer->options.accumulate;
    const double weight = 1.0 / (double)n;
    *parts = (struct loss_parts){0};
    for (int64_t i = 0; i < n; i++) {
        const struct loss_parts p = add_gradient(g, step * n + i, weight, step);
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
    struct gradients g;
    gradients_init(&g, t);
    double loss = 0;
    memset(t->model->grad, 0, (size_t)t->model->n_element * sizeof *t->model->grad);
    for (int64_t i = 0; i < batches; i++)
        loss += add_gradient(&g, first + i, 1.0 / (double)batches, 0).loss / (double)batches;
    gradients_release(&g);
    return loss;
}
