// quantize_method.c: see quantize_method.h.
#include "recipes/quantize_method.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "quant/calibrate.h"
#include "quant/gptq_model.h"
#include "recipes/inputs.h"

#define BATCH 8  // windows at once
#define REFITS 2 // times that a block's scales are chosen again

int quantize_method_check(const struct quantize_options *o, const char *where, struct error *err) {
    if (o->method == QUANTIZE_RTN && (o->calibration.count || o->imatrix))
        return error_set(err, "%s: \"%s\" is given and \"method\" is rtn, which looks at the weights alone; take weighted or gptq", where,
                         o->imatrix ? "imatrix" : "calibration");
    if (o->method == QUANTIZE_GPTQ && o->imatrix)
        return error_set(err, "%s: gptq needs the text itself, not \"imatrix\"; give \"calibration\", or take weighted", where);
    return 0;
}

static int read_plan(struct gguf_types *types, const struct recipe *r, const struct quantize_options *o, struct error *err) {
    *types = (struct gguf_types){0};
    if (!o->plan)
        return 0;
    char *path = recipe_path(r, o->plan);
    const int rc = gguf_types_read(types, path, err);
    free(path);
    return rc;
}

int quantize_method_runs_model(const struct quantize_options *o) { return o->method != QUANTIZE_RTN && !o->imatrix; }

int quantize_method_needs_text(const struct stage *s) {
    const struct quantize_options *o = s->options;
    return quantize_method_runs_model(o) && !o->calibration.count;
}

// A file whose matrices are in blocks already: what they lost stays lost.
static int refuse_quantized(const char *path, struct error *err) {
    struct gguf g;
    int rc = 0;
    TRY(gguf_open(&g, path, err));
    for (int64_t i = 0; i < g.n_tensor && rc == 0; i++)
        if (g.tensor[i].format->elements > 1)
            rc = error_set(err, "%s: quantized already (%s is %s), so the errors would add up; take the model that it was made from, or go on "
                           "with --requantize", path, g.tensor[i].name, g.tensor[i].format->name);
    gguf_close(&g);
    return rc;
}

// NaN and infinities, before they spread over all that is computed from the weights.
static int check_weights(const struct model *m, struct error *err) {
    for (int i = 0; i < m->n_parameter; i++) {
        const struct tensor *t = &m->parameter[i].t;
        const int64_t C = tensor_columns(t);
        float *row = xmalloc((size_t)C * sizeof *row, "row");
        int rc = 0;
        for (int64_t k = 0; k < tensor_rows(t) && rc == 0; k++) {
            tensor_read_rows(t, k, 1, row);
            for (int64_t j = 0; j < C && rc == 0; j++)
                if (!isfinite(row[j]))
                    rc = error_set(err, "tensor %s: the value at row %" PRId64 ", column %" PRId64 " is %g: the model is broken", t->name, k, j,
                                   (double)row[j]);
        }
        free(row);
        TRY(rc);
    }
    return 0;
}

// The stage's own text, or the recipe's.
static int open_text(const struct recipe *r, const struct quantize_options *o, const struct tokenizer *t, const struct config *c,
                     const struct dataset *of_recipe, struct dataset *own, struct walk_text *text, struct error *err) {
    *text = (struct walk_text){.data = of_recipe, .seq_len = r->data.seq_len, .tokens = o->calibration_tokens, .batch = BATCH,
                               .seed = (uint64_t)r->seed, .precision = (enum precision)r->precision};
    if (o->calibration.count) {
        char **paths = xcalloc(o->calibration.count, sizeof *paths, "paths");
        for (size_t i = 0; i < o->calibration.count; i++)
            paths[i] = recipe_path(r, o->calibration.item[i]);
        const int rc = dataset_read(own, t, (const char *const *)paths, o->calibration.count, "calibration", err);
        for (size_t i = 0; i < o->calibration.count; i++)
            free(paths[i]);
        free(paths);
        TRY(rc);
        text->data = own;
    }
    while (text->batch > 1 && text->batch * text->seq_len > text->tokens)
        text->batch /= 2;
    TRY(dataset_check(text->data, c->vocab, "calibration", err));
    return calibrate_check(text, "calibration_tokens", err);
}

// The passes over the text and what GPTQ computes from it.
static void add_cost(struct forecast *f) {
    const struct recipe *r = f->recipe;
    const struct quantize_options *o = r->stage[f->index].options;
    const double tokens = (double)o->calibration_tokens;
    const int64_t seq_len = r->data.seq_len;
    int64_t widest = f->in.hidden, layer = 0;
    f->flops += tokens * model_flops_per_token(&f->in, seq_len) * (o->method == QUANTIZE_GPTQ ? 6 : 1);
    f->memory += score_memory(&f->in, BATCH * seq_len, 0);
    for (int64_t l = 0; l < f->in.n_layer && o->method == QUANTIZE_GPTQ; l++) {
        const struct layer_shape *s = &f->in.layer[l];
        const int64_t C[] = {f->in.hidden, s->n_head * f->in.head_dim, f->in.hidden, s->n_ff};
        for (int i = 0; i < 4; i++) {
            f->flops += 2 * tokens * (double)C[i] * (double)C[i];
            widest = C[i] > widest ? C[i] : widest;
        }
        const int64_t own = f->in.hidden * (2 * C[1] + 2 * s->n_kv_head * f->in.head_dim + 3 * C[3]);
        f->flops += 2 * (double)own * (double)widest;
        layer = own > layer ? own : layer;
    }
    if (o->method == QUANTIZE_GPTQ)
        f->memory += 4 * f->in.hidden * (o->calibration_tokens + f->in.vocab) + 9 * layer + 36 * widest * widest;
}

