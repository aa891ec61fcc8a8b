// draw.h: the next token from a model's logits.
#ifndef PDQ_DRAW_H
#define PDQ_DRAW_H

#include <stdint.h>

#include "common/base/random.h"

struct draw_options {
    double temperature; // 0: the most likely one
    int64_t top_k;      // only the k most likely; 0: all
    double top_p;       // only the most likely ones that together reach this probability (Holtzman et al. 2020); 1: all
};

int32_t likeliest_token(const float *logits, int64_t V);
// order [V] is scratch, used with top_k or top_p alone. One number of the generator is used, none at temperature 0.
int32_t draw_token(const float *logits, int64_t V, const struct draw_options *o, struct random *random, int32_t *order);

#endif
