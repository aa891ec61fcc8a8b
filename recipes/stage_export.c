// stage_export.c: the model in the formats and storage types that other tools read.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/model/pad.h"
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
     "fill removed heads and channels with zeros where readers need the full shape: layers that differ become alike"},
    {.name = NULL}};
#undef ROW

static const char *const gguf_types[] = {"F32", "F16", "BF16"};
static const char *const dtype_names[] = {"f32", "f16", "bf16"};

struct gguf_export_options stage_export_gguf_options(const struct stage *s) {
    const struct export_options *o = s->options;
    return (struct gguf_export_options){.type = gguf_types[o->dtype], .padded = o->padded};
}

int stage_writes_gguf(const struct stage *s) {
    return s->type == &stage_quantize ||
           (s->type == &stage_export && ((const struct export_options *)s->options)->format != FORMAT_HF);
}

// The shape that the Hugging Face folder has: as it is where all layers are the same, else filled up with zeros, or with each
// layer's widths in block_configs.
static int folder_config(const struct export_options *o, const struct config *in, struct config *out, struct error *err) {
    config_copy(out, in);
    if (o->padded) {
        struct layer_shape shape = pad_shape(in);
        for (int64_t l = 0; l < out->n_layer; l++)
            out->layer[l] = shape;
        return 0;
    }
    if (config_uniform(in) || config_is_block_configs(in) || config_has_full_heads(in) || config_to_block_configs(out, err) == 0)
        return 0;
    config_release(out);
    return -1;
}

static int forecast(struct forecast *f, struct error *err) {
    const struct export_options *o = f->recipe->stage[f->index].options;
    f->memory = FORECAST_STREAM;
    f->bytes = 8 * (double)config_parameters(&f->in);
    if (o->format != FORMAT_GGUF) {
        struct config folder;
        if (folder_config(o, &f->in, &folder, err) < 0)
            return error_prefix(err, "%s: stages[%d].export", f->recipe->where, f->index);
        int64_t own = config_parameters(&f->in), written = config_parameters(&folder), size = (int64_t)dtype_size((enum dtype)o->dtype);
        f->disk += size * written;
        f->memory += written > own ? 4 * written : 0;
        snprintf(f->what, sizeof f->what, "Hugging Face folder in %s", dtype_names[o->dtype]);
        if (written > own)
            snprintf(f->what + strlen(f->what), sizeof f->what - strlen(f->what), ", with %ld bytes of zeros for the full shape",
                     (long)(size * (written - own)));
        if (config_is_block_configs(&folder))
            snprintf(f->what + strlen(f->what), sizeof f->what - strlen(f->what), ", nemotron-nas with block_configs");
        snprintf(f->what + strlen(f->what), sizeof f->what - strlen(f->what), "%s", o->format == FORMAT_BOTH ? "; " : "");
        config_release(&folder);
    }
    struct gguf_export_options options = stage_export_gguf_options(&f->recipe->stage[f->index]);
    return o->format == FORMAT_HF ? 0 : forecast_gguf(f, &options, err);
}

static int run_gguf(struct stage_run *s, const struct opened *in, struct error *err) {
    const struct export_options *o = s->stage->options;
    char *name = xasprintf("%s-%s.gguf", s->recipe->name, gguf_types[o->dtype]), *path = path_join(s->folder, name);
    char *product = xasprintf("GGUF %s", gguf_types[o->dtype]);
    struct json *provenance = stage_provenance(s);
    struct gguf_export_options options = stage_export_gguf_options(s->stage);
    options.provenance = provenance;
    options.name = s->recipe->name;
    int status = gguf_export(in->model, in->tokenizer, path, &options, err);
    if (status == 0)
        stage_add_product(s, product, name);
    json_free(provenance);
    free(name);
    free(path);
    free(product);
    return status;
}

static int run_folder(struct stage_run *s, const struct opened *in, struct error *err) {
    const struct export_options *o = s->stage->options;
    struct config shape;
    TRY(folder_config(o, &in->model->config, &shape, err));
    int same = strcmp(shape.model_type, in->model->config.model_type) == 0 &&
               memcmp(shape.layer, in->model->config.layer, (size_t)shape.n_layer * sizeof *shape.layer) == 0;
    struct model *other = same ? NULL : model_pad(in->model, shape.layer);
    if (other) { // the widths, or the words for them, are others
        config_release(&other->config);
        config_copy(&other->config, &shape);
    }
    config_release(&shape);
    char *folder = path_join(s->folder, "hf"), *product = xasprintf("HF %s", dtype_names[o->dtype]);
    int status = directory_make(folder, err);
    if (status == 0)
        status = stage_save(s, other ? other : in->model, folder, (enum dtype)o->dtype, o->shard_bytes, err);
    if (status == 0)
        stage_add_product(s, product, "hf");
    model_free(other);
    free(folder);
    free(product);
    return status;
}

static int run(struct stage_run *s, struct error *err) {
    const struct export_options *o = s->stage->options;
    struct opened in;
    TRY(stage_map_input(s, &in, err));
    int status = 0;
    if (o->format != FORMAT_GGUF) {
        status = run_folder(s, &in, err);
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
