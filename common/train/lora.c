// lora.c: see lora.h.
//
// Plainly, the hook multiplies by the factors one after the other and never makes B A:
//
//   y = x W^T + (s x A^T) B^T        dx = dy W + (s dy B) A        dB = dy^T (s x A^T)        dA = (s dy B)^T x,    s = alpha / rank
//
// With zeros to keep it makes W + s (B A where W is not zero) as scratch, and the whole weight's gradient G:
//
//   dB = s G A^T        dA = s B^T G,    G zero where W is
#include "common/train/lora.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/base/random.h"
#include "common/model/name_pattern.h"
#include "common/tensor/tape.h"

#define ROW_BLOCK 32 // rows that one thread makes at a time

static const struct option table[] = {
    {"rank", OPTION_INT, offsetof(struct lora_options, rank), "8", 1, 4096, NULL, "N", "columns of B and rows of A"},
    {"alpha", OPTION_DOUBLE, offsetof(struct lora_options, alpha), "16", 1e-6, 1e6, NULL, "R", "the product is multiplied by alpha / rank"},
    {"targets", OPTION_LIST, offsetof(struct lora_options, targets), NULL, 0, 0, NULL, "PATTERN", "matrices of layers; by default all"},
    {0}};

int lora_options_read(struct lora_options *o, const struct json *object, const char *where, struct error *err)
{
    char place[160];
    options_init(table, o);
    snprintf(place, sizeof place, "%s.lora", where);
    return options_read_json(table, o, object, place, err);
}

void lora_options_release(struct lora_options *o) { options_release(table, o); }

// Embeddings and heads are read in other ways than by op_linear, and are what recovery needs least.
static int may_be_target(const struct parameter *p) { return p->layer >= 0 && p->t.n_dim == 2; }

static int is_target(const struct model *m, const struct parameter *p, const struct lora_options *o)
{
    int is = o->targets.count == 0;
    for (size_t k = 0; k < o->targets.count && !is; k++)
        is = name_matches(m, p, o->targets.item[k]);
    return is && may_be_target(p);
}

int64_t lora_elements(const struct model *m, const struct lora_options *o, const char *where, double *share, struct error *err)
{
    char place[160];
    int64_t n = 0;
    double targets = 0, all = 0;
    snprintf(place, sizeof place, "%s.lora.targets", where);
    for (size_t k = 0; k < o->targets.count; k++) {
        int found = 0;
        for (int i = 0; i < m->n_parameter; i++)
            found += may_be_target(&m->parameter[i]) && name_matches(m, &m->parameter[i], o->targets.item[k]);
        if (!found)
            return name_error(m, may_be_target, o->targets.item[k], place, err);
    }
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        all += may_be_target(p) ? (double)tensor_count(&p->t) : 0;
        if (!is_target(m, p, o))
            continue;
        n += o->rank * (p->t.dim[0] + p->t.dim[1]);
        targets += (double)tensor_count(&p->t);
    }
    *share = targets / fmax(1, all);
    return n ? n : error_set(err, "%s: a %s model has no matrices in layers; leave \"lora\" out", place, m->config.model_type);
}

// out[N,O] = k p[N,I] q, q as gemm takes it; in the step's arena.
static float *product(struct tape *tape, enum transpose tq, int64_t N, int64_t O, int64_t I, const float *p, const float *q, int64_t ldq, float k)
{
    float *out = arena_alloc(&tape->arena, (size_t)(N * O) * sizeof *out);
    gemm(tape->precision, PLAIN, tq, N, O, I, p, I, q, ldq, 0, out, O);
    for (int64_t i = 0; i < N * O; i++)
        out[i] *= k;
    return out;
}

static void forward(void *context, struct tape *tape, const struct tensor *w, int64_t N, const float *x, float *y)
{
    const struct lora_weight *l = context;
    const int64_t O = w->dim[0], I = w->dim[1], R = l->a->dim[0];
    const size_t mark = arena_mark(&tape->arena);
    gemm(tape->precision, PLAIN, TRANSPOSED, N, O, I, x, I, w->data, I, 0, y, O);
    const float *low = product(tape, TRANSPOSED, N, R, I, x, l->a->data, I, l->scale);
    gemm(tape->precision, PLAIN, TRANSPOSED, N, O, R, low, R, l->b->data, R, 1, y, O);
    arena_reset(&tape->arena, mark);
}

