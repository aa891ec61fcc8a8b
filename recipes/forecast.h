// forecast.h: what a run will do and need, stage by stage, before any of it happens.
#ifndef PDQ_FORECAST_H
#define PDQ_FORECAST_H

#include <stdio.h>

#include "recipes/stage.h"

struct forecasts { // lifetime: one run
    struct forecast *stage;
    int n;
    struct forecast measuring; // rows of the report: costs alone
    int64_t memory, disk, scratch; // peak of the whole run, all that it leaves, what more it has there meanwhile
};

// Shapes and costs of all stages; fails where a stage cannot do what it is asked, or where memory or disk do not
// suffice. Needs of the run its recipe, its folder and the parent's shape and tokenizer. measures: the run makes rows
// for a report.
int forecasts_make(struct forecasts *f, const struct run *run, int measures, struct error *err);
void forecasts_release(struct forecasts *f);
// text: what the recipe's stages learn from, as it was read.
void forecasts_print(const struct forecasts *f, const struct recipe *r, const struct dataset *text, FILE *to);
struct json *forecasts_json(const struct forecasts *f, const struct recipe *r, const struct dataset *text);

#endif
