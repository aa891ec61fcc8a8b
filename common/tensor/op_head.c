// op_head.c: the output head and the losses on it, fused, so that logits of N x V are never held whole.
//
// Rows are walked in chunks; a chunk's logits (the student's and the teacher's) lie in the step arena and are dropped after
// it. In the forward pass of op_head_loss a chunk's logits are turned into their gradient in place, which is multiplied out at
// once: into w's gradient directly, into x's through a saved copy that the backward pass adds.
#include <math.h>
#include <string.h>

#include "common/base/error.h"
#include "common/base/threads.h"
#include "common/tensor/op_head.h"
#include "common/tensor/vecmath.h"
#include "common/tensor/weight.h"

#define CHUNK_ELEMENTS (8 << 20) // logits of one chunk
#define CHUNK_ROWS_MIN 64
#define CHUNK_ROWS_MAX 1024

int64_t head_chunk_rows(int64_t N, int64_t V)
{
    const int64_t rows = CHUNK_ELEMENTS / V / CHUNK_ROWS_MIN * CHUNK_ROWS_MIN;
    return min_i64(N, min_i64(CHUNK_ROWS_MAX, max_i64(CHUNK_ROWS_MIN, rows)));
}

double exp_row(const float *z, float *to, int64_t V, float top, float inverse_temperature)
{
    double total = 0;
    for (int64_t i = 0; i < V; i += SUM_BLOCK) {
        float s = 0;
        const int64_t end = min_i64(V, i + SUM_BLOCK);
#pragma omp simd reduction(+ : s)
        for (int64_t j = i; j < end; j++) {
            to[j] = vec_exp((z[j] - top) * inverse_temperature);
            s += to[j];
        }
        total += (double)s;
    }
    return total;
}

// The teacher's row zt becomes e = exp((zt - top) / T); *mean_gap = sum e ((zt - top_t) - (zs - top_s)); returns sum e.
static double teacher_row(float *zt, const float *zs, int64_t V, float top_t, float top_s, float inverse_temperature,
                          double *mean_gap)
{
    double total = 0, gap = 0;
    for (int64_t i = 0; i < V; i += SUM_BLOCK) {
        float s = 0, g = 0;
        const int64_t end = min_i64(V, i + SUM_BLOCK);
#pragma omp simd reduction(+ : s, g)
        for (int64_t j = i; j < end; j++) {
            const float t = zt[j] - top_t;
            const float e = vec_exp(t * inverse_temperature);
            s += e;
            g += e * (t - (zs[j] - top_s));
            zt[j] = e;
        }
        total += (double)s;
        gap += (double)g;
    }
    *mean_gap = gap;
    return total;
}

struct row_loss {
    double ce, kl;
    double further[DIVERGENCES];
    struct divergence_sums sums; // at the temperature; where there is a teacher
};

// Turns the logits zs into the gradient of hard * CE + soft_weight * T^2 KL of this row. zt may be NULL; soft [V] is scratch.
static struct row_loss loss_row(float *zs, float *zt, float *soft, int64_t V, int32_t target, double temperature, double hard_weight,
                                double soft_weight)
{
    struct row_loss loss = {0};
    const float inverse_temperature = (float)(1 / temperature);
    const float top = vec_max(zs, V);
    const double target_gap = (double)zs[target] - (double)top;
    double soft_sum = 0, teacher_sum = 1, gap = 0;
    if (zt) {
        const float top_t = vec_max(zt, V);
        teacher_sum = teacher_row(zt, zs, V, top_t, top, inverse_temperature, &gap);
        soft_sum = exp_row(zs, soft, V, top, inverse_temperature);
        loss.sums = (struct divergence_sums){top, top_t, log(soft_sum), log(teacher_sum)};
        loss.kl = gap / teacher_sum / temperature - log(teacher_sum) + log(soft_sum);
    }
    const double hard_sum = exp_row(zs, zs, V, top, 1);
    loss.ce = log(hard_sum) - target_gap;
    const float hard = (float)(hard_weight / hard_sum);
    if (zt) {
        const float student = (float)(soft_weight * temperature / soft_sum), teacher = (float)(soft_weight * temperature / teacher_sum);
        for (int64_t i = 0; i < V; i++)
            zs[i] = hard * zs[i] + student * soft[i] - teacher * zt[i];
    } else {
        for (int64_t i = 0; i < V; i++)
            zs[i] *= hard;
    }
    zs[target] -= (float)hard_weight;
    return loss;
}

