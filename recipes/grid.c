// grid.c: see grid.h.
#include "recipes/grid.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "recipes/recipe.h"

#define VALUES_MAX 10000
#define HASH_DIGITS 16

static int same_value(const struct json *a, const struct json *b) {
    char *x = json_text(a, 0), *y = json_text(b, 0);
    int same = strcmp(x, y) == 0;
    free(x);
    free(y);
    return same;
}

static int add_value(struct grid_axis *a, struct json *value, struct error *err) {
    for (const struct json *v = json_first(a->values); v; v = json_next(v))
        if (same_value(v, value)) {
            char *text = json_text(value, 0);
            error_set(err, "--vary %s: the value %s is given twice", a->key, text);
            free(text);
            json_free(value);
            return -1;
        }
    json_push(a->values, value);
    return 0;
}

// A:B:STEP; values are A + i STEP, rounded to what 12 digits say, so that 0.1:0.9:0.1 gives 0.3 and not 0.30000000000000004.
static int add_range(struct grid_axis *a, double first, double last, double step, struct error *err) {
    double count = floor((last - first) / step + 1e-9);
    if (!(step > 0) || !(last >= first) || count >= VALUES_MAX)
        return error_set(err, "--vary %s=%g:%g:%g: expected FIRST:LAST:STEP with FIRST <= LAST, STEP > 0", a->key, first,
                         last, step);
    for (int i = 0; i <= (int)count; i++) {
        char text[32];
        snprintf(text, sizeof text, "%.12g", first + i * step);
        TRY(add_value(a, json_from_number(strtod(text, NULL)), err));
    }
    return 0;
}

static int add_list(struct grid_axis *a, const char *text, struct error *err) {
    for (const char *p = text;; p += strcspn(p, ",") + 1) {
        char *one = xasprintf("%.*s", (int)strcspn(p, ","), p);
        int status = *one ? add_value(a, recipe_value(a->key, one), err)
                          : error_set(err, "--vary %s=%s: a value is missing between commas", a->key, text);
        free(one);
        TRY(status);
        if (!p[strcspn(p, ",")])
            return 0;
    }
}

static int read_axis(struct grid *g, const char *text, struct error *err) {
    const char *equals = strchr(text, '=');
    if (!equals || equals == text)
        return error_set(err, "--vary %s: expected KEY=V1,V2,... or KEY=FIRST:LAST:STEP, as in prune.ffn=0.1:0.9:0.1", text);
    struct grid_axis *a = &g->axis[g->n++];
    *a = (struct grid_axis){xasprintf("%.*s", (int)(equals - text), text), json_array()};
    TRY(recipe_check_varied(a->key, "--vary", err));
    for (int i = 0; i < g->n - 1; i++)
        if (strcmp(g->axis[i].key, a->key) == 0)
            return error_set(err, "--vary %s is given twice; put all its values into one list", a->key);
    double first, last, step;
    int end = 0;
    if (sscanf(equals + 1, "%lf:%lf:%lf%n", &first, &last, &step, &end) == 3 && !equals[1 + end])
        return add_range(a, first, last, step, err);
    return add_list(a, equals + 1, err);
}

int grid_read(struct grid *g, const struct option_list *vary, struct error *err) {
    *g = (struct grid){.axis = xcalloc(vary->count + 1, sizeof *g->axis, "grid")};
    if (vary->count == 0)
        return error_set(err, "--vary is missing: which keys, as in --vary prune.ffn=0.1:0.9:0.1");
    for (size_t i = 0; i < vary->count; i++)
        TRY(read_axis(g, vary->item[i], err));
    return 0;
}

void grid_release(struct grid *g) {
    for (int i = 0; i < g->n; i++) {
        free(g->axis[i].key);
        json_free(g->axis[i].values);
    }
    free(g->axis);
    *g = (struct grid){0};
}

int64_t grid_points(const struct grid *g) {
    int64_t n = 1;
    for (int i = 0; i < g->n; i++)
        n *= json_count(g->axis[i].values);
    return n;
}

struct json *grid_point(const struct grid *g, int64_t i) {
    struct json *point = json_object();
    int64_t below = grid_points(g);
    for (int a = 0; a < g->n; a++) {
        below /= json_count(g->axis[a].values);
        int64_t index = i / below % json_count(g->axis[a].values);
        const struct json *v = json_first(g->axis[a].values);
        while (index--)
            v = json_next(v);
        json_set(point, g->axis[a].key, json_copy(v));
    }
    return point;
}

char *grid_name(const struct json *point) {
    char *name = xstrdup("");
    for (const struct json *v = json_first(point); v; v = json_next(v)) {
        char *text = json_kind(v) == JSON_STRING ? xstrdup(json_string(v)) : json_text(v, 0);
        char *longer = xasprintf("%s%s%s=%s", name, *name ? " " : "", json_key(v), text);
        free(text);
        free(name);
        name = longer;
    }
    return name;
}

void grid_hash(const struct recipe *r, char out[HASH_TEXT]) {
    struct json *o = recipe_json(r, 0);
    json_remove(o, "output");
    char *text = json_text(o, 0);
    hash_text(text, out);
    out[HASH_DIGITS] = 0;
    free(text);
    json_free(o);
}
