// calibrate.h: one pass of a model over a text: the mean squares of what each matrix is multiplied by.
#ifndef PDQ_CALIBRATE_H
#define PDQ_CALIBRATE_H

#include "common/eval/layer_walk.h"
#include "quant/importance.h"

// Fewer tokens than asked are an error naming both. option: for the message ("--calibration-tokens").
int calibrate_check(const struct walk_text *text, const char *option, struct error *err);
// An entry for every matrix that a GGUF file of the model has, of the output head too. In memory is one batch.
void calibrate(struct importance *to, struct model *m, const struct walk_text *text);

// The same entries, all columns alike: for encoders that search scales only where something is weighted.
void importance_of_ones(struct importance *to, const struct model *m);

#endif
