// feature.h: losses on features: what a student's layers hold, beside what its teacher's hold.
//
//   recipe's list -> features_read (rows of feature_loss_table, weights, layer maps, projections)
//                 -> features_want (what both forward passes show) -> features_loss, once a micro-batch
//
// To add a loss:
//   1. a function in feature_<subject>.c: it returns the loss of one pair of places and its gradient (struct feature_input);
//   2. its prototype below and one row in feature_loss_table (feature.c);
//   3. its formula in PyTorch, written from the paper, in tests/ref/feature_golden.py. The checks in tests/unit/test_feature.c (against that,
//      finite differences, threads) and the recipe of tests/cli/features.sh take every row of the table.
#ifndef PDQ_FEATURE_H
#define PDQ_FEATURE_H

#include "common/model/model.h"
#include "distill/loss_weight.h"

struct distill_options;

// What one pair of places shows of both models, and which of it counts. Hidden states are [N, D], q [N, heads * E], k and v
// [N, groups * E], N = B T.
struct feature_input {
    int64_t B, T;
    const int32_t *length; // [B] tokens of each sequence; NULL: T
    int causal;            // a query sees the keys up to its own position, else all of its sequence
    // The samples, for losses on hidden states: rows of N, in groups: row[start[g]] .. row[start[g + 1] - 1]. A group is a sequence's
    // tokens, or, of first tokens, the whole batch.
    int64_t n_group;
    const int64_t *start, *row;
    struct tensor *student[2]; // [1]: of losses on two tensors (q and k; two layers)
    const struct tensor *teacher[2];
    int64_t student_heads[2], teacher_heads[2]; // of attention's tensors; relation heads
    double student_scale, teacher_scale;        // of attention's scores; 0: 1 / sqrt(E), as of relations
    int64_t window;                             // of attention that is causal, the same in both: the last keys that a query sees; 0: all
};

// Returns the loss, and adds k times its gradient to gradient[i], of student[i]'s shape (NULL: not wanted; the arrays are zero at first, or
// hold what another tensor of the same memory got). Scratch comes from the arena and goes back to it. The bits do not depend on the number of threads.
typedef double feature_function(struct arena *arena, const struct feature_input *in, double k, float *const gradient[2]);

enum feature_reads {
    READS_EMBEDDING, // hidden states before the first layer
    READS_HIDDEN,    // after a layer
    READS_FLOW,      // after a layer, and after the one before it in the map (the first: the embedding)
    READS_ATTENTION, // q and k
    READS_QUERIES, READS_KEYS, READS_VALUES
};

struct feature_loss {
    const char *name;
    enum feature_reads reads;
    int projects;        // needs equal widths: where they differ, a learned projection makes the student's the teacher's
    const char *map;     // by default
    int64_t samples;     // most samples of a group, by default; 0: all
    feature_function *function;
    const char *help;    // with its source
};
extern const struct feature_loss feature_loss_table[]; // ends with a name NULL

// feature_hidden.c
feature_function hidden_mse, hidden_cosine, hidden_pkd;
// feature_attention.c
feature_function attention_kl, attention_mse, attention_score_mse, attention_mse_entropy, relation_kl;
// feature_fsp.c, feature_similarity.c, feature_rkd.c, feature_cka.c
feature_function fsp, similarity, rkd_distance, rkd_angle, cka;

// The loss of one place as a node of the tape, weight * loss[1]; *value is the loss in double.
struct tensor *feature_record(struct tape *tape, const struct feature_loss *loss, const struct feature_input *in, double weight,
                              double *value);

struct feature { // one entry of the recipe's list; lifetime: one run
    const struct feature_loss *loss;
    char name[48];                   // in run.jsonl
    struct loss_weight weight;
    int teacher;                     // which one of several it looks at
    int64_t n_pair;
    int64_t *student_layer, *teacher_layer; // [n_pair]; of the embedding: one pair, not read
    int first;                       // only each sequence's first token
    int64_t relation_heads, samples; // 0: as many as fit; all
    struct tensor *projection;       // [teacher's width, student's width], or NULL
};

struct features {
    int n;
    struct feature *item;       // [n]
    struct model *projections;  // parameters alone; NULL: none
};

// Reads options->features and the shorthand options->hidden (loss hidden_mse); teacher [n_teacher]. Fills nothing that is to be released on
// failure. where: of the options, for messages.
int features_read(struct features *f, const struct distill_options *o, const struct config *student, const struct config *const *teacher,
                  int n_teacher, const char *where, struct error *err);
void features_release(struct features *f);
void features_initialise(struct features *f, uint64_t seed); // the projections' values
// enum tap bits that the forward pass of a teacher must show; the student's must show those of all.
unsigned features_want(const struct features *f, int teacher);
// What a step of `rows` tokens keeps for them until its backward pass, and the projections with their gradients and moments.
int64_t features_bytes(const struct features *f, const struct config *student, const struct config *const *teacher, int64_t rows);

// What the forward passes showed: arrays of taps, and room for them.
struct shown {
    struct taps taps;
    struct tensor **room;
};
void shown_init(struct shown *s, const struct config *c, unsigned want);
void shown_release(struct shown *s);

struct feature_batch { // a micro-batch, as the student and one teacher saw it
    const struct forward *forward;
    const struct shown *student, *teacher;
    const struct config *student_config, *teacher_config;
    int causal;
    int which; // of several teachers
};
// The sum of the losses that look at this teacher, each the mean over its pairs of layers times its weight at this share of the run times
// `weight`; value[n]: the means, of these losses alone. NULL: there is nothing to add.
struct tensor *features_loss(const struct features *f, struct tape *tape, const struct feature_batch *b, double weight, double share,
                             double *value);

// layer_map.c: pairs of layers from what a recipe says under `where` (NULL: by_default): a name of layer_map_names, or
// [[student layer, teacher layer], ...]. The caller frees the arrays, also on failure; returns their length, -1 on failure.
#define LAYER_MAPS "uniform|last|skip|first|final|width"
int64_t layer_map_read(const struct json *map, const char *by_default, const char *where, const struct config *student,
                       const struct config *teacher, int64_t **student_layer, int64_t **teacher_layer, struct error *err);

#endif
