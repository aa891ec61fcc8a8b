// training_log.h: the log of one training, run.jsonl: its lines, and what is read back from them. The text lies in the snapshot, so that a
// resumed run goes on with it.
#ifndef PDQ_TRAINING_LOG_H
#define PDQ_TRAINING_LOG_H

#include "common/train/snapshot.h"
#include "common/train/trainer.h"

// Adds whole lines.
void training_log_text(struct snapshot *s, const char *text);
// The line of the step that has just been made; tokens: of all steps so far.
void training_log_step(struct snapshot *s, int64_t tokens, const struct loss_parts *parts, double rate, double norm);
// The line of a held-out evaluation after s->step; note: members behind the loss, as `,"accuracy":0.98`, or nothing.
void training_log_held_out(struct snapshot *s, double loss, const char *note);

// Have the last `patience` evaluations brought nothing better, and was one made after the last step? 0: never.
int training_log_out_of_patience(const struct snapshot *s, int64_t patience);
// First and last losses of the curve.
void training_log_curve(const struct snapshot *s, struct train_result *result);

#endif
