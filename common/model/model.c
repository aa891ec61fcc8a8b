// model.c: parameters in flat arrays, found by spec and layer or by name; gates; the cache of keys and values.
#include "common/model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/random.h"
#include "common/model/arch.h"

static const struct arch *const arch_table[] = {&arch_llama, &arch_gpt2, &arch_bert, &arch_roberta, &arch_distilbert, &arch_bilstm, &arch_lenet};

// Is `word` one of the names in "a|b|c"?
static int among(const char *word, const char *names)
{
    const size_t n = strlen(word);
    for (const char *p = names; *p; p += strcspn(p, "|"), p += *p == '|')
        if (strcspn(p, "|") == n && !strncmp(p, word, n))
            return 1;
    return 0;
}

static const struct arch *arch_find(const char *model_type)
{
    for (size_t i = 0; i < sizeof arch_table / sizeof *arch_table; i++)
        if (among(model_type, arch_table[i]->model_types))
            return arch_table[i];
    return NULL;
}

int64_t axis_size(const struct config *c, enum axis axis, int layer)
{
    switch (axis) {
    case AXIS_ONE: return 1;
    case AXIS_HIDDEN: return c->hidden;
    case AXIS_VOCAB: return c->vocab;
    case AXIS_POSITIONS: return c->context + c->position_offset;
    case AXIS_TYPES: return c->n_type;
    case AXIS_LABELS: return c->n_label;
    case AXIS_EMBEDDING: return c->n_embedding;
    case AXIS_CELLS: return c->n_cell;
    case AXIS_BOTH_CELLS: return 2 * c->n_cell;
    case AXIS_GATES: return 4 * c->n_cell;
    case AXIS_HEADS: return c->layer[layer].n_head * c->head_dim;
    case AXIS_GROUPS: return c->layer[layer].n_kv_head * c->head_dim;
    case AXIS_FF: return c->layer[layer].n_ff;
    case AXIS_HEAD_WIDTH: return c->head_dim;
    case AXIS_BELOW: {
        const int64_t below = layer < 0 ? c->n_layer - 1 : layer - 1;
        return below < 0 ? c->hidden : c->layer[below].n_ff;
    }
    }
    BUG("axis %d", (int)axis);
}

int64_t axis_unit(const struct config *c, enum axis axis)
{
    return axis == AXIS_HEADS || axis == AXIS_GROUPS ? c->head_dim : 1;
}

static void parameter_init(struct parameter *p, const struct config *c, const struct weight_spec *spec, int layer)
{
    p->spec = spec;
    p->layer = layer;
    if (spec->per_layer) {
        const char *at = strstr(spec->name, "%d");
        snprintf(p->name, sizeof p->name, "%.*s%d%s", (int)(at - spec->name), spec->name, layer, at + 2);
    } else {
        snprintf(p->name, sizeof p->name, "%s", spec->name);
    }
    const int64_t rows = axis_size(c, spec->rows, layer), columns = axis_size(c, spec->columns, layer);
    p->t.name = p->name;
    p->t.n_dim = spec->rows == AXIS_ONE ? 1 : 2;
    p->t.dim[0] = p->t.n_dim == 1 ? columns : rows;
    p->t.dim[1] = p->t.n_dim == 1 ? 1 : columns;
    p->t.dim[2] = 1;
    p->decay = p->t.n_dim == 2;
}

// A layer without attention, or without a feed-forward block, has none of its tensors. A spec without a name is of another family.
static int is_present(const struct config *c, const struct weight_spec *spec, int layer)
{
    return spec->name && (!spec->present || spec->present(c, layer)) && axis_size(c, spec->rows, layer) > 0 &&
           axis_size(c, spec->columns, layer) > 0;
}

// Parameters lie spec by spec for the global ones, then layer by layer; absent ones have no place.
struct model *model_new(const struct config *config, int with_storage)
{
    struct model *m = xcalloc(1, sizeof *m, "model");
    config_copy(&m->config, config);
    m->arch = arch_find(config->model_type);
    if (!m->arch)
        BUG("model_new: model_type %s", config->model_type);
    const int64_t slots = (config->n_layer + 1) * m->arch->n_specs;
    m->parameter = xcalloc((size_t)slots, sizeof *m->parameter, "parameter table");
    m->slot = xcalloc((size_t)slots, sizeof *m->slot, "parameter table");
    for (int layer = -1; layer < config->n_layer; layer++)
        for (int s = 0; s < m->arch->n_specs; s++) {
            const struct weight_spec *spec = &m->arch->specs[s];
            if (spec->per_layer != (layer >= 0) || !is_present(config, spec, layer))
                continue;
            struct parameter *p = &m->parameter[m->n_parameter++];
            parameter_init(p, config, spec, layer);
            p->offset = m->n_element;
            p->n_stored = tensor_count(&p->t);
            m->n_element += p->n_stored;
            m->slot[(layer + 1) * m->arch->n_specs + s] = p;
        }
    if (with_storage) {
        m->data = xcalloc((size_t)m->n_element, sizeof *m->data, "parameters");
        for (int i = 0; i < m->n_parameter; i++)
            m->parameter[i].t.data = m->data + m->parameter[i].offset;
    }
    m->rope = xmalloc((size_t)(config->head_dim / 2) * sizeof *m->rope, "rope");
    config_rope_frequencies(config, m->rope);
    return m;
}

