// score.h: the scores' functions, one a row of prune_score_table. Internal to prune.
#ifndef PDQ_SCORE_H
#define PDQ_SCORE_H

#include "prune/prune.h"

int score_magnitude(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);
int score_l1(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);
int score_l2(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);
int score_taylor(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);
int score_fisher(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);
int score_loss_change(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);
int score_activation(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);
int score_activation_rms(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);
int score_flap(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);
int score_wanda(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);
int score_slimming(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);
int score_random(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);

// Guards (guard.c): a text that is too short, scores that say nothing, a plan that does worse than a random one.
int guard_calibration(const struct calibration *c, struct error *err);
int guard_scores(const struct prune_scores *s, const struct config *c, const struct layer_shape *counts, int heads_by,
                 struct error *err);
// Did the least squares on the calibration text help on other text, or was there too little? plain: the cut before them.
int guard_reconstruction(struct model *plain, struct model *fitted, const struct calibration *c, struct error *err);
int guard_probe(struct model *m, const struct plan *p, const struct plan *random, const struct calibration *c, const char *score,
                struct error *err);

// Writes the indices (plus base) of the n best of `total` scores, ascending. what, layer: for the message about a score that is
// not finite.
int plan_choose(const double *score, int64_t total, int64_t n, int64_t base, int64_t *to, const char *what, int64_t layer,
                struct error *err);

// Passes over the calibration text. ^C is answered between batches: -1 with its message, and what was shown is not the whole.
// Runs m forward and shows the taps of each batch.
typedef void calibration_taps(void *context, const struct taps *taps, int64_t rows);
int calibration_forward(struct model *m, const struct calibration *c, unsigned want, calibration_taps *see, void *context, struct error *err);
// Forward and backward to gates of ones; shows every layer's gradients of each batch: heads [n_head], ff [n_ff].
typedef void calibration_gates(void *context, int64_t layer, const float *heads, const float *ff);
int calibration_gradients(struct model *m, const struct calibration *c, calibration_gates *see, void *context, struct error *err);
int64_t calibration_batches(const struct calibration *c);
int64_t calibration_tokens(const struct calibration *c);  // of all its batches; of examples about
int64_t calibration_targets(const struct calibration *c); // of one window: seq_len, of an example 1
// Mean loss in nats per token of some windows of the text, number `first` and on; losses [windows]: each window's.
int calibration_loss(struct model *m, const struct calibration *c, int64_t first, int64_t windows, double *losses, double *mean, struct error *err);

#endif
