// gguf_model.c: GGUF keys to struct config, GGUF tensors to weight hooks.
//
// Invariant: a hook's blocks lie in the map (gguf_open checked them) and have the parameter's shape (checked here).
//
// To add an architecture that shares the Llama family's weights: one row in `architectures`. Others also need rows in
// `names`.
#include "quant/gguf_model.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "quant/gguf.h"
#include "quant/gguf_names.h"

#define MAX_LAYERS 1024
#define MAX_WIDTH ((int64_t)1 << 20) // hidden, heads * head_dim
#define MAX_FF ((int64_t)1 << 22)
#define MAX_VOCAB ((int64_t)1 << 24)
#define MAX_CONTEXT ((int64_t)1 << 30)

static const struct gguf_architecture {
    const char *name, *model_type;
    int interleaved; // q and k rows stand in pairs (gguf_row)
    int64_t least;   // width of a layer: 0 where a layer may be without attention, or without channels
} architectures[] = {
    {"llama", "llama", 1, 1},
    {"qwen2", "qwen2", 0, 1},
    {"deci", "llama", 1, 0}, // llama with layers of different shapes
    {"gpt2", "gpt2", 0, 1},
    {"gemma2", "gemma2", 0, 1},
    {"minicpm", "minicpm", 1, 1},
    {"granite", "granite", 1, 1},
    {"bert", "bert", 0, 1},
};

#define OFFSET(field) offsetof(struct config, field)
const struct gguf_factor gguf_factor_table[] = {
    {"gemma2", "attn_logit_softcapping", OFFSET(attention_cap), 0, 50},
    {"gemma2", "final_logit_softcapping", OFFSET(logit_cap), 0, 30},
    {"minicpm", "embedding_scale", OFFSET(embed_scale), 0, 0},
    {"minicpm", "residual_scale", OFFSET(residual_scale), 0, 0},
    {"minicpm", "logit_scale", OFFSET(logit_scale), 1, 0},
    {"granite", "embedding_scale", OFFSET(embed_scale), 0, 0},
    {"granite", "residual_scale", OFFSET(residual_scale), 0, 0},
    {"granite", "logit_scale", OFFSET(logit_scale), 1, 0},
    {"granite", "attention.scale", OFFSET(attention_scale), 0, 0},
    {0},
};
#undef OFFSET

static const struct {
    const char *checkpoint, *gguf; // without ".weight" or ".bias"
    int rotated, part, parts;
} names[] = {
    {"model.embed_tokens", "token_embd", 0, 0, 1},
    {"model.norm", "output_norm", 0, 0, 1},
    {"lm_head", "output", 0, 0, 1},
    {"model.layers.%d.input_layernorm", "blk.%d.attn_norm", 0, 0, 1},
    {"model.layers.%d.self_attn.q_proj", "blk.%d.attn_q", 1, 0, 1},
    {"model.layers.%d.self_attn.k_proj", "blk.%d.attn_k", 1, 0, 1},
    {"model.layers.%d.self_attn.v_proj", "blk.%d.attn_v", 0, 0, 1},
    {"model.layers.%d.self_attn.o_proj", "blk.%d.attn_output", 0, 0, 1},
    {"model.layers.%d.post_attention_layernorm", "blk.%d.ffn_norm", 0, 0, 1}, // but for Gemma: AFTER_ATTENTION
    {"model.layers.%d.pre_feedforward_layernorm", "blk.%d.ffn_norm", 0, 0, 1},
    {"model.layers.%d.post_feedforward_layernorm", "blk.%d.post_ffw_norm", 0, 0, 1},
    {"model.layers.%d.mlp.gate_proj", "blk.%d.ffn_gate", 0, 0, 1},
    {"model.layers.%d.mlp.up_proj", "blk.%d.ffn_up", 0, 0, 1},
    {"model.layers.%d.mlp.down_proj", "blk.%d.ffn_down", 0, 0, 1},
    {"transformer.wte", "token_embd", 0, 0, 1},
    {"transformer.wpe", "position_embd", 0, 0, 1},
    {"transformer.ln_f", "output_norm", 0, 0, 1},
    {"transformer.h.%d.ln_1", "blk.%d.attn_norm", 0, 0, 1},
    {"transformer.h.%d.attn.q", "blk.%d.attn_qkv", 0, 0, 3},
    {"transformer.h.%d.attn.k", "blk.%d.attn_qkv", 0, 1, 3},
    {"transformer.h.%d.attn.v", "blk.%d.attn_qkv", 0, 2, 3},
    {"transformer.h.%d.attn.c_proj", "blk.%d.attn_output", 0, 0, 1},
    {"transformer.h.%d.ln_2", "blk.%d.ffn_norm", 0, 0, 1},
    {"transformer.h.%d.mlp.c_fc", "blk.%d.ffn_up", 0, 0, 1},
    {"transformer.h.%d.mlp.c_proj", "blk.%d.ffn_down", 0, 0, 1},
    {"bert.embeddings.word_embeddings", "token_embd", 0, 0, 1},
    {"bert.embeddings.position_embeddings", "position_embd", 0, 0, 1},
    {"bert.embeddings.token_type_embeddings", "token_types", 0, 0, 1},
    {"bert.embeddings.LayerNorm", "token_embd_norm", 0, 0, 1},
    {"bert.encoder.layer.%d.attention.self.query", "blk.%d.attn_q", 0, 0, 1},
    {"bert.encoder.layer.%d.attention.self.key", "blk.%d.attn_k", 0, 0, 1},
    {"bert.encoder.layer.%d.attention.self.value", "blk.%d.attn_v", 0, 0, 1},
    {"bert.encoder.layer.%d.attention.output.dense", "blk.%d.attn_output", 0, 0, 1},
    {"bert.encoder.layer.%d.attention.output.LayerNorm", "blk.%d.attn_output_norm", 0, 0, 1},
    {"bert.encoder.layer.%d.intermediate.dense", "blk.%d.ffn_up", 0, 0, 1},
    {"bert.encoder.layer.%d.output.dense", "blk.%d.ffn_down", 0, 0, 1},
    {"bert.encoder.layer.%d.output.LayerNorm", "blk.%d.layer_output_norm", 0, 0, 1},
};

