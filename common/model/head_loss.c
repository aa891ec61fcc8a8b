// head_loss.c: which loss a model's head learns by.
#include "common/model/model.h"

struct tensor *model_head_loss(struct model *m, struct tape *tape, const struct forward *f, struct tensor *x, const struct head_spec *spec,
                               struct head_result *result)
{
    if (m->config.head != HEAD_SPANS)
        return op_head_loss(tape, x, model_head(m), spec, result);
    struct span_spec s = {.targets = spec->targets, .length = f->length, .B = f->B, .T = f->T, .alpha = spec->alpha,
                          .temperature = spec->temperature, .weight = spec->weight};
    struct tensor *z = op_linear(tape, x, model_head(m), spec->bias);
    if (spec->teacher_x) { // constants: nothing of them is recorded
        struct tensor w = *spec->teacher_w, hidden = {.name = "teacher", .n_dim = 2, .dim = {f->B * f->T, w.dim[1], 1}};
        struct tensor bias = spec->teacher_bias ? *spec->teacher_bias : (struct tensor){0};
        w.needs_grad = bias.needs_grad = 0;
        hidden.data = (float *)spec->teacher_x;
        s.teacher = op_linear(tape, &hidden, &w, spec->teacher_bias ? &bias : NULL)->data;
    }
    return op_span_loss(tape, z, &s, result);
}
