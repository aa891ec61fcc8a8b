// sparsify.c: see sparse.h.
//
// Scores that look at a layer's inputs see them as they are once the layers before it are sparse: the calibration text goes through
// layer by layer, twice each, once to look and once with the zeros (as Wanda and SparseGPT do).
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/progress.h"
#include "common/base/random.h"
#include "prune/score.h"
#include "prune/sparse.h"

#define ROW(name, type, field, ...) {name, type, offsetof(struct sparse_options, field), __VA_ARGS__}
const struct option sparse_option_table[] = {
    ROW("sparsity", OPTION_DOUBLE, sparsity, "0", 0, 0.9999, NULL, "F", "share of the weights of the layers' matrices set to zero"),
    ROW("pattern", OPTION_STRING, pattern, "unstructured", 0, 0, NULL, "PATTERN",
        "unstructured, or N:M (2:4, 4:8): of M neighbours along the input, N stay"),
    ROW("score", OPTION_CHOICE, score, "wanda", 0, 0, "magnitude|gradient|wanda|sparsegpt|random", NULL, "what decides which weights stay"),
    ROW("scope", OPTION_CHOICE, scope, "layer", 0, 0, "layer|global", NULL, "the same share in every matrix, or one ranking over all"),
    ROW("calibration_tokens", OPTION_INT, calibration_tokens, "32768", 1, 1e12, NULL, "N", "text that the score looks at"),
    ROW("calibration_batch", OPTION_INT, calibration_batch, "4", 1, 4096, NULL, "N", "sequences in one calibration batch"),
    {0},
};
#undef ROW

int sparse_check(struct sparse_options *o, const char *where, struct error *err)
{
    char *end = o->pattern;
    o->keep = o->of = 0;
    if (strcmp(o->pattern, "unstructured") != 0) {
        o->keep = strtol(o->pattern, &end, 10);
        o->of = *end == ':' ? strtol(end + 1, &end, 10) : 0;
        if (*end || o->keep < 1 || o->of <= o->keep || o->of > 64)
            return error_set(err, "%s: \"pattern\": found \"%s\", expected unstructured or N:M with 0 < N < M <= 64, as in 2:4", where,
                             o->pattern);
        const double share = 1 - (double)o->keep / (double)o->of;
        if (o->sparsity > 0 && fabs(o->sparsity - share) > 1e-9)
            return error_set(err, "%s: \"sparsity\" %g and \"pattern\" %s contradict each other: the pattern alone makes %g", where,
                             o->sparsity, o->pattern, share);
        o->sparsity = share;
    }
    if (o->sparsity <= 0)
        return error_set(err, "%s: nothing to do: give \"sparsity\", the share of weights to set to zero, or a \"pattern\" such as 2:4",
                         where);
    const struct sparse_score *score = &sparse_score_table[o->score];
    if (o->scope == SCOPE_GLOBAL && (o->of || score->by_row || !score->score))
        return error_set(err, "%s: \"scope\": global ranks all matrices' weights, which %s does not allow; leave it out, or take "
                         "magnitude or gradient without a pattern", where, o->of ? "a pattern" : score->name);
    return 0;
}

int sparse_is_matrix(const struct parameter *p) { return p->layer >= 0 && p->t.n_dim == 2; }

// ---- which weights go ----

struct ranked {
    float score;
    int64_t index;
};

static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? -1 : 1;
    return x->index > y->index ? -1 : x->index < y->index; // of equals the later one goes
}

// The `go` worst of n neighbours to zero.
static void cut_worst(float *w, const float *score, int64_t n, int64_t go, struct ranked *r)
{
    for (int64_t i = 0; i < n; i++)
        r[i] = (struct ranked){score[i], i};
    qsort(r, (size_t)n, sizeof *r, by_score);
    for (int64_t i = 0; i < go; i++)
        w[r[i].index] = 0;
}

void sparse_cut_rows(struct tensor *w, const float *score, int64_t keep, int64_t of, double sparsity)
{
    const int64_t C = tensor_columns(w), n = of ? of : C, go = of ? of - keep : llround(sparsity * (double)C);
#pragma omp parallel
    {
        struct ranked *r = xmalloc((size_t)n * sizeof *r, "ranking");
#pragma omp for schedule(static)
        for (int64_t at = 0; at < tensor_count(w) / n; at++)
            cut_worst(w->data + at * n, score + at * n, n, go, r);
        free(r);
    }
}