// The stage's files against the shape of what they are for.
static int check_files(struct forecast *f, struct gguf_export_options *options, struct error *err) {
    const struct recipe *r = f->recipe;
    const struct quantize_options *o = r->stage[f->index].options;
    struct importance importance = {0};
    struct gguf_types types;
    TRY(read_plan(&types, r, o, err));
    options->types = &types;
    char *file = o->imatrix ? recipe_path(r, o->imatrix) : NULL;
    int rc = file ? importance_read(&importance, file, err) : 0;
    options->importance = file ? &importance : NULL;
    if (rc == 0)
        rc = forecast_gguf(f, options, err);
    free(file);
    importance_release(&importance);
    gguf_types_release(&types);
    return rc;
}

int quantize_method_forecast(struct forecast *f, const struct gguf_export_options *options, struct error *err) {
    const struct recipe *r = f->recipe;
    const struct quantize_options *o = r->stage[f->index].options;
    struct gguf_export_options all = *options;
    struct dataset own = {0};
    if (forecast_from_parent(f) && !o->requantize) {
        char *path = recipe_path(r, r->model);
        const int rc = path_is_gguf(path) && !file_is_directory(path) ? refuse_quantized(path, err) : 0;
        free(path);
        TRY(rc);
    }
    TRY(check_files(f, &all, err));
    if (!quantize_method_runs_model(o))
        return 0;
    add_cost(f);
    if (!o->calibration.count)
        return 0;
    struct walk_text text;
    const int rc = open_text(r, o, f->tokenizer, &f->in, NULL, &own, &text, err);
    dataset_release(&own);
    return rc;
}

static int with_text(const struct stage_run *s, const struct opened *in, const char *path, struct gguf_export_options *options,
                     const struct walk_text *text, struct error *err) {
    const struct quantize_options *o = s->stage->options;
    const struct gptq_options how = {.damping = o->damping, .act_order = o->act_order, .refits = REFITS};
    struct importance importance = {0};
    struct gptq_model gptq;
    if (o->method == QUANTIZE_WEIGHTED || !in->model->config.tie_embeddings) { // for the head; that of a tied table is not weighted
        calibrate(&importance, in->model, text);
        options->importance = &importance;
    }
    const struct gguf_encoder encoder = gptq_model_begin(&gptq, &how, text);
    options->encoder = o->method == QUANTIZE_GPTQ ? &encoder : NULL;
    const int rc = gguf_export(in->model, in->tokenizer, path, options, err);
    gptq_model_end(&gptq);
    importance_release(&importance);
    return rc;
}

static int with_imatrix(const struct stage_run *s, const struct opened *in, const char *path, struct gguf_export_options *options,
                        struct error *err) {
    struct importance importance;
    char *file = recipe_path(s->recipe, ((const struct quantize_options *)s->stage->options)->imatrix);
    int rc = importance_read(&importance, file, err);
    free(file);
    TRY(rc);
    options->importance = &importance;
    rc = gguf_export(in->model, in->tokenizer, path, options, err);
    importance_release(&importance);
    return rc;
}

static int by_method(const struct stage_run *s, const struct opened *in, const char *path, struct gguf_export_options *options,
                     struct error *err) {
    const struct quantize_options *o = s->stage->options;
    struct dataset own = {0};
    struct walk_text text;
    if (o->method == QUANTIZE_RTN)
        return gguf_export(in->model, in->tokenizer, path, options, err);
    TRY(check_weights(in->model, err));
    if (o->imatrix)
        return with_imatrix(s, in, path, options, err);
    int rc = open_text(s->recipe, o, in->tokenizer, &in->model->config, &s->run->inputs->train.data, &own, &text, err);
    if (rc == 0)
        rc = with_text(s, in, path, options, &text, err);
    dataset_release(&own);
    return rc;
}

int quantize_by_method(const struct stage_run *s, const struct opened *in, const char *path, const struct gguf_export_options *options,
                       struct error *err) {
    struct gguf_types types;
    struct gguf_export_options all = *options;
    TRY(read_plan(&types, s->recipe, s->stage->options, err));
    all.types = &types;
    const int rc = by_method(s, in, path, &all, err);
    gguf_types_release(&types);
    return rc;
}
