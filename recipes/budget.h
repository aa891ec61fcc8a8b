// budget.h: what a pruned model may take: parameters, bytes of the file that a later stage writes, FLOPs, or milliseconds.
//
// To add a kind: one row in budget_kinds (budget.c).
#ifndef PDQ_BUDGET_H
#define PDQ_BUDGET_H

#include "prune/prune.h"
#include "recipes/stage.h"

struct budget { // lifetime: a stage's run or forecast
    struct prune_budget prune; // what the ranking is given; limit: at the end of the way
    double parent;             // what the model before the first step takes
    double correction;         // "ms": measured over predicted, of the shape at hand
    struct config original;    // not owned
    const struct recipe *recipe;
    const struct stage_run *run; // NULL: a forecast
    const struct tokenizer *tokenizer;
    int index; // of the prune stage
};

// Exactly one known key with a positive number; bytes need a later stage that writes GGUF.
int budget_check(const struct recipe *r, int index, const struct json *budget, const char *where, struct error *err);
// From {"bytes": 4e6}; a value below 1 is a share of what `original` takes. run: NULL in a forecast.
int budget_open(struct budget *b, const struct recipe *r, int index, const struct json *budget, const struct config *original,
                const struct tokenizer *tokenizer, const struct stage_run *run, struct error *err);
// The limit after a part of the way.
double budget_limit(const struct budget *b, double progress);

#endif
