// load.c: a Hugging Face model directory into a model.
//
// The file's shapes are compared with the config's before the parameters are allocated: a config with wild sizes
// costs a message, not memory. Every tensor of the model must be in the files and every tensor of the files in the
// model, so that no part of a checkpoint is dropped without a word.
#include "common/model/load.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/model/packed.h"
#include "common/model/stored.h"
#include "common/tensor/vecmath.h"

#define SHAPE_TEXT 128

static const char *shape_text(char text[SHAPE_TEXT], int n_dim, const int64_t *dim) {
    size_t at = 0;
    text[at++] = '[';
    for (int i = 0; i < n_dim; i++)
        at += (size_t)snprintf(text + at, SHAPE_TEXT - at, "%s%lld", i ? ", " : "", (long long)dim[i]);
    snprintf(text + at, SHAPE_TEXT - at, "]");
    return text;
}

// By name, else by the name that __metadata__ says it is stored under (how shared tensors are saved).
static const struct safetensor *find_stored(const struct safetensors *s, const char *name) {
    const struct safetensor *t = safetensors_find(s, name);
    const struct json *alias = t ? NULL : json_get(s->metadata, name);
    if (!t && !alias) { // TensorFlow's words for a norm's factors and shifts, in old checkpoints
        const int is_weight = path_ends_with(name, "LayerNorm.weight"), is_bias = path_ends_with(name, "LayerNorm.bias");
        if (!is_weight && !is_bias)
            return NULL;
        char *old = xasprintf("%.*s%s", (int)(strlen(name) - strlen(is_weight ? "weight" : "bias")), name, is_weight ? "gamma" : "beta");
        t = safetensors_find(s, old);
        free(old);
        return t;
    }
    return alias && json_string(alias) ? safetensors_find(s, json_string(alias)) : t;
}

// The output head over words, which may be tied to the embedding table; NULL: the architecture has none.
static const struct weight_spec *words_head(const struct arch *arch) {
    for (const int *spec = arch->head; *spec >= 0; spec++)
        if (arch->specs[*spec].rows == AXIS_VOCAB)
            return &arch->specs[*spec];
    return NULL;
}

// With a tied head the one table may be stored under either name.
static const struct safetensor *find_source(const struct safetensors *s, const struct model *m, const struct parameter *p) {
    char name[STORED_NAME];
    stored_name(m, p, name);
    const struct safetensor *t = find_stored(s, name);
    const int is_table = m->arch->embed >= 0 && p->spec == &m->arch->specs[m->arch->embed];
    return !t && m->config.tie_embeddings && is_table ? find_stored(s, words_head(m->arch)->name) : t;
}

static int check_parameter(const struct parameter *p, const struct safetensor *t, const struct config *c,
                           const char *folder, struct error *err) {
    char found[SHAPE_TEXT], expected[SHAPE_TEXT];
    int64_t dim[2];
    const int n_dim = stored_shape(p, dim);
    shape_text(expected, n_dim, dim);
    if (!t)
        return error_set(err,
                         "%s: tensor %s is missing from the safetensors; config.json (model_type %s, %lld layers%s) "
                         "needs it, of shape %s",
                         folder, p->name, c->model_type, (long long)c->n_layer,
                         c->tie_embeddings ? "" : ", tie_word_embeddings false", expected);
    if (!t->is_float)
        return error_set(err,
                         "%s: tensor %s has dtype %s; expected F32, F16 or BF16 (give the unquantized checkpoint)",
                         folder, p->name, t->dtype_name);
    if (t->n_dim != n_dim || memcmp(t->dim, dim, (size_t)t->n_dim * sizeof t->dim[0]) != 0)
        return error_set(err, "%s: tensor %s has shape %s; config.json says %s", folder, t->name,
                         shape_text(found, t->n_dim, t->dim), expected);
    return 0;
}

// Buffers that old checkpoints carry: rotary frequencies are computed, causal masks are known, and integers (position ids) hold no
// weights.
static int is_buffer(const struct safetensor *t) {
    return !t->is_float || path_ends_with(t->name, "rotary_emb.inv_freq") || path_ends_with(t->name, ".attn.bias") ||
           path_ends_with(t->name, ".attn.masked_bias");
}

