// score.h: the scores' functions, one a row of prune_score_table. Internal to prune.
#ifndef PDQ_SCORE_H
#define PDQ_SCORE_H

#include "prune/prune.h"

int score_magnitude(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);
int score_l1(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);
int score_l2(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);
int score_taylor(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);
int score_activation(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);
int score_random(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);

// Batches of calibration text, number 0, 1, ...: inputs and targets [batch * seq_len]. calibration_batches says how many.
int64_t calibration_batches(const struct calibration *c);
void calibration_batch(const struct calibration *c, int64_t number, int32_t *inputs, int32_t *targets);

#endif
