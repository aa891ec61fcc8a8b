// observe.h: ranges for rounding to integers, from what was seen: observers in one table.
//
// Each looks at values' magnitudes (ranges are symmetric) and says up to where b-bit integers should reach; what lies beyond is cut off.
#ifndef PDQ_OBSERVE_H
#define PDQ_OBSERVE_H

#include "common/eval/layer_walk.h"

#define OBSERVE_BINS 2048 // of a histogram of magnitudes

struct histogram { // of magnitudes; bins of equal width from 0 to `most`; lifetime: the caller's
    double most, count[OBSERVE_BINS], n;
    int broken; // a value that is no number was seen
};
// First every value is shown to find the largest, then every one is counted.
void histogram_see(struct histogram *h, const float *x, int64_t n);
void histogram_count(struct histogram *h, const float *x, int64_t n);

struct observer {
    const char *name;
    double (*range)(const struct histogram *h, int bits); // largest magnitude to reach; 0: nothing but zeros was seen
};
#define OBSERVERS "minmax|percentile|mse|entropy"
const struct observer *observer_at(int i); // in the order of OBSERVERS

// Scales for the inputs of every layer's matrices over a text, [n_layer * LAYER_INPUTS], range / (2^(bits-1) - 1); NaN where a
// value is not finite.
// Two passes. The caller frees.
float *observe_inputs(const struct model *m, const struct walk_text *text, const struct observer *o, int bits);

#endif
