// forecast.h: what a run will do and need, stage by stage, before any of it happens.
#ifndef PDQ_FORECAST_H
#define PDQ_FORECAST_H

#include <stdio.h>

#include "recipes/stage.h"

struct forecasts { // lifetime: one run
    struct forecast *stage;
    int n;
    int64_t memory, disk; // peak of the whole run, all that it leaves
};

// Shapes of all stages; fails where a stage cannot do what it is asked, or where memory or disk (at `out`) do not suffice.
int forecasts_make(struct forecasts *f, const struct recipe *r, const struct config *parent, const struct tokenizer *t,
                   const char *out, struct error *err);
void forecasts_release(struct forecasts *f);
void forecasts_print(const struct forecasts *f, const struct recipe *r, FILE *to);
struct json *forecasts_json(const struct forecasts *f, const struct recipe *r);

// Where a model of this shape loads: {"transformers 4": "yes", ...}. The caller frees.
struct json *loads_json(const struct config *c, int is_gguf);

#endif