static double divergence_weight(const struct head_spec *spec, int which)
{
    return spec->divergence ? spec->divergence[which] : which == DIVERGENCE_KL;
}

// The same with the likeliest entries of a teacher instead of all its logits; soft [V] gets the soft part of the gradient.
static struct row_loss top_loss_row(const struct head_spec *spec, int64_t n, float *zs, float *soft, int64_t V, double k)
{
    const double alpha = spec->alpha, temperature = spec->temperature;
    const double weight = k * alpha * divergence_weight(spec, DIVERGENCE_KL) * divergence_scale(DIVERGENCE_KL, temperature);
    const double kl = head_top_row(spec->top, n, zs, soft, V, temperature, weight);
    struct row_loss loss = loss_row(zs, NULL, NULL, V, spec->targets[n], 1, k * (1 - alpha), 0);
    loss.kl = kl;
    for (int64_t i = 0; i < V; i++)
        zs[i] += soft[i];
    return loss;
}

struct head_saved {
    float *dx; // [N, D], for an incoming gradient of 1; NULL: x needs none
};

static void head_backward(struct tape *tape, struct node *node)
{
    struct tensor *x = node->in[0];
    const struct head_saved *s = node->saved;
    if (node->out->grad[0] != 1.0f)
        BUG("op_head_loss: its gradient is made for a root; the incoming one is %g", (double)node->out->grad[0]);
    float beta;
    float *dx = tape_grad(tape, x, &beta);
    if (!dx)
        return;
    const int64_t n = tensor_count(x);
#pragma omp parallel for schedule(static) if (n > PARALLEL_MIN)
    for (int64_t i = 0; i < n; i++)
        dx[i] = s->dx[i] + (beta == 0.0f ? 0.0f : dx[i]);
}

struct head {
    struct tape *tape;
    struct tensor *x, *w;
    const struct head_spec *spec;
    const float *w_values, *teacher_values;
    int64_t N, D, V, rows, count;
    float *zs, *zt, *soft; // chunk logits [rows, V]; soft: one row a thread
    float *other;          // chunk logits of a teacher beside the first; NULL: there is none
    const float **further_values; // [n_further]
    double first_weight;   // of the first teacher
    float *kept;           // two rows a thread, where there are divergences beside KL; else NULL
    float *dx;
    struct row_loss *loss; // [N]
    int gradient;
    float *slope; // with a cap: of it, for the chunk's logits [rows, V]; NULL: no cap, or no gradient
};

// The capped logits' slopes, before these become their gradients.
static void keep_slopes(const struct head *h, int64_t n)
{
    const float inverse = (float)(1 / h->spec->cap);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < n; r++)
        for (int64_t v = r * h->V; v < (r + 1) * h->V; v++)
            h->slope[v] = 1 - h->zs[v] * inverse * (h->zs[v] * inverse);
}

static void times_slopes(const struct head *h, int64_t r)
{
    for (int64_t v = r * h->V; v < (r + 1) * h->V; v++)
        h->zs[v] *= h->slope[v];
}

void add_bias(float *z, int64_t n, int64_t V, const struct tensor *bias)
{
    for (int64_t r = 0; bias && r < n; r++)
        for (int64_t v = 0; v < V; v++)
            z[r * V + v] += bias->data[v];
}

void cap_logits(float *z, int64_t n, int64_t V, double cap)
{
    const float k = (float)cap, inverse = 1 / k;
    if (cap <= 0)
        return;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < n; r++)
        for (int64_t v = r * V; v < (r + 1) * V; v++)
            z[v] = k * vec_tanh(z[v] * inverse);
}

static void add_bias_gradient(const float *dz, int64_t n, int64_t V, struct tensor *bias)
{
    if (!bias || !bias->needs_grad)
        return;
    for (int64_t v = 0; v < V; v++) {
        double sum = 0;
        for (int64_t r = 0; r < n; r++)
            sum += (double)dz[r * V + v];
        bias->grad[v] += (float)sum;
    }
}