static void input_gradient(void *context, struct tape *tape, const struct tensor *w, int64_t N, const float *dy, float beta, float *dx)
{
    const struct lora_weight *l = context;
    const int64_t O = w->dim[0], I = w->dim[1], R = l->a->dim[0];
    const size_t mark = arena_mark(&tape->arena);
    gemm(tape->precision, PLAIN, PLAIN, N, I, O, dy, O, w->data, I, beta, dx, I);
    const float *low = product(tape, PLAIN, N, R, O, dy, l->b->data, R, l->scale);
    gemm(tape->precision, PLAIN, PLAIN, N, I, R, low, R, l->a->data, I, 1, dx, I);
    arena_reset(&tape->arena, mark);
}

static void add_gradient(void *context, struct tape *tape, const struct tensor *w, int64_t N, const float *dy, const float *x)
{
    const struct lora_weight *l = context;
    const int64_t O = w->dim[0], I = w->dim[1], R = l->a->dim[0];
    const size_t mark = arena_mark(&tape->arena);
    const float *low_x = product(tape, TRANSPOSED, N, R, I, x, l->a->data, I, l->scale);
    gemm(tape->precision, TRANSPOSED, PLAIN, O, R, N, dy, O, low_x, R, 1, l->b->grad, R);
    const float *low_dy = product(tape, PLAIN, N, R, O, dy, l->b->data, R, l->scale);
    gemm(tape->precision, TRANSPOSED, PLAIN, R, I, N, low_dy, R, x, I, 1, l->a->grad, I);
    arena_reset(&tape->arena, mark);
}

// The gradient of the whole weight, zero where the weight is, and through it those of the factors.
static void add_masked_gradient(void *context, struct tape *tape, const struct tensor *w, int64_t N, const float *dy, const float *x)
{
    const struct lora_weight *l = context;
    const int64_t O = w->dim[0], I = w->dim[1], R = l->a->dim[0];
    const size_t mark = arena_mark(&tape->arena);
    float *whole = arena_alloc(&tape->arena, (size_t)(O * I) * sizeof *whole);
    gemm(tape->precision, TRANSPOSED, PLAIN, O, I, N, dy, O, x, I, 0, whole, I);
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < O * I; k++)
        whole[k] = w->data[k] == 0.0f ? 0.0f : l->scale * whole[k];
    gemm(tape->precision, PLAIN, TRANSPOSED, O, R, I, whole, I, l->a->data, I, 1, l->b->grad, R);
    gemm(tape->precision, TRANSPOSED, PLAIN, R, I, O, l->b->data, R, whole, I, 1, l->a->grad, I);
    arena_reset(&tape->arena, mark);
}

// n rows of W + s B A at row0; with keep_zeros zero where W is.
static void merged_rows(const struct lora_weight *l, const struct tensor *w, int64_t row0, int64_t n, float *to)
{
    const int64_t I = w->dim[1], R = l->a->dim[0];
    const int keep_zeros = l->hook.forward == NULL;
    for (int64_t r = 0; r < n; r++) {
        const float *from = w->data + (row0 + r) * I;
        double sum[ROW_BLOCK];
        for (int64_t i = 0; i < I; i += ROW_BLOCK) {
            const int64_t m = I - i < ROW_BLOCK ? I - i : ROW_BLOCK;
            memset(sum, 0, sizeof sum);
            for (int64_t k = 0; k < R; k++)
                for (int64_t j = 0; j < m; j++)
                    sum[j] += (double)l->b->data[(row0 + r) * R + k] * (double)l->a->data[k * I + i + j];
            for (int64_t j = 0; j < m; j++)
                to[r * I + i + j] = keep_zeros && from[i + j] == 0.0f ? 0.0f : (float)((double)from[i + j] + (double)l->scale * sum[j]);
        }
    }
}

