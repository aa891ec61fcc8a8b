// statistics.c: see statistics.h.
#include "common/eval/statistics.h"

#include <math.h>
#include <stdlib.h>

double mean_of(const double *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i];
    return sum / (double)n;
}

double standard_error(const double *x, const double *y, double mean, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double gap = x[i] - (y ? y[i] : 0) - mean;
        sum += gap * gap;
    }
    return n > 1 ? sqrt(sum / (double)(n - 1) / (double)n) : 0;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void sort_doubles(double *x, int64_t n) { qsort(x, (size_t)n, sizeof *x, ascending); }

double percentile(const double *sorted, int64_t n, double share) {
    double at = share * (double)(n - 1);
    int64_t low = (int64_t)at;
    return low + 1 < n ? sorted[low] + (at - (double)low) * (sorted[low + 1] - sorted[low]) : sorted[n - 1];
}

struct paired paired_compare(const double *a, const double *b, int64_t n) {
    double mean = mean_of(a, n) - mean_of(b, n);
    double half = n > 1 ? NORMAL_95 * standard_error(a, b, mean, n) : HUGE_VAL;
    return (struct paired){mean, mean - half, mean + half};
}

struct share share_of(int64_t k, int64_t n)
{
    const double z = NORMAL_95, N = (double)n, p = (double)k / N;
    const double middle = (p + z * z / (2 * N)) / (1 + z * z / N);
    const double half = z / (1 + z * z / N) * sqrt(p * (1 - p) / N + z * z / (4 * N * N));
    return (struct share){p, middle - half, middle + half};
}

double mcnemar(int64_t b, int64_t c)
{
    const int64_t n = b + c, least = b < c ? b : c;
    double sum = 0;
    for (int64_t k = 0; k <= least; k++)
        sum += exp(lgamma((double)n + 1) - lgamma((double)k + 1) - lgamma((double)(n - k) + 1) - (double)n * M_LN2);
    return fmin(1, 2 * sum);
}
