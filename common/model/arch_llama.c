// arch_llama.c: the Llama family: RMSNorm, rotary attention with grouped keys and values, SwiGLU. Mistral (without a sliding
// window) is the same; Qwen2 has biases on q, k and v.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/model/arch.h"

static int untied(const struct config *c, int l) { return l < 0 && !c->tie_embeddings; }
static int has_attention(const struct config *c, int l) { return c->layer[l].n_head > 0; }
static int has_ff(const struct config *c, int l) { return c->layer[l].n_ff > 0; }
static int qkv_bias(const struct config *c, int l) { return c->qkv_bias && has_attention(c, l); }
static int out_bias(const struct config *c, int l) { return c->out_bias && has_attention(c, l); }
static int mlp_bias(const struct config *c, int l) { return c->mlp_bias && has_ff(c, l); }

enum {
    EMBED, HEAD, NORM, ATTENTION_NORM, Q, Q_BIAS, K, K_BIAS, V, V_BIAS, O, O_BIAS,
    FF_NORM, GATE, GATE_BIAS, UP, UP_BIAS, DOWN, DOWN_BIAS, N_SPECS
};

#define LAYER(name) "model.layers.%d." name

static const struct weight_spec specs[N_SPECS] = {
    [EMBED] = {"model.embed_tokens.weight", 0, AXIS_VOCAB, AXIS_HIDDEN, NULL},
    [HEAD] = {"lm_head.weight", 0, AXIS_VOCAB, AXIS_HIDDEN, untied},
    [NORM] = {"model.norm.weight", 0, AXIS_ONE, AXIS_HIDDEN, NULL},
    [ATTENTION_NORM] = {LAYER("input_layernorm.weight"), 1, AXIS_ONE, AXIS_HIDDEN, has_attention},
    [Q] = {LAYER("self_attn.q_proj.weight"), 1, AXIS_HEADS, AXIS_HIDDEN, NULL},
    [Q_BIAS] = {LAYER("self_attn.q_proj.bias"), 1, AXIS_ONE, AXIS_HEADS, qkv_bias},
    [K] = {LAYER("self_attn.k_proj.weight"), 1, AXIS_GROUPS, AXIS_HIDDEN, NULL},
    [K_BIAS] = {LAYER("self_attn.k_proj.bias"), 1, AXIS_ONE, AXIS_GROUPS, qkv_bias},
    [V] = {LAYER("self_attn.v_proj.weight"), 1, AXIS_GROUPS, AXIS_HIDDEN, NULL},
    [V_BIAS] = {LAYER("self_attn.v_proj.bias"), 1, AXIS_ONE, AXIS_GROUPS, qkv_bias},
    [O] = {LAYER("self_attn.o_proj.weight"), 1, AXIS_HIDDEN, AXIS_HEADS, NULL},
    [O_BIAS] = {LAYER("self_attn.o_proj.bias"), 1, AXIS_ONE, AXIS_HIDDEN, out_bias},
    [FF_NORM] = {LAYER("post_attention_layernorm.weight"), 1, AXIS_ONE, AXIS_HIDDEN, has_ff},
    [GATE] = {LAYER("mlp.gate_proj.weight"), 1, AXIS_FF, AXIS_HIDDEN, NULL},
    [GATE_BIAS] = {LAYER("mlp.gate_proj.bias"), 1, AXIS_ONE, AXIS_FF, mlp_bias},
    [UP] = {LAYER("mlp.up_proj.weight"), 1, AXIS_FF, AXIS_HIDDEN, NULL},
    [UP_BIAS] = {LAYER("mlp.up_proj.bias"), 1, AXIS_ONE, AXIS_FF, mlp_bias},
    [DOWN] = {LAYER("mlp.down_proj.weight"), 1, AXIS_HIDDEN, AXIS_FF, NULL},
    [DOWN_BIAS] = {LAYER("mlp.down_proj.bias"), 1, AXIS_ONE, AXIS_HIDDEN, mlp_bias},
};

struct block { // what one layer's forward needs; step lifetime
    struct model *model;
    const struct forward *forward;
    const float *rope;
    int layer;
};

static int is_skipped(const struct block *b, int is_attention)
{
    const struct model_layer_gates *gate = b->model->gate ? &b->model->gate[b->layer] : NULL;
    const struct config *c = &b->model->config;
    if (is_attention)
        return !has_attention(c, b->layer) || (gate && gate->no_attention);
    return !has_ff(c, b->layer) || (gate && gate->no_ff);
}

static void show(const struct block *b, enum tap which, struct tensor **place, struct tensor *x)
{
    if (b->forward->taps && b->forward->taps->want & which)
        place[b->layer] = x;
}

// Appends the new keys and values to the cache; returns tensors over all positions so far.
static void cache_extend(struct block *b, struct tape *tape, struct tensor **k, struct tensor **v)
{
    struct kv_cache *cache = b->forward->cache;
    const int64_t columns = tensor_columns(*k), T = b->forward->T, S = cache->length + T;
    if (S > cache->capacity)
        BUG("kv_cache: %ld positions, capacity %ld", (long)S, (long)cache->capacity);
    float *store[2] = {cache->k[b->layer], cache->v[b->layer]};
    struct tensor **fresh[2] = {k, v};
    for (int i = 0; i < 2; i++) {
        memcpy(store[i] + cache->length * columns, (*fresh[i])->data, (size_t)(T * columns) * sizeof(float));
        struct tensor *all = arena_zalloc(&tape->arena, sizeof *all);
        *all = (struct tensor){.name = (*fresh[i])->name, .n_dim = 2, .dim = {S, columns, 1}, .data = store[i]};
        *fresh[i] = all;
    }
}

