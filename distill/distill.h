// distill.h: knowledge distillation from a teacher that has the same vocabulary.
#ifndef PDQ_DISTILL_H
#define PDQ_DISTILL_H

#include "common/base/hash.h"
#include "common/train/trainer.h"

struct option;
struct teacher_cache;

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
    char *teacher_cache;    // file of the teacher's answers, or "auto"; NULL: the teacher runs beside the student
    int64_t top_k;          // entries a token there
    double hidden;          // weight of the hidden states' MSE: short for an entry of features; 0: off
    struct json *layer_map; // of features that name none (layer_map_read, feature.h); NULL: each loss's own
    struct json *features;  // losses on features (feature.h); NULL: none
    struct train_options train;
};
extern const struct option distill_option_table[];

// Checks that the two fit (vocabulary; what the losses on features read; the layer maps).
int distill_check(const struct distill_options *o, const struct config *student, const struct config *teacher,
                  struct error *err);
// Fills the trainer's loss and context and runs it. Everything else in t is the caller's.
int distill_run(struct trainer *t, struct model *teacher, const struct distill_options *o, struct train_result *r,
                struct error *err);

// The same from a cache of the teacher's answers, without the teacher. It must hold the windows of this run.
int distill_run_cached(struct trainer *t, const struct teacher_cache *cache, const struct distill_options *o, struct train_result *r,
                       struct error *err);
// Options that do not go with a cache; fine without one.
int distill_check_cached(const struct distill_options *o, const char *where, struct error *err);
// A flag for each window of t's data that a run with these options reads. The caller frees.
unsigned char *distill_wanted_windows(const struct trainer *t, const struct train_options *o);

// ---- for the schemes ----

double distill_alpha(const struct distill_options *o, int64_t steps, int64_t step); // the weight of the soft targets at a step
// The identity of a run's snapshots: what the trainer cannot see, that is t's own identity, these options, and the teacher (or, where it is
// NULL, what stands for it).
void distill_identify(const struct trainer *t, const struct distill_options *o, const struct model *teacher, const char *instead,
                      char out[HASH_TEXT]);

#endif
