// prune.h: structured pruning of query heads, key/value groups and FFN channels.
//
//   scores (prune_score_table) -> plan (which units stay) -> check: masked = sliced -> shrink (a smaller model)
//
// To add a score: a file score_<name>.c with one function of the signature below, and one row in prune_score_table (prune.c).
#ifndef PDQ_PRUNE_H
#define PDQ_PRUNE_H

#include "common/base/options.h"
#include "common/data/dataset.h"
#include "common/model/model.h"

enum heads_by { HEADS_BY_GROUP, HEADS_BY_QUERY };
enum prune_schedule { PRUNE_LINEAR, PRUNE_CUBIC };

struct prune_options {       // rows in prune_option_table
    double heads, ffn;       // fractions removed
    int score;               // index into prune_score_table
    int heads_by;
    int64_t steps;           // prune in this many steps...
    int schedule;            // ... whose sparsity follows this
    int64_t align;           // widths are multiples of this; 0: 256 when a later quantize stage uses a K type, else 32
    int64_t calibration_tokens;
    int64_t calibration_batch;
    int reconstruct;         // least squares for the output projections after each cut
    int guards;              // stop where a prune would be meaningless (guard.c)
    struct json *recover;    // a distill block, run between the steps (not after the last)
};
extern const struct option prune_option_table[];

// What scores are computed from.
struct calibration {
    const struct dataset *data;
    int64_t seq_len, tokens, batch;
    uint64_t seed;
    enum precision precision;
};

// Scores of every unit: higher stays. A key/value group counts as the sum of its heads' scores plus `group`, what its own
// tensors add (0 where a score does not look at them).
struct prune_scores {
    double **head, **group, **ff; // [n_layer][n_head], [n_layer][n_kv_head], [n_layer][n_ff], 0 at first
    int64_t n_layer;
};

struct prune_score {
    const char *name;
    int passes; // over the calibration text: 0 none, 1 forward, 2 forward and backward
    const char *source;
    int (*compute)(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);
};
extern const struct prune_score prune_score_table[]; // ends with name NULL
void prune_scores_init(struct prune_scores *s, const struct config *c);
void prune_scores_release(struct prune_scores *s);

// Which units stay, by their index in the model at hand.
struct layer_plan {
    int64_t *head, *group, *ff; // kept indices, ascending; owned
    int64_t n_head, n_group, n_ff;
};
struct plan {
    struct layer_plan *layer;
    int64_t n_layer;
};
// Counts after pruning: the same in every layer, heads * head_dim and ffn multiples of align (the nearest, at least one; groups
// stay whole: query heads per group keep equal numbers). Says on the log when alignment moved a fraction by more than 0.02.
int plan_counts(const struct config *c, const struct prune_options *o, struct layer_shape *counts, struct error *err);
int plan_make(struct plan *p, const struct config *c, const struct prune_scores *s, const struct layer_shape *counts,
              int heads_by, struct error *err);
void plan_release(struct plan *p);
struct json *plan_json(const struct plan *p); // {"layers": [{"heads": [...], "groups": [...], "ff": [...]}]}

// A new, smaller model; every axis that counts a removed unit is cut.
struct model *shrink(const struct model *m, const struct plan *p);

// Gates of m: 1 for what the plan keeps, 0 for the rest (model_drop_gates ends it).
void mask_apply(struct model *m, const struct plan *p);
// Largest |logit difference| of two models over the largest |logit| of the first, in f32 on at least `tokens` tokens: of the
// calibration text, or of random ids where there is none.
double mask_difference(struct model *masked, struct model *sliced, const struct calibration *c, int64_t tokens);

// Gives the output projections of `cut`, which `plan` made of m, the least-squares fit to m's on the calibration text.
int reconstruct(struct model *m, struct model *cut, const struct plan *plan, const struct calibration *c, struct error *err);

// All of it, one step: from m to counts. Fails when the verification is above 1e-5 (f32).
// *out is the new model (the caller frees), plan_out what stayed (indices into m), *difference the verification's figure.
int prune_step(struct model *m, const struct prune_options *o, const struct layer_shape *counts, const struct calibration *c,
               struct model **out, struct plan *plan_out,
               double *difference, struct error *err);
// The fraction of the way at step i (1-based) of n: linear i/n; cubic 1 - (1 - i/n)^3 (Zhu and Gupta 2017, eq. 1).
double prune_progress(enum prune_schedule schedule, int64_t i, int64_t n);

#endif