#define AFTER_ATTENTION "blk.%d.post_attention_norm"

double gguf_gemma_scale(const struct config *c)
{
    const int64_t width = c->n_layer == 46 && c->layer[0].n_head ? c->hidden / c->layer[0].n_head : c->head_dim;
    return 1 / sqrt((double)width);
}

int gguf_parameter_name(const struct config *c, const struct parameter *p, struct gguf_name *to)
{
    const char *suffix = strrchr(p->spec->name, '.'); // ".weight", ".bias"
    const size_t stem = (size_t)(suffix - p->spec->name);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strlen(names[i].checkpoint) != stem || strncmp(names[i].checkpoint, p->spec->name, stem) != 0)
            continue;
        const int after = c->post_norms && path_ends_with(names[i].checkpoint, ".post_attention_layernorm");
        const char *gguf = after ? AFTER_ATTENTION : names[i].gguf, *at = strstr(gguf, "%d");
        if (at)
            snprintf(to->text, GGUF_NAME_MAX, "%.*s%d%s%s", (int)(at - gguf), gguf, p->layer, at + 2, suffix);
        else
            snprintf(to->text, GGUF_NAME_MAX, "%s%s", gguf, suffix);
        to->rotated = names[i].rotated;
        to->part = names[i].part;
        to->parts = names[i].parts;
        return 1;
    }
    return 0;
}

// One matrix behind a hook.
struct file_weight {
    struct weight_hook hook; // its context is this struct
    const struct block_format *format;
    const unsigned char *data;
    int64_t row_bytes, head_dim; // head_dim: rows are interleaved; 0: they are not
    struct file_pass *pass;      // the owner's
};

struct file_owner { // model lifetime: model->owner_context
    struct gguf file;
    struct file_weight *weight; // [n_parameter]
    float **vector;             // [n_parameter]; NULL for matrices
    int n_parameter;
    struct file_pass pass; // n 0: pages stay
};

static const unsigned char *row_at(const struct file_weight *fw, int64_t row)
{
    return fw->data + fw->row_bytes * (fw->head_dim ? gguf_row(row, fw->head_dim) : row);
}

static void file_weight_rows(void *context, const struct tensor *w, int64_t row0, int64_t n, float *to)
{
    const struct file_weight *fw = context;
    const int64_t columns = tensor_columns(w);
    for (int64_t r = 0; r < n; r++) {
        const unsigned char *row = row_at(fw, row0 + r);
        fw->format->decode(row, to + r * columns, columns);
        if (fw->pass->n)
            file_pass_at(fw->pass, fw->data, (size_t)(tensor_rows(w) * fw->row_bytes), row);
    }
}

#define DOT_CHUNK 64 // rows of a weight that a thread multiplies at a time
#define AHEAD 4096 // bytes: the processor fetches what follows by itself, but not beyond the end of a page

