// prune.h: structured pruning of query heads, key/value groups, FFN channels, blocks, layers and hidden channels.
//
//   scores (prune_score_table) -> plan (which units stay) -> check: masked = sliced -> shrink (a smaller model)
//
// To add a score: a file score_<name>.c with one function of the signature below, and one row in prune_score_table (prune.c).
// To add a score of blocks and layers: one row in depth_score_table (depth.c).
#ifndef PDQ_PRUNE_H
#define PDQ_PRUNE_H

#include "common/base/options.h"
#include "common/data/dataset.h"
#include "common/data/examples.h"
#include "common/model/model.h"

enum heads_by { HEADS_BY_GROUP, HEADS_BY_QUERY };
enum prune_scope { SCOPE_LAYER, SCOPE_GLOBAL };
enum prune_schedule { PRUNE_LINEAR, PRUNE_CUBIC, PRUNE_EXPONENTIAL };

struct prune_options {       // rows in prune_option_table
    double heads, ffn;       // fractions removed
    double layers, attention_blocks, ffn_blocks, hidden; // fractions of whole layers, of their blocks, of the hidden width
    struct json *budget;     // {"params" | "bytes" | "flops" | "ms": X} instead of heads and ffn; read by the recipe's stage
    int score;               // index into prune_score_table
    int depth_score;         // index into depth_score_table
    int heads_by;
    int scope;               // the same count in every layer, or one ranking over all layers
    double floor;            // share of a layer's units that stays whatever a ranking over all layers says
    int mask;                // zeros in place of what is removed: the shape stays
    int64_t steps;           // prune in this many steps...
    int schedule;            // ... whose sparsity follows this
    int64_t align;           // widths are multiples of this; 0: 256 when a later quantize stage uses a K type, else 32
    int64_t calibration_tokens;
    int64_t calibration_batch;
    int compensate;          // the removed units' means into the biases
    int reconstruct;         // least squares for the output projections after each cut
    int guards;              // stop where a prune would be meaningless (guard.c)
    struct json *recover;    // a distill block, run between the steps (not after the last)
};
extern const struct option prune_option_table[];

struct prune_scores;

// Scores that were computed before from the same model and text, for many prunings of one model. Lifetime: the caller's; zero at
// first.
struct score_cache {
    char **key;
    struct prune_scores *scores;
    int n;
};
void score_cache_release(struct score_cache *c);

// What scores are computed from.
struct calibration {
    const struct dataset *data;
    const struct examples *examples; // a classifier's, instead of text; NULL: text
    int64_t seq_len, tokens, batch;
    uint64_t seed;
    enum precision precision;
    struct score_cache *cache; // of the model that the first step is given; NULL: none
};

// Scores of every unit: higher stays. A key/value group counts as the sum of its heads' scores plus `group`, what its own
// tensors add (0 where a score does not look at them).
struct prune_scores {
    double **head, **group, **ff; // [n_layer][n_head], [n_layer][n_kv_head], [n_layer][n_ff], 0 at first
    int64_t n_layer;
};

struct prune_score {
    const char *name;
    int passes;  // over the calibration text: 0 none, 1 forward, 2 forward and backward, 3 backward to the weights as well
    int power;   // to which scores add up as losses do, over layers and kinds of units: 1 a second-order estimate, 2 a
                 // first-order one (whose signs differ: Molchanov et al. 2019, eq. 8); 0: they do not
    const char *source;
    int (*compute)(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err);
};
extern const struct prune_score prune_score_table[]; // ends with name NULL
void prune_scores_init(struct prune_scores *s, const struct config *c);
void prune_scores_release(struct prune_scores *s);

// Which units stay, by their index in the model at hand.
struct layer_plan {
    int64_t *head, *group, *ff; // kept indices, ascending; owned. No heads: no attention; nothing at all: no such layer
    int64_t n_head, n_group, n_ff;
};
struct plan {
    struct layer_plan *layer;
    int64_t n_layer;
    int64_t *hidden, n_hidden; // kept hidden channels, owned; NULL: all
};
// Counts after pruning: the same fraction in every layer, heads * head_dim and ffn multiples of align (the nearest, at least
// one; groups stay whole: query heads per group keep equal numbers). Fractions, times `progress`, are of `whole` [n_layer]: the
// layers before the first step. Says on the log when alignment moved a fraction (at progress 1) by more than 0.02.
int plan_counts(const struct config *c, const struct layer_shape *whole, const struct prune_options *o, double progress,
                struct layer_shape *counts, struct error *err);

// What a shape costs, in the unit that `limit` is in; it never grows when a unit goes.
struct prune_budget {
    double limit;
    double (*cost)(void *context, const struct config *shape);
    int (*again)(void *context, const struct config *chosen); // 1: the costs were corrected, choose anew. NULL: never
    void *context;
    const char *unit; // "bytes"
};
// Counts by one ranking (rank.c): over all layers, to the fractions of all units or to the budget, with a floor for each
// layer; or, with the layers' own scope, to the budget by the same number of steps in each layer. c is the model at hand.
int rank_counts(const struct config *c, const struct layer_shape *whole, const struct prune_options *o,
                const struct prune_scores *s, double progress, const struct prune_budget *budget, struct layer_shape *counts,
                struct error *err);

// The best units of the given counts. mask: query heads are chosen one by one, without regard to their groups.
int plan_make(struct plan *p, const struct config *c, const struct prune_scores *s, const struct layer_shape *counts,
              int heads_by, int mask, struct error *err);
