// shape.c: see shape.h. What loads where: gathered from the readers' sources, and tried where they can be built (README.md).
#include "recipes/shape.h"

#include "common/model/model.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

static int64_t width(const struct config *c, int64_t l, size_t offset) {
    return *(const int64_t *)((const char *)&c->layer[l] + offset);
}

static void range(const struct config *c, size_t offset, int64_t *least, int64_t *most) {
    *least = *most = width(c, 0, offset);
    for (int64_t l = 1; l < c->n_layer; l++) {
        int64_t n = width(c, l, offset);
        *least = n < *least ? n : *least;
        *most = n > *most ? n : *most;
    }
}

static void range_text(char to[48], const struct config *c, size_t offset) {
    int64_t least, most;
    range(c, offset, &least, &most);
    if (least == most)
        snprintf(to, 48, "%ld", (long)least);
    else
        snprintf(to, 48, "%ld-%ld", (long)least, (long)most);
}

void shape_text(char to[SHAPE_TEXT], const struct config *c) {
    char heads[48], groups[48], ff[48];
    if (!model_is_language(c)) {
        int n = snprintf(to, SHAPE_TEXT, "%ld inputs, hidden units", (long)c->hidden);
        for (int64_t l = 0; l < c->n_layer && n < SHAPE_TEXT - 24; l++)
            n += snprintf(to + n, (size_t)(SHAPE_TEXT - n), " %ld", (long)c->layer[l].n_ff);
        return;
    }
    if (!model_has_blocks(c)) {
        snprintf(to, SHAPE_TEXT, "embeddings of %ld, %ld cells in each direction, %ld rectified units", (long)c->n_embedding, (long)c->n_cell,
                 (long)c->hidden);
        return;
    }
    range_text(heads, c, offsetof(struct layer_shape, n_head));
    range_text(groups, c, offsetof(struct layer_shape, n_kv_head));
    range_text(ff, c, offsetof(struct layer_shape, n_ff));
    snprintf(to, SHAPE_TEXT, "%ld layers, hidden %ld, %s query and %s key/value heads of %ld, FFN %s", (long)c->n_layer, (long)c->hidden, heads, groups,
             (long)c->head_dim, ff);
}

static struct json *widths_json(const struct config *c, size_t offset) {
    int64_t least, most;
    range(c, offset, &least, &most);
    if (least == most)
        return json_from_number((double)least);
    struct json *list = json_array();
    for (int64_t l = 0; l < c->n_layer; l++)
        json_push(list, json_from_number((double)width(c, l, offset)));
    return list;
}

struct json *shape_json(const struct config *c) {
    struct json *o = json_object();
    json_set_string(o, "type", c->model_type);
    json_set_number(o, "layers", (double)c->n_layer);
    json_set_number(o, "hidden", (double)c->hidden);
    json_set_number(o, "head_dim", (double)c->head_dim);
    json_set(o, "heads", widths_json(c, offsetof(struct layer_shape, n_head)));
    json_set(o, "kv_heads", widths_json(c, offsetof(struct layer_shape, n_kv_head)));
    json_set(o, "ffn", widths_json(c, offsetof(struct layer_shape, n_ff)));
    if (c->n_cell) {
        json_set_number(o, "embedding", (double)c->n_embedding);
        json_set_number(o, "cells", (double)c->n_cell);
    }
    json_set_number(o, "vocab", (double)c->vocab);
    json_set_number(o, "parameters", (double)config_parameters(c));
    return o;
}