static void file_weight_dot(void *context, const struct tensor *w, int64_t N, const float *x, float *y)
{
    const struct file_weight *fw = context;
    const int64_t rows = tensor_rows(w), columns = tensor_columns(w), size = block_arranged_bytes(fw->format, columns);
    char *arranged = xmalloc_aligned((size_t)(size * N), "a product's input in order");
    for (int64_t n = 0; n < N; n++)
        block_arrange(fw->format, x + n * columns, columns, arranged + n * size);
#pragma omp parallel for schedule(dynamic, DOT_CHUNK)
    for (int64_t r = 0; r < rows; r++) {
        const unsigned char *row = row_at(fw, r);
        for (int64_t at = AHEAD; at < AHEAD + fw->row_bytes; at += 64)
            __builtin_prefetch(row + at);
        for (int64_t n = 0; n < N; n++)
            y[n * rows + r] = fw->format->dot(row, arranged + n * size, columns);
    }
    free(arranged);
}

static void owner_release(void *context)
{
    struct file_owner *owner = context;
    for (int i = 0; i < owner->n_parameter; i++)
        free(owner->vector[i]);
    free(owner->vector);
    free(owner->weight);
    file_pass_release(&owner->pass);
    gguf_close(&owner->file);
    free(owner);
}

void gguf_model_stream(struct model *m)
{
    struct file_owner *owner = m->owner_context;
    if (!owner->pass.n)
        file_pass_init(&owner->pass);
}

// "llama.block_count": the architecture's own keys. One buffer per call site is enough: keys are used at once.
struct arch_key {
    char text[96];
};

static const char *arch_key(struct arch_key *k, const struct gguf_architecture *a, const char *name)
{
    snprintf(k->text, sizeof k->text, "%s.%s", a->name, name);
    return k->text;
}

static int read_size(const struct gguf *g, const struct gguf_architecture *a, const char *name, int64_t def,
                     int64_t max, int64_t *out, struct error *err)
{
    struct arch_key key;
    TRY(gguf_get_int(g, arch_key(&key, a, name), def, 1, max, out, err));
    if (*out == 0)
        return error_set(err, "%s: key %s is missing; expected a whole number from 1 to %" PRId64, g->map.path,
                         key.text, max);
    return 0;
}

// A number for all layers, or an array with one for each. def 0: required.
static int read_widths(const struct gguf *g, const struct gguf_architecture *a, const char *name, const int64_t *def,
                       int64_t max, int64_t n_layer, int64_t *out, struct error *err)
{
    struct arch_key key;
    const struct gguf_key *k = gguf_find_key(g, arch_key(&key, a, name));
    if (!k && !def)
        return error_set(err, "%s: key %s is missing; expected whole numbers from 1 to %" PRId64, g->map.path,
                         key.text, max);
    if (k && !gguf_is_int(k))
        return error_set(err, "%s: key %s does not hold whole numbers", g->map.path, key.text);
    if (k && k->is_array && k->count != n_layer)
        return error_set(err, "%s: key %s has %" PRId64 " elements; expected one for each of %" PRId64 " layers",
                         g->map.path, key.text, k->count, n_layer);
    for (int64_t l = 0; l < n_layer; l++) {
        out[l] = k ? gguf_int_at(k, k->is_array ? l : 0) : def[l];
        if (out[l] < a->least || out[l] > max)
            return error_set(err, "%s: key %s is %" PRId64 " in layer %" PRId64 "; expected %" PRId64 " to %" PRId64,
                             g->map.path, key.text, out[l], l, a->least, max);
    }
    return 0;
}

static int read_layers(struct config *c, const struct gguf *g, const struct gguf_architecture *a, struct error *err)
{
    int64_t *width = xcalloc((size_t)c->n_layer * 3, sizeof *width, "layer shapes");
    int64_t *heads = width, *groups = width + c->n_layer, *ff = width + 2 * c->n_layer;
    c->layer = xcalloc((size_t)c->n_layer, sizeof *c->layer, "layer shapes");
    int rc = read_widths(g, a, "attention.head_count", NULL, MAX_WIDTH, c->n_layer, heads, err);
    if (rc == 0)
        rc = read_widths(g, a, "attention.head_count_kv", heads, MAX_WIDTH, c->n_layer, groups, err);
    if (rc == 0)
        rc = read_widths(g, a, "feed_forward_length", NULL, MAX_FF, c->n_layer, ff, err);
    for (int64_t l = 0; l < c->n_layer && rc == 0; l++) {
        c->layer[l] = (struct layer_shape){heads[l], groups[l], ff[l]};
        if (heads[l] && !groups[l])
            rc = error_set(err, "%s: layer %" PRId64 " has %" PRId64 " heads and no keys (linear attention), which is not supported",
                           g->map.path, l, heads[l]);
        else if (heads[l] && !ff[l])
            rc = error_set(err, "%s: layer %" PRId64 " has heads and no channels; llama.cpp leaves its attention out, so such a "
                           "file means two things", g->map.path, l);
        else if (heads[l] ? heads[l] % groups[l] != 0 : groups[l] != 0)
            rc = error_set(err,
                           "%s: layer %" PRId64 " has %" PRId64 " heads and %" PRId64
                           " key/value heads; expected a multiple",
                           g->map.path, l, heads[l], groups[l]);
    }
    free(width);
    return rc;
}

