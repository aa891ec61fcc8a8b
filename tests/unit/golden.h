// golden.h: reads the golden files that tests/ref/ writes: "# comment" lines, and "tensor NAME D0 D1 ..." lines
// followed by the values. A file that does not parse fails the test that wanted it.
#ifndef PDQ_GOLDEN_H
#define PDQ_GOLDEN_H

#include <criterion/criterion.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/tensor/tensor.h"

struct golden_tensor {
    char name[96];
    int n_dim;
    int64_t dim[2], count;
    double *value;
};

struct golden {
    char path[512];
    struct golden_tensor *tensor;
    int n;
};

static inline struct golden golden_open(const char *relative) {
    struct golden g = {"", NULL, 0};
    snprintf(g.path, sizeof g.path, "%s/tests/golden/%s", PDQ_SOURCE_DIR, relative);
    FILE *file = fopen(g.path, "r");
    cr_assert(file, "%s cannot be read", g.path);
    char line[1024];
    while (fgets(line, sizeof line, file)) {
        if (line[0] == '#' || line[0] == '\n')
            continue;
        struct golden_tensor t = {.dim = {0, 0}};
        long d0, d1 = 0;
        int got = sscanf(line, "tensor %95s %ld %ld", t.name, &d0, &d1);
        cr_assert(got >= 2 && d0 > 0, "%s: not a tensor's line: %s", g.path, line);
        t.n_dim = got - 1;
        t.dim[0] = d0;
        t.dim[1] = d1;
        t.count = got == 3 ? d0 * d1 : d0;
        t.value = xmalloc((size_t)t.count * sizeof(double), "golden values");
        for (int64_t i = 0; i < t.count; i++)
            cr_assert(fscanf(file, "%lf", &t.value[i]) == 1, "%s: %s ends at value %ld", g.path, t.name, (long)i);
        cr_assert(fgets(line, sizeof line, file), "%s: %s: the last line has no end", g.path, t.name);
        g.tensor = xrealloc(g.tensor, (size_t)(g.n + 1) * sizeof *g.tensor, "golden tensors");
        g.tensor[g.n++] = t;
    }
    fclose(file);
    return g;
}

static inline void golden_close(struct golden *g) {
    for (int i = 0; i < g->n; i++)
        free(g->tensor[i].value);
    free(g->tensor);
}

// The tensor "case.name" (prefix NULL: "name"); NULL when absent.
static inline const struct golden_tensor *golden_find(const struct golden *g, const char *prefix, const char *name) {
    char full[192];
    snprintf(full, sizeof full, "%s%s%s", prefix ? prefix : "", prefix ? "." : "", name);
    for (int i = 0; i < g->n; i++)
        if (strcmp(g->tensor[i].name, full) == 0)
            return &g->tensor[i];
    return NULL;
}

static inline const struct golden_tensor *golden_get(const struct golden *g, const char *prefix, const char *name) {
    const struct golden_tensor *t = golden_find(g, prefix, name);
    cr_assert(t, "%s has no tensor %s%s%s", g->path, prefix ? prefix : "", prefix ? "." : "", name);
    return t;
}

static inline double golden_number(const struct golden *g, const char *prefix, const char *name) {
    return golden_get(g, prefix, name)->value[0];
}

static inline int32_t *golden_ids(const struct golden *g, const char *prefix, const char *name) {
    const struct golden_tensor *t = golden_get(g, prefix, name);
    int32_t *ids = xmalloc((size_t)t->count * sizeof *ids, "golden ids");
    for (int64_t i = 0; i < t->count; i++)
        ids[i] = (int32_t)t->value[i];
    return ids;
}

// The largest error as a share of the largest golden value.
static inline void golden_expect(const struct golden_tensor *t, const float *found, double tolerance,
                                 const char *path) {
    double largest = 0, worst = -1;
    int64_t at = 0;
    for (int64_t i = 0; i < t->count; i++)
        largest = fmax(largest, fabs(t->value[i]));
    for (int64_t i = 0; i < t->count; i++) {
        double error = fabs((double)found[i] - t->value[i]) / fmax(largest, 1e-30);
        if (!(error <= worst)) {
            worst = error;
            at = i;
        }
    }
    cr_expect(worst <= tolerance, "%s: %s[%ld] is %.9g, PyTorch has %.9g: error %.2g of the largest, allowed %.2g",
              path, t->name, (long)at, (double)found[at], t->value[at], worst, tolerance);
}

#endif
