// stage_quantize.c: the model as a GGUF file of a given type or mix.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "quant/gguf_export.h"
#include "quant/gguf_mix.h"
#include "quant/int_types.h"
#include "quant/observe.h"
#include "quant/rescale.h"
#include "recipes/quantize_method.h"
#include "recipes/stage.h"

#define ROW(name, kind, field) name, kind, offsetof(struct quantize_options, field)
const struct option stage_quantize_table[] = {
    {ROW("type", OPTION_STRING, type), "Q8_0", 0, 0, NULL, "TYPE",
     "in a GGUF file " GGUF_TYPES ", as llama-quantize mixes them; in a folder of safetensors " INT_TYPES},
    {ROW("group_size", OPTION_INT, group_size), "128", 0, 1 << 20, NULL, "N",
     "W4A16 and GPTQ: columns that share a scale; 0: all of a row"},
    {ROW("pure", OPTION_BOOL, pure), "false", 0, 0, NULL, NULL, "give every matrix the bare type, no mix"},
    {ROW("allow_fallback", OPTION_BOOL, allow_fallback), "false", 0, 0, NULL, NULL,
     "give a matrix whose rows do not fit the type's blocks a larger type, and say so"},
    {ROW("padded", OPTION_BOOL, padded), "false", 0, 0, NULL, NULL,
     "fill removed heads and channels with zeros where readers need the full shape"},
    {ROW("requantize", OPTION_BOOL, requantize), "false", 0, 0, NULL, NULL, "take a model that is quantized already, whose errors add up"},
    {ROW("method", OPTION_CHOICE, method), "rtn", 0, 0, "rtn|weighted|gptq|mse|autoround", NULL,
     "rtn: each weight to the nearest; mse: scales of the least squared error; weighted: scales for the inputs of a text; gptq: errors made up for "
     "by later columns; autoround: after gptq each layer's roundings are learned together, for the layer's outputs"},
    {ROW("rescale", OPTION_CHOICE, rescale), "none", 0, 0, "none|smooth|awq", NULL,
     "first, channels divided by factors that the next matrix is multiplied by: smooth (SmoothQuant) for rounded inputs, awq for rounded weights"},
    {ROW("alpha", OPTION_DOUBLE, alpha), "0.5", 0, 1, NULL, "F", "smooth: how much of the inputs' ranges moves into the weights"},
    {ROW("clip", OPTION_BOOL, clip), "true", 0, 0, NULL, NULL, "awq: cut off weights where that rounds the rest better"},
    {ROW("bias_correction", OPTION_BOOL, bias_correction), "false", 0, 0, NULL, NULL,
     "rtn: take what rounding adds to the mean outputs, on a text, back in the biases"},
    {ROW("observer", OPTION_CHOICE, observer), "minmax", 0, 0, OBSERVERS, NULL, "W8A8_STATIC: how the ranges of inputs are taken from the text"},
    {ROW("calibration", OPTION_LIST, calibration), NULL, 0, 0, NULL, "FILE",
     "text for weighted, gptq, autoround, rescale and W8A8_STATIC (may be repeated); in a recipe data.train unless given"},
    {ROW("calibration_tokens", OPTION_INT, calibration_tokens), "65536", 1, 1e12, NULL, "N", "tokens of it"},
    {ROW("imatrix", OPTION_STRING, imatrix), NULL, 0, 0, NULL, "FILE",
     "importance matrix for weighted: from pdq calibrate, or from llama-imatrix"},
    {ROW("plan", OPTION_STRING, plan), NULL, 0, 0, NULL, "PLAN.json", "types of single matrices, from pdq bits; what it does not name gets --type's"},
    {ROW("damping", OPTION_DOUBLE, damping), "0.01", 1e-9, 10, NULL, "F", "gptq, autoround: share of the mean square that is added to all"},
    {ROW("act_order", OPTION_BOOL, act_order), "true", 0, 0, NULL, NULL,
     "gptq, autoround: in what order: blocks with large inputs first, and large columns first within a block; else as they stand"},
    {ROW("rounding_steps", OPTION_INT, rounding_steps), "200", 1, 1e6, NULL, "N", "autoround: steps of 8 windows for each layer"},
    {.name = NULL}};
#undef ROW

const struct int_type *stage_quantize_ints(const struct stage *s) { return int_type_find(((const struct quantize_options *)s->options)->type); }

const char *stage_quantize_type(const struct stage *s) { return ((const struct quantize_options *)s->options)->type; }

static struct gguf_export_options export_options(const struct quantize_options *o) {
    return (struct gguf_export_options){
        .type = o->type, .pure = o->pure, .allow_fallback = o->allow_fallback, .padded = o->padded};
}

struct gguf_export_options stage_gguf_options(const struct stage *s) {
    return s->type == &stage_quantize ? export_options(s->options) : stage_export_gguf_options(s);
}