static int is_bert(const struct gguf_architecture *a) { return strcmp(a->name, "bert") == 0; }

static int has_rope(const struct gguf_architecture *a) { return strcmp(a->name, "gpt2") != 0 && !is_bert(a); }

static int read_head_dim(struct config *c, const struct gguf *g, const struct gguf_architecture *a, struct error *err)
{
    int64_t value, rotated;
    const int64_t heads = c->layer[0].n_head, def = heads ? c->hidden / heads : 0; // 0: the key is required
    TRY(read_size(g, a, "attention.key_length", def, MAX_WIDTH, &c->head_dim,
                  err));
    TRY(read_size(g, a, "attention.value_length", c->head_dim, MAX_WIDTH, &value, err));
    TRY(read_size(g, a, "rope.dimension_count", c->head_dim, MAX_WIDTH, &rotated, err));
    if (value != c->head_dim || rotated != c->head_dim || (has_rope(a) && c->head_dim % 2))
        return error_set(err,
                         "%s: key length %" PRId64 ", value length %" PRId64 ", rope dimension %" PRId64
                         "; expected the same even number three times",
                         g->map.path, c->head_dim, value, rotated);
    for (int64_t l = 0; l < c->n_layer; l++)
        if (c->layer[l].n_head > MAX_WIDTH / c->head_dim)
            return error_set(err, "%s: %" PRId64 " heads of width %" PRId64 "; expected at most %" PRId64 " in all",
                             g->map.path, c->layer[l].n_head, c->head_dim, MAX_WIDTH);
    return 0;
}

static int read_rope(struct config *c, const struct gguf *g, const struct gguf_architecture *a, struct error *err)
{
    struct arch_key key;
    char *type;
    TRY(gguf_get_float(g, arch_key(&key, a, "rope.freq_base"), 10000, 1, 1e12, &c->rope_theta, err));
    TRY(gguf_get_string(g, arch_key(&key, a, "rope.scaling.type"), &type, err));
    const int linear = type && strcmp(type, "linear") == 0, none = !type || strcmp(type, "none") == 0;
    if (!linear && !none)
        error_set(err, "%s: key %s is \"%s\"; expected none or linear", g->map.path, key.text, type);
    free(type);
    if (!linear)
        return none ? 0 : -1;
    c->rope.type = ROPE_LINEAR;
    return gguf_get_float(g, arch_key(&key, a, "rope.scaling.factor"), 1, 1, 1e6, &c->rope.factor, err);
}

static int is_gemma(const struct gguf_architecture *a) { return strcmp(a->name, "gemma2") == 0; }

static int is_known(const struct gguf_architecture *a, const char *key)
{
    for (const struct gguf_factor *f = gguf_factor_table; f->key; f++)
        if (strcmp(f->architecture, a->name) == 0 && strcmp(f->key, key) == 0)
            return 1;
    return is_gemma(a) && strcmp(key, "attention.sliding_window") == 0;
}

static int read_factors(struct config *c, const struct gguf *g, const struct gguf_architecture *a, struct error *err)
{
    for (const struct gguf_factor *f = gguf_factor_table; f->key; f++) {
        struct arch_key key;
        double x;
        if (strcmp(f->architecture, a->name) != 0)
            continue;
        TRY(gguf_get_float(g, arch_key(&key, a, f->key), f->absent, 1e-9, 1e9, &x, err));
        if (x <= 0)
            return error_set(err, "%s: key %s is missing; expected a positive number", g->map.path, key.text);
        *(double *)((char *)c + f->offset) = f->inverse ? 1 / x : x;
    }
    return 0;
}

