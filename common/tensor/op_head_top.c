// op_head_top.c: a teacher's answers cut down to the likeliest entries and the mass of all others: taken from its output head, and learned
// from. What is learned from is a distribution over k + 1 events, entries and "any other", so the tail's mass is taught, its shape is not.
#include <math.h>
#include <stdlib.h>

#include "common/base/error.h"
#include "common/base/threads.h"
#include "common/tensor/op_head.h"
#include "common/tensor/vecmath.h"
#include "common/tensor/weight.h"

static double sum_row(const float *e, int64_t V)
{
    double total = 0;
    for (int64_t i = 0; i < V; i += SUM_BLOCK) {
        float s = 0;
        const int64_t end = min_i64(V, i + SUM_BLOCK);
#pragma omp simd reduction(+ : s)
        for (int64_t j = i; j < end; j++)
            s += e[j];
        total += (double)s;
    }
    return total;
}

static int rising(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

// With e = exp((z - top) / T), E = sum over all, R = sum over the tail: q_i = e_i / E, q_tail = R / E (R summed by itself: E less the
// entries would leave rounding). dKL/dz_i = (q_i - p_i) / T for an entry, q_j (1 - p_tail / q_tail) / T in the tail.
double head_top_row(const struct head_top *teacher, int64_t n, const float *z, float *to, int64_t V, double temperature, double weight)
{
    const int64_t k = teacher->k;
    const int32_t *id = teacher->id + n * k;
    const float *log_p = teacher->log_p + n * k;
    const float top = vec_max(z, V);
    double entries = 0, kl = 0;
    exp_row(z, to, V, top, (float)(1 / temperature));
    for (int64_t i = 0; i < k; i++) {
        entries += (double)to[id[i]];
        to[id[i]] = 0;
    }
    const double tail = sum_row(to, V), log_total = log(entries + tail), p_tail = exp((double)teacher->log_tail[n]);
    if (p_tail > 0 && tail > 0) // tail is 0 only where the entries are all of V: vec_exp stays above 0
        kl = p_tail * ((double)teacher->log_tail[n] - log(tail) + log_total);
    const float factor = tail > 0 ? (float)(weight / temperature * (1 / (entries + tail) - p_tail / tail)) : 0.0f;
#pragma omp simd
    for (int64_t j = 0; j < V; j++)
        to[j] *= factor;
    for (int64_t i = 0; i < k; i++) {
        const double log_q = ((double)z[id[i]] - (double)top) / temperature - log_total, p = exp((double)log_p[i]);
        kl += p * ((double)log_p[i] - log_q);
        to[id[i]] = (float)(weight / temperature * (exp(log_q) - p));
    }
    return kl;
}

// The indices of the k largest of z [V], in rising order; of equal ones the first.
static void find_largest(const float *z, int64_t V, int32_t *id, int64_t k)
{
    int64_t n = 0;
    for (int64_t v = 0; v < V; v++) { // id is sorted by falling value; few of V get in, so places are found by looking
        if (n == k && !(z[v] > z[id[k - 1]]))
            continue;
        int64_t at = n < k ? n++ : k - 1;
        for (; at > 0 && z[v] > z[id[at - 1]]; at--)
            id[at] = id[at - 1];
        id[at] = (int32_t)v;
    }
    qsort(id, (size_t)k, sizeof *id, rising);
}

static void take_row(const struct head_top *top, int64_t n, const float *z, float *scratch, int64_t V, double temperature)
{
    const int64_t k = top->k;
    int32_t *id = top->id + n * k;
    const float most = vec_max(z, V);
    double entries = 0;
    find_largest(z, V, id, k);
    exp_row(z, scratch, V, most, (float)(1 / temperature));
    for (int64_t i = 0; i < k; i++) {
        entries += (double)scratch[id[i]];
        scratch[id[i]] = 0;
    }
    const double tail = sum_row(scratch, V), log_total = log(entries + tail);
    for (int64_t i = 0; i < k; i++)
        top->log_p[n * k + i] = (float)(((double)z[id[i]] - (double)most) / temperature - log_total);
    top->log_tail[n] = tail > 0 ? (float)(log(tail) - log_total) : -INFINITY;
}

void op_head_top(struct tape *tape, const struct tensor *x, const struct tensor *w, const struct tensor *bias, double temperature,
                 const struct head_top *top)
{
    struct arena *arena = &tape->arena;
    const int64_t N = tensor_rows(x), D = tensor_columns(x), V = w->dim[0], rows = head_chunk_rows(N, V);
    if (w->dim[1] != D || top->k < 1 || top->k > V)
        BUG("op_head_top: %s[%ld,%ld] with %s[%ld,%ld], %ld entries", x->name, (long)N, (long)D, w->name, (long)V, (long)w->dim[1],
            (long)top->k);
    const size_t mark = arena_mark(arena);
    const float *values = weight_values(tape, w);
    float *z = arena_alloc(arena, (size_t)(rows * V) * sizeof(float));
    float *scratch = arena_alloc(arena, (size_t)(threads_count() * V) * sizeof(float));
    for (int64_t first = 0; first < N; first += rows) {
        const int64_t n = min_i64(rows, N - first);
        gemm(tape->precision, PLAIN, TRANSPOSED, n, V, D, x->data + first * D, D, values, D, 0, z, V);
        add_bias(z, n, V, bias);
#pragma omp parallel for schedule(dynamic, 8)
        for (int64_t r = 0; r < n; r++)
            take_row(top, first + r, z + r * V, scratch + thread_number() * V, V, temperature);
    }
    arena_reset(arena, mark);
}
