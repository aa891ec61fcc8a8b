// block.c: see block.h.
#include "common/model/block.h"

#include <string.h>

#include "common/base/error.h"

int layer_has_attention(const struct config *c, int layer) { return c->layer[layer].n_head > 0; }
int layer_has_ff(const struct config *c, int layer) { return c->layer[layer].n_ff > 0; }

int block_is_skipped(const struct block *b, int is_attention)
{
    const struct model_layer_gates *gate = b->model->gate ? &b->model->gate[b->layer] : NULL;
    const struct config *c = &b->model->config;
    if (is_attention)
        return !layer_has_attention(c, b->layer) || (gate && gate->no_attention);
    return !layer_has_ff(c, b->layer) || (gate && gate->no_ff);
}

void block_show(const struct block *b, enum tap which, struct tensor **place, struct tensor *x)
{
    if (b->forward->taps && b->forward->taps->want & which)
        place[b->layer] = x;
}

// Appends the new keys and values of all sequences to the cache; returns tensors over its rows [B * capacity, columns].
static void cache_extend(const struct block *b, struct tape *tape, struct tensor **k, struct tensor **v)
{
    struct kv_cache *cache = b->forward->cache;
    const int64_t columns = tensor_columns(*k), T = b->forward->T, room = cache->capacity;
    if (cache->length + T > room)
        BUG("kv_cache: %ld positions, capacity %ld", (long)(cache->length + T), (long)room);
    float *store[2] = {cache->k[b->layer], cache->v[b->layer]};
    struct tensor **fresh[2] = {k, v};
    for (int i = 0; i < 2; i++) {
        for (int64_t s = 0; s < cache->sequences; s++)
            memcpy(store[i] + (s * room + cache->length) * columns, (*fresh[i])->data + s * T * columns, (size_t)(T * columns) * sizeof(float));
        struct tensor *all = arena_zalloc(&tape->arena, sizeof *all);
        *all = (struct tensor){.name = (*fresh[i])->name, .n_dim = 2, .dim = {cache->sequences * room, columns, 1}, .data = store[i]};
        *fresh[i] = all;
    }
}

// From q [N, H*E], k and v [N, G*E] to what the output projection reads: cached positions, attention, gates, taps.
static struct tensor *block_attend(const struct block *b, struct tape *tape, struct tensor *q, struct tensor *k, struct tensor *v)
{
    const struct model *m = b->model;
    const struct forward *f = b->forward;
    block_show(b, TAP_QKV, f->taps ? f->taps->q : NULL, q);
    block_show(b, TAP_QKV, f->taps ? f->taps->k : NULL, k);
    block_show(b, TAP_QKV, f->taps ? f->taps->v : NULL, v);
    if (f->cache)
        cache_extend(b, tape, &k, &v);
    const struct config *c = &m->config;
    const int64_t E = c->head_dim, S = f->cache ? f->cache->length + f->T : f->T, room = f->cache ? f->cache->capacity : f->T;
    const struct attention_rule rule = {c->attention_scale, c->attention_cap, config_slides(c, b->layer) ? c->window : 0};
    struct tensor *y = m->arch->reads_both_ways ? op_attention_both_ways(tape, q, k, v, f->B, f->T, E, f->length)
                                                : op_attention_by(tape, q, k, v, f->B, f->T, S, room, E, &rule);
    if (m->gate && m->gate[b->layer].heads)
        y = op_gate(tape, y, m->gate[b->layer].heads);
    block_show(b, TAP_HEADS, f->taps ? f->taps->heads : NULL, y);
    return y;
}

static struct tensor *linear(const struct block *b, struct tape *tape, struct tensor *x, int spec)
{
    return op_linear(tape, x, model_weight(b->model, spec, b->layer), model_weight(b->model, spec + 1, b->layer));
}

struct tensor *model_norm(const struct model *m, struct tape *tape, struct tensor *x, struct tensor *w)
{
    return op_rmsnorm_shifted(tape, x, w, m->config.norm_shift, m->config.norm_eps);
}

struct tensor *block_attention(const struct block *b, struct tape *tape, struct tensor *x, int first)
{
    const int64_t E = b->model->config.head_dim, T = b->forward->T;
    struct tensor *q = linear(b, tape, x, first);
    struct tensor *k = linear(b, tape, x, first + 2);
    struct tensor *v = linear(b, tape, x, first + 4);
    if (b->model->config.qk_norm) {
        q = model_norm(b->model, tape, q, model_weight(b->model, b->model->arch->qk_norm, b->layer));
        k = model_norm(b->model, tape, k, model_weight(b->model, b->model->arch->qk_norm + 1, b->layer));
    }
    if (b->rope) {
        q = op_rope(tape, q, b->rope, E, T);
        k = op_rope(tape, k, b->rope, E, T);
    }
    struct tensor *y = block_attend(b, tape, q, k, v);
    return linear(b, tape, y, first + 6);
}

struct tensor *block_feed_forward(const struct block *b, struct tape *tape, struct tensor *x, int first)
{
    struct tensor *y = linear(b, tape, x, first);
    y = model_activation(b->model, tape, y);
    y = block_channels(b, tape, y);
    return linear(b, tape, y, first + 2);
}

struct tensor *model_activation(const struct model *m, struct tape *tape, struct tensor *x)
{
    switch (m->config.activation) {
    case ACTIVATION_GELU_TANH: return op_gelu(tape, x, GELU_TANH);
    case ACTIVATION_GELU_ERF: return op_gelu(tape, x, GELU_ERF);
    case ACTIVATION_RELU: return op_relu(tape, x);
    case ACTIVATION_SILU: break; // the gated block's own op
    }
    BUG("activation %d", (int)m->config.activation);
}

struct tensor *block_tokens(struct model *m, struct tape *tape, const struct forward *f)
{
    struct tensor *x = op_embed(tape, model_weight(m, m->arch->embed, -1), f->ids, f->B * f->T);
    return f->shift ? op_add(tape, x, f->shift) : x;
}

struct tensor *block_positions(struct model *m, struct tape *tape, const struct forward *f, struct tensor *table)
{
    const int64_t first = f->cache ? f->cache->length : 0;
    int32_t *position = arena_alloc(&tape->arena, (size_t)(f->B * f->T) * sizeof *position);
    if (first + f->T > m->config.context)
        BUG("%s: position %ld of %ld", table->name, (long)(first + f->T - 1), (long)m->config.context);
    for (int64_t i = 0; i < f->B * f->T; i++)
        position[i] = (int32_t)(first + i % f->T);
    return op_embed(tape, table, position, f->B * f->T);
}

struct tensor *block_channels(const struct block *b, struct tape *tape, struct tensor *x)
{
    const struct model *m = b->model;
    if (m->gate && m->gate[b->layer].ff)
        x = op_gate(tape, x, m->gate[b->layer].ff);
    block_show(b, TAP_FF, b->forward->taps ? b->forward->taps->ff : NULL, x);
    return x;
}

struct tensor *blocks_run(struct model *m, struct tape *tape, const struct forward *f, const float *rope, tape_block *block,
                          struct tensor *x)
{
    const int show_hidden = f->taps && f->taps->want & TAP_HIDDEN;
    struct forward *kept = arena_alloc(&tape->arena, sizeof *kept); // a checkpoint runs again when the caller's is gone
    *kept = *f;
    const int only_last = f->checkpoint && !tape->recording && !show_hidden; // nobody asks for the layers' outputs later
    const size_t mark = arena_mark(&tape->arena);
    const int64_t last = f->last ? f->last : m->config.n_layer;
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
    return x;
}
