// quantize_aware.c: see quantize_aware.h.
#include "recipes/quantize_aware.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "quant/gguf_model.h"
#include "recipes/inputs.h"
#include "recipes/quantize_method.h"

#define ENCODE_FLOPS 60 // of the encoders' searches for a weight, about

static struct gguf_export_options export_options(const struct fake_quant_options *o) {
    return (struct gguf_export_options){.type = o->quantize, .pure = o->quantize_pure};
}

int quantize_aware_check(struct fake_quant_options *o, const struct train_options *train, const char *where, struct error *err) {
    const char *alone = o->quantize_pure                      ? "quantize_pure"
                        : o->quantize_scales != SCALES_ENCODER ? "quantize_scales"
                        : o->quantize_start != START_WEIGHTS   ? "quantize_start"
                                                               : NULL;
    if (!o->quantize)
        return alone ? error_set(err, "%s: \"%s\" says how to round and \"quantize\" is not given; give the type", where, alone) : 0;
    if (o->quantize_scales == SCALES_LEARNED && train->keep_best)
        return error_set(err, "%s: \"keep_best\" keeps weights and no scales, which are learned here; leave one of them out", where);
    if (train->lora)
        return error_set(err, "%s: \"lora\" puts factors beside weights as they lie, and \"quantize\" rounds these; leave one of the two out", where);
    TRY(stage_check_gguf_type(&o->quantize, "quantize", "", where, err));
    if (strcmp(o->quantize, "F32") == 0)
        return error_set(err, "%s: \"quantize\": F32 leaves the weights as they are; leave it out", where);
    return 0;
}

static int check_input(const struct forecast *f, struct error *err) {
    char *path = recipe_path(f->recipe, f->recipe->model);
    const int is_file = forecast_from_parent(f) && path_is_gguf(path) && !file_is_directory(path);
    const int rc = is_file ? error_set(err, "%s: stages[%d].%s: \"quantize\" trains float weights, and %s holds blocks; name the folder that it was made "
                                       "from, or one from pdq export", f->recipe->where, f->index, f->recipe->stage[f->index].type->name, path) : 0;
    free(path);
    return rc;
}

// The options of a quantize stage by GPTQ; its paths are not set, so nothing is to be released.
static struct quantize_options gptq_options(const struct fake_quant_options *o, int64_t tokens) {
    struct quantize_options q;
    options_init(stage_quantize_table, &q);
    free(q.type);
    q.type = o->quantize;
    q.pure = o->quantize_pure;
    q.method = QUANTIZE_GPTQ;
    q.calibration_tokens = tokens > 0 && tokens < q.calibration_tokens ? tokens : q.calibration_tokens;
    return q;
}

// GPTQ comes before the training: of their memory the larger counts.
static int forecast_start(struct forecast *f, const struct fake_quant_options *o, struct error *err) {
    struct forecast start = {.recipe = f->recipe, .index = f->index, .in = f->out};
    if (o->quantize_start != START_GPTQ)
        return 0;
    if (!model_is_causal(&f->out))
        return error_set(err, "%s: stages[%d].%s: \"quantize_start\": gptq learns from text by predicting the next token; a %s model does not; leave it out",
                         f->recipe->where, f->index, f->recipe->stage[f->index].type->name, f->out.model_type);
    const struct quantize_options q = gptq_options(o, 0);
    quantize_method_cost(&start, &q);
    f->flops += start.flops;
    f->memory = f->memory > start.memory ? f->memory : start.memory;
    f->scratch += config_parameters(&f->out);
    return 0;
}

