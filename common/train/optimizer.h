// optimizer.h: AdamW and SGD over a model's flat arrays, clipping by global norm, learning-rate schedules.
#ifndef PDQ_OPTIMIZER_H
#define PDQ_OPTIMIZER_H

#include "common/model/model.h"

enum optimizer_kind { OPTIMIZER_ADAMW, OPTIMIZER_SGD };
enum schedule_kind { SCHEDULE_COSINE, SCHEDULE_LINEAR, SCHEDULE_CONSTANT, SCHEDULE_STEP };

struct optimizer_options {
    int kind; // enum optimizer_kind
    double beta1, beta2, eps, weight_decay, momentum;
};

struct optimizer { // lifetime: one training run
    struct optimizer_options options;
    float *m, *v; // [model_trained] first and second moments (AdamW), or m alone: momentum (SGD)
    const double *factor; // [n_parameter] of the learning rate (and of the decay by it), the caller's; NULL: 1 each
    int64_t step;
};

void optimizer_init(struct optimizer *o, const struct optimizer_options *options, const struct model *m);
void optimizer_release(struct optimizer *o);
// sqrt of the sum of squares of all gradients, in double, over fixed chunks.
double gradient_norm(const struct model *m);
// One step with learning rate lr, gradients multiplied by `scale` on the way (clipping). Decoupled weight decay on
// parameters marked for it (Loshchilov and Hutter 2019, algorithm 2). Clears the gradients.
void optimizer_step(struct optimizer *o, struct model *m, double lr, double scale);

struct schedule {
    enum schedule_kind kind;
    double peak, floor; // the last rate of cosine and linear is peak * floor
    int64_t warmup;     // steps of linear warm-up
    double decay;       // SCHEDULE_STEP: the factor every decay_every steps
    int64_t decay_every;
};
// Learning rate at `step` (0-based) of `steps`.
double schedule_rate(const struct schedule *s, int64_t steps, int64_t step);

#endif
