// distill.h: knowledge distillation from a teacher that has the same vocabulary.
#ifndef PDQ_DISTILL_H
#define PDQ_DISTILL_H

#include "common/base/hash.h"
#include "common/train/fake_quant_options.h"
#include "common/train/trainer.h"

struct option;
struct teacher_cache;

enum temperature_rule { TEMPERATURE_CONSTANT, TEMPERATURE_FALLING, TEMPERATURE_RISING };
enum { GO_ON_FIRST, GO_ON_BEST };
enum target_order { TARGETS_MIXED, TARGETS_HARD_FIRST };

struct distill_options { // rows in distill_option_table (which also holds train_option_table's rows through `train`)
    struct option_list teacher; // none: the recipe's model before pruning
    struct json *teacher_weights; // of several (teacher_weights_read); NULL: all the same
    char *shape;         // the student is a fresh model of this folder's shape; NULL: the stage's input
    int inherit;         // that fresh model begins with the teacher's weights where they fit
    int inherit_layers;  // enum inherit_layers
    char *inherit_score; // where it is narrower: a score of prune's
    double alpha, temperature;
    struct json *divergence; // of the soft targets (answers.h); NULL: kl
    double beta;             // of Jensen-Shannon's
    int temperature_rule;   // constant; falling: 3 * 0.9^(step/1000), not below 1; rising: from 1 to temperature over
                            // the run
    int order;              // hard_first: alpha rises linearly from 0 to its value over the run's first half
    char *teacher_cache;    // file of the teacher's answers, or "auto"; NULL: the teacher runs beside the student
    int64_t top_k;          // entries a token there
    int64_t tail_draws;     // and draws from all others, where these have the whole mass
    double hidden;          // weight of the hidden states' MSE: short for an entry of features; 0: off
    struct json *layer_map; // of features that name none (layer_map_read, feature.h); NULL: each loss's own
    struct json *features;  // losses on features (feature.h); NULL: none
    struct fake_quant_options fake; // the caller's to attach
    struct json *students;  // further students, which learn from each other (distill_mutual_check); NULL: none
    int go_on;              // of several, which one the following stages go on from
    struct train_options train;
};
extern const struct option distill_option_table[];

#define TEACHERS_MOST 8

// Checks that they fit (vocabulary; what the losses on features read; the layer maps); teacher [n]. where: of the options, for messages.
int distill_check(const struct distill_options *o, const struct config *student, const struct config *const *teacher, int n,
                  const char *where, struct error *err);
// Bytes that the losses on features take in a step of `rows` tokens; shows [n]: enum tap bits of what the student's and each teacher's forward
// pass keep for them. For options that distill_check found fine.
int64_t distill_feature_bytes(const struct distill_options *o, const struct config *student, const struct config *const *teacher, int n,
                              int64_t rows, unsigned *shows);
// Does any loss of these options ask the teachers? With alpha 0 and no features, a control on the text alone, they do not run.
int distill_asks_teachers(const struct distill_options *o);
// Fills the trainer's loss and context and runs it. Everything else in t is the caller's.
int distill_run(struct trainer *t, struct model *const *teacher, int n, const struct distill_options *o, struct train_result *r,
                struct error *err);

// The same from a cache of the teacher's answers, without the teacher. It must hold the windows of this run.
int distill_run_cached(struct trainer *t, const struct teacher_cache *cache, const struct distill_options *o, struct train_result *r,
                       struct error *err);
// Options that do not go with a cache; fine without one.
int distill_check_cached(const struct distill_options *o, const char *where, struct error *err);
// A flag for each window of t's data that a run with these options reads. The caller frees.
unsigned char *distill_wanted_windows(const struct trainer *t, const struct train_options *o);

// Deep mutual learning (mutual.c): n students, the first of them t->model, teach each other, without a teacher. All end trained.
#define STUDENTS_MOST 8
int distill_mutual_check(const struct distill_options *o, const struct config *const *student, int n, const char *where, struct error *err);
int distill_run_mutual(struct trainer *t, struct model *const *student, int n, const struct distill_options *o, struct train_result *r,
                       struct error *err);

// ---- for the schemes ----

#define DISTILL_PLACE "distill" // in messages of a run whose options nobody checked under their own place
#define PLACE_MAX ERROR_MAX     // of the place in a message

double distill_alpha(const struct distill_options *o, int64_t steps, int64_t step); // the weight of the soft targets at a step
double distill_share_done(int64_t steps, int64_t step);                              // 0 at the first step, 1 at the last
// The identity of a run's snapshots: what the trainer cannot see, that is t's own identity, these options, and the n teachers (or, where there
// are none, what stands for them).
void distill_identify(const struct trainer *t, const struct distill_options *o, struct model *const *teacher, int n, const char *instead,
                      char out[HASH_TEXT]);
// The weights of n teachers, each above 0, brought to a sum of 1.
int teacher_weights_read(double weight[TEACHERS_MOST], const struct distill_options *o, int n, const char *where, struct error *err);

#endif