// What lies beside a model: a tied decoder written out, another task's head.
static int is_spare(const struct arch *arch, const char *name) {
    for (const char *p = arch->spare; p && *p; p += strcspn(p, "|"), p += *p == '|')
        if (strncmp(name, p, strcspn(p, "|")) == 0)
            return 1;
    return 0;
}

static int check_leftover(const struct safetensor *t, const struct safetensors *s, const struct model *m,
                          const char *folder, struct error *err) {
    const struct config *c = &m->config;
    const struct weight_spec *head = words_head(m->arch);
    char shape[SHAPE_TEXT];
    if (is_buffer(t) || is_spare(m->arch, t->name))
        return 0;
    if (c->tie_embeddings && strcmp(t->name, head->name) == 0) {
        const struct safetensor *e = find_source(s, m, m->slot[m->arch->embed]);
        if (e && (e->bytes != t->bytes || e->dtype != t->dtype || memcmp(e->data, t->data, (size_t)e->bytes) != 0))
            log_warn(
                "%s: %s differs from %s although tie_word_embeddings is true; it is ignored, as transformers does",
                folder, head->name, e->name);
        return 0;
    }
    return error_set(err,
                     "%s: tensor %s %s is in the safetensors, but a %s model of this config.json (%lld layers, "
                     "attention bias %s, MLP bias %s) has no such tensor",
                     folder, t->name, shape_text(shape, t->n_dim, t->dim), c->model_type, (long long)c->n_layer,
                     c->qkv_bias ? "yes" : "no", c->mlp_bias ? "yes" : "no");
}

struct source { // of one parameter
    const struct safetensor *plain; // NULL: integers
    struct packed_weight packed;
};

static int match_parameter(const struct model *shape, const struct safetensors *s, const struct packed_scheme *scheme, const struct parameter *p,
                           const char *folder, struct source *source, struct error *err) {
    const int found = p->t.n_dim == 2 && stored_plainly(p)
                          ? packed_find(&source->packed, scheme, s, p->name, tensor_rows(&p->t), tensor_columns(&p->t), folder, err)
                          : 0;
    if (found)
        return found > 0 ? 0 : -1;
    source->plain = find_source(s, shape, p);
    return check_parameter(p, source->plain, &shape->config, folder, err);
}

static void mark_used(unsigned char *used, const struct safetensors *s, const struct source *source) {
    const struct packed_weight *w = &source->packed;
    const struct safetensor *const part[] = {w->codes, w->scale, w->zero, w->order, w->shape, w->input};
    if (source->plain)
        used[source->plain - s->tensor] = 1;
    for (size_t k = 0; k < sizeof part / sizeof *part && !source->plain; k++)
        if (part[k])
            used[part[k] - s->tensor] = 1;
}

// shape: a model without storage. Fills source[parameter].
static int match_tensors(const struct model *shape, const struct safetensors *s, const char *folder,
                         struct source *source, struct error *err) {
    int rc = -1;
    struct packed_scheme scheme;
    TRY(packed_scheme_read(&scheme, shape->config.source, folder, err));
    unsigned char *used = xcalloc((size_t)s->n_tensor + 1, 1, "tensors used");
    for (int i = 0; i < shape->n_parameter; i++) {
        if (match_parameter(shape, s, &scheme, &shape->parameter[i], folder, &source[i], err) < 0)
            goto out;
        mark_used(used, s, &source[i]);
    }
    for (int64_t i = 0; i < s->n_tensor; i++)
        if (!used[i] && check_leftover(&s->tensor[i], s, shape, folder, err) < 0)
            goto out;
    rc = 0;
out:
    free(used);
    return rc;
}

// An integer matrix whose products round their inputs, too: the values, and a hook that says so.
struct rounded_weight {
    struct weight_hook hook;
    struct input_rounding inputs;
};

struct rounded_owner { // model lifetime: model->owner_context
    struct rounded_weight *weight; // [n_parameter]
};

static void rounded_release(void *context) {
    struct rounded_owner *owner = context;
    free(owner->weight);
    free(owner);
}

static void data_rows(void *context, const struct tensor *w, int64_t row0, int64_t n, float *to) {
    (void)context;
    memcpy(to, w->data + row0 * tensor_columns(w), (size_t)(n * tensor_columns(w)) * sizeof *to);
}