static void cut(const struct sparse_options *o, const struct sparse_score *table, struct tensor *w, const float *score)
{
    if (o->of || table->by_row) {
        sparse_cut_rows(w, score, o->keep, o->of, o->sparsity);
        return;
    }
    const int64_t n = tensor_count(w);
    struct ranked *r = xmalloc((size_t)n * sizeof *r, "ranking");
    cut_worst(w->data, score, n, llround(o->sparsity * (double)n), r);
    free(r);
}

// ---- scores of weights and gradients ----

static void add_gradients(struct model *m, const struct calibration *c)
{
    const int64_t n = c->batch * c->seq_len, batches = calibration_batches(c);
    int32_t *ids = xmalloc((size_t)(2 * n) * sizeof *ids, "calibration");
    struct tape tape;
    struct progress progress;
    tape_init(&tape, c->precision);
    tape.recording = 1;
    model_want_gradients(m);
    progress_begin(&progress, "calibrate", "tokens", batches * n, 0);
    for (int64_t b = 0; b < batches; b++) {
        dataset_batch(c->data, c->seq_len, c->seed, b * c->batch, c->batch, ids, ids + n);
        const struct forward f = {.ids = ids, .B = c->batch, .T = c->seq_len};
        const struct head_spec spec = {.targets = ids + n, .temperature = 1, .weight = 1, .cap = m->config.logit_cap};
        tape_backward(&tape, op_head_loss(&tape, model_forward(m, &tape, &f), model_head(m), &spec, NULL));
        tape_reset(&tape);
        progress_update(&progress, (b + 1) * n, "gradients");
    }
    progress_end(&progress, "gradients");
    tape_release(&tape);
    free(ids);
}

static int check_scores(const struct parameter *p, const float *score, struct error *err)
{
    for (int64_t i = 0; i < tensor_count(&p->t); i++)
        if (!isfinite(score[i]))
            return error_set(err, "sparsify: %s: the score of row %ld, column %ld is %g, expected a finite number; look for NaN in the "
                             "checkpoint", p->name, (long)(i / tensor_columns(&p->t)), (long)(i % tensor_columns(&p->t)),
                             (double)score[i]);
    return 0;
}

static int score_parameter(const struct sparse_score *table, struct parameter *p, const double *norm, const struct calibration *c,
                           float *score, struct error *err)
{
    struct random r;
    random_init(&r, c->seed, p->name, 0);
    const struct sparse_matrix matrix = {.w = &p->t, .norm = norm, .gradient = p->t.grad, .random = &r};
    table->score(&matrix, score);
    return check_scores(p, score, err);
}

static int cut_each(struct model *m, const struct sparse_options *o, const struct calibration *c, struct error *err)
{
    const struct sparse_score *table = &sparse_score_table[o->score];
    int rc = 0;
    for (int i = 0; i < m->n_parameter && rc == 0; i++) {
        struct parameter *p = &m->parameter[i];
        if (!sparse_is_matrix(p))
            continue;
        float *score = xmalloc((size_t)tensor_count(&p->t) * sizeof *score, "scores");
        rc = score_parameter(table, p, NULL, c, score, err);
        if (rc == 0)
            cut(o, table, &p->t, score);
        free(score);
    }
    return rc;
}

static int cut_globally(struct model *m, const struct sparse_options *o, const struct calibration *c, struct error *err)
{
    int64_t n = 0, at = 0;
    int rc = 0;
    for (int i = 0; i < m->n_parameter; i++)
        n += sparse_is_matrix(&m->parameter[i]) ? tensor_count(&m->parameter[i].t) : 0;
    float *score = xmalloc((size_t)n * sizeof *score, "scores");
    float *all = xmalloc((size_t)n * sizeof *all, "weights of all layers");
    for (int write = 0; write < 2 && rc == 0; write++, at = 0) {
        for (int i = 0; i < m->n_parameter && rc == 0; i++) {
            struct parameter *p = &m->parameter[i];
            const size_t bytes = (size_t)tensor_count(&p->t) * sizeof *all;
            if (!sparse_is_matrix(p))
                continue;
            if (write) {
                memcpy(p->t.data, all + at, bytes);
            } else {
                memcpy(all + at, p->t.data, bytes);
                rc = score_parameter(&sparse_score_table[o->score], p, NULL, c, score + at, err);
            }
            at += tensor_count(&p->t);
        }
        if (!write && rc == 0) {
            struct tensor flat = {.name = "all", .n_dim = 2, .dim = {1, n, 1}, .data = all};
            sparse_cut_rows(&flat, score, 0, 0, o->sparsity);
        }
    }
    free(score);
    free(all);
    return rc;
}

// ---- layer by layer ----

