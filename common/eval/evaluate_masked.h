// evaluate_masked.h: how well a model tells words that are hidden from it (masked language modelling, Devlin et al. 2019, section 3.1).
#ifndef PDQ_EVALUATE_MASKED_H
#define PDQ_EVALUATE_MASKED_H

#include "common/base/json.h"
#include "common/data/examples.h"
#include "common/eval/statistics.h"
#include "common/model/model.h"

struct masked_result {
    int64_t n, errors;     // hidden words; those of which the model holds another for likelier
    double *nll;           // [n], owned: for paired comparisons between runs
    double mean_nll, nll_se;
    struct share accuracy;
};

// Which words are hidden depends on the examples alone, so that models can be compared word by word.
void evaluate_masked(struct masked_result *r, struct model *m, const struct examples *e, enum precision precision);
void masked_result_release(struct masked_result *r);
// {"words", "errors", "accuracy", "accuracy_low", "accuracy_high", "nll", "nll_se"}; shares in per cent, nll in nats a hidden word.
struct json *masked_result_json(const struct masked_result *r);

#endif
