// rescale.c: see rescale.h.
#include "quant/rescale.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/threads.h"
#include "common/tensor/gemm.h"
#include "quant/int_matrix.h"
#include "quant/overlay.h"

#define GRID 20    // of alpha, between 0 and 1
#define READERS 3
#define LEAST 1e-5 // of a factor's statistics

// Matrices that read the same channels, and what makes these.
struct site {
    enum layer_input kind;
    const char *norm, *maker, *maker_bias; // one of norm and maker; NULL: not that
    const char *reader[READERS];
    int in_smooth;
};
static const struct site sites[] = {
    {INPUT_ATTENTION, "input_layernorm.weight", NULL, NULL, {"self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"}, 1},
    {INPUT_HEADS, NULL, "self_attn.v_proj.weight", "self_attn.v_proj.bias", {"self_attn.o_proj.weight"}, 0},
    {INPUT_FF, "post_attention_layernorm.weight", NULL, NULL, {"mlp.gate_proj.weight", "mlp.up_proj.weight"}, 1},
    {INPUT_CHANNELS, NULL, "mlp.up_proj.weight", "mlp.up_proj.bias", {"mlp.down_proj.weight"}, 0},
};

struct rescaler { // lifetime: one call of rescale
    const struct model *base;
    struct model *m; // the overlay
    const struct rescale_options *o;
    struct layer_walk walk;
    int layer;
};

static const struct parameter *find(const struct rescaler *r, const char *name)
{
    char full[128];
    if (!name)
        return NULL;
    snprintf(full, sizeof full, "model.layers.%d.%s", r->layer, name);
    return model_find((struct model *)r->base, full);
}

// Gemma's second norm has a name of its own; there post_attention_layernorm is behind the attention.
static const struct parameter *find_norm(const struct rescaler *r, const char *name)
{
    const struct parameter *own = strncmp(name, "post_", 5) == 0 ? find(r, "pre_feedforward_layernorm.weight") : NULL;
    return own ? own : find(r, name);
}

// ---- what the channels are like ----

struct channels { // [C] each, of what a site's matrices read
    struct moments moments;
    double *most, *sum;
    int64_t n;
};

static void see(void *context, enum layer_input kind, const struct tensor *x)
{
    struct channels *c = context;
    const int64_t C = tensor_columns(x), N = tensor_rows(x);
    (void)kind;
    moments_add(&c->moments, x);
    c->n += N;
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < C; j++)
        for (int64_t n = 0; n < N; n++) {
            const double v = fabs((double)x->data[n * C + j]);
            c->most[j] = v > c->most[j] ? v : c->most[j];
            c->sum[j] += v;
        }
}

static void channels_take(struct channels *c, struct rescaler *r, enum layer_input kind, int64_t C)
{
    *c = (struct channels){0};
    moments_init(&c->moments, C, r->o->kind == RESCALE_AWQ);
    c->most = xcalloc((size_t)C, sizeof *c->most, "ranges of inputs");
    c->sum = xcalloc((size_t)C, sizeof *c->sum, "means of inputs");
    layer_walk_look(&r->walk, r->layer, 1U << kind, see, c);
}

static void channels_release(struct channels *c)
{
    moments_release(&c->moments);
    free(c->most);
    free(c->sum);
}

// ---- rounding and its error ----

void rounding_values(const struct rounding *r, const float *W, int64_t D, int64_t C, float *to)
{
    struct int_matrix q;
    if (r->ints) {
        int_matrix_init(&q, r->ints, D, C, r->group);
        int_matrix_round(&q, W, NULL);
        for (int64_t d = 0; d < D; d++)
            int_matrix_row(&q, d, to + d * C);
        int_matrix_release(&q);
        return;
    }
    const int64_t bytes = block_row_bytes(r->format, C);
#pragma omp parallel
    {
        void *row = xmalloc((size_t)bytes, "row");
#pragma omp for schedule(static)
        for (int64_t d = 0; d < D; d++) {
            r->format->encode(W + d * C, NULL, C, row);
            r->format->decode(row, to + d * C, C);
        }
        free(row);
    }
}

