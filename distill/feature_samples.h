// feature_samples.h: for losses on groups of samples. Internal to distill.
#ifndef PDQ_FEATURE_SAMPLES_H
#define PDQ_FEATURE_SAMPLES_H

#include "distill/feature.h"

struct group { // one group's samples, row by row
    int64_t n, D, Dt;
    float *x[2], *t[2]; // [n, D], [n, Dt]
    float *dx[2];       // [n, D], zero at first
    float *scratch;
};

// Returns a group's loss; adds k times its gradient to dx.
typedef double group_function(const struct group *g, double k);
typedef int64_t group_scratch(int64_t n, int64_t D, int64_t Dt); // floats that it needs, for up to n samples

// The mean over the groups, in which the samples' rows are all different.
double mean_over_groups(struct arena *arena, const struct feature_input *in, double k, float *const gradient[2], group_scratch *scratch,
                        group_function *function);

void samples_gather(const struct feature_input *in, int64_t g, const struct tensor *x, float *to);           // [n, columns]
void samples_scatter(const struct feature_input *in, int64_t g, int64_t D, const float *from, float *to);     // adds to rows of [N, D]

#endif
