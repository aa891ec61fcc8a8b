// gradients.h: passes there and back: the gradients of a step's micro-batches, and the loss that they come from.
#ifndef PDQ_GRADIENTS_H
#define PDQ_GRADIENTS_H

#include "common/train/adversary.h"
#include "common/train/batches.h"

struct gradients { // lifetime: one training
    struct trainer *trainer;
    struct batches batches;
    struct tape tape;
    struct adversary adversary;
};

void gradients_init(struct gradients *g, struct trainer *t);
void gradients_release(struct gradients *g);
// Of all micro-batches of step number `step`, added to what is there; parts become their means.
void gradients_accumulate(struct gradients *g, int64_t step, struct loss_parts *parts);

#endif