int rounding_rounds(const struct rounding *r, int64_t C)
{
    return r->ints || (r->format && r->format->elements > 1 && C % r->format->elements == 0);
}

// Sum over the rows of E [D, C] of e H e^T.
static double output_error(const float *E, int64_t D, int64_t C, const float *H)
{
    float *EH = xmalloc((size_t)(D * C) * sizeof *EH, "errors of outputs");
    double sum = 0;
    gemm(PRECISION_F32, PLAIN, PLAIN, D, C, C, E, C, H, C, 0, EH, C);
    for (int64_t i = 0; i < D * C; i++)
        sum += (double)E[i] * (double)EH[i];
    free(EH);
    return sum;
}

// Of a matrix whose columns are multiplied by s, rounded, and divided again.
static double scaled_error(const struct rounding *r, const float *W, int64_t D, int64_t C, const double *s, const float *H)
{
    float *scaled = xmalloc((size_t)(2 * D * C) * sizeof *scaled, "a rescaled matrix"), *read = scaled + D * C;
    for (int64_t d = 0; d < D; d++)
        for (int64_t c = 0; c < C; c++)
            scaled[d * C + c] = (float)((double)W[d * C + c] * s[c]);
    rounding_values(r, scaled, D, C, read);
    for (int64_t d = 0; d < D; d++)
        for (int64_t c = 0; c < C; c++)
            read[d * C + c] = (float)((double)W[d * C + c] - (double)read[d * C + c] / s[c]);
    const double error = output_error(read, D, C, H);
    free(scaled);
    return error;
}

// ---- factors ----

// Query heads that share a key/value head read the same channels of v: s has one value for each of these.
static int64_t made_by(const struct rescaler *r, const struct site *site, int64_t column)
{
    const struct layer_shape *l = &r->base->config.layer[r->layer];
    const int64_t E = r->base->config.head_dim;
    if (site->kind != INPUT_HEADS)
        return column;
    return column / E / (l->n_head / l->n_kv_head) * E + column % E;
}

// The mean (of logarithms) over the columns that one channel feeds.
static void tie(const struct rescaler *r, const struct site *site, double *s, int64_t C)
{
    double *sum = xcalloc((size_t)(2 * C), sizeof *sum, "factors");
    for (int64_t c = 0; c < C; c++) {
        sum[made_by(r, site, c)] += log(s[c]);
        sum[C + made_by(r, site, c)]++;
    }
    for (int64_t c = 0; c < C; c++)
        s[c] = exp(sum[made_by(r, site, c)] / sum[C + made_by(r, site, c)]);
    free(sum);
}

static void smooth_factors(const struct rescaler *r, const struct site *site, const struct channels *x, double *s, int64_t C)
{
    double *most = xcalloc((size_t)C, sizeof *most, "ranges of columns");
    float *row = xmalloc((size_t)C * sizeof *row, "row");
    for (int k = 0; k < READERS; k++) {
        const struct parameter *p = find(r, site->reader[k]);
        for (int64_t d = 0; d < (p ? tensor_rows(&p->t) : 0); d++) {
            tensor_read_rows(&r->m->parameter[p - r->base->parameter].t, d, 1, row);
            for (int64_t c = 0; c < C; c++)
                most[c] = fabs((double)row[c]) > most[c] ? fabs((double)row[c]) : most[c];
        }
    }
    for (int64_t c = 0; c < C; c++) {
        const double a = r->o->alpha, s_c = pow(fmax(x->most[c], LEAST), a) / pow(fmax(most[c], LEAST), 1 - a);
        s[c] = x->most[c] > 0 && most[c] > 0 ? s_c : 1;
    }
    free(row);
    free(most);
}

static void awq_factors(const struct rescaler *r, const struct site *site, const struct channels *x, double alpha, double *s, int64_t C)
{
    double low = INFINITY, high = 0;
    for (int64_t c = 0; c < C; c++)
        s[c] = pow(fmax(x->sum[c] / (double)x->n, LEAST), alpha);
    tie(r, site, s, C);
    for (int64_t c = 0; c < C; c++) {
        low = fmin(low, s[c]);
        high = fmax(high, s[c]);
    }
    for (int64_t c = 0; c < C; c++)
        s[c] /= sqrt(low * high);
}