void model_free(struct model *m)
{
    if (!m)
        return;
    model_drop_gates(m);
    if (m->owner_release)
        m->owner_release(m->owner_context);
    config_release(&m->config);
    free(m->parameter);
    free(m->slot);
    free(m->data);
    free(m->grad);
    free(m->rope);
    free(m);
}

struct tensor *model_weight(struct model *m, int spec, int layer)
{
    struct parameter *p = m->slot[(layer + 1) * m->arch->n_specs + spec];
    return p ? &p->t : NULL;
}

static struct tensor *first_present(struct model *m, const int *spec)
{
    for (; *spec >= 0; spec++)
        if (model_weight(m, *spec, -1))
            return model_weight(m, *spec, -1);
    return NULL;
}

struct tensor *model_head(struct model *m)
{
    struct tensor *head = first_present(m, m->arch->head);
    return head ? head : model_weight(m, m->arch->embed, -1);
}

struct tensor *model_head_bias(struct model *m)
{
    return first_present(m, m->arch->head_bias);
}

struct tensor *model_logits(struct model *m, struct tape *tape, struct tensor *x)
{
    struct tensor *z = op_linear(tape, x, model_head(m), model_head_bias(m));
    return m->config.logit_cap > 0 ? op_softcap(tape, z, m->config.logit_cap) : z;
}

int model_is_causal(const struct config *c) { return model_is_language(c) && !arch_find(c->model_type)->reads_both_ways; }

int64_t model_positions(const struct config *c)
{
    const struct arch *arch = arch_find(c->model_type);
    for (int s = 0; s < arch->n_specs; s++)
        if (arch->specs[s].rows == AXIS_POSITIONS)
            return c->context;
    return 0;
}

int model_has_blocks(const struct config *c) { return !arch_find(c->model_type)->no_blocks; }

int model_is_language(const struct config *c) { return arch_find(c->model_type)->embed >= 0; }

struct parameter *model_find(struct model *m, const char *name)
{
    for (int i = 0; i < m->n_parameter; i++)
        if (!strcmp(m->parameter[i].name, name))
            return &m->parameter[i];
    return NULL;
}

int parameter_is_norm(const struct parameter *p)
{
    return p->t.n_dim == 1 && path_ends_with(p->name, ".weight"); // all other vectors are biases
}

void model_initialise(struct model *m, uint64_t seed)
{
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        const int64_t n = tensor_count(&p->t);
        struct random r;
        random_init(&r, seed, p->name, 0);
        const double deviation = p->t.n_dim == 2 ? m->arch->deviation(&m->config, p) : 0;
        const float constant = parameter_is_norm(p) && !m->config.norm_shift ? 1.0f : 0.0f;
        for (int64_t j = 0; j < n; j++)
            p->t.data[j] = p->t.n_dim == 2 ? (float)(random_normal(&r) * deviation) : constant;
    }
}

int64_t model_trained(const struct model *m)
{
    int64_t n = 0;
    for (int i = 0; i < m->n_parameter; i++)
        n += m->parameter[i].frozen ? 0 : m->parameter[i].n_stored;
    return n;
}

void model_want_gradients(struct model *m)
{
    if (!m->grad)
        m->grad = xcalloc((size_t)model_trained(m), sizeof *m->grad, "gradients");
    float *at = m->grad;
    for (int i = 0; i < m->n_parameter; i++) {
        struct parameter *p = &m->parameter[i];
        p->t.grad = p->frozen ? NULL : at;
        p->t.needs_grad = !p->frozen;
        at += p->frozen ? 0 : p->n_stored;
    }
}

void model_drop_gradients(struct model *m)
{
    for (int i = 0; i < m->n_parameter; i++) {
        m->parameter[i].t.grad = NULL;
        m->parameter[i].t.needs_grad = 0;
    }
    free(m->grad);
    m->grad = NULL;
}

struct tensor *model_forward(struct model *m, struct tape *tape, const struct forward *f)
{
    if (f->last && (f->cache || f->last > m->config.n_layer || f->first >= f->last))
        BUG("model_forward: layers %ld to %ld of %ld", (long)f->first, (long)f->last, (long)m->config.n_layer);
    if (f->cache && (f->B != f->cache->sequences || tape->recording))
        BUG("model_forward: %ld sequences, a cache of %ld; it is not recorded", (long)f->B, (long)f->cache->sequences);
    return m->arch->forward(m, tape, f);
}

