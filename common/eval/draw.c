// draw.c: see draw.h.
#include "common/eval/draw.h"

#include <math.h>
#include <stddef.h>

int32_t likeliest_token(const float *logits, int64_t V) {
    int64_t best = 0;
    for (int64_t i = 1; i < V; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

// Of n weights exp((logits[i] - top) / T), summing up to `sum`: the one at share `at`. order NULL: tokens as they are.
static int32_t pick(const float *logits, int64_t n, const int32_t *order, double top, double temperature, double at) {
    int64_t last = 0;
    for (int64_t i = 0; i < n; i++) {
        const double p = exp(((double)logits[order ? order[i] : i] - top) / temperature);
        if (p > 0)
            last = i; // where rounding leaves `at` behind the end
        at -= p;
        if (at < 0)
            return order ? order[i] : (int32_t)i;
    }
    return order ? order[last] : (int32_t)last;
}

static int before(const float *logits, int32_t a, int32_t b) { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); }

static void sink(int32_t *heap, int64_t n, int64_t at, const float *logits) {
    for (;;) {
        int64_t first = at;
        for (int64_t child = 2 * at + 1; child <= 2 * at + 2 && child < n; child++)
            if (before(logits, heap[child], heap[first]))
                first = child;
        if (first == at)
            return;
        const int32_t swap = heap[at];
        heap[at] = heap[first];
        heap[first] = swap;
        at = first;
    }
}

// Moves the most likely tokens, one by one, from a heap at the beginning of `order` to its end until there are enough; returns how many, and
// their weights' sum. They stand at order[V - count ..].
static int64_t take_likeliest(const float *logits, int64_t V, const struct draw_options *o, double top, double total, int32_t *order, double *sum) {
    const int64_t most = o->top_k > 0 && o->top_k < V ? o->top_k : V;
    int64_t count = 0;
    for (int64_t i = 0; i < V; i++)
        order[i] = (int32_t)i;
    for (int64_t i = V / 2; i-- > 0;)
        sink(order, V, i, logits);
    *sum = 0;
    while (count < most && (count == 0 || *sum < o->top_p * total)) {
        const int32_t token = order[0];
        *sum += exp(((double)logits[token] - top) / o->temperature);
        count++;
        order[0] = order[V - count];
        order[V - count] = token;
        sink(order, V - count, 0, logits);
    }
    return count;
}

int32_t draw_token(const float *logits, int64_t V, const struct draw_options *o, struct random *random, int32_t *order) {
    if (o->temperature <= 0)
        return likeliest_token(logits, V);
    const double top = (double)logits[likeliest_token(logits, V)];
    double sum = 0;
    for (int64_t i = 0; i < V; i++)
        sum += exp(((double)logits[i] - top) / o->temperature);
    if (o->top_k <= 0 && o->top_p >= 1)
        return pick(logits, V, NULL, top, o->temperature, random_uniform(random) * sum);
    double kept;
    const int64_t n = take_likeliest(logits, V, o, top, sum, order, &kept);
    return pick(logits, n, order + V - n, top, o->temperature, random_uniform(random) * kept);
}