// What llama.cpp computes for gemma2 without keys: 46 layers are the 27B model, whose scores are scaled by another width.
static int read_gemma(struct config *c, const struct gguf *g, const struct gguf_architecture *a, struct error *err)
{
    c->activation = ACTIVATION_GELU_TANH;
    c->post_norms = c->norm_shift = 1;
    c->embed_scale = sqrt((double)c->hidden);
    c->attention_scale = gguf_gemma_scale(c);
    TRY(read_size(g, a, "attention.sliding_window", 4096, MAX_CONTEXT, &c->window, err));
    for (int64_t l = 0; l < c->n_layer; l++)
        config_set_sliding(c, l, l % 2 == 0);
    return 0;
}

// Keys under which the same tensors would compute something else.
static int refuse_unknown(const struct gguf *g, const struct gguf_architecture *a, struct error *err)
{
    static const char *const refused[] = {"expert_count", "attention.sliding_window", "logit_scale", "residual_scale", "embedding_scale",
                                          "attention.scale", "attn_logit_softcapping", "final_logit_softcapping"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct arch_key key;
        if (is_known(a, refused[i]))
            continue;
        const struct gguf_key *k = gguf_find_key(g, arch_key(&key, a, refused[i]));
        if (k && !(gguf_is_int(k) && gguf_int_at(k, 0) == 0))
            return error_set(
                err, "%s: key %s is set; mixtures of experts, and sliding windows, soft caps and scales in %s, are not supported",
                g->map.path, key.text, a->name);
    }
    return 0;
}

static int has_bias(const struct gguf *g, const char *name) { return gguf_find_tensor(g, name) != NULL; }

// -1: none. Some files name an id outside the vocabulary when they mean that.
static int read_token_id(const struct gguf *g, const char *name, int64_t size, int64_t *out, struct error *err)
{
    TRY(gguf_get_int(g, name, -1, 0, UINT32_MAX, out, err));
    *out = *out < size ? *out : -1;
    return 0;
}

// An encoder: attention both ways, token types, no head.
static int read_encoder(struct config *c, const struct gguf *g, struct error *err)
{
    const struct gguf_tensor *types = gguf_find_tensor(g, "token_types.weight");
    int causal;
    TRY(gguf_get_bool(g, "bert.attention.causal", 0, &causal, err));
    if (causal)
        return error_set(err, "%s: key bert.attention.causal is true, which is not supported; expected false", g->map.path);
    if (!types || types->n_dim != 2 || types->dim[0] > MAX_VOCAB)
        return error_set(err, "%s: tensor token_types.weight is %s; expected a matrix with one row for each type of token", g->map.path,
                         types ? "of another shape" : "missing");
    c->n_type = types->dim[0];
    c->head = HEAD_NONE;
    c->activation = ACTIVATION_GELU_ERF; // llama.cpp has the tanh form for it; the models were made with this one
    c->tie_embeddings = 0;
    return 0;
}

static int read_config(struct config *c, const struct gguf *g, const struct gguf_architecture *a, struct error *err)
{
    struct arch_key key;
    snprintf(c->model_type, sizeof c->model_type, "%s", a->model_type);
    TRY(refuse_unknown(g, a, err));
    TRY(read_size(g, a, "block_count", 0, MAX_LAYERS, &c->n_layer, err));
    TRY(read_size(g, a, "embedding_length", 0, MAX_WIDTH, &c->hidden, err));
    TRY(read_size(g, a, "context_length", 0, MAX_CONTEXT, &c->context, err));
    TRY(read_layers(c, g, a, err));
    TRY(read_head_dim(c, g, a, err));
    const char *eps = has_rope(a) ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon";
    TRY(gguf_get_float(g, arch_key(&key, a, eps), -1, 0, 1, &c->norm_eps, err));
    if (c->norm_eps < 0)
        return error_set(err, "%s: key %s is missing; expected a number from 0 to 1", g->map.path, key.text);
    if (has_rope(a))
        TRY(read_rope(c, g, a, err));
    else
        c->activation = ACTIVATION_GELU_TANH;
    TRY(read_factors(c, g, a, err));
    if (is_gemma(a))
        TRY(read_gemma(c, g, a, err));
    const struct gguf_tensor *embedding = gguf_find_tensor(g, "token_embd.weight");
    if (!embedding || embedding->n_dim != 2 || embedding->dim[0] > MAX_VOCAB)
        return error_set(err, "%s: tensor token_embd.weight is %s; expected a matrix with one row for each token",
                         g->map.path, embedding ? "of another shape" : "missing");
    c->vocab = embedding->dim[0];
    c->tie_embeddings = !gguf_find_tensor(g, "output.weight");
    c->qkv_bias = has_bias(g, "blk.0.attn_q.bias") || has_bias(g, "blk.0.attn_qkv.bias");
    c->out_bias = has_bias(g, "blk.0.attn_output.bias");
    c->mlp_bias = has_bias(g, "blk.0.ffn_down.bias");
    if (is_bert(a))
        TRY(read_encoder(c, g, err));
    TRY(read_token_id(g, "tokenizer.ggml.bos_token_id", c->vocab, &c->bos_id, err));
    return read_token_id(g, "tokenizer.ggml.eos_token_id", c->vocab, &c->eos_id, err);
}

