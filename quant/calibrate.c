// calibrate.c: see calibrate.h.
#include "quant/calibrate.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/arena.h"
#include "common/base/json.h"
#include "common/base/progress.h"
#include "common/base/threads.h"
#include "common/model/safetensors.h"
#include "common/tensor/vecmath.h"

int calibrate_check(const struct walk_text *text, const char *option, struct error *err)
{
    if (walk_text_tokens(text) <= text->data->n_token && text->tokens <= text->data->n_token)
        return 0;
    return error_set(err, "%s: %" PRId64 " tokens are asked for, the calibration text has %" PRId64 "; give more text, or ask for fewer",
                     option, max_i64(text->tokens, walk_text_tokens(text)), text->data->n_token);
}

#define STATISTICS 5 // tensors of a matrix in the file, at most

struct pass {
    struct calibration_result *c;
    struct tensor **seen; // [LAYER_INPUTS * n_layer]
};

static void statistics_init(struct input_statistics *s, int64_t C, int with_gram)
{
    moments_init(&s->moments, C, with_gram);
    s->sum = xcalloc((size_t)C, sizeof *s->sum, "means of inputs");
    s->low = xmalloc((size_t)(2 * C) * sizeof *s->low, "ranges of inputs");
    s->high = s->low + C;
    for (int64_t j = 0; j < C; j++) {
        s->low[j] = INFINITY;
        s->high[j] = -INFINITY;
    }
}

static void statistics_add(struct input_statistics *s, const struct tensor *x)
{
    const int64_t N = tensor_rows(x), C = s->moments.C;
    moments_add(&s->moments, x);
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < C; j++)
        for (int64_t n = 0; n < N; n++) {
            const float v = x->data[n * C + j];
            s->sum[j] += (double)v;
            s->low[j] = fminf(s->low[j], v);
            s->high[j] = fmaxf(s->high[j], v);
        }
}

static void statistics_release(struct input_statistics *s)
{
    moments_release(&s->moments);
    free(s->sum);
    free(s->low);
}

static void run_batch(struct pass *p, struct model *m, struct tape *tape, const struct walk_text *text, const int32_t *ids)
{
    const int64_t L = p->c->n_layer;
    struct taps taps = {.want = TAP_INPUTS | TAP_HEADS | TAP_FF, .attention_in = p->seen, .heads = p->seen + L, .ff_in = p->seen + 2 * L,
                        .ff = p->seen + 3 * L};
    const struct forward f = {.ids = ids, .B = text->batch, .T = text->seq_len, .taps = &taps};
    statistics_add(&p->c->head, model_forward(m, tape, &f));
    for (int64_t l = 0; l < L; l++)
        for (int kind = 0; kind < LAYER_INPUTS; kind++)
            if (p->c->layer[l * LAYER_INPUTS + kind].moments.C && p->seen[kind * L + l])
                statistics_add(&p->c->layer[l * LAYER_INPUTS + kind], p->seen[kind * L + l]);
    tape_reset(tape);
}

static struct input_statistics *read_by(const struct calibration_result *c, const struct parameter *p)
{
    return p->layer >= 0 && p->t.n_dim == 2 ? &c->layer[p->layer * LAYER_INPUTS + (int)layer_input_of(p)] : NULL;
}

void calibrate(struct calibration_result *c, struct model *m, const struct walk_text *text, int with_gram)
{
    const int64_t L = m->config.n_layer, rows = text->batch * text->seq_len, batches = walk_text_tokens(text) / rows;
    struct pass p = {.c = c};
    struct tape tape;
    struct progress progress;
    *c = (struct calibration_result){.n_layer = L, .windows = batches * text->batch};
    c->layer = xcalloc((size_t)(L * LAYER_INPUTS), sizeof *c->layer, "statistics of inputs");
    p.seen = xcalloc((size_t)(LAYER_INPUTS * L), sizeof *p.seen, "taps");
    for (int i = 0; i < m->n_parameter; i++) {
        struct input_statistics *s = read_by(c, &m->parameter[i]);
        if (s && !s->moments.C)
            statistics_init(s, tensor_columns(&m->parameter[i].t), with_gram);
    }
    statistics_init(&c->head, m->config.hidden, 0);
    int32_t *ids = xmalloc((size_t)(2 * rows) * sizeof *ids, "calibration");
    tape_init(&tape, text->precision);
    progress_begin(&progress, "calibrate", "tokens", batches * rows, 0);
    for (int64_t b = 0; b < batches && (b == 0 || !interrupted()); b++) {
        dataset_batch(text->data, text->seq_len, text->seed, b * text->batch, text->batch, ids, ids + rows);
        run_batch(&p, m, &tape, text, ids);
        progress_update(&progress, (b + 1) * rows, "mean squares");
    }
    progress_end(&progress, "mean squares");
    free(p.seen);
    free(ids);
    tape_release(&tape);
}

