// distill.h: knowledge distillation from a teacher that has the same vocabulary.
#ifndef PDQ_DISTILL_H
#define PDQ_DISTILL_H

#include "common/train/trainer.h"

struct option;

enum temperature_rule { TEMPERATURE_CONSTANT, TEMPERATURE_FALLING, TEMPERATURE_RISING };
enum target_order { TARGETS_MIXED, TARGETS_HARD_FIRST };

struct distill_options { // rows in distill_option_table (which also holds train_option_table's rows through `train`)
    char *teacher;       // NULL: the recipe's model before pruning
    char *shape;         // the student is a fresh model of this folder's shape; NULL: the stage's input
    int inherit;         // that fresh model begins with the teacher's weights where they fit
    double alpha, temperature;
    struct json *divergence; // of the soft targets (answers.h); NULL: kl
    double beta;             // of Jensen-Shannon's
    int temperature_rule;   // constant; falling: 3 * 0.9^(step/1000), not below 1; rising: from 1 to temperature over
                            // the run
    int order;              // hard_first: alpha rises linearly from 0 to its value over the run's first half
    double hidden;          // weight of the hidden states' MSE: short for an entry of features; 0: off
    struct json *layer_map; // of features that name none (layer_map_read, feature.h); NULL: each loss's own
    struct json *features;  // losses on features (feature.h); NULL: none
    struct train_options train;
};
extern const struct option distill_option_table[];

// Checks that the two fit (vocabulary; what the losses on features read; the layer maps).
int distill_check(const struct distill_options *o, const struct config *student, const struct config *teacher,
                  struct error *err);
// Bytes that the losses on features take in a step of `rows` tokens; *shows: enum tap bits of what both models' forward passes keep for them.
// For options that distill_check found fine.
int64_t distill_feature_bytes(const struct distill_options *o, const struct config *student, const struct config *teacher, int64_t rows,
                              unsigned *shows);
// Fills the trainer's loss and context and runs it. Everything else in t is the caller's.
int distill_run(struct trainer *t, struct model *teacher, const struct distill_options *o, struct train_result *r,
                struct error *err);

#endif
