// runner.h: runs a recipe's stages, each in its own folder, skipping what is done and resuming what was interrupted.
//
//   OUT/recipe.json   the effective recipe: the folder belongs to it
//   OUT/00-parent     measurements of the parent
//   OUT/01-prune      a stage: INPUTS (hash of what goes in), its product, DONE (written last: hash, facts, times)
//   OUT/stages/...    instead, with variants: folders named by their hash, so that common beginnings are run once
//   OUT/report.json, OUT/report.html
#ifndef PDQ_RUNNER_H
#define PDQ_RUNNER_H

#include "recipes/stage.h"

struct grid;

struct runner_options {
    const char *out;   // NULL: the recipe's, else runs/NAME
    int force;         // an output of another run is replaced
    int dry_run, json; // only say what would be done; as JSON
    int no_report;     // only the stages: no measurements, no report
    const struct grid *grid; // a sweep over these keys, for `seeds` seeds; NULL: the recipe alone
    int64_t seeds, jobs; // jobs: points worked on at once
};

// Settles r's defaults that depend on the model. On success *last (NULL: not wanted) is the path of the last stage's
// first product; the caller frees.
int runner_run(struct recipe *r, const struct runner_options *o, char **last, struct error *err);

// ---- for the runner, its variants and sweeps ----

enum measure { MEASURE_NOTHING, MEASURE_LOSS, MEASURE_ALL }; // no rows; rows; rows with speeds

struct chain { // what one recipe's stages left; lifetime: the report
    enum measure measure;
    struct json *stages, *rows;            // facts
    struct json *stage_times, *row_speeds; // measured, in the same order
    char *last_product;                    // path of the last stage's first product
    struct row_source *last; // the row of the last product; NULL: there is none
};

// shared: stage folders are OUT/stages/TYPE-HASH.
int chain_run(struct run *run, const struct recipe *r, int shared, enum measure measure, struct chain *c,
              struct error *err);
void chain_release(struct chain *c);
// All variants for all their seeds; fills report's "variants" and "comparisons".
int variants_run(struct run *run, struct json *report, struct error *err);
int variants_check(const struct recipe *r, struct error *err);
enum forecast_output { FORECAST_NOTHING, FORECAST_TEXT, FORECAST_JSON };
// Can every variant be done? Prints what each does and takes, where that is wanted.
int variants_forecast(const struct run *run, enum forecast_output output, struct error *err);
int recipe_needs_text(const struct recipe *r); // does a stage learn from text?

#endif
