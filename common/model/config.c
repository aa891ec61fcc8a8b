// config.c: config.json to struct config and back.
//
// A key that changes what the model computes is either understood or refused by name: nothing is guessed, because a
// model that runs with another activation or window than it was trained with is wrong without any message. Keys that
// do not change the computation are carried in `source`.
//
// Invariant: every product of sizes in an accepted config fits int64_t (see the limits below).
//
// To add a family: one row in `families`, and its weight table in arch_<name>.c; of the Llama family's relatives, see config_family.c.
#include "common/model/config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/model/config_limits.h"

struct family {
    const char *type, *architecture;
    int64_t context; // what transformers takes when the key is absent
    // Of a config.json with keys of its own; NULL: those of the Llama family.
    int (*read)(struct config *c, const struct json *o, const char *where, struct error *err);
    struct json *(*json)(const struct config *c);
    int full_heads;
};

static const struct family families[] = {
    {"llama", "LlamaForCausalLM", 2048, NULL, NULL, 0},
    {"mistral", "MistralForCausalLM", 131072, NULL, NULL, 0},
    {"qwen2", "Qwen2ForCausalLM", 32768, NULL, NULL, 0},
    {"qwen3", "Qwen3ForCausalLM", 32768, NULL, NULL, 0},
    {"gemma2", "Gemma2ForCausalLM", 8192, NULL, NULL, 0},
    {"minicpm", "MiniCPMForCausalLM", 2048, NULL, NULL, 0},
    {"granite", "GraniteForCausalLM", 2048, NULL, NULL, 0},
    {"nemotron-nas", "DeciLMForCausalLM", 131072, NULL, NULL, 0}, // Llama's layers, each with its own widths
    {"gpt2", "GPT2LMHeadModel", 1024, config_gpt2_read, config_gpt2_json, 1},
    {"bert", "BertForMaskedLM", 512, config_bert_read, config_bert_json, 1},
    {"distilbert", "DistilBertForMaskedLM", 512, config_bert_read, config_bert_json, 1},
    {"roberta", "RobertaForMaskedLM", 512, config_bert_read, config_bert_json, 1},
    {"bilstm", "BiLSTM", 512, config_bilstm_read, config_bilstm_json, 0}, // a classifier without transformer blocks
    {"lenet", "LeNet", 0, config_lenet_read, config_lenet_json, 0}, // a multi-layer perceptron
};

static const struct family *family_find(const char *type) {
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
        if (strcmp(families[i].type, type) == 0)
            return &families[i];
    return NULL;
}

#define NAMES_TEXT 160

// "a, b or c": all of them.
static const char *family_names(char to[NAMES_TEXT]) {
    const size_t n = sizeof families / sizeof families[0];
    to[0] = 0;
    for (size_t i = 0; i < n; i++)
        snprintf(to + strlen(to), NAMES_TEXT - strlen(to), "%s%s", families[i].type, i + 2 < n ? ", " : i + 2 == n ? " or " : "");
    return to;
}

int config_read_size(const struct json *o, const char *where, const char *key, int64_t max, int64_t *out, struct error *err) {
    TRY(json_get_int(o, where, key, 0, 1, max, out, err));
    if (*out == 0)
        return error_set(err, "%s: %s is missing; expected a whole number from 1 to %lld", where, key,
                         (long long)max);
    return 0;
}

// The shape that all layers have but those that config_layers_read finds.
static int read_shape(struct config *c, const struct json *o, const char *where, struct error *err) {
    struct layer_shape s = {0};
    int has_blocks = config_is_block_configs(c); // these say what the global keys leave out
    TRY(config_read_size(o, where, "num_hidden_layers", MAX_LAYERS, &c->n_layer, err));
    TRY(config_read_size(o, where, "hidden_size", MAX_WIDTH, &c->hidden, err));
    TRY(config_read_size(o, where, "vocab_size", MAX_VOCAB, &c->vocab, err));
    if (has_blocks)
        TRY(json_get_int(o, where, "intermediate_size", 1, 1, MAX_FF, &s.n_ff, err));
    else
        TRY(config_read_size(o, where, "intermediate_size", MAX_FF, &s.n_ff, err));
    TRY(config_read_size(o, where, "num_attention_heads", MAX_WIDTH, &s.n_head, err));
    TRY(json_get_int(o, where, "num_key_value_heads", s.n_head, 1, s.n_head, &s.n_kv_head, err));
    if (s.n_head % s.n_kv_head)
        return error_set(err,
                         "%s: num_attention_heads is %lld; expected a multiple of num_key_value_heads, which is %lld",
                         where, (long long)s.n_head, (long long)s.n_kv_head);
    TRY(json_get_int(o, where, "head_dim", config_head_dim_absent(c), 1, MAX_WIDTH, &c->head_dim, err));
    if (c->head_dim == 0) {
        if (c->hidden % s.n_head)
            return error_set(err,
                             "%s: hidden_size is %lld and num_attention_heads %lld; expected a multiple, or head_dim",
                             where, (long long)c->hidden, (long long)s.n_head);
        c->head_dim = c->hidden / s.n_head;
    }
    if (c->head_dim % 2)
        return error_set(err, "%s: the head dimension is %lld; expected an even one (rotary embedding turns pairs)",
                         where, (long long)c->head_dim);
    if (s.n_head * c->head_dim > MAX_WIDTH)
        return error_set(err, "%s: num_attention_heads * head_dim is %lld * %lld; expected at most %lld", where,
                         (long long)s.n_head, (long long)c->head_dim, (long long)MAX_WIDTH);
    return config_layers_fill(c, &s, o, where, err);
}

