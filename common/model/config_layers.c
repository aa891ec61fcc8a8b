// config_layers.c: widths that differ from layer to layer, in the notations that config.json has for them.
//
//   per_layer_config  {"3": {"intermediate_size": 512, "num_key_value_heads": 2, "skip": ["mlp"]}, ...}: transformers 5's notation
//                     for any family; layers that are not in it have the global values. Not yet a loader there.
//   block_configs     [{"attention": {"no_op", "n_heads_in_group"}, "ffn": {"no_op", "intermediate_size"}}, ...]: nemotron-nas
//                     (DeciLM); query heads are the same number in every layer. vLLM loads it.
//   pruned_heads      {"1": [0, 2], ...}: transformers 4's, of families whose config.json says the full number of heads (GPT-2, BERT):
//                     which of them are missing.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/model/config_limits.h"

#define MAX_HEADS MAX_WIDTH
#define ATTENTION "attention"
#define MLP "mlp"

int config_is_block_configs(const struct config *c) { return strcmp(c->model_type, "nemotron-nas") == 0; }

static int has_word(const struct json *list, const char *word) {
    for (const struct json *v = list ? json_first(list) : NULL; v; v = json_next(v))
        if (json_string(v) && strcmp(json_string(v), word) == 0)
            return 1;
    return 0;
}

static int check_layer(const struct config *c, int64_t l, const char *where, struct error *err) {
    const struct layer_shape *s = &c->layer[l];
    if (s->n_head && (s->n_kv_head < 1 || s->n_head % s->n_kv_head))
        return error_set(err, "%s: layer %ld has %ld query and %ld key/value heads; expected a multiple", where, (long)l,
                         (long)s->n_head, (long)s->n_kv_head);
    return 0;
}

static int read_per_layer(struct config *c, const struct json *list, const char *where, struct error *err) {
    if (json_kind(list) != JSON_OBJECT)
        return error_set(err, "%s: per_layer_config is %s; expected an object of layers", where,
                         json_kind_name(json_kind(list)));
    for (const struct json *v = json_first(list); v; v = json_next(v)) {
        char *end;
        long l = strtol(json_key(v), &end, 10);
        if (*end || end == json_key(v) || l < 0 || l >= c->n_layer || json_kind(v) != JSON_OBJECT)
            return error_set(err, "%s: per_layer_config has \"%s\"; expected objects named 0 to %ld", where, json_key(v),
                             (long)c->n_layer - 1);
        struct layer_shape *s = &c->layer[l];
        char *inner = xasprintf("%s: per_layer_config.%ld", where, l);
        int rc = json_get_int(v, inner, "num_attention_heads", s->n_head, 1, MAX_HEADS, &s->n_head, err);
        if (rc == 0)
            rc = json_get_int(v, inner, "num_key_value_heads", s->n_kv_head, 1, MAX_HEADS, &s->n_kv_head, err);
        if (rc == 0)
            rc = json_get_int(v, inner, "intermediate_size", s->n_ff, 1, MAX_FF, &s->n_ff, err);
        free(inner);
        TRY(rc);
        if (has_word(json_get(v, "skip"), ATTENTION))
            s->n_head = s->n_kv_head = 0;
        if (has_word(json_get(v, "skip"), MLP))
            s->n_ff = 0;
        TRY(check_layer(c, l, where, err));
    }
    return 0;
}

// DeciLM's rule for a width given as a multiple: two thirds of it, up to the next multiple of 256.
static int64_t width_of_multiple(double multiple, int64_t hidden) {
    int64_t width = (int64_t)(2 * multiple * (double)hidden / 3);
    return (width + 255) / 256 * 256;
}

static int read_block(struct config *c, int64_t l, const struct json *block, const char *where, struct error *err) {
    const struct json *attention = json_get(block, "attention"), *ffn = json_get(block, "ffn");
    struct layer_shape *s = &c->layer[l];
    int no_attention, no_ffn, linear, linear_ffn;
    int64_t per_group, width;
    double multiple;
    if (json_kind(attention) != JSON_OBJECT || json_kind(ffn) != JSON_OBJECT)
        return error_set(err, "%s: expected an object with \"attention\" and \"ffn\"", where);
    TRY(json_get_bool(attention, where, "no_op", 0, &no_attention, err));
    TRY(json_get_bool(attention, where, "replace_with_linear", 0, &linear, err));
    TRY(json_get_bool(ffn, where, "no_op", 0, &no_ffn, err));
    TRY(json_get_bool(ffn, where, "replace_with_linear", 0, &linear_ffn, err));
    if (linear || linear_ffn)
        return error_set(err, "%s: replace_with_linear is true; linear blocks are not supported", where);
    TRY(json_get_int(attention, where, "n_heads_in_group", 1, 1, MAX_HEADS, &per_group, err));
    TRY(json_get_int(ffn, where, "intermediate_size", 0, 1, MAX_FF, &width, err));
    TRY(json_get_double(ffn, where, "ffn_mult", 0, 0, 1e3, &multiple, err));
    if (!width && multiple > 0)
        width = width_of_multiple(multiple, c->hidden);
    if (!no_ffn && !width)
        return error_set(err, "%s: ffn has neither intermediate_size nor ffn_mult nor no_op", where);
    if (!no_attention && s->n_head % per_group)
        return error_set(err, "%s: n_heads_in_group is %ld; expected a divisor of num_attention_heads, %ld", where,
                         (long)per_group, (long)s->n_head);
    s->n_kv_head = no_attention ? 0 : s->n_head / per_group;
    s->n_head = no_attention ? 0 : s->n_head;
    s->n_ff = no_ffn ? 0 : width;
    return 0;
}

