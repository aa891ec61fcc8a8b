// sample.h: many texts from a model at once, for training where there is no other text.
//
// Documents are drawn in batches, all as long, with keys and values cached. Document i is a function of the model, the options and i, however
// many threads there are and wherever a run begins: its random numbers are its own, and its batch is always the same.
#ifndef PDQ_SAMPLE_H
#define PDQ_SAMPLE_H

#include "common/eval/draw.h"
#include "common/model/model.h"

enum sample_start {
    SAMPLE_BOS,  // the model's own first token, after BOS (without one: a uniformly drawn token)
    SAMPLE_TOKEN // a uniformly drawn token, after BOS where there is one: more variety (as in LLM-QAT, Liu et al. 2023, section 3.1)
};
struct sample_plan {
    int64_t documents, length; // tokens of each: a text that ends (EOS) before is followed by another one, as training text is packed
    int64_t batch;
    int start;        // enum sample_start
    int32_t bos, eos; // -1: none
    struct draw_options draw;
    uint64_t seed;
};

// Documents first .. first + n - 1, n at most batch and first a multiple of it, into out [n, length].
void sample_batch(struct model *m, const struct sample_plan *p, int64_t first, int64_t n, int32_t *out);

#endif
