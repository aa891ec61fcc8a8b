// statistics.h: means, their errors, and paired comparisons of the losses of the same tokens.
#ifndef PDQ_STATISTICS_H
#define PDQ_STATISTICS_H

#include <stdint.h>

#define NORMAL_95 1.959963984540054 // half of a normal 95 % interval, in standard errors

double mean_of(const double *x, int64_t n);
// Standard error of the mean of x (minus y, unless NULL), whose mean is known. 0 for one value.
double standard_error(const double *x, const double *y, double mean, int64_t n);
// Sorts ascending.
void sort_doubles(double *x, int64_t n);
// Linear between the two nearest of n sorted values, as llama-perplexity takes it; share 0.95: the 95th percentile.
double percentile(const double *sorted, int64_t n, double share);

struct paired {
    double mean, low, high; // of a - b, with the 95 % interval over the pairs
};
// a and b [n]: losses of the same tokens. One pair says nothing of the spread: its interval is infinite.
struct paired paired_compare(const double *a, const double *b, int64_t n);

// A share k of n with its 95 % interval (Wilson 1927): never beyond 0 and 1.
struct share {
    double share, low, high;
};
struct share share_of(int64_t k, int64_t n);
// McNemar's exact test: the probability that of n = b + c disagreements one side has at least as many as the larger of b and c, by chance.
double mcnemar(int64_t b, int64_t c);

#endif
