// arch_gpt2.c: GPT-2 (Radford et al. 2019): learned positions, layer norm before each block, full attention heads, GELU.
//
// Checkpoints have q, k and v in one tensor, and matrices as [in, out] (transformers' Conv1D); here they are apart and [out, in],
// so that cutting a head is cutting three rows' worth of units. stored.c translates.
#include <math.h>

#include "common/model/block.h"

static int qkv_bias(const struct config *c, int l) { return c->qkv_bias && layer_has_attention(c, l); }
static int untied(const struct config *c, int l) { return l < 0 && !c->tie_embeddings; }

enum {
    EMBED, POSITIONS, HEAD, NORM, NORM_BIAS, ATTENTION_NORM, ATTENTION_NORM_BIAS, Q, Q_BIAS, K, K_BIAS, V, V_BIAS, O, O_BIAS,
    FF_NORM, FF_NORM_BIAS, UP, UP_BIAS, DOWN, DOWN_BIAS, N_SPECS
};

#define LAYER(name) "transformer.h.%d." name

static const struct weight_spec specs[N_SPECS] = {
    [EMBED] = {"transformer.wte.weight", 0, AXIS_VOCAB, AXIS_HIDDEN, NULL},
    [POSITIONS] = {"transformer.wpe.weight", 0, AXIS_POSITIONS, AXIS_HIDDEN, NULL},
    [HEAD] = {"lm_head.weight", 0, AXIS_VOCAB, AXIS_HIDDEN, untied},
    [NORM] = {"transformer.ln_f.weight", 0, AXIS_ONE, AXIS_HIDDEN, NULL},
    [NORM_BIAS] = {"transformer.ln_f.bias", 0, AXIS_ONE, AXIS_HIDDEN, NULL},
    [ATTENTION_NORM] = {LAYER("ln_1.weight"), 1, AXIS_ONE, AXIS_HIDDEN, layer_has_attention},
    [ATTENTION_NORM_BIAS] = {LAYER("ln_1.bias"), 1, AXIS_ONE, AXIS_HIDDEN, layer_has_attention},
    [Q] = {LAYER("attn.q.weight"), 1, AXIS_HEADS, AXIS_HIDDEN, NULL, .stored = {LAYER("attn.c_attn.weight"), 0, 3}, .transposed = 1},
    [Q_BIAS] = {LAYER("attn.q.bias"), 1, AXIS_ONE, AXIS_HEADS, qkv_bias, .stored = {LAYER("attn.c_attn.bias"), 0, 3}},
    [K] = {LAYER("attn.k.weight"), 1, AXIS_GROUPS, AXIS_HIDDEN, NULL, .stored = {LAYER("attn.c_attn.weight"), 1, 3}, .transposed = 1},
    [K_BIAS] = {LAYER("attn.k.bias"), 1, AXIS_ONE, AXIS_GROUPS, qkv_bias, .stored = {LAYER("attn.c_attn.bias"), 1, 3}},
    [V] = {LAYER("attn.v.weight"), 1, AXIS_GROUPS, AXIS_HIDDEN, NULL, .stored = {LAYER("attn.c_attn.weight"), 2, 3}, .transposed = 1},
    [V_BIAS] = {LAYER("attn.v.bias"), 1, AXIS_ONE, AXIS_GROUPS, qkv_bias, .stored = {LAYER("attn.c_attn.bias"), 2, 3}},
    [O] = {LAYER("attn.c_proj.weight"), 1, AXIS_HIDDEN, AXIS_HEADS, NULL, .transposed = 1},
    [O_BIAS] = {LAYER("attn.c_proj.bias"), 1, AXIS_ONE, AXIS_HIDDEN, layer_has_attention},
    [FF_NORM] = {LAYER("ln_2.weight"), 1, AXIS_ONE, AXIS_HIDDEN, layer_has_ff},
    [FF_NORM_BIAS] = {LAYER("ln_2.bias"), 1, AXIS_ONE, AXIS_HIDDEN, layer_has_ff},
    [UP] = {LAYER("mlp.c_fc.weight"), 1, AXIS_FF, AXIS_HIDDEN, NULL, .transposed = 1},
    [UP_BIAS] = {LAYER("mlp.c_fc.bias"), 1, AXIS_ONE, AXIS_FF, NULL},
    [DOWN] = {LAYER("mlp.c_proj.weight"), 1, AXIS_HIDDEN, AXIS_FF, NULL, .transposed = 1},
    [DOWN_BIAS] = {LAYER("mlp.c_proj.bias"), 1, AXIS_ONE, AXIS_HIDDEN, layer_has_ff},
};

static struct tensor *block(void *context, struct tape *tape, struct tensor *x)
{
    const struct block *b = context;
    struct model *m = b->model;
    const struct taps *taps = b->forward->taps;
    const double eps = m->config.norm_eps;
    const int l = b->layer;
    if (!block_is_skipped(b, 1)) {
        struct tensor *h = op_layernorm(tape, x, model_weight(m, ATTENTION_NORM, l), model_weight(m, ATTENTION_NORM_BIAS, l), eps);
        block_show(b, TAP_INPUTS, taps ? taps->attention_in : NULL, h);
        h = block_attention(b, tape, h, Q);
        x = op_add(tape, x, h);
    }
    block_show(b, TAP_MIDDLE, taps ? taps->middle : NULL, x);
    if (!block_is_skipped(b, 0)) {
        struct tensor *h = op_layernorm(tape, x, model_weight(m, FF_NORM, l), model_weight(m, FF_NORM_BIAS, l), eps);
        block_show(b, TAP_INPUTS, taps ? taps->ff_in : NULL, h);
        h = block_feed_forward(b, tape, h, UP);
        x = op_add(tape, x, h);
    }
    return x;
}

static struct tensor *gpt2_forward(struct model *m, struct tape *tape, const struct forward *f)
{
    struct tensor *x = f->x;
    if (!x) {
        x = block_tokens(m, tape, f);
        struct tensor *p = block_positions(m, tape, f, model_weight(m, POSITIONS, -1));
        x = op_add(tape, x, p);
    }
    x = blocks_run(m, tape, f, NULL, block, x);
    return f->last ? x : op_layernorm(tape, x, model_weight(m, NORM, -1), model_weight(m, NORM_BIAS, -1), m->config.norm_eps);
}

// Checkpoints of the base model alone have bare names. Where the bias of q, k and v is not in the file it is zero, as
// transformers has it.
static void look(struct config *c, int (*has)(const void *files, const char *name), const void *files)
{
    c->bare_names = !has(files, "transformer.wte.weight") && has(files, "wte.weight");
    c->qkv_bias = has(files, c->bare_names ? "h.0.attn.c_attn.bias" : "transformer.h.0.attn.c_attn.bias");
}

// Normal with 0.02; residual projections (o, down: hidden rows, inner columns) are divided by sqrt(2 n_layer).
static double deviation(const struct config *c, const struct parameter *p)
{
    return p->spec->rows == AXIS_HIDDEN ? 0.02 / sqrt(2.0 * (double)c->n_layer) : 0.02;
}

const struct arch arch_gpt2 = {.model_types = "gpt2",
                               .prefix = "transformer.",
                               .specs = specs,
                               .n_specs = N_SPECS,
                               .embed = EMBED,
                               .head = {HEAD, -1},
                               .head_bias = {-1},
                               .look = look,
                               .deviation = deviation,
                               .forward = gpt2_forward};
