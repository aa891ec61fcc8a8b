// observe.c: see observe.h.
#include "quant/observe.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/threads.h"
#include "common/tensor/vecmath.h"
#include "quant/overlay.h"

#define SHARE 0.9999 // of values that the percentile keeps
#define STEPS 100    // ranges that the squared error is compared at

void histogram_see(struct histogram *h, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        h->broken |= !isfinite(x[i]);
        h->most = (double)fabsf(x[i]) > h->most ? (double)fabsf(x[i]) : h->most;
    }
}

void histogram_count(struct histogram *h, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n && h->most > 0 && !h->broken; i++) {
        const int64_t bin = (int64_t)((double)fabsf(x[i]) / h->most * OBSERVE_BINS);
        h->count[bin < OBSERVE_BINS ? bin : OBSERVE_BINS - 1]++;
    }
    h->n += (double)n;
}

static double largest(const struct histogram *h, int bits)
{
    (void)bits;
    return h->most;
}

// The end of the bin in which the share is reached.
static double percentile(const struct histogram *h, int bits)
{
    double sum = 0;
    (void)bits;
    for (int i = 0; i < OBSERVE_BINS; i++) {
        sum += h->count[i];
        if (sum >= SHARE * h->n)
            return h->most * (i + 1) / OBSERVE_BINS;
    }
    return h->most;
}

// Mean squared error of the bins' middles, rounded to integers that reach up to `range`.
static double error_at(const struct histogram *h, int bits, double range)
{
    const double most = (double)((1 << (bits - 1)) - 1), scale = range / most;
    double sum = 0;
    for (int i = 0; i < OBSERVE_BINS; i++) {
        const double x = h->most * (i + 0.5) / OBSERVE_BINS, q = fmin(rint(x / scale), most) * scale;
        sum += h->count[i] * (x - q) * (x - q);
    }
    return sum;
}

static double least_error(const struct histogram *h, int bits)
{
    double best = h->most, least = INFINITY;
    for (int k = STEPS; k > 0 && h->most > 0; k--) {
        const double range = h->most * k / STEPS, error = error_at(h, bits, range);
        if (error < least) {
            least = error;
            best = range;
        }
    }
    return best;
}

// KL divergence between the first n bins, what is beyond put into the last of them, and the same in `levels` equal parts, each spread
// evenly over those of its bins that hold something.
static double divergence(const struct histogram *h, int n, int levels)
{
    double total = 0, beyond = 0, kl = 0, spread_total = 0;
    static _Thread_local double spread[OBSERVE_BINS];
    for (int i = 0; i < n; i++)
        spread_total += h->count[i];
    for (int i = n; i < OBSERVE_BINS; i++)
        beyond += h->count[i];
    total = spread_total + beyond;
    for (int k = 0; k < levels; k++) {
        const int first = (int)((int64_t)k * n / levels), last = (int)((int64_t)(k + 1) * n / levels);
        double sum = 0;
        int filled = 0;
        for (int i = first; i < last; i++) {
            sum += h->count[i];
            filled += h->count[i] > 0;
        }
        for (int i = first; i < last; i++)
            spread[i] = h->count[i] > 0 ? sum / filled : 0;
    }
    for (int i = 0; i < n; i++) {
        const double p = (h->count[i] + (i == n - 1 ? beyond : 0)) / total, q = spread[i] / spread_total;
        if (p > 0 && q > 0)
            kl += p * log(p / q);
        else if (p > 0)
            return INFINITY;
    }
    return kl;
}

// Migacz 2017, "8-bit inference with TensorRT": the range whose histogram loses the least when it is put into 2^(bits-1) levels.
static double entropy(const struct histogram *h, int bits)
{
    const int levels = 1 << (bits - 1);
    int best = OBSERVE_BINS;
    double least = INFINITY;
    for (int n = levels; n <= OBSERVE_BINS && h->most > 0; n++) {
        const double kl = divergence(h, n, levels);
        if (kl < least) {
            least = kl;
            best = n;
        }
    }
    return h->most * best / OBSERVE_BINS;
}

static const struct observer observers[] = {{"minmax", largest}, {"percentile", percentile}, {"mse", least_error}, {"entropy", entropy}};

const struct observer *observer_at(int i) { return &observers[i]; }

// ---- inputs ----

struct watch {
    struct histogram *of; // [LAYER_INPUTS], of the layer at hand
    int counts;           // the second pass
};

static void see(void *context, enum layer_input kind, const struct tensor *x)
{
    struct watch *w = context;
    if (w->counts)
        histogram_count(&w->of[kind], x->data, tensor_count(x));
    else
        histogram_see(&w->of[kind], x->data, tensor_count(x));
}

float *observe_inputs(const struct model *m, const struct walk_text *text, const struct observer *o, int bits)
{
    const int64_t L = m->config.n_layer;
    float *scale = xcalloc((size_t)(L * LAYER_INPUTS), sizeof *scale, "scales of inputs");
    struct histogram *h = xmalloc(LAYER_INPUTS * sizeof *h, "histograms of inputs");
    struct model *same = overlay_new(m);
    struct layer_walk walk;
    layer_walk_begin(&walk, same, text);
    for (int64_t l = 0; l < L && !interrupted(); l++) {
        struct watch w = {.of = h};
        memset(h, 0, LAYER_INPUTS * sizeof *h);
        overlay_hold_layer(same, l);
        for (w.counts = 0; w.counts < 2; w.counts++)
            layer_walk_look(&walk, l, (1U << LAYER_INPUTS) - 1, see, &w);
        for (int kind = 0; kind < LAYER_INPUTS; kind++)
            scale[l * LAYER_INPUTS + kind] =
                h[kind].broken ? NAN : fmaxf(FLT_MIN, (float)(o->range(&h[kind], bits) / (double)((1 << (bits - 1)) - 1)));
        layer_walk_advance(&walk, l);
        overlay_drop_layer(same, l);
    }
    layer_walk_end(&walk);
    model_free(same);
    free(h);
    return scale;
}