struct walk {
    struct model *m;
    const struct sparse_options *options;
    const struct calibration *calibration;
    float *x; // [tokens, D]: hidden states before the layer at hand
    int64_t batches, rows;
    struct tape tape;
};

// What a matrix reads: q, k, v the normalised hidden states, o the heads' outputs, gate and up the second norm's, down the channels.
static const struct tensor *input_of(const struct parameter *p, const struct taps *taps)
{
    const int l = p->layer;
    if (p->spec->columns == AXIS_HEADS)
        return taps->heads[l];
    if (p->spec->columns == AXIS_FF)
        return taps->ff[l];
    return p->spec->rows == AXIS_FF ? taps->ff_in[l] : taps->attention_in[l];
}

struct statistics { // of one matrix's inputs
    double *norm; // [C]
    float *H;     // [C, C]; NULL: not asked for
    int shared;   // an earlier matrix of the layer reads the same: these are its
};

static void add_statistics(struct statistics *s, const struct tensor *x)
{
    const int64_t N = tensor_rows(x), C = tensor_columns(x);
    if (s->shared)
        return;
    if (s->H) {
        gemm(PRECISION_F32, TRANSPOSED, PLAIN, C, C, N, x->data, C, x->data, C, 1, s->H, C);
        return;
    }
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < C; j++)
        for (int64_t n = 0; n < N; n++)
            s->norm[j] += (double)x->data[n * C + j] * (double)x->data[n * C + j];
}

// The layer on all batches: with statistics, its matrices' inputs are looked at; without, x moves on.
static void run_layer(struct walk *w, int64_t layer, struct statistics *s)
{
    const struct config *c = &w->m->config;
    const int64_t L = c->n_layer, D = c->hidden, T = w->calibration->seq_len;
    struct tensor **seen = xcalloc((size_t)(4 * L), sizeof *seen, "taps");
    struct taps taps = {.want = TAP_HEADS | TAP_FF | TAP_INPUTS, .heads = seen, .ff = seen + L, .attention_in = seen + 2 * L,
                        .ff_in = seen + 3 * L};
    for (int64_t b = 0; b < w->batches; b++) {
        float *x = w->x + b * w->rows * D;
        struct tensor in = {.name = "hidden states", .n_dim = 2, .dim = {w->rows, D, 1}, .data = x};
        const struct forward f = {.B = w->rows / T, .T = T, .x = &in, .first = layer, .last = layer + 1, .taps = s ? &taps : NULL};
        const struct tensor *y = model_forward(w->m, &w->tape, &f);
        for (int i = 0; s && i < w->m->n_parameter; i++)
            if (w->m->parameter[i].layer == layer && sparse_is_matrix(&w->m->parameter[i]))
                add_statistics(&s[i], input_of(&w->m->parameter[i], &taps));
        if (!s)
            memcpy(x, y->data, (size_t)(w->rows * D) * sizeof *x);
        tape_reset(&w->tape);
    }
    free(seen);
}

static void statistics_init(struct statistics *s, const struct model *m, int64_t layer, int moments)
{
    int first[6] = {-1, -1, -1, -1, -1, -1}; // the matrix that reads each kind of input, by its axes
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        if (p->layer != layer || !sparse_is_matrix(p))
            continue;
        const int kind = p->spec->columns == AXIS_HEADS ? 0 : p->spec->columns == AXIS_FF ? 1 : p->spec->rows == AXIS_FF ? 2 : 3;
        const size_t C = (size_t)tensor_columns(&p->t);
        if (first[kind] >= 0) {
            s[i] = s[first[kind]];
            s[i].shared = 1;
            continue;
        }
        first[kind] = i;
        s[i].norm = xcalloc(C, sizeof *s[i].norm, "norms of inputs");
        s[i].H = moments ? xcalloc(C * C, sizeof *s[i].H, "second moments") : NULL;
    }
}

static int cut_layer(struct walk *w, int64_t layer, struct error *err)
{
    struct model *m = w->m;
    const struct sparse_options *o = w->options;
    const struct sparse_score *table = &sparse_score_table[o->score];
    struct statistics *s = xcalloc((size_t)m->n_parameter, sizeof *s, "statistics");
    int rc = 0;
    statistics_init(s, m, layer, table->needs == NEEDS_MOMENTS);
    run_layer(w, layer, s);
    for (int i = 0; i < m->n_parameter && rc == 0; i++) {
        struct parameter *p = &m->parameter[i];
        if (p->layer != layer || !sparse_is_matrix(p))
            continue;
        if (!table->score) {
            rc = sparse_gpt(&p->t, s[i].H, o->keep, o->of, o->sparsity, err);
            continue;
        }
        float *score = xmalloc((size_t)tensor_count(&p->t) * sizeof *score, "scores");
        rc = score_parameter(table, p, s[i].norm, w->calibration, score, err);
        if (rc == 0)
            cut(o, table, &p->t, score);
        free(score);
    }
    for (int i = 0; i < m->n_parameter; i++)
        if (!s[i].shared) {
            free(s[i].norm);
            free(s[i].H);
        }
    free(s);
    return rc;
}