static float *moments_f32(const struct moments *m)
{
    float *H = xmalloc((size_t)(m->C * m->C) * sizeof *H, "second moments");
    for (int64_t i = 0; i < m->C * m->C; i++)
        H[i] = (float)(m->gram[i] / (double)m->rows);
    return H;
}

static double error_of_site(const struct rescaler *r, const struct site *site, const double *s, const float *H, int64_t C)
{
    double error = 0;
    for (int k = 0; k < READERS; k++) {
        const struct parameter *p = find(r, site->reader[k]);
        const struct rounding how = p ? r->o->rounding(r->o->context, p) : (struct rounding){0};
        if (!p || !rounding_rounds(&how, C))
            continue;
        float *W = xmalloc((size_t)tensor_count(&p->t) * sizeof *W, p->name);
        tensor_read_rows(&r->m->parameter[p - r->base->parameter].t, 0, tensor_rows(&p->t), W);
        error += scaled_error(&how, W, tensor_rows(&p->t), C, s, H);
        free(W);
    }
    return error;
}

static void search_factors(const struct rescaler *r, const struct site *site, const struct channels *x, double *s, int64_t C)
{
    float *H = moments_f32(&x->moments);
    double *tried = xmalloc((size_t)C * sizeof *tried, "factors"), least = INFINITY;
    for (int k = 0; k <= GRID; k++) {
        awq_factors(r, site, x, (double)k / GRID, tried, C);
        const double error = error_of_site(r, site, tried, H, C);
        if (error < least) {
            least = error;
            memcpy(s, tried, (size_t)C * sizeof *s);
        }
    }
    free(tried);
    free(H);
}

// ---- into the weights ----

static void divide_maker(struct rescaler *r, const struct site *site, const double *s, int64_t C)
{
    const struct parameter *w = find(r, site->maker), *bias = find(r, site->maker_bias);
    const int64_t D = tensor_rows(&w->t);
    double *factor = xmalloc((size_t)D * sizeof *factor, "factors");
    float *b = bias ? overlay_values(r->m, bias) : NULL;
    for (int64_t d = 0; d < D; d++)
        factor[d] = 1;
    for (int64_t c = C - 1; c >= 0; c--) // the first of those that share a row
        factor[made_by(r, site, c)] = s[c];
    overlay_divide_rows(r->m, w, factor);
    for (int64_t d = 0; d < D && b; d++)
        b[d] = (float)((double)b[d] / factor[d]);
    free(factor);
}

static void apply(struct rescaler *r, const struct site *site, const double *s, int64_t C)
{
    const double shift = r->base->config.norm_shift;
    if (site->norm) {
        float *w = overlay_values(r->m, find_norm(r, site->norm));
        for (int64_t c = 0; c < C; c++)
            w[c] = (float)((shift + (double)w[c]) / s[c] - shift);
    } else {
        divide_maker(r, site, s, C);
    }
    for (int k = 0; k < READERS; k++)
        if (find(r, site->reader[k]))
            overlay_multiply_columns(r->m, find(r, site->reader[k]), s);
}

static void rescale_site(struct rescaler *r, const struct site *site)
{
    const struct parameter *first = find(r, site->reader[0]);
    if (!first || (r->o->kind == RESCALE_SMOOTH && !site->in_smooth))
        return;
    const int64_t C = tensor_columns(&first->t);
    double *s = xmalloc((size_t)C * sizeof *s, "factors");
    struct channels x;
    channels_take(&x, r, site->kind, C);
    for (int64_t c = 0; c < C; c++)
        s[c] = 1;
    if (r->o->kind == RESCALE_SMOOTH)
        smooth_factors(r, site, &x, s, C);
    else
        search_factors(r, site, &x, s, C);
    apply(r, site, s, C);
    channels_release(&x);
    free(s);
}

// ---- clipping ----

