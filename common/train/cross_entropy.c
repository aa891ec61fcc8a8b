// cross_entropy.c: the plain loss of a training, for every kind of head (trainer.h).
#include "common/train/trainer.h"

struct tensor *train_cross_entropy(void *context, struct tape *tape, const struct forward *forward,
                                   const int32_t *targets, double weight, int64_t step, struct loss_parts *parts)
{
    (void)step;
    struct model *m = context;
    const struct head_spec spec = {.targets = targets, .temperature = 1, .weight = weight, .bias = model_head_bias(m),
                                   .cap = m->config.logit_cap};
    struct head_result head;
    struct tensor *x = model_forward(m, tape, forward);
    struct tensor *loss = model_head_loss(m, tape, forward, x, &spec, &head);
    *parts = (struct loss_parts){.loss = head.ce, .ce = head.ce};
    return loss;
}
