// load.c: a Hugging Face model directory into a model.
//
// The file's shapes are compared with the config's before the parameters are allocated: a config with wild sizes
// costs a message, not memory. Every tensor of the model must be in the files and every tensor of the files in the
// model, so that no part of a checkpoint is dropped without a word.
#include "common/model/load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/threads.h"
#include "common/model/stored.h"

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

// shape: a model without storage. Fills source[parameter].
static int match_tensors(const struct model *shape, const struct safetensors *s, const char *folder,
                         const struct safetensor **source, struct error *err) {
    int rc = -1;
    unsigned char *used = xcalloc((size_t)s->n_tensor + 1, 1, "tensors used");
    for (int i = 0; i < shape->n_parameter; i++) {
        const struct parameter *p = &shape->parameter[i];
        source[i] = find_source(s, shape, p);
        if (check_parameter(p, source[i], &shape->config, folder, err) < 0)
            goto out;
        used[source[i] - s->tensor] = 1;
    }
    for (int64_t i = 0; i < s->n_tensor; i++)
        if (!used[i] && check_leftover(&s->tensor[i], s, shape, folder, err) < 0)
            goto out;
    rc = 0;
out:
    free(used);
    return rc;
}

static void read_values(struct model *m, const struct safetensor *const *source) {
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        stored_rows(source[i], p, 0, tensor_rows(&p->t), p->t.data);
        if (stored_is_last(p))
            file_map_drop(source[i]->data, (size_t)source[i]->bytes); // else the model is there twice at the end
    }
}

// One matrix in a file, behind a hook.
struct mapped_weight {
    struct weight_hook hook; // its context is this struct
    const struct safetensor *source;
    const struct parameter *parameter;
    struct mapped_owner *owner;
};

struct passed { // the part of a file that a thread read last
    uintptr_t first, end;
};

struct mapped_owner { // model lifetime: model->owner_context
    struct safetensors files;
    struct mapped_weight *weight; // [n_parameter]
    float **vector;               // [n_parameter]; NULL for matrices
    int n_parameter;
    struct passed *last; // [n_last] by thread
    int n_last;
};

#define DROP_UNIT ((uintptr_t)1 << 20) // of pages that are given back at once

// Gives back what this thread read last, once it reads elsewhere: else the whole file would come to stay in memory. Only inside the
// tensor: what lies beside a map is not ours.
static void move_on(struct mapped_owner *owner, const struct safetensor *whole, const void *at) {
    uintptr_t start = (uintptr_t)whole->data, end = start + (uintptr_t)whole->bytes, unit = (uintptr_t)at / DROP_UNIT * DROP_UNIT;
    struct passed *last = &owner->last[thread_number() % owner->n_last];
    const struct passed now = {unit > start ? unit : start, unit + DROP_UNIT < end ? unit + DROP_UNIT : end};
    if (last->end && last->first != now.first)
        file_map_drop((const void *)last->first, last->end - last->first);
    *last = now;
}

static void mapped_rows(void *context, const struct tensor *w, int64_t row0, int64_t n, float *to) {
    const struct mapped_weight *m = context;
    int64_t columns = tensor_columns(w), size = (int64_t)dtype_size(m->source->dtype);
    if (!stored_plainly(m->parameter)) { // its rows lie all over the file
        stored_rows(m->source, m->parameter, row0, n, to);
        return;
    }
    for (int64_t r = 0; r < n; r++) {
        stored_rows(m->source, m->parameter, row0 + r, 1, to + r * columns);
        move_on(m->owner, m->source, (const char *)m->source->data + (row0 + r) * columns * size);
    }
}

static void mapped_release(void *context) {
    struct mapped_owner *owner = context;
    for (int i = 0; i < owner->n_parameter; i++)
        free(owner->vector[i]);
    free(owner->vector);
    free(owner->weight);
    free(owner->last);
    safetensors_close(&owner->files);
    free(owner);
}

// The files go to the model, which closes them.
static void attach(struct model *m, const struct safetensors *files, const struct safetensor *const *source) {
    struct mapped_owner *owner = xcalloc(1, sizeof *owner, "a mapped model");
    *owner = (struct mapped_owner){.files = *files, .n_parameter = m->n_parameter, .n_last = threads_count()};
    owner->last = xcalloc((size_t)owner->n_last, sizeof *owner->last, "a mapped model");
    owner->weight = xcalloc((size_t)m->n_parameter, sizeof *owner->weight, "a mapped model");
    owner->vector = xcalloc((size_t)m->n_parameter, sizeof *owner->vector, "a mapped model");
    for (int i = 0; i < m->n_parameter; i++) {
        struct tensor *t = &m->parameter[i].t;
        struct mapped_weight *w = &owner->weight[i];
        if (t->n_dim == 1) {
            t->data = owner->vector[i] = xmalloc((size_t)tensor_count(t) * sizeof *t->data, t->name);
            stored_rows(source[i], &m->parameter[i], 0, 1, t->data);
            continue;
        }
        *w = (struct mapped_weight){.hook = {.context = w, .rows = mapped_rows}, .source = source[i],
                                   .parameter = &m->parameter[i], .owner = owner};
        t->hook = &w->hook;
    }
    m->owner_context = owner;
    m->owner_release = mapped_release;
}

static int has_tensor(const void *files, const char *name) { return find_stored(files, name) != NULL; }

enum load_kind { LOAD_SHAPE, LOAD_VALUES, LOAD_MAPPED };

static struct model *load(const char *folder, enum load_kind kind, struct error *err) {
    struct config config;
    struct safetensors s = {0};
    struct model *shape = NULL, *m = NULL;
    const struct safetensor **source = NULL;
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

struct model *model_load(const char *folder, struct error *err) { return load(folder, LOAD_VALUES, err); }

struct model *model_load_shape(const char *folder, struct error *err) { return load(folder, LOAD_SHAPE, err); }

struct model *model_map(const char *folder, struct error *err) { return load(folder, LOAD_MAPPED, err); }
