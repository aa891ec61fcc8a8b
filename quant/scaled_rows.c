// scaled_rows.c: see scaled_rows.h.
#include "quant/scaled_rows.h"

#include <math.h>
#include <stdlib.h>

#include "common/base/error.h"

#define CUT_STEP 0.05f

float scaled_rows_range(const float *x, int64_t n, int cut)
{
    float most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    return most * (1 - CUT_STEP * (float)cut);
}

void scaled_rows_clamp(const float *x, int64_t n, float range, float *to)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = fminf(fmaxf(x[i], -range), range);
}

static void rows(void *context, const struct tensor *w, int64_t row0, int64_t n, float *to)
{
    const struct scaled_rows *s = context;
    const int64_t C = tensor_columns(w);
    tensor_read_rows(s->base, row0, n, to);
    for (int64_t r = 0; r < n; r++) {
        float *x = to + r * C;
        for (int64_t c = 0; c < C && s->column; c++)
            x[c] = (float)((double)x[c] * s->column[c]);
        for (int64_t c = 0; c < C && s->row; c++)
            x[c] = (float)((double)x[c] / s->row[row0 + r]);
        for (int64_t c = 0; c < C && s->cut; c += s->group)
            scaled_rows_clamp(x + c, s->group, scaled_rows_range(x + c, s->group, s->cut[(row0 + r) * (C / s->group) + c / s->group]), x + c);
    }
}

struct scaled_rows *scaled_rows_new(const struct tensor *base)
{
    struct scaled_rows *s = xcalloc(1, sizeof *s, "factors of a matrix");
    *s = (struct scaled_rows){.hook = {.context = s, .rows = rows}, .base = base};
    return s;
}

void scaled_rows_free(struct scaled_rows *s)
{
    if (!s)
        return;
    free(s->column);
    free(s->row);
    free(s->cut);
    free(s);
}

static void *copy(const struct scaled_rows *s, const void *there, const void *from, size_t bytes)
{
    if (there)
        BUG("scaled_rows: %s has such factors already", s->base->name);
    void *to = xmalloc(bytes, "factors of a matrix");
    memcpy(to, from, bytes);
    return to;
}

void scaled_rows_multiply_columns(struct scaled_rows *s, const double *factor)
{
    if (s->row || s->cut)
        BUG("scaled_rows: columns of %s come before its rows", s->base->name);
    s->column = copy(s, s->column, factor, (size_t)tensor_columns(s->base) * sizeof *factor);
}

void scaled_rows_divide_rows(struct scaled_rows *s, const double *factor)
{
    if (s->cut)
        BUG("scaled_rows: rows of %s come before it is cut", s->base->name);
    s->row = copy(s, s->row, factor, (size_t)tensor_rows(s->base) * sizeof *factor);
}

void scaled_rows_cut(struct scaled_rows *s, int64_t group, const uint8_t *cut)
{
    s->cut = copy(s, s->cut, cut, (size_t)(tensor_count(s->base) / group));
    s->group = group;
}
