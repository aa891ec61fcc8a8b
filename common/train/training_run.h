// training_run.h: one training while it runs: what trainer.h's options become, and what its parts share (training_step.c, held_out.c).
// Internal to common/train.
#ifndef PDQ_TRAINING_RUN_H
#define PDQ_TRAINING_RUN_H

#include "common/base/hash.h"
#include "common/train/gradients.h"
#include "common/train/groups.h"
#include "common/train/lora.h"
#include "common/train/snapshot.h"

struct training_run {
    struct trainer *trainer;
    struct model *trained;              // the trainer's model, or the factors of lora
    struct lora lora;                   // without factors: none
    struct groups groups;
    struct gradients gradients;
    struct optimizer optimizer, beside; // of `trained`; of trainer->beside
    struct optimizer *peer;             // [n_peer]
    struct snapshot state;
    unsigned char *is_zero;             // [model_trained] weights that stay zero; NULL: none
    int64_t steps, step_tokens;
    char identity[HASH_TEXT];
    char *snapshot_path, *log_path; // NULL: no folder
    double snapshot_time, train_seconds;
    double recent_loss;
};

// For a trainer whose inputs were found fine (trainer_inputs.h): at its first step.
void training_run_init(struct training_run *r, struct trainer *t);
void training_run_release(struct training_run *r); // the model is as any other again
// The caller's moments become those of the optimizer's end.
void training_run_give_moments(const struct training_run *r);

int64_t training_run_last_step(const struct training_run *r);
int64_t training_run_draws(const struct training_run *r); // sequences in a step

#endif