static void walk_begin(struct walk *w)
{
    const struct calibration *c = w->calibration;
    const int64_t D = w->m->config.hidden;
    w->batches = calibration_batches(c);
    w->rows = c->batch * c->seq_len;
    w->x = xmalloc((size_t)(w->batches * w->rows * D) * sizeof *w->x, "hidden states of the calibration text");
    int32_t *ids = xmalloc((size_t)(2 * w->rows) * sizeof *ids, "calibration");
    tape_init(&w->tape, c->precision);
    for (int64_t b = 0; b < w->batches; b++) {
        dataset_batch(c->data, c->seq_len, c->seed, b * c->batch, c->batch, ids, ids + w->rows);
        struct tensor *hidden[2]; // the embeddings, with positions or factors, and the first layer's output
        struct taps taps = {.want = TAP_HIDDEN, .hidden = hidden};
        const struct forward f = {.ids = ids, .B = c->batch, .T = c->seq_len, .taps = &taps, .last = 1};
        model_forward(w->m, &w->tape, &f);
        memcpy(w->x + b * w->rows * D, hidden[0]->data, (size_t)(w->rows * D) * sizeof *w->x);
        tape_reset(&w->tape);
    }
    free(ids);
}

static int cut_layer_by_layer(struct model *m, const struct sparse_options *o, const struct calibration *c, struct error *err)
{
    struct walk w = {.m = m, .options = o, .calibration = c};
    struct progress progress;
    int rc = 0;
    walk_begin(&w);
    progress_begin(&progress, "sparsify", "layers", m->config.n_layer, 0);
    for (int64_t l = 0; l < m->config.n_layer && rc == 0; l++) {
        rc = cut_layer(&w, l, err);
        if (rc == 0)
            run_layer(&w, l, NULL);
        progress_update(&progress, l + 1, "%s", sparse_score_table[o->score].name);
    }
    progress_end(&progress, "%s", sparse_score_table[o->score].name);
    tape_release(&w.tape);
    free(w.x);
    return rc;
}

static int check_rows(const struct model *m, const struct sparse_options *o, struct error *err)
{
    for (int i = 0; i < m->n_parameter && o->of; i++) {
        const struct parameter *p = &m->parameter[i];
        if (sparse_is_matrix(p) && tensor_columns(&p->t) % o->of)
            return error_set(err, "sparsify: %s has rows of %ld, no multiple of the %ld in %s; take another pattern", p->name,
                             (long)tensor_columns(&p->t), (long)o->of, o->pattern);
    }
    return 0;
}

int sparsify(struct model *m, const struct sparse_options *o, const struct calibration *c, struct error *err)
{
    const struct sparse_score *table = &sparse_score_table[o->score];
    TRY(check_rows(m, o, err));
    if (table->needs != NEEDS_NOTHING && !c->data)
        return error_set(err, "sparsify: \"%s\" needs text and there is none; give data.train, or take magnitude or random", table->name);
    if (table->needs == NEEDS_NORMS || table->needs == NEEDS_MOMENTS)
        return cut_layer_by_layer(m, o, c, err);
    if (table->needs == NEEDS_GRADIENTS)
        add_gradients(m, c);
    return o->scope == SCOPE_GLOBAL ? cut_globally(m, o, c, err) : cut_each(m, o, c, err);
}

void sparse_shares(const struct model *m, double *of_matrices, double *of_all)
{
    int64_t zeros = 0, matrix_zeros = 0, all = 0, matrix = 0;
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        const int64_t n = tensor_count(&p->t);
        int64_t count = 0;
        for (int64_t k = 0; k < n; k++)
            count += p->t.data[k] == 0;
        all += n;
        zeros += count;
        matrix += sparse_is_matrix(p) ? n : 0;
        matrix_zeros += sparse_is_matrix(p) ? count : 0;
    }
    *of_matrices = matrix ? (double)matrix_zeros / (double)matrix : 0;
    *of_all = (double)zeros / (double)all;
}
