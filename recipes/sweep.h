// sweep.h: one recipe at many points of a grid: quality against size and speed, as a table, a page and numbers for others.
//
//   OUT/stages/TYPE-HASH/   what the points' stages made; common beginnings are there once
//   OUT/points/HASH/        a point by the hash of its effective recipe: recipe.json, and point.json when it is done
//   OUT/sweep.csv           a row a point: the varied keys, seed, params, flops, bytes, nll, ..., columns ending in _tps
//   OUT/sweep.json          the same with controls, failures and inputs; speeds under "measured"
//   OUT/sweep.html          the page
#ifndef PDQ_SWEEP_H
#define PDQ_SWEEP_H

#include "recipes/grid.h"
#include "recipes/runner.h"

struct sweep_point { // lifetime: the sweep
    struct json *set; // {"prune.ffn": 0.5}
    char *name;
    int64_t seed;
    int is_control; // a random choice of what to remove, for comparison
    char hash[HASH_TEXT];
    struct json *facts, *speed; // the row of the last product; NULL: failed, or not there yet
    struct json *stages;        // facts of its stages: folders of loss curves
    char *failure;              // why there are none
    char *effective;            // what its result depends on
    const struct sweep_point *same; // an earlier point with the same effect
};

struct sweep {
    const struct grid *grid;
    struct sweep_point *point;
    int64_t n;
    struct json *parent; // its row
};

// All points for `seeds` seeds from the recipe's on. A point that fails is reported and the others go on; then the result
// is -1 with a message that counts them.
// jobs: so many points are worked on at once, by processes of this program with a share of the threads each.
int sweep_run(struct run *run, const struct grid *g, int64_t seeds, int64_t jobs, struct error *err);
// Is this process such a job? It works for the one that started it, which has claimed the folder.
int sweep_worker(void);
// Is every point a recipe? Keys and values are looked at before any work. *needs_text: whether any learns from text.
int sweep_check(const struct run *run, const struct grid *g, int64_t seeds, int *needs_text, struct error *err);
// Can every point be done? Prints what that would take.
int sweep_forecast(struct run *run, const struct grid *g, int64_t seeds, struct error *err);

// 1 where no other point of a list is both smaller in `cost` and in loss, or equal in one and smaller in the other.
void pareto_front(const double *cost, const double *loss, int64_t n, unsigned char *front);
int sweep_html_write(const struct sweep *s, const struct json *report, const char *out, struct error *err);

#endif
