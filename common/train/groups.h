// groups.h: which tensors a training moves, and how fast: "freeze": [PATTERN, ...], "rates": {PATTERN: factor, ...}.
//
// Patterns are those of common/model/name_pattern.h. Of several in "rates" that match a tensor the last one counts. A factor multiplies
// the learning rate, and with it the decay that goes by the rate.
#ifndef PDQ_GROUPS_H
#define PDQ_GROUPS_H

#include "common/train/trainer.h"

struct groups { // lifetime: one training
    unsigned char *frozen; // [n_parameter]
    double *factor;        // [n_parameter], NULL: 1 each
};

// Every pattern must match, and something must be left to train. Nothing is to be released on failure.
int groups_read(struct groups *g, const struct model *m, const struct train_options *o, const char *where, struct error *err);
void groups_release(struct groups *g);
// Is "rates" an object of numbers above 0? (What can be said without a model.)
int groups_check(const struct train_options *o, const char *where, struct error *err);

#endif
