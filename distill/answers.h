// answers.h: the losses on answers that a recipe asks for: "divergence": a name, or an object of names and weights. Internal to distill.
#ifndef PDQ_ANSWERS_H
#define PDQ_ANSWERS_H

#include "common/tensor/divergence.h"
#include "distill/loss_weight.h"

struct answers {
    struct loss_weight weight[DIVERGENCES]; // all 0: not asked for
};

// v NULL: kl alone.
int answers_read(struct answers *a, const struct json *v, struct error *err);
void answers_at(const struct answers *a, double share, double weight[DIVERGENCES]); // at a share of the run
int answers_has(const struct answers *a, int divergence);
const char *answers_log_name(int divergence); // in run.jsonl, where "mse" is that of hidden states

#endif