static int shape_is(const struct gguf_tensor *from, const struct tensor *t, int parts)
{
    if (from->n_dim != t->n_dim)
        return 0;
    for (int i = 0; i < t->n_dim; i++)
        if (from->dim[i] != t->dim[i] * (i == 0 ? parts : 1))
            return 0;
    return 1;
}

static int wrong_shape(const struct gguf *g, const struct gguf_tensor *from, const struct tensor *t, int parts,
                       struct error *err)
{
    char found[96] = "", expected[96] = "";
    for (int i = 0; i < from->n_dim; i++)
        snprintf(found + strlen(found), sizeof found - strlen(found), "%s%" PRId64, i ? " x " : "", from->dim[i]);
    for (int i = 0; i < t->n_dim; i++)
        snprintf(expected + strlen(expected), sizeof expected - strlen(expected), "%s%" PRId64, i ? " x " : "",
                 t->dim[i] * (i == 0 ? parts : 1));
    return error_set(err, "%s: tensor %s is %s; its keys say %s", g->map.path, from->name, found, expected);
}

// Values first .. first+n-1.
static float *copy_vector(const struct gguf_tensor *from, int64_t first, int64_t n, int64_t head_dim)
{
    float *whole = xmalloc((size_t)from->dim[0] * sizeof(float), from->name);
    float *stored = xmalloc((size_t)n * sizeof(float), from->name), *values = stored;
    from->format->decode(from->data, whole, from->dim[0]);
    memcpy(stored, whole + first, (size_t)n * sizeof(float));
    free(whole);
    if (head_dim) {
        values = xmalloc((size_t)n * sizeof(float), from->name);
        for (int64_t i = 0; i < n; i++)
            values[i] = stored[gguf_row(i, head_dim)];
        free(stored);
    }
    return values;
}

static int attach_parameter(struct model *m, int i, const struct gguf_architecture *a, struct file_owner *owner,
                            char *used, struct error *err)
{
    struct parameter *p = &m->parameter[i];
    struct gguf_name name;
    if (!gguf_parameter_name(&m->config, p, &name))
        BUG("gguf_model: no GGUF name for %s", p->name);
    const struct gguf *g = &owner->file;
    const struct gguf_tensor *from = gguf_find_tensor(g, name.text);
    if (!from)
        return error_set(err, "%s: tensor %s is missing", g->map.path, name.text);
    if (!shape_is(from, &p->t, name.parts))
        return wrong_shape(g, from, &p->t, name.parts, err);
    used[from - g->tensor] = 1;
    const int64_t head_dim = name.rotated && a->interleaved ? m->config.head_dim : 0, first = name.part * p->t.dim[0];
    if (p->t.n_dim == 1) {
        p->t.data = owner->vector[i] = copy_vector(from, first, p->t.dim[0], head_dim);
        for (int64_t k = 0; parameter_is_norm(p) && k < p->t.dim[0]; k++) // the file has what is multiplied by
            p->t.data[k] -= (float)m->config.norm_shift;
        return 0;
    }
    const int64_t row_bytes = block_row_bytes(from->format, from->dim[1]);
    struct file_weight *fw = &owner->weight[i];
    *fw = (struct file_weight){.hook = {.context = fw, .rows = file_weight_rows, .dot = file_weight_dot},
                               .format = from->format, .data = (const unsigned char *)from->data + first * row_bytes,
                               .row_bytes = row_bytes, .head_dim = head_dim, .pass = &owner->pass};
    p->t.hook = &fw->hook;
    return 0;
}

// Are the factors those of Llama 3's rule with the constants that all its models use? Then the config can say so.
static void recognise_llama3(struct config *c, const float *factor, int64_t n)
{
    struct config guess = *c;
    guess.rope = (struct rope_scaling){ROPE_LLAMA3, 1, 1, 4, 8192};
    for (int64_t i = 0; i < n; i++)
        guess.rope.factor = fmax(guess.rope.factor, (double)factor[i]);
    double *plain = xmalloc((size_t)n * 2 * sizeof *plain, "rope"), *scaled = plain + n;
    config_rope_frequencies(c, plain);
    config_rope_frequencies(&guess, scaled);
    int same = 1;
    for (int64_t i = 0; i < n; i++)
        same &= fabs(plain[i] / scaled[i] / (double)factor[i] - 1) < 1e-5;
    if (same)
        c->rope = guess.rope;
    free(plain);
}