void calibration_release(struct calibration_result *c)
{
    for (int64_t i = 0; i < c->n_layer * LAYER_INPUTS; i++)
        statistics_release(&c->layer[i]);
    statistics_release(&c->head);
    free(c->layer);
    *c = (struct calibration_result){0};
}

// The matrices with an entry, in the model's order, the output head last: what each reads, under which name. Returns the next one at or behind
// *i, and steps *i past it; NULL: there are no more.
static const struct input_statistics *next_entry(const struct calibration_result *c, const struct model *m, int *i, char name[GGUF_NAME_MAX])
{
    for (; *i < m->n_parameter; (*i)++) {
        const struct parameter *p = &m->parameter[*i];
        const struct input_statistics *s = read_by(c, p);
        struct gguf_name found;
        if (!s || !s->moments.rows || !gguf_parameter_name(&m->config, p, &found))
            continue;
        memcpy(name, found.text, GGUF_NAME_MAX);
        (*i)++;
        return s;
    }
    if (*i > m->n_parameter)
        return NULL;
    (*i)++;
    snprintf(name, GGUF_NAME_MAX, "output.weight");
    return &c->head;
}

void calibration_importance(const struct calibration_result *c, const struct model *m, struct importance *to)
{
    const struct input_statistics *s;
    char name[GGUF_NAME_MAX];
    for (int i = 0; (s = next_entry(c, m, &i, name));)
        importance_add(to, name, s->moments.square, s->moments.C, s->moments.rows);
    to->chunks = c->windows;
}

// ---- the file ----

struct writing {
    struct arena values; // what is not there as floats yet, and names
    struct safetensors_item *item;
    int64_t n;
};

static void put(struct writing *w, const char *matrix, const char *what, int n_dim, int64_t C, const float *values)
{
    char *name = arena_alloc(&w->values, GGUF_NAME_MAX + 16);
    snprintf(name, GGUF_NAME_MAX + 16, "%s.%s", matrix, what);
    w->item[w->n++] = (struct safetensors_item){.name = name, .n_dim = n_dim, .dim = {C, C}, .data = values};
}

static const float *mean(struct writing *w, const double *sum, int64_t n, int64_t rows)
{
    float *to = arena_alloc(&w->values, (size_t)n * sizeof *to);
    for (int64_t i = 0; i < n; i++)
        to[i] = (float)(sum[i] / (double)rows);
    return to;
}

static int64_t put_all(struct writing *w, const struct calibration_result *c, const struct model *m)
{
    const struct input_statistics *s, *before = NULL;
    char name[GGUF_NAME_MAX];
    int64_t tokens = 0;
    for (int i = 0; (s = next_entry(c, m, &i, name)); before = s) {
        const struct moments *x = &s->moments;
        put(w, name, "low", 1, x->C, s->low);
        put(w, name, "high", 1, x->C, s->high);
        put(w, name, "mean", 1, x->C, mean(w, s->sum, x->C, x->rows));
        put(w, name, "mean_square", 1, x->C, mean(w, x->square, x->C, x->rows));
        if (x->gram && s != before) // matrices that read the same follow each other
            put(w, name, "gram", 2, x->C, mean(w, x->gram, x->C * x->C, x->rows));
        tokens = x->rows;
    }
    return tokens;
}

int calibration_write(const struct calibration_result *c, const struct model *m, const char *text, const char *path, struct error *err)
{
    struct writing w = {.item = xcalloc((size_t)(m->n_parameter + 1) * STATISTICS, sizeof *w.item, "statistics to write")};
    struct json *metadata = json_object();
    char count[32];
    arena_init(&w.values, "statistics to write", ARENA_DEFAULT);
    snprintf(count, sizeof count, "%" PRId64, put_all(&w, c, m));
    json_set_string(metadata, "text", text);
    json_set_string(metadata, "tokens", count);
    snprintf(count, sizeof count, "%" PRId64, c->windows);
    json_set_string(metadata, "windows", count);
    const int rc = safetensors_write_file(path, w.item, w.n, DTYPE_F32, metadata, err);
    json_free(metadata);
    arena_release(&w.values);
    free(w.item);
    return rc;
}

void importance_of_ones(struct importance *to, const struct model *m)
{
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *q = &m->parameter[i];
        struct gguf_name name;
        if (q->t.n_dim != 2 || !gguf_parameter_name(&m->config, q, &name))
            continue;
        double *ones = xmalloc((size_t)tensor_columns(&q->t) * sizeof *ones, "importance");
        for (int64_t c = 0; c < tensor_columns(&q->t); c++)
            ones[c] = 1;
        importance_add(to, name.text, ones, tensor_columns(&q->t), 1);
        free(ones);
    }
}
