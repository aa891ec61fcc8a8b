// trained.h: the weights that a training moves as one array [model_trained]: copies of them, and their moving average.
#ifndef PDQ_TRAINED_H
#define PDQ_TRAINED_H

#include "common/model/model.h"

void trained_copy(const struct model *m, float *to);   // from the model
void trained_put(struct model *m, const float *from);  // into the model
void trained_swap(struct model *m, float *other);      // both

// The average of the weights over a run (Polyak and Juditsky 1992), here with exponential forgetting (Tarvainen and Valpola 2017, section 2):
// average = d average + (1 - d) weights. At the start the average would remember the first weights for 1 / (1 - decay) steps; so d is
// warmed up, min(decay, (1 + step) / (10 + step)), step counted from 0, as Tarvainen and Valpola ramp theirs up.
double average_decay(double decay, int64_t step);
void average_add(float *average, const struct model *m, double d);

#endif