// One row with all its losses: KL and CE turn the logits into their gradient, so the divergences beside them need copies.
static struct row_loss head_row(const struct head *h, int32_t target, float *zs, float *zt, double k)
{
    const struct head_spec *spec = h->spec;
    const int64_t V = h->V, thread = thread_number();
    const double alpha = zt ? spec->alpha : 0;
    float *own = NULL, *other = NULL;
    if (h->kept) {
        own = h->kept + 2 * thread * V;
        other = own + V;
        memcpy(own, zs, (size_t)V * sizeof *own);
        memcpy(other, zt, (size_t)V * sizeof *other);
    }
    struct row_loss loss =
        loss_row(zs, zt, h->soft + thread * V, V, target, spec->temperature, k * (1 - alpha), k * alpha * divergence_weight(spec, DIVERGENCE_KL));
    const struct divergence_row row = {own, other, V, spec->temperature, spec->beta};
    for (int d = DIVERGENCE_KL + 1; h->kept && d < DIVERGENCES; d++)
        if (spec->divergence[d] > 0)
            loss.further[d] =
                divergence_add(d, &row, &loss.sums, k * alpha * spec->divergence[d] * divergence_scale(d, spec->temperature), zs);
    return loss;
}

// A teacher's logits of the chunk's rows.
static void teacher_logits(const struct head *h, int64_t first, int64_t n, const struct head_teacher *t, const float *values, float *z)
{
    const int64_t Dt = t->w->dim[1];
    gemm(h->tape->precision, PLAIN, TRANSPOSED, n, h->V, Dt, t->x + first * Dt, Dt, values, Dt, 0, z, h->V);
    add_bias(z, n, h->V, t->bias);
    cap_logits(z, n, h->V, t->cap);
}

// What all teachers say together (op_head_mean.c) into zt; one alone as it is.
static void teachers_chunk(const struct head *h, int64_t first, int64_t n)
{
    const struct head_spec *spec = h->spec;
    const int64_t V = h->V;
    for (int i = 0; i <= spec->n_further; i++) {
        const struct head_teacher one = {spec->teacher_x, spec->teacher_w, spec->teacher_bias, h->first_weight, spec->teacher_cap};
        const struct head_teacher *t = i ? &spec->further[i - 1] : &one;
        float *z = i ? h->other : h->zt;
        teacher_logits(h, first, n, t, i ? h->further_values[i - 1] : h->teacher_values, z);
#pragma omp parallel for schedule(dynamic, 8) if (spec->n_further > 0)
        for (int64_t r = 0; r < (spec->n_further ? n : 0); r++) {
            mean_weigh_row(z + r * V, h->soft + thread_number() * V, V, spec->temperature, t->weight, spec->mean_logits);
            if (i)
                mean_add_row(h->zt + r * V, z + r * V, V, spec->mean_logits);
            if (i == spec->n_further)
                mean_end_row(h->zt + r * V, V, spec->temperature, spec->mean_logits);
        }
    }
}

static void head_chunk(const struct head *h, int64_t first)
{
    const int64_t n = min_i64(h->rows, h->N - first), V = h->V;
    const double k = h->gradient ? h->spec->weight / (double)h->count : 0;
    const enum precision precision = h->tape->precision;
    gemm(precision, PLAIN, TRANSPOSED, n, V, h->D, h->x->data + first * h->D, h->D, h->w_values, h->D, 0, h->zs, V);
    add_bias(h->zs, n, V, h->spec->bias);
    if (h->zt)
        teachers_chunk(h, first, n);
    cap_logits(h->zs, n, V, h->spec->cap);
    if (h->slope)
        keep_slopes(h, n);
#pragma omp parallel for schedule(dynamic, 8)
    for (int64_t r = 0; r < n; r++) {
        const int32_t target = h->spec->targets[first + r];
        h->loss[first + r] = (struct row_loss){0};
        if (target < 0)
            memset(h->zs + r * V, 0, (size_t)V * sizeof(float));
        else if (h->spec->top)
            h->loss[first + r] = top_loss_row(h->spec, first + r, h->zs + r * V, h->soft + thread_number() * V, V, k);
        else
            h->loss[first + r] = head_row(h, target, h->zs + r * V, h->zt ? h->zt + r * V : NULL, k);
        if (h->slope)
            times_slopes(h, r);
    }
    if (h->dx)
        gemm(precision, PLAIN, PLAIN, n, h->D, V, h->zs, V, h->w_values, h->D, 0, h->dx + first * h->D, h->D);
    if (h->gradient && h->w->needs_grad)
        weight_add_gradient(h->tape, h->w, n, h->zs, h->x->data + first * h->D);
    if (h->gradient)
        add_bias_gradient(h->zs, n, V, h->spec->bias);
}