// The words for each reader, by kind of file.
static const struct loads {
    const char *transformers4, *transformers5, *vllm, *llama_cpp;
} folder = {"yes", "yes", "yes", "after conversion to GGUF (pdq export)"},
  short_qwen = {"yes", "yes", "no: takes head_dim as hidden / heads", "after conversion to GGUF, padded (pdq export)"},
  blocks = {"no: DeciLM is custom code there (trust_remote_code)", "no: DeciLM is custom code there (trust_remote_code)",
            "yes (nemotron-nas)", "after conversion to GGUF (pdq export)"},
  uneven = {"no: its layers differ (pdq export, padded)", "no: reads per_layer_config, but builds all layers alike",
            "no: its layers differ (pdq export: block_configs or padded)", "after conversion to GGUF (pdq export: deci or padded)"},
  uneven_relative = {"no: its layers differ (pdq export, padded)", "no: reads per_layer_config, but builds all layers alike",
                     "no: its layers differ (pdq export, padded)", "after conversion to GGUF, padded (pdq export)"},
  fewer_heads = {"yes (pruned_heads)", "no: it cannot prune heads (pdq export, padded)", "no: takes head_dim as hidden / heads (pdq export, padded)",
                 "after conversion to GGUF, padded (pdq export)"},
  custom = {"no: MiniCPM is custom code there (its .py files beside config.json, auto_map, trust_remote_code)",
            "no: MiniCPM is custom code there (its .py files beside config.json, auto_map, trust_remote_code)", "yes",
            "after conversion to GGUF (pdq export)"},
  qwen3 = {"yes (4.51 and later)", "yes", "yes", "with its own converter, since April 2025 (pdq writes no qwen3 GGUF)"},
  gemma2 = {"yes (4.42 and later)", "yes", "yes", "after conversion to GGUF (pdq export)"},
  turns = {"from 4.53 on, which reads layer_types", "yes (layer_types)", "if it reads layer_types: its windows no longer take turns",
           "no: its windows no longer take turns"},
  gguf = {"no (GGUF)", "no (GGUF)", "no (GGUF)", "yes"}, deci = {"no (GGUF)", "no (GGUF)", "no (GGUF)", "yes (architecture deci)"},
  by_name = {"no: no such class there (safetensors by name)", "no: no such class there (safetensors by name)", "no", "no"};

static int is(const struct config *c, const char *type) { return strcmp(c->model_type, type) == 0; }

struct json *loads_json(const struct config *c, int is_gguf) {
    int plain = config_uniform(c) && c->layer[0].n_head && c->layer[0].n_ff;
    int is_short = is(c, "qwen2") && c->layer[0].n_head * c->head_dim != c->hidden;
    int same_ff = 1, full = 1;
    for (int64_t l = 0; l < c->n_layer; l++) {
        same_ff &= c->layer[l].n_ff == c->layer[0].n_ff && c->layer[l].n_ff;
        full &= c->layer[l].n_head * c->head_dim == c->hidden;
    }
    const struct loads *l = !model_has_blocks(c)         ? &by_name
                            : is_gguf                    ? (plain ? &gguf : &deci)
                            : config_is_block_configs(c) ? &blocks
                            : config_has_full_heads(c)   ? (!same_ff ? &uneven : full ? &folder : &fewer_heads)
                            : !plain                     ? (is(c, "llama") || is(c, "mistral") || is(c, "qwen2") ? &uneven : &uneven_relative)
                            : !config_slides_as_usual(c) && config_windows_matter(c) ? &turns
                            : is_short                   ? &short_qwen
                            : is(c, "minicpm")           ? &custom
                            : is(c, "qwen3")             ? &qwen3
                            : is(c, "gemma2")            ? &gemma2
                                                         : &folder;
    struct json *o = json_object();
    json_set_string(o, "transformers 4", l->transformers4);
    json_set_string(o, "transformers 5", l->transformers5);
    json_set_string(o, "vLLM", l->vllm);
    const int loses_head = !is_gguf && model_is_language(c) && !model_is_causal(c) && c->head != HEAD_NONE; // see gguf_export
    json_set_string(o, "llama.cpp", loses_head && l->llama_cpp != by_name.llama_cpp ? "as an encoder without its head, after conversion to GGUF (pdq export)"
                                                                                    : l->llama_cpp);
    return o;
}
