// int_export.c: see int_export.h. With GPTQ, layers go in order, and within a layer q, k and v; o; gate and up; down, each seeing what is
// before it as it will be read. What is finished goes into the file, whose order is that of the names, and is freed.
#include "quant/int_export.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/threads.h"
#include "common/model/save.h"
#include "quant/gguf_names.h"
#include "quant/int_matrix.h"
#include "quant/overlay.h"

struct writer { // lifetime: one export
    const struct model *m;
    const struct int_export_options *o;
    struct safetensors_writer *file;
    struct int_matrix *matrix;  // [n_parameter] of the layer at hand
    struct model *overlay;      // GPTQ: the model with what is rounded already; NULL: not needed
    struct layer_rounding rounding;
    float *input_scale;         // [n_layer * LAYER_INPUTS]; NULL: none
};

static float *read_matrix(const struct parameter *p)
{
    float *W = xmalloc((size_t)tensor_count(&p->t) * sizeof *W, p->name);
    tensor_read_rows(&p->t, 0, tensor_rows(&p->t), W);
    return W;
}

static const float *weights_of(const struct writer *w, const struct parameter *p)
{
    struct gguf_name name;
    if (!w->o->importance || !gguf_parameter_name(&w->m->config, p, &name))
        return NULL;
    return importance_find(w->o->importance, name.text);
}

// Of this model?
static int check_importance(const struct writer *w, struct error *err)
{
    for (int i = 0; i < w->m->n_parameter && w->o->importance; i++) {
        const struct parameter *p = &w->m->parameter[i];
        struct gguf_name name;
        if (int_type_takes(p) && gguf_parameter_name(&w->m->config, p, &name) &&
            importance_length(w->o->importance, name.text) != tensor_columns(&p->t))
            return error_set(err, "%s: has no entry for %s of %" PRId64 " values: an importance matrix of another model; make one with pdq calibrate",
                             w->o->importance->path ? w->o->importance->path : "importance", name.text, tensor_columns(&p->t));
    }
    return 0;
}

static void show(struct writer *w, const struct parameter *p, const struct int_matrix *q)
{
    float *own = w->overlay ? overlay_values(w->overlay, p) : NULL;
#pragma omp parallel for schedule(static)
    for (int64_t d = 0; d < (own ? q->D : 0); d++)
        int_matrix_row(q, d, own + d * q->C);
}

// Scales of huge weights are beyond the numbers that they are stored as.
static int check_scales(const struct int_matrix *q, const char *name, struct error *err)
{
    const int64_t groups = q->C / q->group;
    for (int64_t i = 0; i < q->D * groups; i++)
        if (!isfinite(q->scale[i]))
            return error_set(err, "tensor %s: the scale of row %" PRId64 " is beyond what %s stores, since its weights are huge: the model is broken, or quantize it to another type",
                             name, i / groups, q->type->name);
    return 0;
}

static int round_parameter(struct writer *w, int i, const struct moments *s, struct error *err)
{
    const struct parameter *p = &w->m->parameter[i];
    struct int_matrix *q = &w->matrix[i];
    TRY(interrupt_check(err));
    float *W = read_matrix(p);
    int rc = 0;
    int_matrix_init(q, w->o->type, tensor_rows(&p->t), tensor_columns(&p->t), w->o->group);
    if (s)
        rc = int_matrix_gptq(q, W, s->gram, w->o->gptq, p->name, err);
    else
        int_matrix_round(q, W, weights_of(w, p));
    if (w->input_scale)
        q->input_scale = w->input_scale[p->layer * LAYER_INPUTS + layer_input_of(p)];
    if (rc == 0)
        rc = check_scales(q, p->name, err);
    if (rc == 0)
        show(w, p, q);
    if (rc == 0 && w->rounding.ideal)
        int_matrix_find_choices(q, W, layer_rounding_choice(&w->rounding, &w->overlay->parameter[i].t));
    free(W);
    return rc;
}

static int finish_parameter(struct writer *w, int i, struct error *err)
{
    struct int_tensors t;
    int rc = 0;
    int_tensors_make(&t, &w->matrix[i], w->m->parameter[i].name);
    int_matrix_release(&w->matrix[i]);
    for (int k = 0; k < t.n && rc == 0; k++)
        rc = safetensors_put(w->file, &t.item[k], err);
    int_tensors_release(&t);
    return rc;
}

static void see(void *context, enum layer_input kind, const struct tensor *x)
{
    (void)kind;
    moments_add(context, x);
}

static int round_kind(struct writer *w, struct layer_walk *walk, int layer, enum layer_input kind, struct error *err)
{
    struct moments s = {0};
    int rc = 0;
    for (int i = 0; i < w->m->n_parameter && rc == 0; i++) {
        const struct parameter *p = &w->m->parameter[i];
        if (p->layer != layer || !int_type_takes(p) || layer_input_of(p) != kind)
            continue;
        if (!s.C) {
            moments_init(&s, tensor_columns(&p->t), 1);
            layer_walk_look(walk, layer, 1U << kind, see, &s);
        }
        rc = round_parameter(w, i, &s, err);
    }
    moments_release(&s);
    return rc;
}