static void head_check(const struct tensor *x, const struct tensor *w, const struct head_spec *spec)
{
    const int64_t V = w->dim[0];
    if (w->dim[1] != tensor_columns(x) || (spec->teacher_x && spec->teacher_w->dim[0] != V))
        BUG("op_head_loss: %s[%ld,%ld] with %s[%ld,%ld], teacher's vocabulary %ld", x->name, (long)tensor_rows(x),
            (long)tensor_columns(x), w->name, (long)V, (long)w->dim[1],
            spec->teacher_x ? (long)spec->teacher_w->dim[0] : (long)V);
    for (int64_t n = 0; n < tensor_rows(x); n++)
        if (spec->targets[n] >= V)
            BUG("op_head_loss: target %d at row %ld, vocabulary %ld", (int)spec->targets[n], (long)n, (long)V);
}

// Means over the counted rows, and the loss that they make.
static struct head_result head_sum(const struct head *h)
{
    const struct head_spec *spec = h->spec;
    struct head_result sum = {.count = h->count};
    for (int64_t n = 0; n < h->N; n++) {
        sum.ce += h->loss[n].ce;
        sum.kl += h->loss[n].kl;
        for (int d = DIVERGENCE_KL + 1; d < DIVERGENCES; d++)
            sum.divergence[d] += h->loss[n].further[d];
    }
    const double count = (double)max_i64(1, h->count), alpha = spec->teacher_x || spec->top ? spec->alpha : 0;
    sum.ce /= count;
    sum.kl /= count;
    double soft = divergence_weight(spec, DIVERGENCE_KL) * divergence_scale(DIVERGENCE_KL, spec->temperature) * sum.kl;
    for (int d = DIVERGENCE_KL + 1; d < DIVERGENCES; d++) {
        sum.divergence[d] /= count;
        soft += divergence_weight(spec, d) * divergence_scale(d, spec->temperature) * sum.divergence[d];
    }
    sum.divergence[DIVERGENCE_KL] = sum.kl;
    sum.loss = spec->weight * (alpha * soft + (1 - alpha) * sum.ce);
    return sum;
}

static void find_further(struct head *h)
{
    struct arena *arena = &h->tape->arena;
    const struct head_spec *spec = h->spec;
    h->first_weight = 1;
    if (!spec->n_further)
        return;
    h->other = arena_alloc(arena, (size_t)(h->rows * h->V) * sizeof(float));
    h->further_values = arena_alloc(arena, (size_t)spec->n_further * sizeof *h->further_values);
    for (int i = 0; i < spec->n_further; i++) {
        if (spec->further[i].w->dim[0] != h->V)
            BUG("op_head_loss: a teacher's vocabulary %ld, expected %ld", (long)spec->further[i].w->dim[0], (long)h->V);
        h->further_values[i] = weight_values(h->tape, spec->further[i].w);
        h->first_weight -= spec->further[i].weight;
    }
}

struct tensor *op_head_loss(struct tape *tape, struct tensor *x, struct tensor *w, const struct head_spec *spec,
                            struct head_result *result)
{
    head_check(x, w, spec);
    struct arena *arena = &tape->arena;
    struct tensor *y = tape_tensor(tape, "loss", 1, 1, 1, 1);
    struct head h = {.tape = tape, .x = x, .w = w, .spec = spec, .N = tensor_rows(x), .D = tensor_columns(x), .V = w->dim[0],
                     .gradient = tape->recording && (x->needs_grad || w->needs_grad || (spec->bias && spec->bias->needs_grad))};
    h.rows = head_chunk_rows(h.N, h.V);
    for (int64_t n = 0; n < h.N; n++)
        h.count += spec->targets[n] >= 0;
    struct node *node = tape_record(tape, head_backward, y, x, w, spec->bias, NULL);
    if (node) {
        h.dx = x->needs_grad ? arena_alloc(arena, (size_t)(h.N * h.D) * sizeof(float)) : NULL;
        struct head_saved *saved = node->saved = arena_alloc(arena, sizeof *saved);
        saved->dx = h.dx;
    }
    const size_t mark = arena_mark(arena);
    h.w_values = weight_values(tape, w);
    if (spec->teacher_x) {
        h.teacher_values = weight_values(tape, spec->teacher_w);
        h.zt = arena_alloc(arena, (size_t)(h.rows * h.V) * sizeof(float));
        find_further(&h);
        for (int d = DIVERGENCE_KL + 1; d < DIVERGENCES && !h.kept; d++)
            if (divergence_weight(spec, d) > 0)
                h.kept = arena_alloc(arena, (size_t)(2 * threads_count() * h.V) * sizeof(float));
    }
    if (spec->teacher_x || spec->top)
        h.soft = arena_alloc(arena, (size_t)(threads_count() * h.V) * sizeof(float));
    h.zs = arena_alloc(arena, (size_t)(h.rows * h.V) * sizeof(float));
    h.slope = spec->cap > 0 && h.gradient ? arena_alloc(arena, (size_t)(h.rows * h.V) * sizeof(float)) : NULL;
    h.loss = arena_alloc(arena, (size_t)h.N * sizeof *h.loss);
    for (int64_t first = 0; first < h.N; first += h.rows)
        head_chunk(&h, first);
    const struct head_result sum = head_sum(&h);
    y->data[0] = (float)sum.loss;
    if (result)
        *result = sum;
    arena_reset(arena, mark);
    return y;
}