static struct tensor *attention(struct block *b, struct tape *tape, struct tensor *x)
{
    struct model *m = b->model;
    const struct forward *f = b->forward;
    const int l = b->layer;
    const int64_t E = m->config.head_dim, S = f->cache ? f->cache->length + f->T : f->T;
    struct tensor *q = op_linear(tape, x, model_weight(m, Q, l), model_weight(m, Q_BIAS, l));
    struct tensor *k = op_linear(tape, x, model_weight(m, K, l), model_weight(m, K_BIAS, l));
    struct tensor *v = op_linear(tape, x, model_weight(m, V, l), model_weight(m, V_BIAS, l));
    q = op_rope(tape, q, b->rope, E, f->T);
    k = op_rope(tape, k, b->rope, E, f->T);
    if (f->cache)
        cache_extend(b, tape, &k, &v);
    struct tensor *y = op_attention(tape, q, k, v, f->B, f->T, S, E);
    if (m->gate && m->gate[l].heads)
        y = op_gate(tape, y, m->gate[l].heads);
    show(b, TAP_HEADS, f->taps ? f->taps->heads : NULL, y);
    return op_linear(tape, y, model_weight(m, O, l), model_weight(m, O_BIAS, l));
}

static struct tensor *feed_forward(struct block *b, struct tape *tape, struct tensor *x)
{
    struct model *m = b->model;
    const int l = b->layer;
    struct tensor *gate = op_linear(tape, x, model_weight(m, GATE, l), model_weight(m, GATE_BIAS, l));
    struct tensor *up = op_linear(tape, x, model_weight(m, UP, l), model_weight(m, UP_BIAS, l));
    struct tensor *y = op_swiglu(tape, gate, up);
    if (m->gate && m->gate[l].ff)
        y = op_gate(tape, y, m->gate[l].ff);
    show(b, TAP_FF, b->forward->taps ? b->forward->taps->ff : NULL, y);
    return op_linear(tape, y, model_weight(m, DOWN, l), model_weight(m, DOWN_BIAS, l));
}

static struct tensor *block(void *context, struct tape *tape, struct tensor *x)
{
    struct block *b = context;
    struct model *m = b->model;
    const struct taps *taps = b->forward->taps;
    const double eps = m->config.rms_eps;
    if (!is_skipped(b, 1)) {
        struct tensor *h = op_rmsnorm(tape, x, model_weight(m, ATTENTION_NORM, b->layer), eps);
        show(b, TAP_INPUTS, taps ? taps->attention_in : NULL, h);
        h = attention(b, tape, h);
        x = op_add(tape, x, h);
    }
    show(b, TAP_MIDDLE, taps ? taps->middle : NULL, x);
    if (!is_skipped(b, 0)) {
        struct tensor *h = op_rmsnorm(tape, x, model_weight(m, FF_NORM, b->layer), eps);
        show(b, TAP_INPUTS, taps ? taps->ff_in : NULL, h);
        h = feed_forward(b, tape, h);
        x = op_add(tape, x, h);
    }
    return x;
}

static struct tensor *llama_forward(struct model *m, struct tape *tape, const struct forward *f)
{
    const int64_t position = f->cache ? f->cache->length : 0;
    const int show_hidden = f->taps && f->taps->want & TAP_HIDDEN;
    const float *rope = rope_table(tape, m->rope, m->config.head_dim, f->T, position);
    struct forward *kept = arena_alloc(&tape->arena, sizeof *kept); // a checkpoint runs again when the caller's is gone
    *kept = *f;
    const int only_last = f->checkpoint && !tape->recording && !show_hidden; // nobody asks for the layers' outputs later
    const size_t mark = arena_mark(&tape->arena);
    const int64_t last = f->last ? f->last : m->config.n_layer;
    struct tensor *x = f->x ? f->x : op_embed(tape, model_weight(m, EMBED, -1), f->ids, f->B * f->T);
    if (show_hidden)
        f->taps->hidden[f->first] = x;
    for (int64_t l = f->first; l < last; l++) {
        struct block *b = arena_alloc(&tape->arena, sizeof *b);
        *b = (struct block){m, kept, rope, (int)l};
        x = f->checkpoint ? tape_checkpoint(tape, block, b, x) : block(b, tape, x);
        if (only_last)
            x = tape_keep(tape, mark, x);
        if (show_hidden)
            f->taps->hidden[l + 1] = x;
    }
    if (f->cache)
        f->cache->length += f->T;
    if (f->last)
        return x;
    return op_rmsnorm(tape, x, model_weight(m, NORM, -1), m->config.rms_eps);
}

// GPT-2's rule: residual projections (o, down: hidden rows, inner columns) are divided by sqrt(2 n_layer).
static double deviation(const struct config *c, const struct parameter *p)
{
    return p->spec->rows == AXIS_HIDDEN ? 0.02 / sqrt(2.0 * (double)c->n_layer) : 0.02;
}

const struct arch arch_llama = {.model_types = "llama|mistral|qwen2|nemotron-nas",
                                .specs = specs,
                                .n_specs = N_SPECS,
                                .embed = EMBED,
                                .head = HEAD,
                                .head_bias = -1,
                                .deviation = deviation,
                                .forward = llama_forward};
