// answers.h: the losses on answers that a recipe asks for: "divergence": a name, or an object of names and weights. Internal to distill.
#ifndef PDQ_ANSWERS_H
#define PDQ_ANSWERS_H

#include "common/tensor/divergence.h"
#include "common/train/trainer.h"
#include "distill/distill.h"
#include "distill/loss_weight.h"

struct answers {
    struct loss_weight weight[DIVERGENCES]; // all 0: not asked for
    int64_t steps;                          // of the run
};

int answers_read(struct answers *a, const struct distill_options *o, int64_t steps, const char *where, struct error *err);
int answers_has(const struct answers *a, int divergence);
void answers_at(const struct answers *a, double share_done, double weight[DIVERGENCES]); // the weights at a share of the run
// The soft targets' and the hard ones' loss of a student, from the fused head, with the step's alpha and temperature; spec has the rest:
// targets, teachers, bias, weight. parts: all divergences but KL are further terms of the log.
struct tensor *answers_loss(const struct answers *a, const struct distill_options *o, struct model *student, struct tape *tape,
                            const struct forward *f, struct tensor *x, struct head_spec *spec, int64_t step, struct loss_parts *parts);

#endif
