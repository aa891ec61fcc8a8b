// latency.h: how long shapes take on this machine, from a table of blocks that is measured once and kept.
#ifndef PDQ_LATENCY_H
#define PDQ_LATENCY_H

#include "common/model/model.h"

// Milliseconds of a prefill as the reports measure it (SPEED_PREFILL tokens at once, f32): the sum over the layers of what the
// table says for their attention and feed-forward blocks, and for the rest. Shapes that are not in the table are measured, and
// kept in the user's cache folder for this CPU, number of threads and version (ZipLM's table: Kurtic et al. 2023, 3.2).
double latency_predict(const struct config *c);
// Milliseconds of a model of this shape with random weights: measured now, the median of several.
double latency_measure(const struct config *c);
// The time of one shape over that of another, measured now: medians of runs in turns, since a machine's speed drifts.
double latency_ratio(const struct config *c, const struct config *of);

#endif
