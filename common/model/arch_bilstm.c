// arch_bilstm.c: the classifier of Tang et al. 2019 ("Distilling Task-Specific Knowledge from BERT into Simple Neural Networks", section 3.1):
// embeddings, one bidirectional LSTM, its last states of both directions side by side, a layer of rectified units, and the classes.
// The LSTM's tensors are torch.nn.LSTM's by name, order of gates and shape.
#include <math.h>

#include "common/base/error.h"
#include "common/model/block.h"

enum {
    EMBED, INPUT, INPUT_BACK, RECURRENT, RECURRENT_BACK, INPUT_BIAS, INPUT_BIAS_BACK, RECURRENT_BIAS, RECURRENT_BIAS_BACK, DENSE, DENSE_BIAS,
    CLASSES, CLASSES_BIAS, N_SPECS
};

static const struct weight_spec specs[N_SPECS] = {
    [EMBED] = {"embedding.weight", 0, AXIS_VOCAB, AXIS_EMBEDDING, NULL},
    [INPUT] = {"lstm.weight_ih_l0", 0, AXIS_GATES, AXIS_EMBEDDING, NULL},
    [INPUT_BACK] = {"lstm.weight_ih_l0_reverse", 0, AXIS_GATES, AXIS_EMBEDDING, NULL},
    [RECURRENT] = {"lstm.weight_hh_l0", 0, AXIS_GATES, AXIS_CELLS, NULL},
    [RECURRENT_BACK] = {"lstm.weight_hh_l0_reverse", 0, AXIS_GATES, AXIS_CELLS, NULL},
    [INPUT_BIAS] = {"lstm.bias_ih_l0", 0, AXIS_ONE, AXIS_GATES, NULL},
    [INPUT_BIAS_BACK] = {"lstm.bias_ih_l0_reverse", 0, AXIS_ONE, AXIS_GATES, NULL},
    [RECURRENT_BIAS] = {"lstm.bias_hh_l0", 0, AXIS_ONE, AXIS_GATES, NULL},
    [RECURRENT_BIAS_BACK] = {"lstm.bias_hh_l0_reverse", 0, AXIS_ONE, AXIS_GATES, NULL},
    [DENSE] = {"dense.weight", 0, AXIS_HIDDEN, AXIS_BOTH_CELLS, NULL},
    [DENSE_BIAS] = {"dense.bias", 0, AXIS_ONE, AXIS_HIDDEN, NULL},
    [CLASSES] = {"classifier.weight", 0, AXIS_LABELS, AXIS_HIDDEN, NULL},
    [CLASSES_BIAS] = {"classifier.bias", 0, AXIS_ONE, AXIS_LABELS, NULL},
};

#define EMBEDDING_DEVIATION 0.1

// The LSTM's as torch.nn.LSTM's uniform values from +-1 / sqrt(cells) spread; elsewhere Glorot and Bengio 2010.
static double deviation(const struct config *c, const struct parameter *p)
{
    if (p->spec == &specs[EMBED])
        return EMBEDDING_DEVIATION;
    return p->spec->rows == AXIS_GATES ? sqrt(1 / (3 * (double)c->n_cell)) : sqrt(2.0 / (double)(p->t.dim[0] + p->t.dim[1]));
}

// One direction's state once it has read each sequence: [B, cells].
static struct tensor *read_through(struct model *m, struct tape *tape, const struct forward *f, struct tensor *x, int from_end)
{
    int32_t *last = arena_alloc(&tape->arena, (size_t)f->B * sizeof *last);
    for (int64_t b = 0; b < f->B; b++)
        last[b] = (int32_t)(b * f->T + (from_end ? 0 : f->length ? f->length[b] - 1 : f->T - 1));
    struct tensor *z = op_linear(tape, x, model_weight(m, INPUT + from_end, -1), model_weight(m, INPUT_BIAS + from_end, -1));
    struct tensor *h = op_lstm(tape, z, model_weight(m, RECURRENT + from_end, -1), model_weight(m, RECURRENT_BIAS + from_end, -1), f->B, f->T,
                               f->length, from_end);
    return op_rows(tape, h, last, f->B);
}

static struct tensor *bilstm_forward(struct model *m, struct tape *tape, const struct forward *f)
{
    const struct dropout *d = f->dropout;
    if (f->cache || (f->taps && f->taps->want) || f->last)
        BUG("bilstm: a cache, taps or a part of the layers were asked for");
    struct tensor *x = block_tokens(m, tape, f);
    if (d && d->input > 0)
        x = op_dropout(tape, x, d->input, d->seed, "embedding.weight", d->step);
    struct tensor *forth = read_through(m, tape, f, x, 0);
    struct tensor *back = read_through(m, tape, f, x, 1);
    x = op_join(tape, forth, back);
    x = op_linear(tape, x, model_weight(m, DENSE, -1), model_weight(m, DENSE_BIAS, -1));
    x = op_relu(tape, x);
    return d && d->hidden > 0 ? op_dropout(tape, x, d->hidden, d->seed, "dense.weight", d->step) : x;
}

const struct arch arch_bilstm = {.model_types = "bilstm",
                                 .specs = specs,
                                 .n_specs = N_SPECS,
                                 .embed = EMBED,
                                 .head = {CLASSES, -1},
                                 .head_bias = {CLASSES_BIAS, -1},
                                 .reads_both_ways = 1,
                                 .no_blocks = 1,
                                 .deviation = deviation,
                                 .forward = bilstm_forward};
