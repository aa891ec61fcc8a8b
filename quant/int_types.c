// int_types.c: see int_types.h.
#include "quant/int_types.h"

#include <inttypes.h>
#include <string.h>
#include <strings.h>

#include "common/model/stored.h"

static const struct int_type types[] = {
    // name, alias, layout, bits, symmetric, grouped, input_bits, static_input, dtype
    {"W8A8", "INT8", PACKED_INT, 8, 1, 0, 8, 0, DTYPE_BF16},
    {"W8A8_STATIC", NULL, PACKED_INT, 8, 1, 0, 8, 1, DTYPE_BF16},
    {"W8A16", NULL, PACKED_WORDS, 8, 1, 0, 0, 0, DTYPE_BF16},
    {"W4A16", NULL, PACKED_WORDS, 4, 1, 1, 0, 0, DTYPE_BF16},
    {"W4A16_ASYM", NULL, PACKED_WORDS, 4, 0, 1, 0, 0, DTYPE_BF16},
    {"GPTQ-4", NULL, PACKED_GPTQ, 4, 1, 1, 0, 0, DTYPE_F16},
    {"GPTQ-4_ASYM", NULL, PACKED_GPTQ, 4, 0, 1, 0, 0, DTYPE_F16},
    {"GPTQ-8", NULL, PACKED_GPTQ, 8, 1, 1, 0, 0, DTYPE_F16},
};

const struct int_type *int_type_find(const char *name)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcasecmp(types[i].name, name) == 0 || (types[i].alias && strcasecmp(types[i].alias, name) == 0))
            return &types[i];
    return NULL;
}

int64_t int_type_group(const struct int_type *t, int64_t group, int64_t C) { return t->grouped && group ? group : C; }

// One QuantizationArgs of compressed-tensors, every key of it.
static struct json *arguments(int bits, int symmetric, const char *strategy, int64_t group, int dynamic, const char *order)
{
    struct json *o = json_object();
    json_set_number(o, "num_bits", bits);
    json_set_string(o, "type", "int");
    json_set_bool(o, "symmetric", symmetric);
    json_set(o, "group_size", group ? json_from_number((double)group) : json_null());
    json_set_string(o, "strategy", strategy);
    json_set(o, "block_structure", json_null());
    json_set_bool(o, "dynamic", dynamic);
    json_set(o, "actorder", json_from_string(order));
    json_set(o, "observer", json_from_string(dynamic ? NULL : "minmax"));
    json_set(o, "observer_kwargs", json_object());
    return o;
}

static struct json *compressed_config(const struct int_type *t, int64_t group, int ordered)
{
    struct json *o = json_object(), *groups = json_object(), *first = json_object(), *targets = json_array(), *ignore = json_array();
    const int64_t width = t->grouped ? group : 0;
    json_push(targets, json_from_string("Linear"));
    json_push(ignore, json_from_string("lm_head"));
    json_set(first, "targets", targets);
    json_set(first, "weights", arguments(t->bits, t->symmetric, width ? "group" : "channel", width, 0, width && ordered ? "weight" : NULL));
    json_set(first, "input_activations",
             t->input_bits ? arguments(t->input_bits, 1, t->static_input ? "tensor" : "token", 0, !t->static_input, NULL) : json_null());
    json_set(first, "output_activations", json_null());
    json_set(groups, "group_0", first);
    json_set_string(o, "quant_method", "compressed-tensors");
    json_set_string(o, "format", t->layout == PACKED_INT ? "int-quantized" : "pack-quantized");
    json_set(o, "config_groups", groups);
    json_set(o, "ignore", ignore);
    json_set(o, "kv_cache_scheme", json_null());
    json_set(o, "global_compression_ratio", json_null());
    json_set_string(o, "quantization_status", "compressed");
    return o;
}

struct json *int_type_config(const struct int_type *t, int64_t group, double damping, int ordered)
{
    if (t->layout != PACKED_GPTQ)
        return compressed_config(t, group, ordered);
    struct json *o = json_object();
    json_set_number(o, "bits", t->bits);
    json_set_number(o, "group_size", group ? (double)group : -1);
    json_set_number(o, "damp_percent", damping);
    json_set_bool(o, "desc_act", ordered);
    json_set_bool(o, "static_groups", 0);
    json_set_bool(o, "sym", t->symmetric);
    json_set_bool(o, "true_sequential", 1);
    json_set_bool(o, "lm_head", 0);
    json_set_string(o, "quant_method", "gptq");
    json_set_string(o, "checkpoint_format", "gptq");
    return o;
}

int int_type_takes(const struct parameter *p) { return p->layer >= 0 && p->t.n_dim == 2; }

static int check_matrix(const struct int_type *t, int64_t group, const struct parameter *p, struct error *err)
{
    const int64_t D = tensor_rows(&p->t), C = tensor_columns(&p->t), width = int_type_group(t, group, C), fields = 32 / t->bits;
    if (!stored_plainly(p))
        return error_set(err, "tensor %s lies transposed, or joined to others, in its checkpoint, which %s cannot say; quantize to a GGUF type", p->name,
                         t->name);
    if (C % width)
        return error_set(err, "tensor %s: its rows of %" PRId64 " values are no multiple of groups of %" PRId64 " (%s); give another \"group_size\", "
                         "or 0: one scale for a row", p->name, C, width, t->name);
    if (t->layout == PACKED_GPTQ && (C % fields || D % fields))
        return error_set(err, "tensor %s is [%" PRId64 ", %" PRId64 "]; %s packs %" PRId64 " values in a word, along both; prune to multiples of that, or "
                         "take W4A16", p->name, D, C, t->name, fields);
    return 0;
}

int int_type_check(const struct int_type *t, int64_t group, const struct model *m, struct error *err)
{
    if (!model_is_causal(&m->config))
        return error_set(err, "%s is for models that predict the next token; this is a %s model", t->name, m->config.model_type);
    if (!config_uniform(&m->config))
        return error_set(err, "its layers have different widths, which no reader of %s takes; make them alike (pdq export --padded) and quantize that", t->name);
    for (int i = 0; i < m->n_parameter; i++)
        if (int_type_takes(&m->parameter[i]))
            TRY(check_matrix(t, group, &m->parameter[i], err));
    return 0;
}