// rope_freqs.weight: each frequency is divided by its factor.
static int apply_rope_factors(struct model *m, const struct gguf *g, char *used, struct error *err)
{
    const struct gguf_tensor *from = gguf_find_tensor(g, "rope_freqs.weight");
    const int64_t n = m->config.head_dim / 2;
    if (!from)
        return 0;
    if (from->n_dim != 1 || from->dim[0] != n)
        return error_set(err,
                         "%s: tensor rope_freqs.weight has %" PRId64 " rows; expected a vector of %" PRId64
                         ", half the head width",
                         g->map.path, from->dim[0], n);
    used[from - g->tensor] = 1;
    float *factor = copy_vector(from, 0, n, 0);
    int rc = 0;
    for (int64_t i = 0; i < n && rc == 0; i++) {
        if (!(factor[i] > 0 && factor[i] < 1e6f))
            rc = error_set(err, "%s: tensor rope_freqs.weight: factor %" PRId64 " is %g; expected a positive number",
                           g->map.path, i, (double)factor[i]);
        else
            m->rope[i] /= (double)factor[i];
    }
    if (rc == 0 && m->config.rope.type == ROPE_PLAIN)
        recognise_llama3(&m->config, factor, n);
    free(factor);
    return rc;
}

static int attach_all(struct model *m, const struct gguf_architecture *a, struct file_owner *owner, struct error *err)
{
    const struct gguf *g = &owner->file;
    char *used = xcalloc((size_t)g->n_tensor + 1, 1, "GGUF tensors");
    int rc = 0;
    for (int i = 0; i < m->n_parameter && rc == 0; i++)
        rc = attach_parameter(m, i, a, owner, used, err);
    if (rc == 0)
        rc = apply_rope_factors(m, g, used, err);
    for (int64_t i = 0; i < g->n_tensor && rc == 0; i++)
        if (!used[i])
            rc = error_set(err, "%s: tensor %s is not one that architecture %s has in pdq", g->map.path,
                           g->tensor[i].name, a->name);
    free(used);
    return rc;
}

// An array with one element for each token; absent: *out is NULL.
static int token_array(const struct gguf *g, const char *name, int64_t tokens, const struct gguf_key **out,
                       struct error *err)
{
    *out = gguf_find_key(g, name);
    if (*out && (!(*out)->is_array || (*out)->count != tokens))
        return error_set(err, "%s: key %s does not have one element for each of %" PRId64 " tokens", g->map.path,
                         name, tokens);
    return 0;
}

static int read_token_list(const struct gguf *g, struct vocab *v, struct error *err)
{
    const struct gguf_key *k = gguf_find_key(g, "tokenizer.ggml.tokens");
    v->token = k ? gguf_strings(k) : NULL;
    if (!v->token)
        return error_set(err, "%s: key tokenizer.ggml.tokens is %s", g->map.path,
                         k ? "no array of strings" : "missing");
    v->size = k->count;
    TRY(token_array(g, "tokenizer.ggml.scores", v->size, &k, err));
    if (k && !gguf_is_float(k))
        return error_set(err, "%s: key tokenizer.ggml.scores does not hold F32", g->map.path);
    if (k && strcmp(v->model, "llama") == 0) {
        v->score = xmalloc((size_t)(v->size + 1) * sizeof *v->score, "token scores");
        for (int64_t i = 0; i < v->size; i++)
            v->score[i] = (float)gguf_float_at(k, i);
    }
    TRY(token_array(g, "tokenizer.ggml.token_type", v->size, &k, err));
    if (k && !gguf_is_int(k))
        return error_set(err, "%s: key tokenizer.ggml.token_type does not hold whole numbers", g->map.path);
    if (k) {
        v->type = xmalloc((size_t)(v->size + 1) * sizeof *v->type, "token types");
        for (int64_t i = 0; i < v->size; i++)
            v->type[i] = (int32_t)gguf_int_at(k, i);
    }
    k = gguf_find_key(g, "tokenizer.ggml.merges");
    if (k && strcmp(v->model, "gpt2") == 0) {
        v->merge = gguf_strings(k);
        v->n_merges = k->count;
        if (!v->merge)
            return error_set(err, "%s: key tokenizer.ggml.merges is no array of strings", g->map.path);
    }
    return 0;
}

