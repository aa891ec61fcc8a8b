// arch_llama.c: the Llama family: RMSNorm, rotary attention with grouped keys and values, SwiGLU. Its relatives add to that, by
// flags of the config:
//
//   mistral           a sliding window in every layer
//   qwen2, qwen3      biases on q, k and v; norms over each head of q and k
//   gemma2            GeGLU, norms behind the blocks as well, 1 + w in norms, scaled embeddings, soft caps, windows in every other layer
//   minicpm, granite  factors of the embeddings, of what a block adds, of the logits (Hu et al. 2024, section 3.1), of the scores
#include <math.h>

#include "common/model/block.h"

static int untied(const struct config *c, int l) { return l < 0 && !c->tie_embeddings; }
static int qkv_bias(const struct config *c, int l) { return c->qkv_bias && layer_has_attention(c, l); }
static int out_bias(const struct config *c, int l) { return c->out_bias && layer_has_attention(c, l); }
static int qk_norm(const struct config *c, int l) { return c->qk_norm && layer_has_attention(c, l); }
static int norm_after_attention(const struct config *c, int l) { return c->post_norms && layer_has_attention(c, l); }
static int norm_around_ff(const struct config *c, int l) { return c->post_norms && layer_has_ff(c, l); }
static int norm_before_ff(const struct config *c, int l) { return !c->post_norms && layer_has_ff(c, l); }
static int mlp_bias(const struct config *c, int l) { return c->mlp_bias && layer_has_ff(c, l); }

enum {
    EMBED, HEAD, NORM, ATTENTION_NORM, Q, Q_BIAS, K, K_BIAS, V, V_BIAS, O, O_BIAS, Q_NORM, K_NORM, AFTER_ATTENTION,
    FF_NORM, FF_NORM_GEMMA, GATE, GATE_BIAS, UP, UP_BIAS, DOWN, DOWN_BIAS, AFTER_FF, N_SPECS
};

#define LAYER(name) "model.layers.%d." name

static const struct weight_spec specs[N_SPECS] = {
    [EMBED] = {"model.embed_tokens.weight", 0, AXIS_VOCAB, AXIS_HIDDEN, NULL},
    [HEAD] = {"lm_head.weight", 0, AXIS_VOCAB, AXIS_HIDDEN, untied},
    [NORM] = {"model.norm.weight", 0, AXIS_ONE, AXIS_HIDDEN, NULL},
    [ATTENTION_NORM] = {LAYER("input_layernorm.weight"), 1, AXIS_ONE, AXIS_HIDDEN, layer_has_attention},
    [Q] = {LAYER("self_attn.q_proj.weight"), 1, AXIS_HEADS, AXIS_HIDDEN, NULL},
    [Q_BIAS] = {LAYER("self_attn.q_proj.bias"), 1, AXIS_ONE, AXIS_HEADS, qkv_bias},
    [K] = {LAYER("self_attn.k_proj.weight"), 1, AXIS_GROUPS, AXIS_HIDDEN, NULL},
    [K_BIAS] = {LAYER("self_attn.k_proj.bias"), 1, AXIS_ONE, AXIS_GROUPS, qkv_bias},
    [V] = {LAYER("self_attn.v_proj.weight"), 1, AXIS_GROUPS, AXIS_HIDDEN, NULL},
    [V_BIAS] = {LAYER("self_attn.v_proj.bias"), 1, AXIS_ONE, AXIS_GROUPS, qkv_bias},
    [O] = {LAYER("self_attn.o_proj.weight"), 1, AXIS_HIDDEN, AXIS_HEADS, NULL},
    [O_BIAS] = {LAYER("self_attn.o_proj.bias"), 1, AXIS_ONE, AXIS_HIDDEN, out_bias},
    [Q_NORM] = {LAYER("self_attn.q_norm.weight"), 1, AXIS_ONE, AXIS_HEAD_WIDTH, qk_norm},
    [K_NORM] = {LAYER("self_attn.k_norm.weight"), 1, AXIS_ONE, AXIS_HEAD_WIDTH, qk_norm},
    [AFTER_ATTENTION] = {LAYER("post_attention_layernorm.weight"), 1, AXIS_ONE, AXIS_HIDDEN, norm_after_attention},
    [FF_NORM] = {LAYER("post_attention_layernorm.weight"), 1, AXIS_ONE, AXIS_HIDDEN, norm_before_ff}, // so named before Gemma
    [FF_NORM_GEMMA] = {LAYER("pre_feedforward_layernorm.weight"), 1, AXIS_ONE, AXIS_HIDDEN, norm_around_ff},
    [GATE] = {LAYER("mlp.gate_proj.weight"), 1, AXIS_FF, AXIS_HIDDEN, NULL},
    [GATE_BIAS] = {LAYER("mlp.gate_proj.bias"), 1, AXIS_ONE, AXIS_FF, mlp_bias},
    [UP] = {LAYER("mlp.up_proj.weight"), 1, AXIS_FF, AXIS_HIDDEN, NULL},
    [UP_BIAS] = {LAYER("mlp.up_proj.bias"), 1, AXIS_ONE, AXIS_FF, mlp_bias},
    [DOWN] = {LAYER("mlp.down_proj.weight"), 1, AXIS_HIDDEN, AXIS_FF, NULL},
    [DOWN_BIAS] = {LAYER("mlp.down_proj.bias"), 1, AXIS_ONE, AXIS_HIDDEN, mlp_bias},
    [AFTER_FF] = {LAYER("post_feedforward_layernorm.weight"), 1, AXIS_ONE, AXIS_HIDDEN, norm_around_ff},
};