static int read_blocks(struct config *c, const struct json *list, const char *where, struct error *err) {
    if (json_kind(list) != JSON_ARRAY || json_count(list) != c->n_layer)
        return error_set(err, "%s: block_configs is not a list of %ld blocks", where, (long)c->n_layer);
    int64_t l = 0;
    for (const struct json *v = json_first(list); v; v = json_next(v), l++) {
        char *inner = xasprintf("%s: block_configs[%ld]", where, (long)l);
        int rc = read_block(c, l, v, inner, err);
        free(inner);
        TRY(rc);
    }
    return 0;
}

int config_layers_read(struct config *c, const struct json *o, const char *where, struct error *err) {
    const struct json *list = json_get(o, "per_layer_config"), *blocks = json_get(o, "block_configs");
    if (list && json_kind(list) != JSON_NULL)
        TRY(read_per_layer(c, list, where, err));
    if (config_is_block_configs(c))
        return blocks ? read_blocks(c, blocks, where, err)
                      : error_set(err, "%s: block_configs is missing; nemotron-nas needs it", where);
    return 0;
}

static int read_pruned_heads(struct config *c, const struct json *list, const char *where, struct error *err) {
    if (json_kind(list) != JSON_OBJECT)
        return error_set(err, "%s: pruned_heads is %s; expected an object of layers", where, json_kind_name(json_kind(list)));
    for (const struct json *v = json_first(list); v; v = json_next(v)) {
        char *end;
        const long l = strtol(json_key(v), &end, 10);
        if (*end || end == json_key(v) || l < 0 || l >= c->n_layer || json_kind(v) != JSON_ARRAY ||
            json_count(v) > c->layer[l].n_head)
            return error_set(err, "%s: pruned_heads has \"%s\"; expected lists of heads named 0 to %ld", where, json_key(v),
                             (long)c->n_layer - 1);
        c->layer[l].n_head -= json_count(v);
        c->layer[l].n_kv_head = c->layer[l].n_head;
    }
    return 0;
}

int config_layers_fill(struct config *c, const struct layer_shape *s, const struct json *o, const char *where, struct error *err) {
    const struct json *pruned = json_get(o, "pruned_heads");
    c->layer = xcalloc((size_t)c->n_layer, sizeof *c->layer, "layer shapes");
    for (int64_t l = 0; l < c->n_layer; l++)
        c->layer[l] = *s;
    if (pruned && json_kind(pruned) != JSON_NULL)
        TRY(read_pruned_heads(c, pruned, where, err));
    return config_layers_read(c, o, where, err);
}

// ---- writing ----

static struct json *block_json(const struct layer_shape *s) {
    struct json *block = json_object(), *attention = json_object(), *ffn = json_object();
    json_set_bool(attention, "no_op", s->n_head == 0);
    json_set_bool(attention, "replace_with_linear", 0);
    json_set(attention, "n_heads_in_group", s->n_head ? json_from_number((double)(s->n_head / s->n_kv_head)) : json_null());
    json_set_bool(ffn, "no_op", s->n_ff == 0);
    json_set_bool(ffn, "replace_with_linear", 0);
    json_set(ffn, "intermediate_size", s->n_ff ? json_from_number((double)s->n_ff) : json_null());
    json_set_string(ffn, "hidden_act", "silu");
    json_set(block, "attention", attention);
    json_set(block, "ffn", ffn);
    return block;
}

