// training_step.h: one optimizer step: gradients, clipping, the schedule's rate, the move of everything that learns. Internal to common/train.
#ifndef PDQ_TRAINING_STEP_H
#define PDQ_TRAINING_STEP_H

#include "common/train/training_run.h"

// A loss or gradient that is not finite is an error.
int training_step(struct training_run *r, struct error *err);

#endif