int quantize_aware_forecast(struct forecast *f, const struct fake_quant_options *o, int64_t steps, int is_fresh, struct error *err) {
    struct gguf_plan plan;
    const struct gguf_export_options options = export_options(o);
    if (!o->quantize)
        return 0;
    if (!is_fresh)
        TRY(check_input(f, err));
    struct model *shape = model_new(&f->out, 0);
    int rc = fake_quant_plan(&plan, shape, &options, err);
    const int learned = o->quantize_scales == SCALES_LEARNED;
    if (rc == 0 && learned && !fake_quant_can_learn(&plan)) {
        rc = error_set(err, "\"quantize_scales\": learned scales need blocks with one scale (Q8_0, Q5_0, Q4_0), and %s has none; leave it out, then the "
                       "encoder chooses them", o->quantize);
        gguf_plan_release(&plan);
    }
    if (rc == 0) {
        const size_t used = strlen(f->what);
        snprintf(f->what + used, sizeof f->what - used, ", with the weights as %s%s", o->quantize, learned ? " of learned scales" : "");
        f->memory += fake_quant_bytes(&plan, learned);
        f->flops += (double)steps * ENCODE_FLOPS * (double)config_parameters(&f->out);
        gguf_plan_release(&plan);
    } else {
        error_prefix(err, "%s: stages[%d].%s", f->recipe->where, f->index, f->recipe->stage[f->index].type->name);
    }
    model_free(shape);
    return rc < 0 ? -1 : forecast_start(f, o, err);
}

static char *start_path(const char *folder) { return path_join(folder, "start.gguf"); }

static int write_start(const struct stage_run *s, struct model *m, const struct fake_quant_options *o, const char *path, struct error *err) {
    const int64_t seq_len = s->recipe->data.seq_len, tokens = s->train->data.n_token;
    struct quantize_options q = gptq_options(o, (tokens - 1) / seq_len * seq_len);
    const struct stage stage = {.type = &stage_quantize, .options = &q};
    struct stage_run as_quantize = *s;
    as_quantize.stage = &stage;
    const struct opened in = {.model = m, .tokenizer = s->run->parent.tokenizer};
    const struct gguf_export_options options = export_options(o);
    return quantize_by_method(&as_quantize, &in, path, &options, err);
}

// The matrices of the file's layers into the model: tables and heads are rounded each by itself, so the encoder does that as well.
static void take(struct model *m, struct model *file) {
    for (int i = 0; i < m->n_parameter; i++) {
        const struct tensor *t = &m->parameter[i].t;
        const struct parameter *from = model_find(file, m->parameter[i].name);
        if (from && t->n_dim == 2 && m->parameter[i].layer >= 0)
            tensor_read_rows(&from->t, 0, tensor_rows(t), t->data);
    }
}

int quantize_aware_start(const struct stage_run *s, struct model *m, const struct fake_quant_options *o, const char *folder, struct error *err) {
    struct tokenizer *tokenizer = NULL;
    if (!o->quantize || o->quantize_start != START_GPTQ)
        return 0;
    char *path = start_path(folder);
    int rc = file_exists(path) ? 0 : write_start(s, m, o, path, err);
    struct model *file = rc == 0 ? gguf_model_open(path, &tokenizer, err) : NULL;
    rc = file ? 0 : -1;
    if (file)
        take(m, file);
    model_free(file);
    tokenizer_free(tokenizer);
    free(path);
    return rc;
}

void quantize_aware_forget(const char *folder) {
    char *path = start_path(folder);
    unlink(path);
    free(path);
}

int quantize_aware_begin(struct fake_quant *q, struct trainer *t, const struct fake_quant_options *o, struct error *err) {
    const struct gguf_export_options options = export_options(o);
    *q = (struct fake_quant){0};
    if (!o->quantize)
        return 0;
    if (!t->model->data)
        return error_set(err, "%s: the model's weights are quantized; train the unquantized model", t->title);
    TRY(fake_quant_begin(q, t->model, &options, o->quantize_scales == SCALES_LEARNED, err));
    t->beside = q->scales;
    t->refresh = fake_quant_refresh;
    t->refresh_context = q;
    return 0;
}

const char *quantize_aware_product(const struct fake_quant_options *o, const char *name) { return o->quantize ? "before rounding" : name; }
