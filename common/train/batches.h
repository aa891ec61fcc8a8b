// batches.h: the micro-batches of a training: text, examples or images, with their noise. Number k is a pure function of (data, seed, k).
#ifndef PDQ_BATCHES_H
#define PDQ_BATCHES_H

#include "common/train/trainer.h"

struct batches { // lifetime: one training; the memory of one micro-batch
    const struct trainer *trainer;
    struct dataset text;       // the trainer's, with a mixture that may change
    int32_t *inputs, *targets; // [batch * seq_len]
    struct tensor x;           // [batch, inputs] of images
    struct example_batch examples;
};

void batches_init(struct batches *b, const struct trainer *t);
void batches_release(struct batches *b);
// Micro-batch number `index`; returns its targets. What is returned lives until the next one; dropout as long as the batch is used.
const int32_t *batches_make(struct batches *b, int64_t index, const struct dropout *dropout, struct forward *forward);
// Tokens of the longest sequence in one.
int64_t batches_longest(const struct trainer *t);

#endif
