// quantize_method.c: see quantize_method.h.
#include "recipes/quantize_method.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/threads.h"
#include "common/model/load.h"
#include "common/tensor/vecmath.h"
#include "quant/bias.h"
#include "quant/calibrate.h"
#include "quant/gptq_model.h"
#include "quant/int_export.h"
#include "quant/rescale.h"
#include "recipes/inputs.h"

#define BATCH 8  // windows at once
#define REFITS 2 // times that a block's scales are chosen again

// Does GPTQ round, at least at first?
static int begins_with_gptq(const struct quantize_options *o) { return o->method == QUANTIZE_GPTQ || o->method == QUANTIZE_AUTOROUND; }

// A pass through the whole model at once for columns' weights: of all matrices, or, beside GPTQ, of the head; that of a tied table is not weighted.
static int sees_all_layers(const struct quantize_options *o, const struct config *c) {
    return (o->method == QUANTIZE_WEIGHTED && !o->imatrix) || (begins_with_gptq(o) && !int_type_find(o->type) && !c->tie_embeddings);
}

static const char *method_name(const struct quantize_options *o) {
    static const char *const names[] = {[QUANTIZE_RTN] = "rtn", [QUANTIZE_WEIGHTED] = "weighted", [QUANTIZE_GPTQ] = "gptq", [QUANTIZE_MSE] = "mse",
                                        [QUANTIZE_AUTOROUND] = "autoround"};
    return names[o->method];
}

int quantize_method_runs_model(const struct quantize_options *o) {
    const struct int_type *ints = int_type_find(o->type);
    return (o->method == QUANTIZE_WEIGHTED && !o->imatrix) || begins_with_gptq(o) || o->rescale != RESCALE_NONE || o->bias_correction ||
           (ints && ints->static_input);
}

