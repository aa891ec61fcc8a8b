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
#include "common/base/threads.h"
#include "common/eval/layer_walk.h"
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

static int add_gradients(struct model *m, const struct calibration *c, struct error *err)
{
    const int64_t n = c->batch * c->seq_len, batches = calibration_batches(c);
    int32_t *ids = xmalloc((size_t)(2 * n) * sizeof *ids, "calibration");
    struct tape tape;
    struct progress progress;
    tape_init(&tape, c->precision);
    tape.recording = 1;
    model_want_gradients(m);
    progress_begin(&progress, "calibrate", "tokens", batches * n, 0);
    for (int64_t b = 0; b < batches && !interrupted(); b++) {
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
    return interrupt_check(err);
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

static void see(void *context, enum layer_input kind, const struct tensor *x)
{
    struct moments *m = context;
    moments_add(&m[kind], x);
}

static int cut_matrix(struct parameter *p, const struct moments *s, const struct sparse_options *o, const struct calibration *c,
                      struct error *err)
{
    const struct sparse_score *table = &sparse_score_table[o->score];
    if (!table->score)
        return sparse_gpt(&p->t, s->gram, o->keep, o->of, o->sparsity, err);
    float *score = xmalloc((size_t)tensor_count(&p->t) * sizeof *score, "scores");
    const int rc = score_parameter(table, p, s->square, c, score, err);
    if (rc == 0)
        cut(o, table, &p->t, score);
    free(score);
    return rc;
}

static int cut_layer(struct layer_walk *w, int64_t layer, const struct sparse_options *o, const struct calibration *c,
                     struct error *err)
{
    struct model *m = w->m;
    struct moments s[LAYER_INPUTS] = {0};
    unsigned wanted = 0;
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        if (p->layer != layer || !sparse_is_matrix(p) || wanted & 1U << layer_input_of(p))
            continue;
        wanted |= 1U << layer_input_of(p);
        moments_init(&s[layer_input_of(p)], tensor_columns(&p->t), sparse_score_table[o->score].needs == NEEDS_MOMENTS);
    }
    layer_walk_look(w, layer, wanted, see, s);
    int rc = interrupt_check(err);
    for (int i = 0; i < m->n_parameter && rc == 0; i++) {
        struct parameter *p = &m->parameter[i];
        if (p->layer == layer && sparse_is_matrix(p))
            rc = cut_matrix(p, &s[layer_input_of(p)], o, c, err);
    }
    for (int kind = 0; kind < LAYER_INPUTS; kind++)
        moments_release(&s[kind]);
    return rc;
}

static int cut_layer_by_layer(struct model *m, const struct sparse_options *o, const struct calibration *c, struct error *err)
{
    const struct walk_text text = {.data = c->data, .seq_len = c->seq_len, .tokens = c->tokens, .batch = c->batch, .seed = c->seed,
                                   .precision = c->precision};
    struct layer_walk w;
    struct progress progress;
    int rc = 0;
    layer_walk_begin(&w, m, &text);
    progress_begin(&progress, "sparsify", "layers", m->config.n_layer, 0);
    for (int64_t l = 0; l < m->config.n_layer && rc == 0; l++) {
        rc = cut_layer(&w, l, o, c, err);
        if (rc == 0)
            layer_walk_advance(&w, l);
        progress_update(&progress, l + 1, "%s", sparse_score_table[o->score].name);
    }
    progress_end(&progress, "%s", sparse_score_table[o->score].name);
    layer_walk_end(&w);
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
        TRY(add_gradients(m, c, err));
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
