// mixture.c: see mixture.h.
#include "common/data/mixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

static double sum(const double *v, int from, int to)
{
    double s = 0;
    for (int i = from; i < to; i++)
        s += v[i];
    return s;
}

// Of the first k of a span's draws from sources a .. b - 1, those from a .. middle - 1: their share, and what they are owed beyond a share of what
// all of a .. b - 1 are. It rises by 0 or 1 from k to k + 1, as every step of what is below does.
static int64_t left_of(const struct mixture_span *s, int a, int middle, int b, int64_t k)
{
    const double left = sum(s->weight, a, middle), share = left / (left + sum(s->weight, middle, b));
    const double owed = sum(s->owed, a, middle) - share * sum(s->owed, a, b);
    const double n = floor((double)k * share + owed + 0.5);
    if (share == 0 || share == 1) // a half of weight 0 gets nothing, also of what it is owed
        return share == 0 ? 0 : k;
    return n < 0 ? 0 : n > (double)k ? k : (int64_t)n;
}

static const struct mixture_span *span_at(const struct mixture *m, int64_t i)
{
    const struct mixture_span *s = &m->span[m->n_span - 1];
    while (s->first > i)
        s--;
    return s;
}

struct mixture_draw mixture_at(const struct mixture *m, int64_t i)
{
    const struct mixture_span *s = span_at(m, i);
    int a = 0, b = m->n;
    int64_t k = i - s->first;
    while (b - a > 1) {
        const int middle = a + (b - a) / 2;
        const int64_t left = left_of(s, a, middle, b, k);
        if (left_of(s, a, middle, b, k + 1) > left) {
            b = middle;
            k = left;
        } else {
            a = middle;
            k -= left;
        }
    }
    return (struct mixture_draw){.source = a, .number = s->count[a] + k};
}

static void count_draws(const struct mixture_span *s, int a, int b, int64_t k, int64_t *count)
{
    if (b - a == 1) {
        count[a] = s->count[a] + k;
        return;
    }
    const int middle = a + (b - a) / 2;
    const int64_t left = k ? left_of(s, a, middle, b, k) : 0;
    count_draws(s, a, middle, left, count);
    count_draws(s, middle, b, k - left, count);
}

void mixture_counts(const struct mixture *m, int64_t i, int64_t *count)
{
    const struct mixture_span *s = span_at(m, i);
    count_draws(s, 0, m->n, i - s->first, count);
}

static struct mixture_span *add_span(struct mixture *m, int64_t first, const double *weight)
{
    m->span = xrealloc(m->span, (size_t)(m->n_span + 1) * sizeof *m->span, "a mixture");
    struct mixture_span *s = &m->span[m->n_span++];
    *s = (struct mixture_span){.first = first,
                               .weight = xmalloc((size_t)m->n * sizeof *s->weight, "weights of sources"),
                               .count = xcalloc((size_t)m->n, sizeof *s->count, "draws of sources"),
                               .owed = xcalloc((size_t)m->n, sizeof *s->owed, "draws of sources")};
    const double all = sum(weight, 0, m->n);
    for (int k = 0; k < m->n; k++) {
        if (!(weight[k] >= 0) || !(all > 0) || !isfinite(all))
            BUG("mixture: weight %g of source %d, sum %g", weight[k], k, all);
        s->weight[k] = weight[k] / all;
    }
    return s;
}

void mixture_init(struct mixture *m, const double *weight, int n)
{
    *m = (struct mixture){.n = n};
    add_span(m, 0, weight);
}

void mixture_copy(struct mixture *m, const struct mixture *from)
{
    *m = (struct mixture){.n = from->n};
    for (int k = 0; k < from->n_span; k++) {
        struct mixture_span *s = add_span(m, from->span[k].first, from->span[k].weight);
        memcpy(s->weight, from->span[k].weight, (size_t)m->n * sizeof *s->weight); // bit for bit, not divided once more
        memcpy(s->count, from->span[k].count, (size_t)m->n * sizeof *s->count);
        memcpy(s->owed, from->span[k].owed, (size_t)m->n * sizeof *s->owed);
    }
}

void mixture_reweight(struct mixture *m, int64_t first, const double *weight)
{
    struct mixture_span *s = add_span(m, first, weight);
    const struct mixture_span *before = s - 1;
    if (first <= before->first)
        BUG("mixture: a change at draw %lld after one at draw %lld", (long long)first, (long long)before->first);
    count_draws(before, 0, m->n, first - before->first, s->count);
    for (int k = 0; k < m->n; k++)
        s->owed[k] = before->owed[k] + before->weight[k] * (double)(first - before->first) - (double)(s->count[k] - before->count[k]);
}

const double *mixture_weights(const struct mixture *m) { return m->span[m->n_span - 1].weight; }

void mixture_release(struct mixture *m)
{
    for (int k = 0; k < m->n_span; k++) {
        free(m->span[k].weight);
        free(m->span[k].count);
        free(m->span[k].owed);
    }
    free(m->span);
    *m = (struct mixture){0};
}
