// arch_lenet.c: multi-layer perceptrons with ReLU, of any widths; LeNet-300-100 (LeCun et al. 1998) is the one that the
// lottery-ticket literature measures on. The softmax is the output head's.
#include <math.h>

#include "common/base/error.h"
#include "common/model/arch.h"

enum { HEAD, HEAD_BIAS, WEIGHT, BIAS, N_SPECS };

static const struct weight_spec specs[N_SPECS] = {
    [HEAD] = {"head.weight", 0, AXIS_VOCAB, AXIS_BELOW, NULL},
    [HEAD_BIAS] = {"head.bias", 0, AXIS_ONE, AXIS_VOCAB, NULL},
    [WEIGHT] = {"layers.%d.weight", 1, AXIS_FF, AXIS_BELOW, NULL},
    [BIAS] = {"layers.%d.bias", 1, AXIS_ONE, AXIS_FF, NULL},
};

// Glorot and Bengio 2010: variance 2 / (inputs + outputs); LeCun et al. 1998b: 1 / inputs.
static double deviation(const struct config *c, const struct parameter *p)
{
    return sqrt(c->lecun_init ? 1.0 / (double)p->t.dim[1] : 2.0 / (double)(p->t.dim[0] + p->t.dim[1]));
}

// The inputs as the model wants them; nobody asks for their gradient.
static struct tensor *standardised(struct tape *tape, const struct config *c, struct tensor *x)
{
    if (c->image_mean == 0 && c->image_std == 1)
        return x;
    const float mean = (float)c->image_mean, factor = (float)(1 / c->image_std);
    struct tensor *y = tape_tensor(tape, x->name, 2, tensor_rows(x), tensor_columns(x), 1);
    for (int64_t i = 0; i < tensor_count(x); i++)
        y->data[i] = (x->data[i] - mean) * factor;
    return y;
}

static struct tensor *lenet_forward(struct model *m, struct tape *tape, const struct forward *f)
{
    struct tensor *x = f->x;
    const struct dropout *d = f->dropout;
    if (!x || tensor_columns(x) != m->config.hidden)
        BUG("lenet: %ld inputs, expected %ld", x ? (long)tensor_columns(x) : 0L, (long)m->config.hidden);
    x = standardised(tape, &m->config, x);
    if (d && d->input > 0)
        x = op_dropout(tape, x, d->input, d->seed, "input", d->step);
    for (int l = 0; l < m->config.n_layer; l++) {
        struct tensor *weight = model_weight(m, WEIGHT, l);
        x = op_linear(tape, x, weight, model_weight(m, BIAS, l));
        x = op_relu(tape, x);
        if (d && d->hidden > 0)
            x = op_dropout(tape, x, d->hidden, d->seed, weight->name, d->step);
    }
    return x;
}

const struct arch arch_lenet = {.model_types = "lenet",
                                .specs = specs,
                                .n_specs = N_SPECS,
                                .embed = -1,
                                .head = {HEAD, -1},
                                .head_bias = {HEAD_BIAS, -1},
                                .no_blocks = 1,
                                .deviation = deviation,
                                .forward = lenet_forward};
