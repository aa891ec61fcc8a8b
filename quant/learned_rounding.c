// learned_rounding.c: see learned_rounding.h.
//
// A value of `up` has several bits while it is learned: how the weight is rounded now, and how it was at the start, at the step of the
// least loss (Cheng et al., algorithm 1), and after the last one.
#include "quant/learned_rounding.h"

#include <math.h>
#include <stdlib.h>

#include "common/base/error.h"
#include "common/base/threads.h"

struct rounding_choice *learned_rounding_add(struct learned_rounding *r, struct tensor *w)
{
    const size_t n = (size_t)tensor_count(w);
    if (r->n == r->capacity) {
        r->capacity = r->capacity ? 2 * r->capacity : 8;
        r->choice = xrealloc(r->choice, (size_t)r->capacity * sizeof *r->choice, "choices of a layer");
    }
    struct rounding_choice *c = &r->choice[r->n++];
    *c = (struct rounding_choice){.w = w};
    c->low = xcalloc(3 * n, sizeof *c->low, "levels to choose from");
    c->high = c->low + n;
    c->u = c->high + n;
    c->up = xcalloc(n, 1, "levels to choose from");
    w->grad = xcalloc(n, sizeof *w->grad, "gradients of weights");
    w->needs_grad = 1;
    return c;
}

void rounding_choice_set(struct rounding_choice *c, int64_t k, float low, float high, float x)
{
    c->low[k] = low;
    c->high[k] = high;
    c->u[k] = high != low ? fminf(fmaxf((x - low) / (high - low), 0), 1) : 0;
    c->up[k] = c->u[k] >= 0.5f;
}

void learned_rounding_release(struct learned_rounding *r)
{
    for (int i = 0; i < r->n; i++) {
        struct rounding_choice *c = &r->choice[i];
        free(c->w->grad);
        c->w->grad = NULL;
        c->w->needs_grad = 0;
        free(c->low);
        free(c->up);
    }
    free(r->choice);
    *r = (struct learned_rounding){0};
}

enum { NOW = 1, START = 2, BEST = 4, LAST = 8 };

static void show(const struct rounding_choice *c)
{
    const int64_t n = tensor_count(c->w);
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < n; k++)
        c->w->data[k] = c->up[k] & NOW ? c->high[k] : c->low[k];
}

// Remembers how the weights are rounded now.
static void mark(const struct learned_rounding *r, int as)
{
    for (int i = 0; i < r->n; i++) {
        unsigned char *up = r->choice[i].up;
        const int64_t n = tensor_count(r->choice[i].w);
        for (int64_t k = 0; k < n; k++)
            up[k] = (unsigned char)((up[k] & ~as) | (up[k] & NOW ? as : 0));
    }
}

// Rounds them again as they were then.
static void back_to(const struct learned_rounding *r, int as)
{
    for (int i = 0; i < r->n; i++) {
        unsigned char *up = r->choice[i].up;
        const int64_t n = tensor_count(r->choice[i].w);
        for (int64_t k = 0; k < n; k++)
            up[k] = (unsigned char)((up[k] & ~NOW) | (up[k] & as ? NOW : 0));
        show(&r->choice[i]);
    }
}

// One step of signed gradient descent; the gradients are used up.
static void move(const struct rounding_choice *c, float rate)
{
    const int64_t n = tensor_count(c->w);
    const float *low = c->low, *high = c->high;
    float *grad = c->w->grad, *value = c->w->data, *u = c->u;
    unsigned char *up = c->up;
#pragma omp parallel for simd schedule(static)
    for (int64_t k = 0; k < n; k++) {
        const float g = grad[k] * (high[k] - low[k]), v = u[k] - (g > 0 ? rate : g < 0 ? -rate : 0);
        u[k] = v < 0 ? 0 : v > 1 ? 1 : v;
        up[k] = (unsigned char)((up[k] & ~NOW) | (v >= 0.5f ? NOW : 0));
        value[k] = v >= 0.5f ? high[k] : low[k];
        grad[k] = 0;
    }
}

// Share of the weights that are not as at the start; nothing else is left in `up`.
static double settle(const struct learned_rounding *r)
{
    int64_t n = 0, changed = 0;
    for (int i = 0; i < r->n; i++) {
        unsigned char *up = r->choice[i].up;
        const int64_t here = tensor_count(r->choice[i].w);
        for (int64_t k = 0; k < here; k++) {
            changed += (up[k] & NOW) != (up[k] & START) / START;
            up[k] &= NOW;
        }
        n += here;
    }
    return (double)changed / (double)n;
}

// -1: a loss was not finite.
static int descend(const struct learned_rounding *r, int64_t steps, const struct rounding_loss *loss)
{
    double least = INFINITY;
    for (int64_t step = 0; step < steps && !interrupted(); step++) {
        const double now = loss->learn(loss->context, step);
        if (!isfinite(now))
            return -1;
        if (now < least)
            mark(r, BEST);
        least = fmin(now, least);
        for (int i = 0; i < r->n; i++)
            move(&r->choice[i], (float)((double)(steps - step) / (double)steps / (double)steps));
    }
    return 0;
}

int learned_rounding_run(struct learned_rounding *r, const struct rounding_options *o, const struct rounding_loss *loss,
                         struct rounding_result *result)
{
    for (int i = 0; i < r->n; i++)
        show(&r->choice[i]);
    mark(r, START);
    *result = (struct rounding_result){.before = loss->measure(loss->context)};
    if (!isfinite(result->before) || descend(r, o->steps, loss) < 0)
        return -1;
    const double last = loss->measure(loss->context);
    mark(r, LAST);
    back_to(r, BEST);
    result->after = loss->measure(loss->context);
    if (!(result->after <= last)) { // or not a number: a step sees a part of the data
        result->after = last;
        back_to(r, LAST);
    }
    if (!(result->after < result->before)) {
        result->after = result->before;
        back_to(r, START);
    }
    result->changed = settle(r);
    return isfinite(last) ? 0 : -1;
}