static int read_rope_scaling(struct config *c, const struct json *s, const char *where, struct error *err) {
    const char *type = NULL;
    double share;
    TRY(json_get_string(s, where, "rope_type", NULL, &type, err));
    if (!type)
        TRY(json_get_string(s, where, "type", "default", &type, err));
    TRY(json_get_double(s, where, "partial_rotary_factor", 1, 0, 1, &share, err));
    if (share < 1)
        return error_set(err, "%s: partial_rotary_factor %g is not supported; expected 1", where, share);
    if (strcmp(type, "default") == 0)
        return 0;
    if (strcmp(type, "linear") != 0 && strcmp(type, "llama3") != 0)
        return error_set(err, "%s: rope type \"%s\" is not supported; expected default, linear or llama3", where,
                         type);
    struct rope_scaling *r = &c->rope;
    TRY(json_get_double(s, where, "factor", 0, 1, 1e6, &r->factor, err));
    if (r->factor < 1)
        return error_set(err, "%s: factor is missing; rope type \"%s\" needs it, at least 1", where, type);
    if (strcmp(type, "linear") == 0) {
        r->type = ROPE_LINEAR;
        return 0;
    }
    r->type = ROPE_LLAMA3;
    TRY(json_get_double(s, where, "low_freq_factor", 0, 1e-6, 1e6, &r->low_freq_factor, err));
    TRY(json_get_double(s, where, "high_freq_factor", 0, 1e-6, 1e6, &r->high_freq_factor, err));
    TRY(json_get_int(s, where, "original_max_position_embeddings", c->context, 1, MAX_CONTEXT, &r->original_context,
                     err));
    if (r->low_freq_factor <= 0 || r->high_freq_factor <= r->low_freq_factor)
        return error_set(
            err, "%s: low_freq_factor is %g and high_freq_factor %g; rope type llama3 needs both, the second larger",
            where, r->low_freq_factor, r->high_freq_factor);
    return 0;
}

// transformers 4 writes rope_theta and rope_scaling, transformers 5 one object rope_parameters with both inside.
static int read_rope(struct config *c, const struct json *o, const char *where, struct error *err) {
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    TRY(json_get_double(o, where, "rope_theta", 10000, 1, 1e12, &c->rope_theta, err));
    for (int i = 0; i < 2; i++) {
        const struct json *s = json_get(o, keys[i]);
        if (!s || json_kind(s) == JSON_NULL)
            continue;
        if (json_kind(s) != JSON_OBJECT)
            return error_set(err, "%s: %s is %s; expected an object or null", where, keys[i],
                             json_kind_name(json_kind(s)));
        for (const struct json *item = json_first(s); item; item = json_next(item))
            if (json_kind(item) == JSON_OBJECT)
                return error_set(err, "%s: %s differs between kinds of layers (\"%s\"); expected the same for all",
                                 where, keys[i], json_key(item));
        char *inner = xasprintf("%s: %s", where, keys[i]);
        c->rope = (struct rope_scaling){0};
        int rc = json_get_double(s, inner, "rope_theta", c->rope_theta, 1, 1e12, &c->rope_theta, err);
        if (rc == 0)
            rc = read_rope_scaling(c, s, inner, err);
        free(inner);
        TRY(rc);
    }
    double share;
    TRY(json_get_double(o, where, "partial_rotary_factor", 1, 0, 1, &share, err));
    if (share < 1)
        return error_set(err, "%s: partial_rotary_factor %g is not supported; expected 1", where, share);
    return 0;
}