static struct tensor *gate_new(const char *name, int64_t n, int with_gradient)
{
    struct tensor *t = xcalloc(1, sizeof *t, "gate");
    *t = (struct tensor){.name = name, .n_dim = 1, .dim = {n, 1, 1}, .needs_grad = with_gradient};
    t->data = xmalloc((size_t)n * sizeof *t->data, "gate");
    for (int64_t i = 0; i < n; i++)
        t->data[i] = 1;
    if (with_gradient)
        t->grad = xcalloc((size_t)n, sizeof *t->grad, "gate");
    return t;
}

static void gate_free(struct tensor *t)
{
    if (!t)
        return;
    free(t->data);
    free(t->grad);
    free(t);
}

void model_add_gates(struct model *m, int with_gradients)
{
    model_drop_gates(m);
    m->gate = xcalloc((size_t)m->config.n_layer, sizeof *m->gate, "gates");
    for (int64_t l = 0; l < m->config.n_layer; l++) {
        m->gate[l].heads = gate_new("heads gate", m->config.layer[l].n_head, with_gradients);
        m->gate[l].ff = gate_new("ff gate", m->config.layer[l].n_ff, with_gradients);
    }
}

void model_drop_gates(struct model *m)
{
    for (int64_t l = 0; m->gate && l < m->config.n_layer; l++) {
        gate_free(m->gate[l].heads);
        gate_free(m->gate[l].ff);
    }
    free(m->gate);
    m->gate = NULL;
}

void kv_cache_init(struct kv_cache *c, const struct model *m, int64_t capacity) { kv_cache_init_batch(c, m, 1, capacity); }

void kv_cache_init_batch(struct kv_cache *c, const struct model *m, int64_t sequences, int64_t capacity)
{
    const int n = (int)m->config.n_layer;
    *c = (struct kv_cache){.sequences = sequences, .capacity = capacity, .n_layer = n};
    c->k = xcalloc((size_t)n, sizeof *c->k, "key cache");
    c->v = xcalloc((size_t)n, sizeof *c->v, "value cache");
    for (int l = 0; l < n; l++) {
        const size_t bytes = (size_t)(sequences * capacity * axis_size(&m->config, AXIS_GROUPS, l)) * sizeof(float);
        c->k[l] = xmalloc(bytes, "key cache");
        c->v[l] = xmalloc(bytes, "value cache");
    }
}

void kv_cache_release(struct kv_cache *c)
{
    for (int l = 0; l < c->n_layer; l++) {
        free(c->k[l]);
        free(c->v[l]);
    }
    free(c->k);
    free(c->v);
    *c = (struct kv_cache){0};
}

// Calls for every matrix and vector that a model of this shape has: its rows (1: a vector) and columns.
static void each_weight(const struct config *c, void (*see)(void *context, const struct arch *, int spec, int64_t, int64_t),
                        void *context)
{
    const struct arch *arch = arch_find(c->model_type);
    for (int layer = -1; layer < c->n_layer; layer++)
        for (int s = 0; s < arch->n_specs; s++)
            if (arch->specs[s].per_layer == (layer >= 0) && is_present(c, &arch->specs[s], layer))
                see(context, arch, s, axis_size(c, arch->specs[s].rows, layer), axis_size(c, arch->specs[s].columns, layer));
}

static void add_elements(void *context, const struct arch *arch, int spec, int64_t rows, int64_t columns)
{
    (void)arch;
    (void)spec;
    *(int64_t *)context += rows * columns;
}

int64_t config_parameters(const struct config *c)
{
    int64_t n = 0;
    each_weight(c, add_elements, &n);
    return n;
}

// Looking up a table multiplies nothing; as a tied head the embedding does.
static void add_products(void *context, const struct arch *arch, int spec, int64_t rows, int64_t columns)
{
    const enum axis axis = arch->specs[spec].rows;
    if (axis != AXIS_ONE && axis != AXIS_POSITIONS && axis != AXIS_TYPES && spec != arch->embed)
        *(double *)context += (double)rows * (double)columns;
}

double model_flops_per_token(const struct config *c, int64_t T)
{
    double multiply_adds = c->tie_embeddings ? (double)c->vocab * (double)c->hidden : 0;
    each_weight(c, add_products, &multiply_adds);
    for (int64_t l = 0; l < c->n_layer; l++)
        multiply_adds += (double)axis_size(c, AXIS_HEADS, (int)l) * (double)T; // scores and values over T/2 each
    return 2 * multiply_adds;
}
