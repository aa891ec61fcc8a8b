// optimizer.c: see optimizer.h.
//
// Everything here walks the flat arrays in chunks whose borders depend on the shapes alone. A chunk is computed by
// one thread by the same code, sums over chunks are taken in order: the bits do not depend on the number of threads.
#include "common/train/optimizer.h"

#include <math.h>
#include <stdlib.h>

#include "common/base/error.h"

#define CHUNK ((int64_t)65536)
#define LANES 8

void optimizer_init(struct optimizer *o, const struct optimizer_options *options, const struct model *m)
{
    *o = (struct optimizer){.options = *options};
    const size_t n = (size_t)model_trained(m);
    o->m = xcalloc(n, sizeof *o->m, "the optimizer's first moments");
    if (options->kind == OPTIMIZER_ADAMW)
        o->v = xcalloc(n, sizeof *o->v, "the optimizer's second moments");
}

void optimizer_release(struct optimizer *o)
{
    free(o->m);
    free(o->v);
    *o = (struct optimizer){0};
}

static double sum_of_squares(const float *x, int64_t n)
{
    double lane[LANES] = {0}; // independent sums, so that the compiler may use vectors
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int64_t j = 0; j < LANES; j++)
            lane[j] += (double)x[i + j] * (double)x[i + j];
    for (; i < n; i++)
        lane[0] += (double)x[i] * (double)x[i];
    double sum = 0;
    for (int j = 0; j < LANES; j++)
        sum += lane[j];
    return sum;
}

double gradient_norm(const struct model *m)
{
    int64_t n = model_trained(m), chunks = (n + CHUNK - 1) / CHUNK;
    double *part = xmalloc((size_t)chunks * sizeof *part, "partial sums of the gradient's norm");
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < chunks; c++)
        part[c] = sum_of_squares(m->grad + c * CHUNK, n - c * CHUNK < CHUNK ? n - c * CHUNK : CHUNK);
    double sum = 0;
    for (int64_t c = 0; c < chunks; c++)
        sum += part[c];
    free(part);
    return sqrt(sum);
}

struct update { // one step's factors, f32 as the arrays are
    float scale, beta1, beta2, eps, rate, keep, root;
};

// w = keep w - rate m / (root sqrt(v) + eps), where keep, rate and root hold decay and the bias corrections.
static void adamw(const struct update *u, int64_t n, float *restrict w, float *restrict g, float *restrict m,
                  float *restrict v)
{
    const float scale = u->scale, beta1 = u->beta1, beta2 = u->beta2, eps = u->eps;
    const float rate = u->rate, keep = u->keep, root = u->root;
    for (int64_t i = 0; i < n; i++) {
        float gradient = g[i] * scale;
        float mean = beta1 * m[i] + (1.0f - beta1) * gradient;
        float square = beta2 * v[i] + (1.0f - beta2) * (gradient * gradient);
        m[i] = mean;
        v[i] = square;
        w[i] = keep * w[i] - rate * (mean / (root * sqrtf(square) + eps));
        g[i] = 0.0f;
    }
}

static void sgd(const struct update *u, int64_t n, float *restrict w, float *restrict g, float *restrict m)
{
    const float scale = u->scale, momentum = u->beta1, rate = u->rate, keep = u->keep;
    for (int64_t i = 0; i < n; i++) {
        float mean = momentum * m[i] + g[i] * scale;
        m[i] = mean;
        w[i] = keep * w[i] - rate * mean;
        g[i] = 0.0f;
    }
}

// The factors of a step with learning rate lr, on parameters with or without decay.
static struct update update_at(const struct optimizer *o, double lr, double scale, int decay)
{
    const struct optimizer_options *p = &o->options;
    const int is_adamw = p->kind == OPTIMIZER_ADAMW;
    struct update u = {.scale = (float)scale, .beta1 = (float)(is_adamw ? p->beta1 : p->momentum), .rate = (float)lr};
    u.keep = (float)(decay ? 1 - lr * p->weight_decay : 1);
    if (is_adamw) {
        double correction1 = 1 - pow(p->beta1, (double)o->step), correction2 = 1 - pow(p->beta2, (double)o->step);
        u.beta2 = (float)p->beta2;
        u.eps = (float)p->eps;
        u.rate = (float)(lr / correction1);
        u.root = (float)(1 / sqrt(correction2));
    }
    return u;
}

void optimizer_step(struct optimizer *o, struct model *m, double lr, double scale)
{
    const int is_adamw = o->options.kind == OPTIMIZER_ADAMW;
    o->step++;
#pragma omp parallel
    for (int64_t i = 0, first = 0; i < m->n_parameter; i++) {
        const struct parameter *q = &m->parameter[i];
        if (q->frozen)
            continue;
        const struct update mine = update_at(o, o->factor ? lr * o->factor[i] : lr, scale, q->decay);
        int64_t n = q->n_stored;
#pragma omp for schedule(static) nowait
        for (int64_t c = 0; c < n; c += CHUNK) {
            int64_t at = q->offset + c, trained = first + c, count = n - c < CHUNK ? n - c : CHUNK;
            if (is_adamw)
                adamw(&mine, count, m->data + at, m->grad + trained, o->m + trained, o->v + trained);
            else
                sgd(&mine, count, m->data + at, m->grad + trained, o->m + trained);
        }
        first += n;
    }
}

double schedule_rate(const struct schedule *s, int64_t steps, int64_t step)
{
    const double peak = s->peak, floor = s->floor;
    const int64_t warmup = s->warmup;
    if (step < warmup)
        return peak * (double)(step + 1) / (double)warmup;
    int64_t last = steps - 1 - warmup; // the last step gets peak * floor
    double done = last > 0 ? (double)(step - warmup) / (double)last : 0;
    if (done > 1)
        done = 1;
    switch (s->kind) {
    case SCHEDULE_CONSTANT:
        return peak;
    case SCHEDULE_LINEAR:
        return peak * (1 - (1 - floor) * done);
    case SCHEDULE_COSINE:
        return peak * (floor + (1 - floor) * 0.5 * (1 + cos(M_PI * done)));
    case SCHEDULE_STEP:
        return peak * pow(s->decay, (double)(step / s->decay_every));
    }
    BUG("schedule_rate: kind %d", (int)s->kind);
}