int config_token_id(const struct config *c, const struct json *o, const char *where, const char *key, int64_t *id, struct error *err) {
    const struct json *v = json_get(o, key);
    *id = -1;
    if (v && json_kind(v) == JSON_ARRAY)
        v = json_first(v);
    if (!v || json_kind(v) == JSON_NULL)
        return 0;
    double n = json_number(v);
    if (json_kind(v) != JSON_NUMBER || n != floor(n))
        return error_set(err, "%s: %s is %s; expected a token id or a list of them", where, key,
                         json_kind(v) == JSON_NUMBER ? "no whole number" : json_kind_name(json_kind(v)));
    if (n < 0 || n >= (double)c->vocab) {
        log_warn("%s: %s is %g, outside the vocabulary of %lld; ignored", where, key, n, (long long)c->vocab);
        return 0;
    }
    *id = (int64_t)n;
    return 0;
}

static int read_all(struct config *c, const struct json *o, const char *where, struct error *err) {
    const char *type;
    char names[NAMES_TEXT];
    if (json_kind(o) != JSON_OBJECT)
        return error_set(err, "%s: found %s; expected an object", where, json_kind_name(json_kind(o)));
    TRY(json_get_string(o, where, "model_type", NULL, &type, err));
    if (!type)
        return error_set(err, "%s: model_type is missing; expected %s", where, family_names(names));
    const struct family *family = family_find(type);
    if (!family)
        return error_set(err, "%s: model_type \"%s\" is not supported; expected %s", where, type, family_names(names));
    strcpy(c->model_type, family->type);
    if (family->read) {
        c->source = json_copy(o);
        return family->read(c, o, where, err);
    }
    TRY(read_shape(c, o, where, err));
    TRY(json_get_int(o, where, "max_position_embeddings", family->context, 1, MAX_CONTEXT, &c->context, err));
    TRY(json_get_double(o, where, "rms_norm_eps", 1e-6, 0, 1, &c->norm_eps, err));
    TRY(json_get_bool(o, where, "tie_word_embeddings", config_tied_absent(c), &c->tie_embeddings, err));
    TRY(read_rope(c, o, where, err));
    TRY(config_family_read(c, o, where, err));
    TRY(config_token_id(c, o, where, "bos_token_id", &c->bos_id, err));
    TRY(config_token_id(c, o, where, "eos_token_id", &c->eos_id, err));
    c->source = json_copy(o);
    return 0;
}

int config_from_json(struct config *c, const struct json *o, const char *where, struct error *err) {
    memset(c, 0, sizeof *c);
    if (read_all(c, o, where, err) < 0) {
        config_release(c);
        return -1;
    }
    return 0;
}

int config_read(struct config *c, const char *folder, struct error *err) {
    int rc = -1;
    struct json *o = NULL;
    char *path = path_join(folder, "config.json");
    memset(c, 0, sizeof *c);
    if (!file_is_directory(folder)) {
        error_set(err,
                  "%s: %s; expected a Hugging Face model directory (config.json, model.safetensors, tokenizer.json)",
                  folder, file_exists(folder) ? "is no directory" : "does not exist");
        goto out;
    }
    if (!file_exists(path)) {
        error_set(err, "%s: no config.json there; expected a Hugging Face model directory", folder);
        goto out;
    }
    o = json_read(path, err);
    if (o)
        rc = config_from_json(c, o, path, err);
out:
    json_free(o);
    free(path);
    return rc;
}

// Both transformers 4 and 5 read rope_theta and rope_scaling; only 5 reads rope_parameters, so these are written too
// when the source had just that.
static void set_rope(struct json *o, const struct config *c) {
    json_set_number(o, "rope_theta", c->rope_theta);
    const struct json *given = json_get(o, "rope_scaling");
    if (given && json_kind(given) == JSON_OBJECT)
        return;
    if (c->rope.type == ROPE_PLAIN) {
        json_set(o, "rope_scaling", json_null());
        return;
    }
    struct json *s = json_object();
    json_set_string(s, "rope_type", c->rope.type == ROPE_LINEAR ? "linear" : "llama3");
    json_set_number(s, "factor", c->rope.factor);
    if (c->rope.type == ROPE_LLAMA3) {
        json_set_number(s, "low_freq_factor", c->rope.low_freq_factor);
        json_set_number(s, "high_freq_factor", c->rope.high_freq_factor);
        json_set_number(s, "original_max_position_embeddings", (double)c->rope.original_context);
    }
    json_set(o, "rope_scaling", s);
}

static const struct {
    const char *name;
    enum activation activation;
} activations[] = {
    {"silu", ACTIVATION_SILU}, {"swish", ACTIVATION_SILU},
    {"gelu_new", ACTIVATION_GELU_TANH}, {"gelu_pytorch_tanh", ACTIVATION_GELU_TANH}, {"gelu_fast", ACTIVATION_GELU_TANH},
    {"gelu", ACTIVATION_GELU_ERF}, {"gelu_python", ACTIVATION_GELU_ERF}, {"relu", ACTIVATION_RELU},
};

