// mask.c: a plan as gates of 0 and 1, and the check that it is the same function as the sliced model.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/random.h"
#include "common/tensor/vecmath.h"
#include "prune/prune.h"

#define LOGIT_ROWS 64 // rows whose logits are compared at a time

static void gate_from(struct tensor *gate, const int64_t *kept, int64_t n)
{
    memset(gate->data, 0, (size_t)tensor_count(gate) * sizeof *gate->data);
    for (int64_t i = 0; i < n; i++)
        gate->data[kept[i]] = 1;
}

void mask_apply(struct model *m, const struct plan *p)
{
    model_add_gates(m, 0);
    for (int64_t l = 0; l < p->n_layer; l++) {
        gate_from(m->gate[l].heads, p->layer[l].head, p->layer[l].n_head);
        gate_from(m->gate[l].ff, p->layer[l].ff, p->layer[l].n_ff);
        m->gate[l].no_attention = p->layer[l].n_head == 0;
        m->gate[l].no_ff = p->layer[l].n_ff == 0;
    }
}

// Final hidden states of one sequence.
static struct tensor *hidden(struct model *m, struct tape *tape, const int32_t *ids, int64_t T)
{
    const struct forward f = {.ids = ids, .B = 1, .T = T, .checkpoint = 1};
    return model_forward(m, tape, &f);
}

static struct tensor *logits(struct model *m, struct tape *tape, const struct tensor *x, int64_t first, int64_t n)
{
    struct tensor rows = {.name = "hidden", .n_dim = 2, .dim = {n, tensor_columns(x), 1},
                          .data = x->data + first * tensor_columns(x)};
    return model_logits(m, tape, &rows);
}

static void compare(struct model *a, struct model *b, struct tape *tape, const int32_t *ids, int64_t T, double *difference,
                    double *largest)
{
    const struct tensor *xa = hidden(a, tape, ids, T), *xb = hidden(b, tape, ids, T);
    const size_t mark = arena_mark(&tape->arena);
    const int64_t N = tensor_rows(xa); // T, or one of a whole sequence
    for (int64_t first = 0; first < N; first += LOGIT_ROWS) {
        const int64_t n = min_i64(LOGIT_ROWS, N - first);
        const struct tensor *za = logits(a, tape, xa, first, n), *zb = logits(b, tape, xb, first, n);
        for (int64_t i = 0; i < tensor_count(za); i++) {
            const double d = fabs((double)za->data[i] - (double)zb->data[i]);
            *difference = d > *difference || isnan(d) ? d : *difference; // nothing is larger than a NaN: it stays
            *largest = fmax(*largest, fabs((double)za->data[i]));
        }
        arena_reset(&tape->arena, mark);
    }
    tape_reset(tape);
}

double mask_difference(struct model *masked, struct model *sliced, const struct calibration *c, int64_t tokens)
{
    const int64_t T = c->seq_len, V = masked->config.vocab;
    int32_t *ids = xmalloc((size_t)T * sizeof *ids, "verification"), *targets = xmalloc((size_t)T * sizeof *targets, "verification");
    double difference = 0, largest = 0;
    struct tape tape;
    tape_init(&tape, PRECISION_F32);
    for (int64_t i = 0; i * T < tokens; i++) {
        if (c->data) {
            dataset_batch(c->data, T, c->seed, i, 1, ids, targets);
        } else {
            struct random r;
            random_init(&r, c->seed, "verification", (uint64_t)i);
            for (int64_t t = 0; t < T; t++)
                ids[t] = (int32_t)random_below(&r, V);
        }
        compare(masked, sliced, &tape, ids, T, &difference, &largest);
    }
    tape_release(&tape);
    free(ids);
    free(targets);
    return difference / largest;
}