int stage_check_gguf_type(char **type, const char *key, const char *others, const char *where, struct error *err) {
    const struct gguf_mix *mix = gguf_mix_find(*type), *near = mix ? NULL : gguf_mix_nearest(*type);
    if (!mix)
        return error_set(err, "%s: \"%s\": found \"%s\", expected " GGUF_TYPES "%s%s%s%s", where, key, *type, others,
                         near ? "; did you mean " : "", near ? near->name : "", near ? "?" : "");
    char *shown = xstrdup(mix->name); // llama.cpp has two names for some
    free(*type);
    *type = shown;
    return 0;
}

static int validate_ints(struct quantize_options *o, const struct int_type *type, const char *where, struct error *err) {
    char *shown = xstrdup(type->name);
    free(o->type);
    o->type = shown;
    if (o->pure || o->allow_fallback || o->padded || o->plan)
        return error_set(err, "%s: \"%s\" is for GGUF files; \"type\" is %s, a folder of safetensors", where,
                         o->pure ? "pure" : o->allow_fallback ? "allow_fallback" : o->padded ? "padded" : "plan", type->name);
    return quantize_method_check(o, where, err);
}

static int validate(struct recipe *r, int index, const char *where, struct error *err) {
    struct quantize_options *o = r->stage[index].options;
    const struct int_type *ints = int_type_find(o->type);
    if (ints)
        return validate_ints(o, ints, where, err);
    TRY(stage_check_gguf_type(&o->type, "type", ", or " INT_TYPES, where, err));
    return quantize_method_check(o, where, err);
}

int forecast_gguf(struct forecast *f, const struct gguf_export_options *options, struct error *err) {
    struct model *shape = model_new(&f->in, 0);
    struct gguf_plan plan;
    int result = gguf_plan_make(&plan, shape, f->tokenizer, options, err);
    if (result == 0) {
        size_t used = strlen(f->what);
        f->disk += plan.file_bytes;
        snprintf(f->what + used, sizeof f->what - used, "GGUF %s, architecture %s", options->type, plan.architecture);
        used = strlen(f->what);
        if (plan.n_fallback)
            snprintf(f->what + used, sizeof f->what - used, "; %ld tensors in a larger type", (long)plan.n_fallback);
        used = strlen(f->what);
        if (plan.padding_bytes)
            snprintf(f->what + used, sizeof f->what - used, "; %ld bytes of zeros for the full shape",
                     (long)plan.padding_bytes);
        gguf_plan_release(&plan);
    } else {
        error_prefix(err, "%s: stages[%d].%s", f->recipe->where, f->index, f->recipe->stage[f->index].type->name);
    }
    model_free(shape);
    return result;
}

int stage_keeps_weights(const struct stage *s) {
    return s->type == &stage_quantize && ((const struct quantize_options *)s->options)->rescale == RESCALE_NONE;
}

static int files(const struct stage *s, stage_file *add, void *context, struct error *err) {
    const struct quantize_options *o = s->options;
    TRY(add(context, o->imatrix, 0, err));
    TRY(add(context, o->plan, 0, err));
    for (size_t i = 0; i < o->calibration.count; i++)
        TRY(add(context, o->calibration.item[i], 0, err));
    return 0;
}

static int forecast(struct forecast *f, struct error *err) {
    const struct quantize_options *o = f->recipe->stage[f->index].options;
    struct gguf_export_options options = export_options(o);
    f->flops = 60 * (double)config_parameters(&f->in); // the encoders' searches, about
    f->bytes = 10 * (double)config_parameters(&f->in);
    f->memory = FORECAST_STREAM;
    return quantize_method_forecast(f, &options, err);
}

static int run(struct stage_run *s, struct error *err) {
    const struct quantize_options *o = s->stage->options;
    struct opened in;
    TRY(stage_map_input(s, &in, err));
    char *name = xasprintf(stage_quantize_ints(s->stage) ? "%s-%s" : "%s-%s.gguf", s->recipe->name, o->type), *path = path_join(s->folder, name);
    struct json *provenance = stage_provenance(s);
    struct gguf_export_options options = export_options(o);
    options.provenance = provenance;
    options.name = s->recipe->name;
    int status = quantize_by_method(s, &in, path, &options, err);
    if (status == 0)
        stage_add_product(s, o->type, name);
    json_free(provenance);
    free(name);
    free(path);
    opened_release(&in);
    return status;
}

const struct stage_type stage_quantize = {.name = "quantize",
                                          .table = stage_quantize_table,
                                          .size = sizeof(struct quantize_options),
                                          .keeps_model = 1,
                                          .needs_text = quantize_method_needs_text,
                                          .files = files,
                                          .validate = validate,
                                          .forecast = forecast,
                                          .run = run};