static void rows(void *context, const struct tensor *w, int64_t row0, int64_t n, float *to) { merged_rows(context, w, row0, n, to); }

// A [rank, in] and B [out, rank] of one target, from `at` on in the flat array; returns what lies behind them.
static int64_t add_factors(struct model *factors, const struct parameter *p, int64_t rank, int64_t at, uint64_t seed)
{
    const int64_t dim[2][2] = {{rank, p->t.dim[1]}, {p->t.dim[0], rank}};
    for (int k = 0; k < 2; k++) {
        struct parameter *q = &factors->parameter[factors->n_parameter++];
        *q = (struct parameter){.layer = p->layer, .offset = at, .n_stored = dim[k][0] * dim[k][1], .decay = 1};
        snprintf(q->name, sizeof q->name, "%.80s.lora_%c", p->name, "AB"[k]);
        q->t = (struct tensor){.name = q->name, .n_dim = 2, .dim = {dim[k][0], dim[k][1], 1}, .data = factors->data + at};
        at += q->n_stored;
        struct random r;
        random_init(&r, seed, q->name, 0);
        for (int64_t i = 0; k == 0 && i < q->n_stored; i++) // A x is about as long as x's mean square is large
            q->t.data[i] = (float)(random_normal(&r) / sqrt((double)dim[0][1]));
    }
    return at;
}

void lora_attach(struct lora *l, struct model *m, const struct lora_options *o, uint64_t seed, int keep_zeros)
{
    struct model *f = xcalloc(1, sizeof *f, "low-rank factors");
    int64_t at = 0;
    for (int i = 0; i < m->n_parameter; i++)
        f->n_element += is_target(m, &m->parameter[i], o) ? o->rank * (m->parameter[i].t.dim[0] + m->parameter[i].t.dim[1]) : 0;
    f->parameter = xcalloc((size_t)(2 * m->n_parameter), sizeof *f->parameter, "low-rank factors");
    f->data = xcalloc((size_t)f->n_element, sizeof *f->data, "low-rank factors");
    *l = (struct lora){.factors = f, .weight = xcalloc((size_t)m->n_parameter, sizeof *l->weight, "low-rank factors")};
    model_drop_gradients(m);
    for (int i = 0; i < m->n_parameter; i++) {
        struct parameter *p = &m->parameter[i];
        p->frozen = 1;
        if (!is_target(m, p, o))
            continue;
        if (p->t.hook)
            BUG("lora: %s has a weight hook already", p->name);
        struct lora_weight *w = &l->weight[l->n++];
        const int first = f->n_parameter;
        at = add_factors(f, p, o->rank, at, seed);
        *w = (struct lora_weight){.w = &p->t, .a = &f->parameter[first].t, .b = &f->parameter[first + 1].t, .scale = (float)(o->alpha / (double)o->rank)};
        w->hook = (struct weight_hook){.context = w, .rows = rows};
        w->hook.add_gradient = keep_zeros ? add_masked_gradient : add_gradient;
        w->hook.forward = keep_zeros ? NULL : forward;
        w->hook.input_gradient = keep_zeros ? NULL : input_gradient;
        p->t.hook = &w->hook;
        p->t.needs_grad = 1; // so that ops call add_gradient; the tensor itself has none
    }
}

void lora_merge(const struct lora *l)
{
    for (int k = 0; k < l->n; k++) {
        const struct tensor *w = l->weight[k].w;
#pragma omp parallel for schedule(static)
        for (int64_t r = 0; r < w->dim[0]; r++)
            merged_rows(&l->weight[k], w, r, 1, w->data + r * w->dim[1]);
    }
}

void lora_detach(struct lora *l, struct model *m)
{
    for (int k = 0; k < l->n; k++) {
        l->weight[k].w->hook = NULL;
        l->weight[k].w->needs_grad = 0;
    }
    for (int i = 0; l->factors && i < m->n_parameter; i++)
        m->parameter[i].frozen = 0;
    free(l->weight);
    model_free(l->factors);
    *l = (struct lora){0};
}