static struct input_rounding rounding_of(const struct packed_weight *w) {
    return (struct input_rounding){.bits = w->scheme.input_bits, .scale = packed_input_scale(w)};
}

static void round_inputs(struct model *m, int i, const struct source *source) {
    if (!m->owner_context) {
        struct rounded_owner *owner = xcalloc(1, sizeof *owner, "a quantized model");
        owner->weight = xcalloc((size_t)m->n_parameter, sizeof *owner->weight, "a quantized model");
        m->owner_context = owner;
        m->owner_release = rounded_release;
    }
    struct rounded_weight *r = &((struct rounded_owner *)m->owner_context)->weight[i];
    r->inputs = rounding_of(&source->packed);
    r->hook = (struct weight_hook){.context = r, .rows = data_rows, .inputs = &r->inputs};
    m->parameter[i].t.hook = &r->hook;
}

static void read_packed(struct model *m, int i, const struct source *source) {
    struct tensor *t = &m->parameter[i].t;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < tensor_rows(t); r++)
        packed_rows(&source->packed, r, 1, t->data + r * tensor_columns(t));
    if (source->packed.scheme.input_bits)
        round_inputs(m, i, source);
}

static void read_values(struct model *m, const struct source *source) {
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        const struct safetensor *plain = source[i].plain;
        if (!plain) {
            read_packed(m, i, &source[i]);
            continue;
        }
        stored_rows(plain, p, 0, tensor_rows(&p->t), p->t.data);
        if (stored_is_last(p))
            file_map_drop(plain->data, (size_t)plain->bytes); // else the model is there twice at the end
    }
}

// One matrix in a file, behind a hook.
struct mapped_weight {
    struct weight_hook hook; // its context is this struct
    const struct safetensor *source; // NULL: integers
    struct packed_weight packed;
    struct input_rounding inputs;
    const struct parameter *parameter;
    struct mapped_owner *owner;
};

struct mapped_owner { // model lifetime: model->owner_context
    struct safetensors files;
    struct mapped_weight *weight; // [n_parameter]
    float **vector;               // [n_parameter]; NULL for matrices
    int n_parameter;
    struct file_pass pass;
};

static void mapped_rows(void *context, const struct tensor *w, int64_t row0, int64_t n, float *to) {
    const struct mapped_weight *m = context;
    if (!m->source) {
        packed_rows(&m->packed, row0, n, to);
        return;
    }
    int64_t columns = tensor_columns(w), size = (int64_t)dtype_size(m->source->dtype);
    if (!stored_plainly(m->parameter)) { // its rows lie all over the file
        stored_rows(m->source, m->parameter, row0, n, to);
        return;
    }
    for (int64_t r = 0; r < n; r++) {
        stored_rows(m->source, m->parameter, row0 + r, 1, to + r * columns);
        file_pass_at(&m->owner->pass, m->source->data, (size_t)m->source->bytes, (const char *)m->source->data + (row0 + r) * columns * size);
    }
}

static void mapped_release(void *context) {
    struct mapped_owner *owner = context;
    for (int i = 0; i < owner->n_parameter; i++)
        free(owner->vector[i]);
    free(owner->vector);
    free(owner->weight);
    file_pass_release(&owner->pass);
    safetensors_close(&owner->files);
    free(owner);
}

// The files go to the model, which closes them.
static void attach(struct model *m, const struct safetensors *files, const struct source *source) {
    struct mapped_owner *owner = xcalloc(1, sizeof *owner, "a mapped model");
    *owner = (struct mapped_owner){.files = *files, .n_parameter = m->n_parameter};
    file_pass_init(&owner->pass);
    owner->weight = xcalloc((size_t)m->n_parameter, sizeof *owner->weight, "a mapped model");
    owner->vector = xcalloc((size_t)m->n_parameter, sizeof *owner->vector, "a mapped model");
    for (int i = 0; i < m->n_parameter; i++) {
        struct tensor *t = &m->parameter[i].t;
        struct mapped_weight *w = &owner->weight[i];
        if (t->n_dim == 1) {
            t->data = owner->vector[i] = xmalloc((size_t)tensor_count(t) * sizeof *t->data, t->name);
            stored_rows(source[i].plain, &m->parameter[i], 0, 1, t->data);
            continue;
        }
        *w = (struct mapped_weight){.hook = {.context = w, .rows = mapped_rows}, .source = source[i].plain, .packed = source[i].packed,
                                   .parameter = &m->parameter[i], .owner = owner};
        if (!w->source && w->packed.scheme.input_bits) {
            w->inputs = rounding_of(&w->packed);
            w->hook.inputs = &w->inputs;
        }
        t->hook = &w->hook;
    }
    m->owner_context = owner;
    m->owner_release = mapped_release;
}