int quantize_method_check(const struct quantize_options *o, const char *where, struct error *err) {
    if (o->calibration.count && !quantize_method_runs_model(o))
        return error_set(err, "%s: \"calibration\" is given and \"method\" is %s, which looks at the weights alone; take weighted, gptq or autoround",
                         where, o->method == QUANTIZE_WEIGHTED ? "weighted by a file" : method_name(o));
    if (o->imatrix && (o->method == QUANTIZE_RTN || o->method == QUANTIZE_MSE))
        return error_set(err, "%s: \"imatrix\" is given and \"method\" is %s, which looks at the weights alone; take weighted", where,
                         method_name(o));
    if (o->bias_correction && o->method != QUANTIZE_RTN)
        return error_set(err, "%s: \"bias_correction\" goes with \"method\": \"rtn\"", where);
    if (o->imatrix && o->rescale != RESCALE_NONE)
        return error_set(err, "%s: \"imatrix\" is of the model as it is, \"rescale\" changes it; give \"calibration\"", where);
    if (begins_with_gptq(o) && o->imatrix)
        return error_set(err, "%s: %s needs the text itself, not \"imatrix\"; give \"calibration\", or take weighted", where, method_name(o));
    const struct block_format *format = o->method == QUANTIZE_AUTOROUND && !o->plan ? block_format_find(o->type) : NULL;
    if (format && format->elements == 1)
        return error_set(err, "%s: \"method\": \"autoround\" chooses between levels of a block, and %s has none: each value is a "
                         "floating-point number; take rtn, or another type", where, o->type);
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

// Windows at once.
static int64_t batch_of(int64_t tokens, int64_t seq_len) {
    int64_t batch = BATCH;
    while (batch > 1 && batch * seq_len > tokens)
        batch /= 2;
    return batch;
}

// The stage's own text, or the recipe's.
static int open_text(const struct recipe *r, const struct quantize_options *o, const struct tokenizer *t, const struct config *c,
                     const struct dataset *of_recipe, struct dataset *own, struct walk_text *text, struct error *err) {
    *text = (struct walk_text){.data = of_recipe, .seq_len = r->data.seq_len, .tokens = o->calibration_tokens,
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
    text->batch = batch_of(text->tokens, text->seq_len);
    TRY(dataset_check(text->data, c->vocab, "calibration", err));
    return calibrate_check(text, "calibration_tokens", err);
}

// What memory is a function of, beside the text: the largest layer's matrices, the largest of these, and the longest row of inputs.
struct extent {
    int64_t layer, matrix, widest;
};

static struct extent extent_of(const struct config *c) {
    struct extent e = {.widest = 1};
    struct model *shape = model_new(c, 0);
    int64_t *own = xcalloc((size_t)c->n_layer + 1, sizeof *own, "weights of layers");
    for (int i = 0; i < shape->n_parameter; i++) {
        const struct parameter *p = &shape->parameter[i];
        if (p->layer < 0 || p->t.n_dim != 2)
            continue;
        own[p->layer] += tensor_count(&p->t);
        e.layer = max_i64(e.layer, own[p->layer]);
        e.matrix = max_i64(e.matrix, tensor_count(&p->t));
        e.widest = max_i64(e.widest, tensor_columns(&p->t));
    }
    free(own);
    model_free(shape);
    return e;
}

// What GPTQ computes from a text for one layer: second moments, factors, and the errors' way through the columns behind.
static double gptq_flops(const struct config *c, const struct layer_shape *s, double tokens, const struct extent *e) {
    const int64_t C[] = {c->hidden, s->n_head * c->head_dim, c->hidden, s->n_ff};
    double flops = 0;
    for (int i = 0; i < 4; i++)
        flops += 2 * tokens * (double)C[i] * (double)C[i];
    return flops + 2 * (double)(c->hidden * (2 * C[1] + 2 * s->n_kv_head * c->head_dim + 3 * C[3])) * (double)e->widest;
}

// Bytes while GPTQ rounds: a layer as f32 and as codes or blocks; of the matrix at hand its values, and as integers blocks, scales and what is
// packed, too; 36 for each of a row's second moments. A GGUF file's embedding is there as f32 and as blocks before that.
static int64_t gptq_memory(const struct quantize_options *o, const struct config *c, const struct extent *e) {
    const int is_ints = int_type_find(o->type) != NULL;
    const int64_t layer = 5 * e->layer + (is_ints ? 8 : 4) * e->matrix + 36 * e->widest * e->widest;
    return is_ints ? layer : max_i64(layer, 5 * c->hidden * c->vocab);
}

// The same while factors of channels are looked for: a layer as f32, a matrix as it is, scaled, rounded and in products with what its inputs' second
// moments are; these.
static int64_t rescale_memory(const struct extent *e) { return 4 * e->layer + 17 * e->matrix + 16 * e->widest * e->widest; }

// Learned rounding besides: the unquantized model's pass, two that measure, and the steps, each with a pass back; n: weights of all layers.
static void rounding_flops(struct forecast *f, const struct quantize_options *o, int64_t rows, int64_t n) {
    const double layers = model_flops_per_token(&f->in, f->recipe->data.seq_len) - 2 * (double)f->in.hidden * (double)f->in.vocab;
    f->flops += layers * (3 * (double)o->calibration_tokens + 3 * (double)(rows * o->rounding_steps));
    f->bytes += (double)LAYER_ROUNDING_BYTES * 2 * (double)o->rounding_steps * (double)n;
}

// Its bytes, while nothing is at hand of a matrix alone: the layer, its codes, choices, and before the steps the unquantized layer.
static int64_t rounding_memory(const struct quantize_options *o, const struct config *c, int64_t rows, const struct extent *e) {
    return 4 * c->hidden * (o->calibration_tokens + 2 * rows) + (4 + 2 + 4 + LAYER_ROUNDING_BYTES) * e->layer;
}

// The passes over the text and what is computed from it. Of what comes one after the other the largest counts.
void quantize_method_cost(struct forecast *f, const struct quantize_options *o) {
    const struct config *c = &f->in;
    const struct extent e = extent_of(c);
    const double tokens = (double)o->calibration_tokens;
    const int64_t seq_len = f->recipe->data.seq_len, rows = batch_of(o->calibration_tokens, seq_len) * seq_len;
    const int64_t walk = 4 * c->hidden * o->calibration_tokens + walk_memory(c, rows);
    int64_t most = sees_all_layers(o, c) ? score_memory(c, rows, 0) + 4 * e.matrix : walk + 4 * e.layer;
    f->flops += tokens * model_flops_per_token(c, seq_len) * ((begins_with_gptq(o) ? 6 : 1) + (o->rescale == RESCALE_NONE ? 0 : 10));
    for (int64_t l = 0; l < c->n_layer && begins_with_gptq(o); l++)
        f->flops += gptq_flops(c, &c->layer[l], tokens, &e);
    if (o->rescale != RESCALE_NONE)
        most = max_i64(most, walk + rescale_memory(&e));
    if (begins_with_gptq(o))
        most = max_i64(most, walk + gptq_memory(o, c, &e));
    if (o->method == QUANTIZE_AUTOROUND) {
        const int64_t step = layer_rounding_windows(o->calibration_tokens / seq_len) * seq_len;
        rounding_flops(f, o, step, c->n_layer * e.layer);
        most = max_i64(most, 4 * c->hidden * o->calibration_tokens + layer_memory(c, rows) + rounding_memory(o, c, step, &e));
    }
    f->memory += most;
}

// A folder of integers: its size, and what it says of itself.
static int forecast_ints(struct forecast *f, struct error *err) {
    const struct stage *stage = &f->recipe->stage[f->index];
    const struct quantize_options *o = stage->options;
    const struct int_type *type = stage_quantize_ints(stage);
    const struct extent e = extent_of(&f->in);
    struct model *shape = model_new(&f->in, 0);
    const int rc = int_type_check(type, o->group_size, shape, err);
    for (int i = 0; i < shape->n_parameter; i++) {
        const struct tensor *t = &shape->parameter[i].t;
        const int64_t scales = int_type_takes(&shape->parameter[i]) ? tensor_count(t) / int_type_group(type, o->group_size, tensor_columns(t)) : 0;
        f->disk += scales ? tensor_count(t) * type->bits / 8 + 3 * scales : 2 * tensor_count(t);
    }
    f->memory += quantize_method_runs_model(o) ? 0 : 6 * e.matrix; // one at a time as f32, as codes, and packed
    model_free(shape);
    if (rc < 0)
        return error_prefix(err, "%s: stages[%d].quantize", f->recipe->where, f->index);
    snprintf(f->what, sizeof f->what, "safetensors of integers, %s%s", type->name, type->input_bits ? " (inputs rounded to 8 bits where they are read)" : "");
    if (!f->out.source)
        f->out.source = json_object();
    json_set(f->out.source, "quantization_config", int_type_config(type, o->group_size, o->damping, 0));
    return 0;
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
        rc = stage_quantize_ints(&r->stage[f->index]) ? forecast_ints(f, err) : forecast_gguf(f, options, err);
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
        int rc = path_is_gguf(path) && !file_is_directory(path) ? refuse_quantized(path, err) : 0;
        if (json_get(f->parent->source, "quantization_config"))
            rc = error_set(err, "%s: quantized already (quantization_config in config.json), so the errors would add up; take the model that it was "
                           "made from, or go on with --requantize", path);
        free(path);
        TRY(rc);
    }
    TRY(check_files(f, &all, err));
    if (!quantize_method_runs_model(o))
        return 0;
    quantize_method_cost(f, o);
    if (!o->calibration.count)
        return 0;
    struct walk_text text;
    const int rc = open_text(r, o, f->tokenizer, &f->in, NULL, &own, &text, err);
    dataset_release(&own);
    return rc;
}

// What is written: the stage's model, or one that its factors changed, as which file.
struct job { // lifetime: one quantize_by_method
    const struct stage_run *s;
    const struct opened *in;
    struct model *model;
    struct model *changed[2]; // copies that share most weights, each with the one before it
    int n_changed;
    const char *path;
    struct gguf_export_options gguf;
    const struct int_type *ints; // NULL: a GGUF file
    struct walk_text text;       // data NULL: none is needed
    struct importance importance; // no entries: none
};

static const struct quantize_options *options_of(const struct job *j) { return j->s->stage->options; }

static int write_ints(struct job *j, const struct gptq_options *how, const struct rounding_options *learned, struct error *err) {
    const struct quantize_options *o = options_of(j);
    const struct int_export_options options = {.type = j->ints,
                                               .group = o->group_size,
                                               .importance = j->importance.n_entry ? &j->importance : NULL,
                                               .gptq = begins_with_gptq(o) ? how : NULL,
                                               .learned = o->method == QUANTIZE_AUTOROUND ? learned : NULL,
                                               .text = &j->text,
                                               .observer = observer_at(o->observer),
                                               .carry_from = path_is_gguf(j->s->input) && !file_is_directory(j->s->input) ? NULL : j->s->input,
                                               .provenance = j->gguf.provenance};
    TRY(int_export(j->model, j->path, &options, err));
    return stage_complete_tokenizer(j->s, j->path, err);
}

static int write_model(struct job *j, struct error *err) {
    const struct quantize_options *o = options_of(j);
    const struct gptq_options how = {.damping = o->damping, .act_order = o->act_order, .refits = REFITS};
    const struct rounding_options learned = {.steps = o->rounding_steps};
    struct gptq_model gptq;
    if (j->ints)
        return write_ints(j, &how, &learned, err);
    j->gguf.importance = j->importance.n_entry ? &j->importance : NULL;
    const struct gguf_encoder encoder = gptq_model_begin(&gptq, &how, o->method == QUANTIZE_AUTOROUND ? &learned : NULL, &j->text);
    j->gguf.encoder = begins_with_gptq(o) ? &encoder : NULL;
    const int rc = gguf_export(j->model, j->in->tokenizer, j->path, &j->gguf, err);
    gptq_model_end(&gptq);
    return rc;
}

// Weights of the columns' errors, by the method.
static int take_importance(struct job *j, struct error *err) {
    const struct quantize_options *o = options_of(j);
    if (o->method == QUANTIZE_MSE)
        importance_of_ones(&j->importance, j->model);
    if (sees_all_layers(o, &j->model->config)) {
        struct calibration_result c;
        calibrate(&c, j->model, &j->text, 0);
        calibration_importance(&c, j->model, &j->importance);
        calibration_release(&c);
    }
    if (o->method != QUANTIZE_WEIGHTED || !o->imatrix)
        return 0;
    char *file = recipe_path(j->s->recipe, o->imatrix);
    const int rc = importance_read(&j->importance, file, err);
    free(file);
    return rc;
}

// ---- factors of channels ----

struct formats { // what each matrix is rounded to
    const struct job *job;
    struct gguf_plan plan; // of a GGUF file
};

static struct rounding rounding_of(void *context, const struct parameter *p) {
    const struct formats *f = context;
    if (f->job->ints)
        return (struct rounding){.ints = f->job->ints, .group = options_of(f->job)->group_size};
    for (int64_t i = 0; i < f->plan.n_tensor; i++)
        for (int k = 0; k < f->plan.tensor[i].n_part; k++)
            if (f->plan.tensor[i].source[k] == p)
                return (struct rounding){.format = f->plan.tensor[i].format};
    return (struct rounding){0};
}

typedef struct model *change(const struct model *m, const struct walk_text *text, const struct rescale_options *o, struct error *err);

static int apply(struct job *j, change *how, struct error *err) {
    const struct quantize_options *o = options_of(j);
    struct formats formats = {.job = j};
    const struct rescale_options options = {(enum rescale_kind)o->rescale, o->alpha, o->clip, rounding_of, &formats};
    if (!j->ints)
        TRY(gguf_plan_make(&formats.plan, j->model, j->in->tokenizer, &j->gguf, err));
    struct model *changed = how(j->model, &j->text, &options, err);
    if (!j->ints)
        gguf_plan_release(&formats.plan);
    if (!changed)
        return -1;
    j->changed[j->n_changed++] = j->model = changed;
    return 0;
}

static int by_method(struct job *j, struct error *err) {
    const struct quantize_options *o = options_of(j);
    struct dataset own = {0};
    const int checked_later = o->method == QUANTIZE_RTN && !quantize_method_runs_model(o) && !int_type_find(o->type); // row by row, as written
    int rc = checked_later || j->model->data ? 0 : model_check_values(j->model, err); // in memory: checked when it was read
    if (rc == 0 && quantize_method_runs_model(o))
        rc = open_text(j->s->recipe, o, j->in->tokenizer, &j->model->config, &j->s->train->data, &own, &j->text, err);
    if (rc == 0 && o->rescale != RESCALE_NONE)
        rc = apply(j, rescale, err);
    if (rc == 0 && o->bias_correction)
        rc = apply(j, correct_biases, err);
    if (rc == 0)
        rc = take_importance(j, err);
    if (rc == 0)
        rc = interrupt_check(err);
    if (rc == 0)
        rc = write_model(j, err);
    while (j->n_changed > 0)
        model_free(j->changed[--j->n_changed]);
    importance_release(&j->importance);
    dataset_release(&own);
    return rc;
}

int quantize_by_method(const struct stage_run *s, const struct opened *in, const char *path, const struct gguf_export_options *options,
                       struct error *err) {
    struct gguf_types types;
    struct job j = {.s = s, .in = in, .model = in->model, .path = path, .gguf = *options, .ints = stage_quantize_ints(s->stage)};
    TRY(read_plan(&types, s->recipe, s->stage->options, err));
    j.gguf.types = &types;
    const int rc = by_method(&j, err);
    gguf_types_release(&types);
    return rc;
}