// What cutting each group costs its outputs, error [D, C / group]. scratch [3, D, C].
static void cut_errors(const struct rounding *how, const float *W, int64_t D, int64_t C, int64_t group, const float *H, int cut, double *error,
                       float *scratch)
{
    const int64_t G = C / group;
    float *tried = scratch, *E = scratch + D * C, *EH = E + D * C;
    for (int64_t k = 0; k < D * G; k++)
        scaled_rows_clamp(W + k * group, group, scaled_rows_range(W + k * group, group, cut), tried + k * group);
    rounding_values(how, tried, D, C, E);
    for (int64_t i = 0; i < D * C; i++)
        E[i] = W[i] - E[i];
    for (int64_t g = 0; g < G; g++)
        gemm(PRECISION_F32, PLAIN, PLAIN, D, group, group, E + g * group, C, H + g * group * C + g * group, C, 0, EH + g * group, C);
    for (int64_t k = 0; k < D * G; k++) {
        error[k] = 0;
        for (int64_t i = k * group; i < (k + 1) * group; i++)
            error[k] += (double)E[i] * (double)EH[i];
    }
}

// Each group is cut at the share of its largest value that costs its outputs least.
static void clip_matrix(struct rescaler *r, const struct parameter *p, const float *H)
{
    const struct rounding how = r->o->rounding(r->o->context, p);
    const int64_t D = tensor_rows(&p->t), C = tensor_columns(&p->t);
    if (!rounding_rounds(&how, C))
        return;
    const int64_t group = how.ints ? int_type_group(how.ints, how.group, C) : how.format->elements, n = D * (C / group);
    const float *W = overlay_values(r->m, p);
    float *scratch = xmalloc((size_t)(3 * D * C) * sizeof *scratch, "a matrix being cut");
    double *error = xmalloc((size_t)(2 * n) * sizeof *error, "errors of groups"), *least = error + n;
    uint8_t *best = xcalloc((size_t)n, 1, "cuts of groups");
    for (int cut = 0; cut < SCALED_ROWS_CUTS; cut++) {
        cut_errors(&how, W, D, C, group, H, cut, error, scratch);
        for (int64_t i = 0; i < n; i++)
            if (cut == 0 || error[i] < least[i]) {
                least[i] = error[i];
                best[i] = (uint8_t)cut;
            }
    }
    overlay_cut(r->m, p, group, best);
    free(scratch);
    free(error);
    free(best);
}

// q and k are left alone: what they make is multiplied by each other (the authors' code leaves them out, too).
static void clip_site(struct rescaler *r, const struct site *site)
{
    struct channels x;
    const struct parameter *first = find(r, site->reader[0]);
    if (!first)
        return;
    channels_take(&x, r, site->kind, tensor_columns(&first->t));
    float *H = moments_f32(&x.moments);
    for (int k = site->kind == INPUT_ATTENTION ? READERS - 1 : 0; k < READERS; k++)
        if (find(r, site->reader[k]))
            clip_matrix(r, find(r, site->reader[k]), H);
    free(H);
    channels_release(&x);
}

struct model *rescale(const struct model *m, const struct walk_text *text, const struct rescale_options *o, struct error *err)
{
    struct rescaler r = {.base = m, .o = o};
    if (!find(&r, "self_attn.q_proj.weight") && !find(&r, "mlp.up_proj.weight")) {
        error_set(err, "factors of channels are for the Llama family, whose norms and matrices follow each other as they must; this is a %s model",
                  m->config.model_type);
        return NULL;
    }
    r.m = overlay_new(m);
    layer_walk_begin(&r.walk, r.m, text);
    for (r.layer = 0; r.layer < m->config.n_layer && !interrupted(); r.layer++) {
        overlay_hold_layer(r.m, r.layer);
        for (size_t i = 0; i < sizeof sites / sizeof *sites; i++)
            rescale_site(&r, &sites[i]);
        for (size_t i = 0; i < sizeof sites / sizeof *sites && o->kind == RESCALE_AWQ && o->clip; i++)
            clip_site(&r, &sites[i]);
        layer_walk_advance(&r.walk, r.layer);
        overlay_drop_layer(r.m, r.layer);
    }
    layer_walk_end(&r.walk);
    return r.m;
}
