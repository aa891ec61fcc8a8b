// held_out.h: what a training measures on held-out text on its way: its own loss, and those of the text's sources. Internal to common/train.
//
// Both look at the weights that the run is to end with (those of "ema"). Both return 0 also when interrupted; then nothing is noted, and the
// resumed run measures again.
#ifndef PDQ_HELD_OUT_H
#define PDQ_HELD_OUT_H

#include "common/train/training_run.h"

// Where an evaluation is due after the last step: logs it, and keeps the best weights.
int held_out_evaluate(struct training_run *r, struct error *err);
// Where new weights of the sources are due: they count from the next step on (reweight.h).
int held_out_reweight(struct training_run *r, struct error *err);

#endif