static int learn_layer(struct writer *w, struct layer_walk *walk, int layer, struct error *err)
{
    TRY(layer_rounding_learn(&w->rounding, walk, layer, err));
    for (int i = 0; i < w->m->n_parameter; i++)
        if (w->matrix[i].code)
            int_matrix_put_choices(&w->matrix[i], layer_rounding_choice(&w->rounding, &w->overlay->parameter[i].t));
    learned_rounding_release(&w->rounding.choices);
    return 0;
}

static int round_layer(struct writer *w, struct layer_walk *walk, int layer, struct error *err)
{
    overlay_hold_layer(w->overlay, layer);
    for (int kind = 0; kind < LAYER_INPUTS; kind++)
        TRY(round_kind(w, walk, layer, (enum layer_input)kind, err));
    if (w->o->learned)
        TRY(learn_layer(w, walk, layer, err));
    layer_walk_advance(walk, layer);
    overlay_drop_layer(w->overlay, layer);
    for (int i = 0; i < w->m->n_parameter; i++)
        if (w->matrix[i].code)
            TRY(finish_parameter(w, i, err));
    return 0;
}

static int round_layers(struct writer *w, struct error *err)
{
    struct layer_walk walk;
    int rc = 0;
    w->overlay = overlay_new(w->m);
    layer_walk_begin(&walk, w->overlay, w->o->text);
    if (w->o->learned)
        layer_rounding_begin(&w->rounding, w->o->learned, w->m, w->o->text);
    for (int l = 0; l < w->m->config.n_layer && rc == 0; l++)
        rc = round_layer(w, &walk, l, err);
    layer_rounding_end(&w->rounding);
    layer_walk_end(&walk);
    model_free(w->overlay);
    w->overlay = NULL;
    return rc;
}

static int round_all(void *context, struct safetensors_writer *to, struct error *err)
{
    struct writer *w = context;
    w->file = to;
    if (w->o->gptq)
        return round_layers(w, err);
    for (int i = 0; i < w->m->n_parameter; i++)
        if (int_type_takes(&w->m->parameter[i])) {
            TRY(round_parameter(w, i, NULL, err));
            TRY(finish_parameter(w, i, err));
        }
    return 0;
}

static int save(struct writer *w, const char *folder, const struct int_tensors *declared, struct error *err)
{
    const struct int_export_options *o = w->o;
    const int n = w->m->n_parameter;
    struct safetensors_item *items = xcalloc((size_t)n * INT_PARTS, sizeof *items, "tensors to write");
    unsigned char *replaced = xcalloc((size_t)n, 1, "tensors to write");
    int64_t n_item = 0;
    for (int i = 0; i < n; i++) {
        replaced[i] = declared[i].n > 0;
        for (int k = 0; k < declared[i].n; k++)
            items[n_item++] = declared[i].item[k];
    }
    const int ordered = o->gptq && o->gptq->act_order && o->group;
    struct json *config = int_type_config(o->type, o->group, o->gptq ? o->gptq->damping : 0.01, ordered);
    const struct save_integers integers = {.item = items, .n = n_item, .write = round_all, .context = w, .replaced = replaced, .config = config};
    const struct save_options options = {.dtype = o->type->dtype, .carry_from = o->carry_from, .provenance = o->provenance, .integers = &integers};
    const int rc = model_save(w->m, folder, &options, err);
    json_free(config);
    free(items);
    free(replaced);
    return rc;
}

static int check_inputs(const struct writer *w, struct error *err)
{
    TRY(interrupt_check(err));
    for (int64_t i = 0; w->input_scale && i < w->m->config.n_layer * LAYER_INPUTS; i++)
        if (!isfinite(w->input_scale[i]))
            return error_set(err, "layer %" PRId64 ": what its matrices read is not finite: the model is broken", i / LAYER_INPUTS);
    return 0;
}

int int_export(const struct model *m, const char *folder, const struct int_export_options *o, struct error *err)
{
    struct writer w = {.m = m, .o = o};
    TRY(int_type_check(o->type, o->group, m, err));
    TRY(check_importance(&w, err));
    struct int_tensors *declared = xcalloc((size_t)m->n_parameter, sizeof *declared, "integer weights");
    w.matrix = xcalloc((size_t)m->n_parameter, sizeof *w.matrix, "integer weights");
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        if (int_type_takes(p))
            int_tensors_declare(&declared[i], o->type, tensor_rows(&p->t), tensor_columns(&p->t), o->group, p->name);
    }
    if (o->type->static_input)
        w.input_scale = observe_inputs(m, o->text, o->observer, o->type->input_bits);
    int rc = check_inputs(&w, err);
    if (rc == 0)
        rc = save(&w, folder, declared, err);
    for (int i = 0; i < m->n_parameter; i++) {
        int_tensors_release(&declared[i]);
        int_matrix_release(&w.matrix[i]);
    }
    free(declared);
    free(w.matrix);
    free(w.input_scale);
    return rc;
}
