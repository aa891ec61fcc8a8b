// grid.h: the points of a sweep: every combination of the values of some recipe keys.
#ifndef PDQ_GRID_H
#define PDQ_GRID_H

#include <stdint.h>

#include "common/base/error.h"
#include "common/base/hash.h"
#include "common/base/json.h"
#include "common/base/options.h"

struct recipe;

struct grid_axis {
    char *key;           // as --set names it: "prune.ffn"
    struct json *values; // array
};

struct grid { // process lifetime
    struct grid_axis *axis;
    int n;
};

// vary: "KEY=V1,V2,..." or "KEY=A:B:STEP" (A and B included). An empty list, a key or a value given twice are errors.
int grid_read(struct grid *g, const struct option_list *vary, struct error *err);
void grid_release(struct grid *g);

int64_t grid_points(const struct grid *g);
// Point number i, the last key varying fastest: {"prune.ffn": 0.5, "prune.score": "taylor"}. The caller frees.
struct json *grid_point(const struct grid *g, int64_t i);
// The same as one line: "prune.ffn=0.5 prune.score=taylor". The caller frees.
char *grid_name(const struct json *point);
// Names a point's folder: 16 hex digits of the recipe's text with every default filled in, paths as written.
void grid_hash(const struct recipe *r, char out[HASH_TEXT]);

#endif
