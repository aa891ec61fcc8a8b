// report.h: the report of a run as a file and as a table.
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

#endif
