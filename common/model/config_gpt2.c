// config_gpt2.c: GPT-2's config.json: see config.h.
#include <stdlib.h>
#include <string.h>

#include "common/model/config.h"
#include "common/model/config_limits.h"

static int refuse_true(const struct json *o, const char *where, const char *key, struct error *err)
{
    int value;
    TRY(json_get_bool(o, where, key, 0, &value, err));
    return value ? error_set(err, "%s: %s is true, which is not supported; expected false", where, key) : 0;
}

int config_gpt2_read(struct config *c, const struct json *o, const char *where, struct error *err)
{
    struct layer_shape s = {0};
    int scaled;
    TRY(config_read_size(o, where, "n_layer", MAX_LAYERS, &c->n_layer, err));
    TRY(config_read_size(o, where, "n_embd", MAX_WIDTH, &c->hidden, err));
    TRY(config_read_size(o, where, "n_head", MAX_WIDTH, &s.n_head, err));
    TRY(config_read_size(o, where, "vocab_size", MAX_VOCAB, &c->vocab, err));
    TRY(json_get_int(o, where, "n_positions", 1024, 1, MAX_CONTEXT, &c->context, err));
    TRY(json_get_int(o, where, "n_inner", 4 * c->hidden, 1, MAX_FF, &s.n_ff, err));
    TRY(json_get_double(o, where, "layer_norm_epsilon", 1e-5, 0, 1, &c->norm_eps, err));
    TRY(json_get_bool(o, where, "tie_word_embeddings", 1, &c->tie_embeddings, err));
    TRY(json_get_bool(o, where, "scale_attn_weights", 1, &scaled, err));
    if (!scaled)
        return error_set(err, "%s: scale_attn_weights is false, which is not supported; expected true", where);
    TRY(refuse_true(o, where, "scale_attn_by_inverse_layer_idx", err));
    TRY(refuse_true(o, where, "add_cross_attention", err));
    TRY(config_activation_read(c, o, where, "activation_function", "gelu_new", err));
    if (c->hidden % s.n_head)
        return error_set(err, "%s: n_embd is %lld and n_head %lld; expected a multiple", where, (long long)c->hidden,
                         (long long)s.n_head);
    c->qkv_bias = c->out_bias = c->mlp_bias = 1;
    c->head_dim = c->hidden / s.n_head;
    s.n_kv_head = s.n_head;
    TRY(config_layers_fill(c, &s, o, where, err));
    TRY(config_token_id(c, o, where, "bos_token_id", &c->bos_id, err));
    return config_token_id(c, o, where, "eos_token_id", &c->eos_id, err);
}

struct json *config_gpt2_json(const struct config *c)
{
    struct json *o = c->source ? json_copy(c->source) : json_object();
    if (!json_get(o, "architectures")) {
        struct json *names = json_array();
        json_push(names, json_from_string("GPT2LMHeadModel"));
        json_set(o, "architectures", names);
    }
    json_set_string(o, "model_type", c->model_type);
    json_set_number(o, "n_layer", (double)c->n_layer);
    json_set_number(o, "n_embd", (double)c->hidden);
    json_set_number(o, "n_head", (double)(c->hidden / c->head_dim));
    json_set_number(o, "n_positions", (double)c->context);
    if (json_get(o, "n_ctx"))
        json_set_number(o, "n_ctx", (double)c->context);
    json_set_number(o, "vocab_size", (double)c->vocab);
    if (json_get(o, "n_inner") || config_widest(c).n_ff != 4 * c->hidden)
        json_set_number(o, "n_inner", (double)config_widest(c).n_ff);
    json_set_number(o, "layer_norm_epsilon", c->norm_eps);
    json_set_bool(o, "tie_word_embeddings", c->tie_embeddings);
    json_set_string(o, "activation_function", config_activation_name(c, json_get(o, "activation_function")));
    config_pruned_heads_write(c, o);
    return o;
}
