// lottery_report.h: what a lottery's trainings say together: means and spreads over the seeds, curves against the weights that remain,
// published figures beside ours, barriers.
#ifndef PDQ_LOTTERY_REPORT_H
#define PDQ_LOTTERY_REPORT_H

#include <stdio.h>

#include "common/base/json.h"

// rounds: the report's list of trainings (prune/lottery.h). A list of groups, in the order in which they appear first:
//   {"kind", "round", "rewind", "pm", "sparsity", "seeds", and for each measure "mean", "sd", "low", "high"}
struct json *lottery_groups(const struct json *rounds);
// Frankle and Carbin's figures for LeNet-300-100 on MNIST beside what was measured: {"what", "published", "measured"}.
struct json *lottery_published(const struct json *groups);
void lottery_print(const struct json *rounds, FILE *to);
// Sections of the page; 0 when a plot is missing because gnuplot is not there.
int lottery_html(FILE *page, const struct json *rounds);

#endif
