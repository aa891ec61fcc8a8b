// lottery.h: lottery tickets (Frankle and Carbin 2019): train, prune what has the least score, rewind what is left, again;
// with controls, pruning at initialisation, dynamic sparse training and the stability to SGD noise beside it.
//
// Sparsity is said both ways, because papers mix them: Pm, the per cent of weights that remain, and sparsity, the per cent removed.
//
// To add a way to choose a mask before training: a function in at_init.c and one row in its table.
#ifndef PDQ_LOTTERY_H
#define PDQ_LOTTERY_H

#include "common/train/trainer.h"
#include "prune/ticket_mask.h"

enum ticket_score { TICKET_MAGNITUDE, TICKET_MAGNITUDE_INCREASE, TICKET_RANDOM };

struct lottery_options { // rows in lottery_option_table (which also holds train_option_table's rows through `train`)
    int64_t rounds;
    double rate, output_rate;
    int granularity, scope, score; // enum granularity, mask_scope, ticket_score
    struct json *rewind;           // {"to": "init", a step or "5%"; "weights": true}
    struct json *controls, *control_rounds;
    struct json *methods; // at initialisation or dynamic: {"snip": [5, 2]}, Pm in per cent
    int64_t score_batches;
    int fresh_weights; // at initialisation: train other random weights than those that were scored
    int distribution; // dynamic: 0 Erdos-Renyi, 1 uniform
    int64_t update_every;
    double update_share, update_end;
    struct json *stability; // {"at": [steps], "rounds": [rounds]}
    struct json *seeds;
    int init; // begin with fresh random weights; else with the model's own (an early snapshot), whatever the seed
    int64_t jobs;
    struct train_options train;
};
extern const struct option lottery_option_table[];

struct lottery_measure {
    double loss;     // nats per example or token
    double accuracy; // per cent; NaN: there is none
};

// What is trained. Its functions are called from several threads at once, each with a model of its own.
struct lottery_task {
    void *context;
    int is_language;
    struct config config;
    // Data, loss and precision of a trainer; everything else in it is the lottery's.
    void (*attach)(void *context, struct trainer *t, struct model *m);
    int (*measure)(void *context, struct model *m, int is_test, struct lottery_measure *out, struct error *err);
    // The weights to begin from, with a seed; m has storage.
    int (*fill)(void *context, struct model *m, uint64_t seed, struct error *err);
    int has_test; // apart from the validation data
};

// What no option row can check. where: for messages.
int lottery_check(const struct lottery_options *o, const char *where, struct error *err);
// How many trainings there are, and their steps together; weighted: each counts as much as its mask leaves to be multiplied.
int64_t lottery_count(const struct lottery_options *o, int64_t default_seed, int weighted, double *steps);
// Runs what is not done yet. *results: a list of objects, one for each training:
//   {"kind": "dense" | "ticket" | a control | a method, "seed", "round", "rewind" (a step), "pm", "sparsity", "early_stop", "validation_loss",
//    "test_acc", "test_loss", "final_validation_loss", "final_test_acc", "steps", "folder"}
// and for stability {"kind": "stability", "seed", "round", "at", "pm", "loss": [11], "error": [11], "barrier", "error_barrier"}.
// early_stop: the step of least validation loss; test_acc: there. Files under folder: seed-S/initial, rewind, round-RR[-control],
// METHOD-PM, each a model's folder with mask/, run.jsonl and result.json, which is written last.
int lottery_run(const struct lottery_task *task, const struct lottery_options *o, const char *folder, int64_t default_seed,
                struct json **results, struct json **seconds, struct error *err);

// Scores of a fresh model before any training (at_init.c): -1 with a message where the method does not fit.
struct at_init {
    const char *name;
    // t: attached to m, whose gradients exist. score [n_element]: higher is kept.
    int (*score)(struct trainer *t, struct model *m, int64_t batches, float *score, struct error *err);
    int rounds; // the mask is cut in so many steps, scored anew each time
};
extern const struct at_init at_init_methods[]; // ends with a row without a name

// Dynamic sparse training (dynamic.c): the trainer's remask. growth: by gradient (RigL) or at random (SET).
struct dynamic {
    int grows_by_gradient;
    int64_t every, end; // steps
    double share;       // of the kept weights that are exchanged, falling along a cosine to 0 at `end`
    uint64_t seed;
};
void dynamic_remask(void *context, int64_t step, struct model *m, unsigned char *is_zero, float *first, float *second);

#endif