static int has_tensor(const void *files, const char *name) { return find_stored(files, name) != NULL; }

enum load_kind { LOAD_SHAPE, LOAD_VALUES, LOAD_MAPPED };

#define CHECK_ROWS 16 // that a thread reads at a time

// The first of n values that is no finite number; n: none.
static int64_t first_not_finite(const float *v, int64_t n) {
    int odd = 0;
    for (int64_t j = 0; j < n; j++) // in registers: what is sought is hardly ever there
        odd |= !(fabsf(v[j]) <= FLT_MAX);
    int64_t j = odd ? 0 : n;
    while (j < n && isfinite(v[j]))
        j++;
    return j;
}

// The first value of a tensor that is no finite number, counted row by row; the number of its values: none.
static int64_t tensor_not_finite(const struct tensor *t, float *value) {
    const int64_t rows = tensor_rows(t), C = tensor_columns(t);
    int64_t first = rows * C;
#pragma omp parallel reduction(min : first)
    {
        float *row = xmalloc((size_t)(CHECK_ROWS * C) * sizeof *row, "rows to be checked");
#pragma omp for schedule(static)
        for (int64_t k = 0; k < rows; k += CHECK_ROWS) {
            const int64_t n = min_i64(CHECK_ROWS, rows - k);
            tensor_read_rows(t, k, n, row);
            const int64_t j = first_not_finite(row, n * C);
            if (j < n * C)
                first = min_i64(first, k * C + j);
        }
        free(row);
    }
    if (first < rows * C) {
        float *row = xmalloc((size_t)C * sizeof *row, "a row");
        tensor_read_rows(t, first / C, 1, row);
        *value = row[first % C];
        free(row);
    }
    return first;
}

int model_check_values(const struct model *m, struct error *err) {
    for (int i = 0; i < m->n_parameter; i++) {
        const struct tensor *t = &m->parameter[i].t;
        float value = 0;
        const int64_t C = tensor_columns(t), at = tensor_not_finite(t, &value);
        if (at < tensor_count(t))
            return error_set(err, "tensor %s: the value at row %" PRId64 ", column %" PRId64 " is %g: the model is broken; fetch it again, or take "
                             "one that was saved before its training diverged", t->name, at / C, at % C, (double)value);
    }
    return 0;
}

static struct model *load(const char *folder, enum load_kind kind, struct error *err) {
    struct config config;
    struct safetensors s = {0};
    struct model *shape = NULL, *m = NULL;
    struct source *source = NULL;
    if (config_read(&config, folder, err) < 0)
        return NULL;
    if (safetensors_open(&s, folder, err) < 0)
        goto out;
    shape = model_new(&config, 0);
    if (shape->arch->look) {
        shape->arch->look(&config, has_tensor, &s);
        model_free(shape);
        shape = model_new(&config, 0);
    }
    source = xcalloc((size_t)shape->n_parameter, sizeof *source, "tensor sources");
    if (match_tensors(shape, &s, folder, source, err) < 0)
        goto out;
    m = model_new(&config, kind == LOAD_VALUES);
    if (kind == LOAD_VALUES)
        read_values(m, source);
    if (kind == LOAD_MAPPED) {
        attach(m, &s, source);
        s = (struct safetensors){0};
    }
out:
    free(source);
    model_free(shape);
    safetensors_close(&s);
    config_release(&config);
    return m;
}

struct model *model_load(const char *folder, struct error *err) {
    struct model *m = load(folder, LOAD_VALUES, err);
    if (!m || model_check_values(m, err) == 0)
        return m;
    error_prefix(err, "%s", folder);
    model_free(m);
    return NULL;
}

struct model *model_load_shape(const char *folder, struct error *err) { return load(folder, LOAD_SHAPE, err); }

struct model *model_map(const char *folder, struct error *err) { return load(folder, LOAD_MAPPED, err); }
