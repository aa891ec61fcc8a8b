// report.h: the report of a run as a file and as a table, and the statistics of paired comparisons.
//
// Everything in the report is reproducible bit for bit, except the object "measured", which holds times, speeds,
// memory and dates.
#ifndef PDQ_REPORT_H
#define PDQ_REPORT_H

#include <stdint.h>
#include <stdio.h>

#include "common/base/error.h"
#include "common/base/json.h"

int report_write(const struct json *report, const char *path, struct error *err);
// A table of report's "rows" (with the speeds of "measured"), or of its "variants" and "comparisons".
void report_print(const struct json *report, FILE *to);

struct paired {
    double mean, low, high; // of a - b, with the 95 % interval over the pairs
};
// a and b [n]: losses of the same tokens.
struct paired paired_compare(const double *a, const double *b, int64_t n);

#endif