static struct tensor *feed_forward(const struct block *b, struct tape *tape, struct tensor *x)
{
    struct model *m = b->model;
    const int l = b->layer;
    struct tensor *gate = op_linear(tape, x, model_weight(m, GATE, l), model_weight(m, GATE_BIAS, l));
    struct tensor *up = op_linear(tape, x, model_weight(m, UP, l), model_weight(m, UP_BIAS, l));
    struct tensor *y = m->config.activation == ACTIVATION_GELU_TANH ? op_geglu(tape, gate, up) : op_swiglu(tape, gate, up);
    y = block_channels(b, tape, y);
    return op_linear(tape, y, model_weight(m, DOWN, l), model_weight(m, DOWN_BIAS, l));
}

// x plus what a block makes of it: h, normalised and scaled where the config says so.
static struct tensor *added(const struct block *b, struct tape *tape, struct tensor *x, struct tensor *h, int norm)
{
    struct model *m = b->model;
    if (m->config.post_norms)
        h = model_norm(m, tape, h, model_weight(m, norm, b->layer));
    if (m->config.residual_scale > 0)
        h = op_scale(tape, h, m->config.residual_scale);
    return op_add(tape, x, h);
}

static struct tensor *block(void *context, struct tape *tape, struct tensor *x)
{
    const struct block *b = context;
    struct model *m = b->model;
    const struct taps *taps = b->forward->taps;
    const int ff_norm = m->config.post_norms ? FF_NORM_GEMMA : FF_NORM;
    if (!block_is_skipped(b, 1)) {
        struct tensor *h = model_norm(m, tape, x, model_weight(m, ATTENTION_NORM, b->layer));
        block_show(b, TAP_INPUTS, taps ? taps->attention_in : NULL, h);
        h = block_attention(b, tape, h, Q);
        x = added(b, tape, x, h, AFTER_ATTENTION);
    }
    block_show(b, TAP_MIDDLE, taps ? taps->middle : NULL, x);
    if (!block_is_skipped(b, 0)) {
        struct tensor *h = model_norm(m, tape, x, model_weight(m, ff_norm, b->layer));
        block_show(b, TAP_INPUTS, taps ? taps->ff_in : NULL, h);
        h = feed_forward(b, tape, h);
        x = added(b, tape, x, h, AFTER_FF);
    }
    return x;
}

static struct tensor *llama_forward(struct model *m, struct tape *tape, const struct forward *f)
{
    const int64_t position = f->cache ? f->cache->length : 0;
    const float *rope = rope_table(tape, m->rope, m->config.head_dim, f->T, position);
    struct tensor *x = f->x ? f->x : block_tokens(m, tape, f);
    if (!f->x && m->config.embed_scale > 0)
        x = op_scale(tape, x, m->config.embed_scale);
    x = blocks_run(m, tape, f, rope, block, x);
    if (f->last)
        return x;
    x = model_norm(m, tape, x, model_weight(m, NORM, -1));
    return m->config.logit_scale > 0 ? op_scale(tape, x, m->config.logit_scale) : x;
}

// GPT-2's rule: residual projections (o, down: hidden rows, inner columns) are divided by sqrt(2 n_layer).
static double deviation(const struct config *c, const struct parameter *p)
{
    return p->spec->rows == AXIS_HIDDEN ? 0.02 / sqrt(2.0 * (double)c->n_layer) : 0.02;
}

const struct arch arch_llama = {.model_types = "llama|mistral|qwen2|qwen3|gemma2|minicpm|granite|nemotron-nas",
                                .specs = specs,
                                .n_specs = N_SPECS,
                                .embed = EMBED,
                                .head = {HEAD, -1},
                                .head_bias = {-1},
                                .qk_norm = Q_NORM,
                                .deviation = deviation,
                                .forward = llama_forward};
