// generate.h: text from a model, one token at a time, and how fast that goes.
#ifndef PDQ_GENERATE_H
#define PDQ_GENERATE_H

#include "common/eval/draw.h"
#include "common/model/model.h"
#include "common/text/tokenizer.h"

struct generate_options {
    int64_t tokens;     // how many new ones at most
    struct draw_options draw;
    uint64_t seed;
    int stop_at_eos;
};

// Continues prompt [n]; each new id goes to emit as it comes (return non-zero to stop). Returns the number of new
// tokens; -1: a logit is no number, so there is no likeliest token.
int64_t generate(struct model *m, const int32_t *prompt, int64_t n, const struct generate_options *o,
                 int (*emit)(void *context, int32_t id), void *context);

// Prefills of B sequences of T random tokens, timed one by one, so that models can be measured in turns.
struct speed_timer {
    struct model *model;
    struct tape tape;
    int32_t *ids;
    int64_t B, T;
};
void speed_timer_init(struct speed_timer *t, struct model *m, int64_t B, int64_t T);
double speed_timer_run(struct speed_timer *t); // seconds: the forward pass, and the head on each sequence's last position
void speed_timer_release(struct speed_timer *t);

// Seconds to take in n random tokens one by one, from an empty context; n > 0.
double speed_decode(struct model *m, int64_t n);

struct speed_result {
    double prefill, decode; // tokens/s, medians of the runs
};
// Prefill of prompt_tokens at once, then decode of new_tokens one by one, as llama-bench counts them.
// A large model takes long for one run, so it gets fewer: speed_runs says how many, the first of which warms up.
int speed_runs(int64_t parameters);
double speed_prefill(struct model *m, int64_t prompt_tokens); // seconds, the median
void speed_measure(struct model *m, int64_t prompt_tokens, int64_t new_tokens, struct speed_result *r);

#endif