static struct json *layer_json(const struct layer_shape *s, const struct layer_shape *global) {
    struct json *o = json_object(), *skip = json_array();
    if (!s->n_head)
        json_push(skip, json_from_string(ATTENTION));
    if (!s->n_ff)
        json_push(skip, json_from_string(MLP));
    if (s->n_head && s->n_head != global->n_head)
        json_set_number(o, "num_attention_heads", (double)s->n_head);
    if (s->n_head && s->n_kv_head != global->n_kv_head)
        json_set_number(o, "num_key_value_heads", (double)s->n_kv_head);
    if (s->n_ff && s->n_ff != global->n_ff)
        json_set_number(o, "intermediate_size", (double)s->n_ff);
    if (json_count(skip))
        json_set(o, "skip", skip);
    else
        json_free(skip);
    return o;
}

// The layers that differ from `global`; nothing where none does.
static void write_per_layer(const struct config *c, const struct layer_shape *global, int with_heads, struct json *o) {
    struct json *list = json_object();
    for (int64_t l = 0; l < c->n_layer; l++) {
        struct layer_shape s = c->layer[l];
        if (!with_heads) {
            s.n_head = global->n_head;
            s.n_kv_head = global->n_kv_head;
        }
        if (memcmp(&s, global, sizeof s) != 0) {
            char name[24];
            snprintf(name, sizeof name, "%ld", (long)l);
            json_set(list, name, layer_json(&s, global));
        }
    }
    if (json_count(list))
        json_set(o, "per_layer_config", list);
    else
        json_free(list);
}

struct layer_shape config_widest(const struct config *c) {
    struct layer_shape s = {0};
    for (int64_t l = 0; l < c->n_layer; l++) {
        const struct layer_shape *from = &c->layer[l];
        if (from->n_head > s.n_head || (from->n_head == s.n_head && from->n_kv_head > s.n_kv_head)) {
            s.n_head = from->n_head;
            s.n_kv_head = from->n_kv_head;
        }
        s.n_ff = from->n_ff > s.n_ff ? from->n_ff : s.n_ff;
    }
    return s;
}

void config_layers_write(const struct config *c, struct json *o) {
    struct layer_shape global = config_widest(c);
    json_remove(o, "block_configs");
    json_remove(o, "per_layer_config");
    json_set_number(o, "intermediate_size", (double)global.n_ff);
    json_set_number(o, "num_attention_heads", (double)global.n_head);
    json_set_number(o, "num_key_value_heads", (double)global.n_kv_head);
    if (config_is_block_configs(c)) {
        struct json *list = json_array();
        for (int64_t l = 0; l < c->n_layer; l++)
            json_push(list, block_json(&c->layer[l]));
        json_set(o, "block_configs", list);
        return;
    }
    write_per_layer(c, &global, 1, o);
}

void config_pruned_heads_write(const struct config *c, struct json *o) {
    const struct layer_shape global = config_widest(c);
    const int64_t full = c->hidden / c->head_dim;
    struct json *pruned = json_object();
    for (int64_t l = 0; l < c->n_layer; l++) {
        char name[24];
        struct json *list = json_array();
        snprintf(name, sizeof name, "%ld", (long)l);
        for (int64_t h = c->layer[l].n_head; h < full; h++) // what is left has moved together: the last ones are gone
            json_push(list, json_from_number((double)h));
        if (json_count(list))
            json_set(pruned, name, list);
        else
            json_free(list);
    }
    json_remove(o, "pruned_heads");
    json_remove(o, "per_layer_config");
    if (json_count(pruned))
        json_set(o, "pruned_heads", pruned);
    else
        json_free(pruned);
    write_per_layer(c, &global, 0, o);
}

int config_to_block_configs(struct config *c, struct error *err) {
    struct layer_shape widest = config_widest(c);
    const char *more = c->qkv_bias || c->out_bias || c->mlp_bias ? "biases" : config_windows_matter(c) ? "sliding windows" : NULL;
    if (more)
        return error_set(err, "nemotron-nas block_configs know no %s, and %s has some; export with padding", more, c->model_type);
    if (strcmp(c->model_type, "llama") != 0 && strcmp(c->model_type, "mistral") != 0 && !config_is_block_configs(c))
        return error_set(err, "the layers differ, and nemotron-nas block_configs know no %s model; export with padding (\"padded\": true)",
                         c->model_type);
    for (int64_t l = 0; l < c->n_layer; l++)
        if (c->layer[l].n_head && c->layer[l].n_head != widest.n_head)
            return error_set(err, "the layers differ in query heads (%ld in layer %ld, %ld elsewhere), which no stock Hugging Face "
                             "reader loads; export with padding (\"padded\": true), or as GGUF", (long)c->layer[l].n_head,
                             (long)l, (long)widest.n_head);
    strcpy(c->model_type, "nemotron-nas");
    if (c->source) {
        struct json *names = json_array();
        json_push(names, json_from_string("DeciLMForCausalLM"));
        json_set(c->source, "architectures", names);
        json_set_string(c->source, "model_type", c->model_type);
    }
    return 0;
}