int config_activation_read(struct config *c, const struct json *o, const char *where, const char *key, const char *absent,
                           struct error *err) {
    const char *name;
    TRY(json_get_string(o, where, key, absent, &name, err));
    for (size_t i = 0; i < sizeof activations / sizeof *activations; i++)
        if (strcmp(activations[i].name, name) == 0) {
            c->activation = activations[i].activation;
            return 0;
        }
    return error_set(err, "%s: %s \"%s\" is not supported; expected silu, gelu, gelu_new or relu", where, key, name);
}

const char *config_activation_name(const struct config *c, const struct json *given) {
    const char *first = NULL;
    for (size_t i = 0; i < sizeof activations / sizeof *activations; i++) {
        if (activations[i].activation != c->activation)
            continue;
        first = first ? first : activations[i].name;
        if (json_string(given) && strcmp(json_string(given), activations[i].name) == 0)
            return activations[i].name;
    }
    return first;
}

// What a source would have said: only for a model that did not come from a config.json.
static struct json *new_source(const struct config *c) {
    const struct family *family = family_find(c->model_type);
    if (!family)
        BUG("config_to_json: model_type \"%s\"", c->model_type);
    struct json *o = json_object(), *names = json_array();
    json_push(names, json_from_string(family->architecture));
    json_set(o, "architectures", names);
    json_set_string(o, "model_type", c->model_type);
    if (c->bos_id >= 0)
        json_set_number(o, "bos_token_id", (double)c->bos_id);
    if (c->eos_id >= 0)
        json_set_number(o, "eos_token_id", (double)c->eos_id);
    return o;
}

static struct json *llama_json(const struct config *c) {
    struct json *o = c->source ? json_copy(c->source) : new_source(c);
    // The weights are written unquantized, and custom code is not carried along.
    json_remove(o, "quantization_config");
    json_remove(o, "auto_map");
    json_set_number(o, "num_hidden_layers", (double)c->n_layer);
    json_set_number(o, "hidden_size", (double)c->hidden);
    config_layers_write(c, o);
    json_set_number(o, "head_dim", (double)c->head_dim);
    json_set_number(o, "vocab_size", (double)c->vocab);
    json_set_number(o, "max_position_embeddings", (double)c->context);
    json_set_number(o, "rms_norm_eps", c->norm_eps);
    json_set_bool(o, "tie_word_embeddings", c->tie_embeddings);
    config_family_write(c, o);
    set_rope(o, c);
    return o;
}

struct json *config_to_json(const struct config *c, const char *torch_dtype) {
    const struct family *family = family_find(c->model_type);
    struct json *o = family && family->json ? family->json(c) : llama_json(c);
    if (!config_is_lenet(c))
        json_set_string(o, "torch_dtype", torch_dtype);
    if (json_get(o, "dtype")) // the name that transformers 5 writes
        json_set_string(o, "dtype", torch_dtype);
    return o;
}

void config_copy(struct config *to, const struct config *from) {
    *to = *from;
    to->layer = xmalloc((size_t)from->n_layer * sizeof *to->layer, "layer shapes");
    memcpy(to->layer, from->layer, (size_t)from->n_layer * sizeof *to->layer);
    to->source = from->source ? json_copy(from->source) : NULL;
}

void config_release(struct config *c) {
    free(c->layer);
    json_free(c->source);
    memset(c, 0, sizeof *c);
}

int config_has_full_heads(const struct config *c) { return family_find(c->model_type)->full_heads; }

int config_uniform(const struct config *c) {
    for (int64_t l = 1; l < c->n_layer; l++)
        if (memcmp(&c->layer[l], &c->layer[0], sizeof c->layer[0]) != 0)
            return 0;
    return 1;
}

// Llama 3.1's rule: wavelengths beyond original_context / low_freq_factor are stretched by factor, those below
// original_context / high_freq_factor stay, and between them the two are blended.
static double scale_llama3(const struct rope_scaling *r, double frequency) {
    double turns = (double)r->original_context * frequency / (2 * M_PI); // in the original context
    if (turns < r->low_freq_factor)
        return frequency / r->factor;
    if (turns > r->high_freq_factor)
        return frequency;
    double kept = (turns - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
    return (1 - kept) * frequency / r->factor + kept * frequency;
}

void config_rope_frequencies(const struct config *c, double *inverse_frequency) {
    for (int64_t i = 0; i < c->head_dim / 2; i++) {
        double f = c->rope_theta <= 0 ? 0 : pow(c->rope_theta, -2.0 * (double)i / (double)c->head_dim);
        if (c->rope.type == ROPE_LINEAR)
            f /= c->rope.factor;
        else if (c->rope.type == ROPE_LLAMA3)
            f = scale_llama3(&c->rope, f);
        inverse_frequency[i] = f;
    }
}
