// quantize_aware.c: see quantize_aware.h.
#include "recipes/quantize_aware.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"

#define ENCODE_FLOPS 60 // of the encoders' searches for a weight, about

static struct gguf_export_options export_options(const struct fake_quant_options *o) {
    return (struct gguf_export_options){.type = o->quantize, .pure = o->quantize_pure};
}

int quantize_aware_check(struct fake_quant_options *o, const struct train_options *train, const char *where, struct error *err) {
    if (!o->quantize)
        return o->quantize_pure || o->quantize_scales != SCALES_ENCODER
                   ? error_set(err, "%s: \"%s\" says how to round and \"quantize\" is not given; give the type", where,
                               o->quantize_pure ? "quantize_pure" : "quantize_scales")
                   : 0;
    if (o->quantize_scales == SCALES_LEARNED && train->keep_best)
        return error_set(err, "%s: \"keep_best\" keeps weights and no scales, which are learned here; leave one of them out", where);
    TRY(stage_check_gguf_type(&o->quantize, "quantize", where, err));
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
    return rc;
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
