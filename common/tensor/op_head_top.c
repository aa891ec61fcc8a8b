// op_head_top.c: a teacher's answers cut down to the likeliest entries, the mass of all others and draws from those: taken from its output
// head, and learned from.
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

struct logits { // of the student, in one row: log q_i = (z_i - top) / T - log_total
    const float *z;
    float top;
    double temperature, log_total;
};

static double log_q(const struct logits *l, int32_t id) { return ((double)l->z[id] - (double)l->top) / l->temperature - l->log_total; }

// The tail as draws: what they add to the divergence. Each stands for mass / draws of p; dKL/dz_j = (q_j - p_j) / T, of which q_j is there.
static double tail_drawn(const struct head_top *teacher, int64_t n, const struct logits *l, float *to, double weight)
{
    const int64_t draws = teacher->draws[n];
    const double log_mass = (double)teacher->log_tail[n], mass = exp(log_mass), each = mass / (double)draws;
    const float step = (float)(weight / l->temperature * each);
    double kl = mass * (log_mass - (double)teacher->entropy[n]);
    for (int64_t i = 0; i < draws; i++) {
        const int32_t id = teacher->drawn[n * teacher->m + i];
        kl -= each * log_q(l, id);
        to[id] -= step;
    }
    return kl;
}

// With e = exp((z - top) / T), E = sum over all, R = sum over the tail: q_i = e_i / E, q_tail = R / E (R summed by itself: E less the
// entries would leave rounding). dKL/dz_i = (q_i - p_i) / T for an entry; in the tail, where it is one event, q_j (1 - p_tail / q_tail) / T.
double head_top_row(const struct head_top *teacher, int64_t n, const float *z, float *to, int64_t V, double temperature, double weight)
{
    const int64_t k = teacher->k;
    const int32_t *id = teacher->id + n * k;
    const float *log_p = teacher->log_p + n * k;
    const int drawn = teacher->m > 0 && teacher->draws[n] > 0;
    struct logits l = {z, vec_max(z, V), temperature, 0};
    double entries = 0, kl = 0;
    exp_row(z, to, V, l.top, (float)(1 / temperature));
    for (int64_t i = 0; i < k; i++) {
        entries += (double)to[id[i]];
        to[id[i]] = 0;
    }
    const double tail = sum_row(to, V), log_tail = (double)teacher->log_tail[n], p_tail = exp(log_tail);
    l.log_total = log(entries + tail);
    if (!drawn && p_tail > 0 && tail > 0) // tail is 0 only where the entries are all of V: vec_exp stays above 0
        kl = p_tail * (log_tail - log(tail) + l.log_total);
    const float factor = tail > 0 ? (float)(weight / temperature * (1 / (entries + tail) - (drawn ? 0 : p_tail / tail))) : 0.0f;
#pragma omp simd
    for (int64_t j = 0; j < V; j++)
        to[j] *= factor;
    if (drawn)
        kl = tail_drawn(teacher, n, &l, to, weight);
    for (int64_t i = 0; i < k; i++) {
        const double log_student = log_q(&l, id[i]), p = exp((double)log_p[i]);
        kl += p * ((double)log_p[i] - log_student);
        to[id[i]] = (float)(weight / temperature * (exp(log_student) - p));
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

// Draws from the tail e [V], where the entries are 0; mass: its share of all. An entry is drawn as often as draws e / sum e says, up to less
// than one more or less, and exactly so often in the mean over the starts.
static void draw_tail(const struct head_top *top, int64_t n, const float *e, int64_t V, double mass, double start)
{
    const int64_t draws = min_i64(top->m, (int64_t)ceil((double)top->m * mass));
    int32_t *drawn = top->drawn + n * top->m, last = 0;
    double total = 0, passed = 0;
    int64_t i = 0;
    for (int64_t v = 0; v < V; v++)
        total += (double)e[v];
    const double step = total / (double)draws;
    for (int64_t v = 0; v < V && i < draws; v++) {
        if (e[v] > 0)
            last = (int32_t)v;
        for (passed += (double)e[v]; i < draws && ((double)i + start) * step < passed; i++)
            drawn[i] = (int32_t)v;
    }
    for (; i < draws; i++) // where the last place rounds to the very end
        drawn[i] = last;
    top->draws[n] = (int32_t)draws;
}

// The entropy of the tail by itself: log sum e - sum e log e / sum e, log e = (z - most) / T.
static double tail_entropy(const float *e, const float *z, int64_t V, float most, double temperature)
{
    double total = 0, sum = 0;
    for (int64_t v = 0; v < V; v++) {
        total += (double)e[v];
        sum += (double)e[v] * (((double)z[v] - (double)most) / temperature);
    }
    return fmax(0, log(total) - sum / total); // one entry has none: rounding
}

static void take_row(const struct head_top *top, int64_t n, const float *z, float *scratch, int64_t V, double temperature, const double *start)
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
    if (!top->m)
        return;
    top->draws[n] = 0;
    top->entropy[n] = 0;
    if (tail > 0) {
        draw_tail(top, n, scratch, V, tail / (entries + tail), start[n]);
        top->entropy[n] = (float)tail_entropy(scratch, z, V, most, temperature);
    }
}

void op_head_top(struct tape *tape, const struct tensor *x, const struct tensor *w, const struct tensor *bias, double cap, double temperature,
                 const double *start, const struct head_top *top)
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
        cap_logits(z, n, V, cap);
#pragma omp parallel for schedule(dynamic, 8)
        for (int64_t r = 0; r < n; r++)
            take_row(top, first + r, z + r * V, scratch + thread_number() * V, V, temperature, start);
    }
    arena_reset(arena, mark);
}
