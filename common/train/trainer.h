// trainer.h: the training loop: batches, accumulation, clipping, schedule, snapshots, progress. It does not know what the
// loss is: a function gives the loss of one micro-batch (train: cross-entropy; distill: knowledge distillation).
//
// A run is a pure function of (start weights, data, options): interrupted at any moment and run again, it goes on from its
// last snapshot and ends with the same bytes.
#ifndef PDQ_TRAINER_H
#define PDQ_TRAINER_H

#include "common/data/dataset.h"
#include "common/train/optimizer.h"

struct train_options { // one option table row each: train_option_table
    int64_t steps, tokens;    // one of them (0: not given); tokens are rounded up to whole steps
    int64_t batch, accumulate; // sequences in a micro-batch, micro-batches in a step
    double learning_rate, floor, clip;
    int64_t warmup;
    int schedule, optimizer; // enum schedule_kind, enum optimizer_kind
    double beta1, beta2, eps, weight_decay, momentum;
    int64_t snapshot_every; // steps; 0: by time, about every two minutes
    int64_t eval_every;     // steps between held-out evaluations; 0: none
    int checkpoint;         // recompute blocks in the backward pass
    int keep_best;          // end with the weights of the best held-out loss
};

struct option;
extern const struct option train_option_table[]; // rows for struct train_options

struct loss_parts { // means over a micro-batch's counted tokens; what the curves show
    double loss, ce, kl, mse;
};

struct trainer {
    struct model *model;
    const struct dataset *data;
    int64_t seq_len;
    uint64_t seed;
    enum precision precision;
    struct train_options options;
    const char *title;  // for the progress line: "distill"
    const char *folder; // snapshots and run.jsonl live here; NULL: none
    // Loss of one micro-batch, divided by `accumulate` through `weight`: records on the tape and returns the root.
    struct tensor *(*loss)(void *context, struct tape *tape, const struct forward *forward, const int32_t *targets,
                           double weight, int64_t step, struct loss_parts *parts);
    void *context;
    // Held-out loss in nats per token, for eval_every and keep_best; NULL: none.
    double (*held_out)(void *context);
};

struct train_result {
    int64_t steps, tokens;
    double first_loss, last_loss; // means over the first and last ten steps
    double best_held_out;         // NaN: not measured
    double seconds, tokens_per_second; // of this process's share
};

int64_t train_steps(const struct train_options *o, int64_t seq_len);
// Runs (or resumes) to the end; on ^C leaves a snapshot and fails. Curves go to folder/run.jsonl, one object per step
// {"step","tokens","loss","ce","kl","lr","norm"} and {"step","held_out"}.
int trainer_run(struct trainer *t, struct train_result *result, struct error *err);

// The plain loss: cross-entropy. context: struct model *.
struct tensor *train_cross_entropy(void *context, struct tape *tape, const struct forward *forward, const int32_t *targets,
                                   double weight, int64_t step, struct loss_parts *parts);

#endif
