// reweight.h: weights of sources that follow how far each one's held-out loss is from where it is to be: dynamic batch loading of Xia et al.
// 2023, "Sheared LLaMA", Algorithm 1. A source whose loss comes down fast gets less of the rest of the training, one that lags more.
//
// The weights are in the run's log to the last bit, and the log is in snapshots: a resumed run takes its mixture from there.
#ifndef PDQ_REWEIGHT_H
#define PDQ_REWEIGHT_H

#include "common/base/error.h"
#include "common/data/dataset.h"

// weight [n] *= exp(max(loss - reference, 0)), divided by the sum (Algorithm 1, UpdateWeight). loss, reference [n] in nats per token; those of
// a source of weight 0 are not looked at, and its weight stays 0.
void reweight_update(double *weight, const double *loss, const double *reference, int n);

// Line of the log for weights [n] from step on: {"step","source_losses","source_weights"}. The caller frees.
char *reweight_line(int64_t step, const double *weight, const double *loss, int n);
// The mixture after all such lines of a log; draws: windows in a step.
void reweight_again(struct mixture *m, const char *log, int64_t draws);

#endif
