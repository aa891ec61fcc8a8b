// stage_export.c: the model in the formats and storage types that other tools read.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "quant/gguf_export.h"
#include "recipes/stage.h"

#define ROW(name, kind, field) name, kind, offsetof(struct export_options, field)
const struct option stage_export_table[] = {
    {ROW("format", OPTION_CHOICE, format), "hf", 0, 0, "hf|gguf|both", NULL,
     "Hugging Face folder, GGUF file, or both"},
    {ROW("dtype", OPTION_CHOICE, dtype), "bf16", 0, 0, "f32|f16|bf16", NULL, "how a weight is stored"},
    {ROW("shard_bytes", OPTION_INT, shard_bytes), "5e9", 0, 1e15, NULL, "N",
     "a Hugging Face folder larger than this gets several files; 0: never"},
    {ROW("padded", OPTION_BOOL, padded), "false", 0, 0, NULL, NULL,
     "GGUF: fill removed heads and channels with zeros where readers need the full shape"},
    {.name = NULL}};
#undef ROW

static const char *const gguf_types[] = {"F32", "F16", "BF16"};
static const char *const dtype_names[] = {"f32", "f16", "bf16"};

static int forecast(struct forecast *f, struct error *err) {
    const struct export_options *o = f->recipe->stage[f->index].options;
    f->uses_parent = forecast_from_parent(f);
    f->memory = f->uses_parent ? 0 : 4 * config_parameters(&f->in);
    f->bytes = 8 * (double)config_parameters(&f->in);
    if (o->format != FORMAT_GGUF) {
        if (!config_uniform(&f->in))
            return error_set(err,
                             "%s: stages[%d].export: layers of different shapes load in no stock Hugging Face reader",
                             f->recipe->where, f->index);
        f->disk += (int64_t)dtype_size((enum dtype)o->dtype) * config_parameters(&f->in);
        snprintf(f->what, sizeof f->what, "Hugging Face folder in %s%s", dtype_names[o->dtype],
                 o->format == FORMAT_BOTH ? "; " : "");
    }
    struct gguf_export_options options = {.type = gguf_types[o->dtype], .padded = o->padded};
    return o->format == FORMAT_HF ? 0 : forecast_gguf(f, &options, err);
}

static int run_gguf(struct stage_run *s, const struct opened *in, struct error *err) {
    const struct export_options *o = s->stage->options;
    char *name = xasprintf("%s-%s.gguf", s->recipe->name, gguf_types[o->dtype]), *path = path_join(s->folder, name);
    char *product = xasprintf("GGUF %s", gguf_types[o->dtype]);
    struct json *provenance = stage_provenance(s);
    struct gguf_export_options options = {
        .type = gguf_types[o->dtype], .padded = o->padded, .provenance = provenance, .name = s->recipe->name};
    int status = gguf_export(in->model, in->tokenizer, path, &options, err);
    if (status == 0)
        stage_add_product(s, product, name);
    json_free(provenance);
    free(name);
    free(path);
    free(product);
    return status;
}

static int run(struct stage_run *s, struct error *err) {
    const struct export_options *o = s->stage->options;
    struct opened in;
    TRY(stage_borrow_input(s, &in, err));
    int status = 0;
    if (o->format != FORMAT_GGUF) {
        char *folder = path_join(s->folder, "hf"), *product = xasprintf("HF %s", dtype_names[o->dtype]);
        status = directory_make(folder, err);
        if (status == 0)
            status = stage_save(s, in.model, folder, (enum dtype)o->dtype, o->shard_bytes, err);
        if (status == 0)
            stage_add_product(s, product, "hf");
        free(folder);
        free(product);
    }
    if (status == 0 && o->format != FORMAT_HF)
        status = run_gguf(s, &in, err);
    opened_release(&in);
    return status;
}

const struct stage_type stage_export = {.name = "export",
                                        .table = stage_export_table,
                                        .size = sizeof(struct export_options),
                                        .keeps_model = 1,
                                        .forecast = forecast,
                                        .run = run};