void plan_whole(struct plan *p, const struct config *c); // everything stays
void plan_release(struct plan *p);
// *after counts units of what `kept` leaves; afterwards it counts those of the model before `kept`, which is released (nothing
// in it: everything was kept).
void plan_compose(struct plan *kept, struct plan *after);
struct json *plan_json(const struct plan *p); // {"layers": [{"heads": [...], "groups": [...], "ff": [...]}]}
void plan_from_json(struct plan *p, const struct json *o); // what plan_json wrote
// Scores of the units that are removed together: [units of the layer], the caller frees. by group: of groups; by query: of
// sets of the i-th best query head of every group; mask: of single query heads.
double *plan_head_units(const struct layer_shape *s, const double *head, const double *group, int heads_by, int mask,
                        int64_t *units);

// A new, smaller model; every axis that counts a removed unit is cut, and layers of which nothing stays are gone.
struct model *shrink(const struct model *m, const struct plan *p);
// The same without a copy: its rows are read from m's, which must outlive it.
struct model *shrink_view(const struct model *m, const struct plan *p);
// A model of the same shape with zeros for every removed unit, on both sides.
struct model *zero_removed(const struct model *m, const struct plan *p);

// Gates of m: 1 for what the plan keeps, 0 for the rest (model_drop_gates ends it).
void mask_apply(struct model *m, const struct plan *p);
// A copy of m that computes what m without the removed hidden channels does.
struct model *mask_hidden(const struct model *m, const struct plan *p);
// Largest |logit difference| of two models over the largest |logit| of the first, in f32 on at least `tokens` tokens: of the
// calibration text, or of random ids where there is none.
double mask_difference(struct model *masked, struct model *sliced, const struct calibration *c, int64_t tokens);

// A new model: `cut`, which `plan` made of m, with what was removed, on average over the calibration text, in its biases. NULL: the
// family has none.
struct model *compensate(struct model *m, const struct model *cut, const struct plan *plan, const struct calibration *c, struct error *err);
// Gives the output projections of `cut`, which `plan` made of m, the least-squares fit to m's on the calibration text.
int reconstruct(struct model *m, struct model *cut, const struct plan *plan, const struct calibration *c, struct error *err);

// A score of the blocks of a model, most of which stay: what a layer, or a layer's attention or feed-forward block, adds.
enum block_part { PART_LAYER, PART_ATTENTION, PART_FF };
struct depth_score {
    const char *name;
    const char *source;
    // score [n_layer] of the blocks that m's gates do not leave out already; higher stays.
    int (*compute)(struct model *m, enum block_part part, const struct calibration *c, double *score, struct error *err);
};
extern const struct depth_score depth_score_table[]; // ends with name NULL
int depth_at_random(struct model *m, enum block_part part, const struct calibration *c, double *score, struct error *err);
// Which blocks stay when, of `whole` layers before the first step, the options' fractions times progress go: one is removed at
// a time, and the rest scored anew. Everything else stays. *changes: whether any goes.
int depth_plan(struct model *m, const struct layer_shape *whole, int64_t whole_layers, const struct prune_options *o,
               double progress, const struct calibration *c, struct plan *p, int *changes, struct error *err);
// Layers, attention and feed-forward blocks that such fractions, times progress, leave of a shape, by number alone (for a forecast).
void depth_counts(struct config *c, const struct prune_options *o, double progress);
// Which hidden channels stay: those whose normalised activations are largest (Minitron, Muralidharan et al. 2024, 2.2).
int hidden_plan(struct model *m, int64_t keep, int score_is_random, const struct calibration *c, struct plan *p,
                struct error *err);
// Hidden channels that a fraction leaves: the nearest multiple of align.
int64_t hidden_count(int64_t whole, double removed, int64_t align);

// Can a model of shape `to` begin with a part of a wider one of shape `from` (to_shape.c)? Not where no width is less: then model_inherit does.
int prune_shape_fits(const struct config *from, const struct config *to);
// That part, a new model. *score: of heads and feed-forward channels.
const struct prune_score *prune_score_named(const char *name); // NULL: there is none
int prune_to_shape(const struct model *from, const struct config *to, enum inherit_layers layers, const struct prune_score *score,
                   const struct calibration *c, struct model **out, struct error *err);

struct prune_state {              // lifetime: the stage's run
    const struct config *original; // the model before the first step
    struct plan kept;             // what of it is in the model at hand; n_layer 0: everything
    double difference;            // largest of the verification's figures
};
// Are the weights needed only row by row? Then m may be one whose weights lie in a file, and the result reads from it: a checkpoint
// larger than the memory can be pruned.
int prune_streams(const struct prune_options *o);
// One step: from m, what `state` says is left of the original, to the options' fractions (or the budget) times `progress`.
// Fails when a verification is above 1e-5 (f32). *out is the new model (the caller frees; where prune_streams and m's weights are
// behind hooks, before m).
int prune_step(struct model *m, struct prune_state *state, const struct prune_options *o, double progress,
               const struct prune_budget *budget, const struct calibration *c, struct model **out, struct error *err);
int prune_needs_text(const struct prune_options *o); // for scores or reconstruction
// The fraction of the way at step i (1-based) of n: linear i/n; cubic 1 - (1 - i/n)^3 (Zhu and Gupta 2017, eq. 1);
// exponential: what remains shrinks by the same factor in each step, to 1 - sparsity: (1 - (1 - s)^(i/n)) / s.
double prune_progress(enum prune_schedule schedule, int64_t i, int64_t n, double sparsity);

#endif