// -log softmax(z)[target]; *sum_out and *top_out for those who need the distribution.
static double row_nll(const float *z, float *e, int64_t V, int32_t target, double *log_sum, float *top)
{
    *top = vec_max(z, V);
    *log_sum = log(exp_row(z, e, V, *top, 1));
    return *log_sum - ((double)z[target] - (double)*top);
}

static int64_t first_at(const float *z, int64_t V, float value)
{
    for (int64_t i = 0; i < V; i++)
        if (z[i] == value)
            return i;
    return -1;
}

static void eval_row(const struct head_eval *e, int64_t n, const float *z, const float *reference, float *scratch, int64_t V)
{
    double log_sum, reference_log_sum;
    float top, reference_top;
    e->nll[n] = row_nll(z, scratch, V, e->targets[n], &log_sum, &top);
    if (e->top)
        e->top[n] = (int32_t)first_at(z, V, top);
    if (!reference)
        return;
    e->against_nll[n] = row_nll(reference, scratch, V, e->targets[n], &reference_log_sum, &reference_top);
    double kl = 0;
    const float shift = top - reference_top;
    for (int64_t i = 0; i < V; i += SUM_BLOCK) {
        float s = 0;
        const int64_t end = min_i64(V, i + SUM_BLOCK);
#pragma omp simd reduction(+ : s)
        for (int64_t j = i; j < end; j++)
            s += scratch[j] * (reference[j] - z[j] + shift);
        kl += (double)s;
    }
    e->kl[n] = kl / exp(reference_log_sum) - reference_log_sum + log_sum;
    e->agree[n] = first_at(z, V, top) == first_at(reference, V, reference_top);
}

void op_head_eval(struct tape *tape, const struct tensor *x, const struct tensor *w, const struct head_eval *eval)
{
    struct arena *arena = &tape->arena;
    const int64_t N = tensor_rows(x), D = tensor_columns(x), V = w->dim[0], rows = head_chunk_rows(N, V);
    if (w->dim[1] != D || (eval->against_x && eval->against_w->dim[0] != V))
        BUG("op_head_eval: %s[%ld,%ld] with %s[%ld,%ld]", x->name, (long)N, (long)D, w->name, (long)V, (long)w->dim[1]);
    const size_t mark = arena_mark(arena);
    const float *values = weight_values(tape, w), *against_values = NULL;
    float *z = arena_alloc(arena, (size_t)(rows * V) * sizeof(float)), *reference = NULL;
    float *scratch = arena_alloc(arena, (size_t)(threads_count() * V) * sizeof(float));
    if (eval->against_x) {
        against_values = weight_values(tape, eval->against_w);
        reference = arena_alloc(arena, (size_t)(rows * V) * sizeof(float));
    }
    for (int64_t first = 0; first < N; first += rows) {
        const int64_t n = min_i64(rows, N - first), Da = eval->against_x ? eval->against_w->dim[1] : 0;
        gemm(tape->precision, PLAIN, TRANSPOSED, n, V, D, x->data + first * D, D, values, D, 0, z, V);
        if (reference)
            gemm(tape->precision, PLAIN, TRANSPOSED, n, V, Da, eval->against_x + first * Da, Da, against_values, Da, 0,
                 reference, V);
        add_bias(z, n, V, eval->bias);
        if (reference)
            add_bias(reference, n, V, eval->against_bias);
        cap_logits(z, n, V, eval->cap);
        if (reference)
            cap_logits(reference, n, V, eval->against_cap);
#pragma omp parallel for schedule(dynamic, 8)
        for (int64_t r = 0; r < n; r++)
            if (eval->targets[first + r] >= 0)
                eval_row(eval, first + r, z + r * V, reference ? reference + r * V : NULL, scratch + thread_number() * V, V);
    }
    arena_reset(arena, mark);
}