static int read_tokenizer(const struct gguf *g, int64_t rows, struct tokenizer **out, struct error *err)
{
    struct vocab v = {0};
    int64_t bos, eos, unk, pad, cls, sep;
    int rc = gguf_get_string(g, "tokenizer.ggml.model", &v.model, err);
    *out = NULL;
    if (rc < 0)
        goto out;
    rc = -1;
    if (!v.model || strcmp(v.model, "no_vocab") == 0) {
        *out = tokenizer_numbers(g->map.path, rows, err);
        rc = *out ? 0 : -1;
        goto out;
    }
    if (gguf_get_string(g, "tokenizer.ggml.pre", &v.pre, err) < 0 || read_token_list(g, &v, err) < 0)
        goto out;
    if (v.size != rows) {
        error_set(err, "%s: the tokenizer has %" PRId64 " tokens, the embedding %" PRId64 " rows; expected as many",
                  g->map.path, v.size, rows);
        goto out;
    }
    if (read_token_id(g, "tokenizer.ggml.bos_token_id", v.size, &bos, err) < 0 ||
        read_token_id(g, "tokenizer.ggml.eos_token_id", v.size, &eos, err) < 0 ||
        read_token_id(g, "tokenizer.ggml.unknown_token_id", v.size, &unk, err) < 0 ||
        read_token_id(g, "tokenizer.ggml.padding_token_id", v.size, &pad, err) < 0 ||
        read_token_id(g, "tokenizer.ggml.cls_token_id", v.size, &cls, err) < 0 ||
        read_token_id(g, "tokenizer.ggml.seperator_token_id", v.size, &sep, err) < 0 ||
        gguf_get_string(g, "tokenizer.chat_template", &v.chat_template, err) < 0 ||
        gguf_get_bool(g, "tokenizer.ggml.add_bos_token", -1, &v.add_bos, err) < 0 ||
        gguf_get_bool(g, "tokenizer.ggml.add_eos_token", -1, &v.add_eos, err) < 0 ||
        gguf_get_bool(g, "tokenizer.ggml.add_space_prefix", -1, &v.add_space_prefix, err) < 0)
        goto out;
    v.bos = (int32_t)bos;
    v.eos = (int32_t)eos;
    v.unk = (int32_t)unk;
    v.pad = (int32_t)pad;
    v.cls = (int32_t)cls;
    v.sep = (int32_t)sep;
    *out = tokenizer_from_vocab(&v, err);
    if (*out)
        rc = 0;
    else
        error_prefix(err, "%s", g->map.path);
out:
    vocab_release(&v);
    return rc;
}

static const struct gguf_architecture *find_architecture(const struct gguf *g, struct error *err)
{
    char *name;
    const struct gguf_architecture *found = NULL;
    if (gguf_get_string(g, "general.architecture", &name, err) < 0)
        return NULL;
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++)
        if (name && strcmp(architectures[i].name, name) == 0)
            found = &architectures[i];
    if (!found)
        error_set(err, "%s: general.architecture is %s%s%s; expected llama, deci, qwen2, gemma2, minicpm, granite, gpt2 or bert", g->map.path, name ? "\"" : "",
                  name ? name : "missing", name ? "\"" : "");
    free(name);
    return found;
}

struct model *gguf_model_open(const char *path, struct tokenizer **tokenizer, struct error *err)
{
    struct file_owner *owner = xcalloc(1, sizeof *owner, "GGUF model");
    struct config config = {0};
    struct model *m = NULL;
    *tokenizer = NULL;
    if (gguf_open(&owner->file, path, err) < 0) {
        free(owner);
        return NULL;
    }
    const struct gguf_architecture *a = find_architecture(&owner->file, err);
    if (!a || read_config(&config, &owner->file, a, err) < 0) {
        config_release(&config);
        owner_release(owner);
        return NULL;
    }
    m = model_new(&config, 0);
    config_release(&config);
    owner->n_parameter = m->n_parameter;
    owner->weight = xcalloc((size_t)m->n_parameter, sizeof *owner->weight, "GGUF weights");
    owner->vector = xcalloc((size_t)m->n_parameter, sizeof *owner->vector, "GGUF vectors");
    m->owner_context = owner;
    m->owner_release = owner_release;
    if (attach_all(m, a, owner, err) < 0 || read_tokenizer(&owner->file, m->config.vocab, tokenizer, err) < 0) {
        model_free(m);
        return NULL;
    }
    return m;
}
