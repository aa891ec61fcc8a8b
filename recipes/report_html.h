// report_html.h: the report as one self-contained page, with plots by gnuplot where that is on PATH.
#ifndef PDQ_REPORT_HTML_H
#define PDQ_REPORT_HTML_H

#include "common/base/error.h"
#include "common/base/json.h"

// out: the run's folder, where the curves lie.
int report_html_write(const struct json *report, const char *out, const char *path, struct error *err);

#endif
