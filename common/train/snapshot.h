// snapshot.h: everything that a training run needs to go on: weights, moments, step, curve so far. One file, replaced
// whole.
#ifndef PDQ_SNAPSHOT_H
#define PDQ_SNAPSHOT_H

#include "common/train/optimizer.h"

struct snapshot { // lifetime: one training run
    int64_t step;
    int64_t evaluated;    // the last step with a held-out evaluation
    double best_held_out; // NaN: none yet
    float *best;          // its weights [model_trained], owned; NULL: not kept
    float *average;       // of the weights so far [model_trained], owned; NULL: none is made. There before snapshot_read where the run has one
    char *log;            // run.jsonl so far, NUL-terminated; owned
    size_t log_bytes, log_capacity;
    struct model *beside; // trained along (trainer.h), with its moments; neither owned, NULL: none
    struct optimizer *beside_optimizer;
    struct model *const *peer; // the same, [n_peer]
    struct optimizer *peer_optimizer;
    int n_peer;
};

// identity: a hash of all the run's inputs; a snapshot of another run is refused by name.
int snapshot_write(const char *path, const char *identity, const struct model *m, const struct optimizer *o,
                   const struct snapshot *s, struct error *err);
// Returns 1 when read, 0 when there is none, -1 on a damaged or foreign one.
int snapshot_read(const char *path, const char *identity, struct model *m, struct optimizer *o, struct snapshot *s,
                  struct error *err);

void snapshot_release(struct snapshot *s);

#endif
