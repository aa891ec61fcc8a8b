// packed.c: see packed.h. Facts of the layouts: compressed-tensors' compressors and quantization_config, AutoGPTQ's QuantLinear.
#include "common/model/packed.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

static int refuse(const char *folder, const char *what, const char *found, struct error *err)
{
    return error_set(err, "%s: config.json: quantization_config: %s is %s; expected integers as compressed-tensors (int-quantized, pack-quantized) "
                     "or GPTQ write them; give the unquantized checkpoint", folder, what, found ? found : "not there");
}

static int is_true(const struct json *o, const char *key) { return json_bool(json_get(o, key)); }
static int is_text(const struct json *o, const char *key, const char *text)
{
    const char *found = json_string(json_get(o, key));
    return found && strcmp(found, text) == 0;
}

static int read_bits(struct packed_scheme *s, const struct json *o, const char *folder, const char *key, const char *group, struct error *err)
{
    int64_t bits, size;
    TRY(json_get_int(o, folder, key, 0, 0, 64, &bits, err));
    TRY(json_get_int(o, folder, group, 0, -1, 1 << 24, &size, err));
    s->bits = (int)bits;
    s->group = size > 0 ? size : 0;
    if (bits != 4 && bits != 8)
        return error_set(err, "%s: config.json: quantization_config: %s is %" PRId64 "; expected 4 or 8", folder, key, bits);
    return 0;
}

static int read_inputs(struct packed_scheme *s, const struct json *o, const char *folder, struct error *err)
{
    if (json_kind(o) == JSON_NULL)
        return 0;
    const int is_dynamic = is_true(o, "dynamic");
    if (json_number(json_get(o, "num_bits")) != 8 || !is_text(o, "type", "int") || !is_true(o, "symmetric") ||
        !is_text(o, "strategy", is_dynamic ? "token" : "tensor"))
        return refuse(folder, "input_activations", "neither symmetric 8-bit integers by token, dynamic, nor by tensor", err);
    s->input_bits = 8;
    s->static_input = !is_dynamic;
    return 0;
}

static int read_compressed(struct packed_scheme *s, const struct json *q, const char *folder, struct error *err)
{
    const struct json *groups = json_get(q, "config_groups"), *group = json_first(groups), *weights = json_get(group, "weights");
    if (json_count(groups) != 1)
        return refuse(folder, "config_groups", "not one group", err);
    if (is_text(q, "format", "int-quantized"))
        s->layout = PACKED_INT;
    else if (is_text(q, "format", "pack-quantized"))
        s->layout = PACKED_WORDS;
    else
        return refuse(folder, "format", json_string(json_get(q, "format")), err);
    if (!is_text(weights, "type", "int") || is_true(weights, "dynamic") || (!is_text(weights, "strategy", "channel") && !is_text(weights, "strategy", "group")))
        return refuse(folder, "weights", "no integers by channel or group", err);
    TRY(read_bits(s, weights, folder, "num_bits", "group_size", err));
    s->symmetric = is_true(weights, "symmetric");
    if (is_text(weights, "strategy", "channel"))
        s->group = 0;
    if (s->layout == PACKED_INT && (s->bits != 8 || !s->symmetric))
        return refuse(folder, "int-quantized weights", "not symmetric with 8 bits", err);
    return read_inputs(s, json_get(group, "input_activations"), folder, err);
}

static int read_gptq(struct packed_scheme *s, const struct json *q, const char *folder, struct error *err)
{
    const char *format = json_string(json_get(q, "checkpoint_format"));
    if (format && strcmp(format, "gptq") != 0)
        return refuse(folder, "checkpoint_format", format, err);
    s->layout = PACKED_GPTQ;
    s->symmetric = is_true(q, "sym");
    return read_bits(s, q, folder, "bits", "group_size", err);
}

int packed_scheme_read(struct packed_scheme *s, const struct json *config, const char *folder, struct error *err)
{
    const struct json *q = json_get(config, "quantization_config");
    *s = (struct packed_scheme){.layout = PACKED_NONE};
    if (json_kind(q) == JSON_NULL)
        return 0;
    if (is_text(q, "quant_method", "compressed-tensors"))
        return read_compressed(s, q, folder, err);
    if (is_text(q, "quant_method", "gptq"))
        return read_gptq(s, q, folder, err);
    return refuse(folder, "quant_method", json_string(json_get(q, "quant_method")), err);
}

// ---- the parts of one matrix ----

struct finder {
    const struct safetensors *files;
    const char *name, *folder; // name: "m.weight"
    struct error *err;
};

static const struct safetensor *look(const struct finder *f, const char *part)
{
    char *name = xasprintf("%.*s%s", (int)(strlen(f->name) - strlen("weight")), f->name, part);
    const struct safetensor *t = safetensors_find(f->files, name);
    free(name);
    return t;
}

// dtype NULL: a float.
static int take(const struct finder *f, const char *part, const char *dtype, int64_t rows, int64_t columns, const struct safetensor **to)
{
    const struct safetensor *t = *to = look(f, part);
    if (!t)
        return error_set(f->err, "%s: %.*s%s is missing from the safetensors; quantization_config says that %s is of integers", f->folder,
                         (int)(strlen(f->name) - strlen("weight")), f->name, part, f->name);
    if (dtype ? strcmp(t->dtype_name, dtype) != 0 : !t->is_float)
        return error_set(f->err, "%s: tensor %s has dtype %s; expected %s", f->folder, t->name, t->dtype_name, dtype ? dtype : "F32, F16 or BF16");
    const int fits = columns ? t->n_dim == 2 && t->dim[0] == rows && t->dim[1] == columns : t->n_dim == 1 && t->dim[0] == rows;
    if (!fits)
        return error_set(f->err, "%s: tensor %s has %d dimensions, the first %" PRId64 " long%s; config.json and its quantization_config say [%" PRId64
                         "%s%" PRId64 "]", f->folder, t->name, t->n_dim, t->dim[0], t->n_dim == 2 ? ", the second not as it should be" : "", rows,
                         columns ? ", " : "; columns: ", columns);
    return 0;
}

static uint32_t word(const struct safetensor *t, int64_t i)
{
    uint32_t v;
    memcpy(&v, (const char *)t->data + i * 4, sizeof v);
    return v;
}

static float number(const struct safetensor *t, int64_t i)
{
    const size_t size = dtype_size(t->dtype);
    uint32_t aligned = 0;
    float v;
    memcpy(&aligned, (const char *)t->data + (size_t)i * size, size);
    dtype_to_f32(t->dtype, &aligned, &v, 1);
    return v;
}

static int64_t groups_of(const struct packed_weight *w) { return w->scheme.group ? w->columns / w->scheme.group : 1; }

static int check_order(const struct packed_weight *w, const struct finder *f)
{
    for (int64_t c = 0; c < w->columns; c++)
        if ((int64_t)word(w->order, c) >= groups_of(w))
            return error_set(f->err, "%s: tensor %s names group %" PRIu32 " at column %" PRId64 "; there are %" PRId64, f->folder, w->order->name,
                             word(w->order, c), c, groups_of(w));
    return 0;
}

static int check_scales(const struct packed_weight *w, const struct finder *f)
{
    for (int64_t i = 0; i < w->rows * groups_of(w); i++)
        if (!isfinite(number(w->scale, i)))
            return error_set(f->err, "%s: tensor %s holds %g at element %" PRId64 ": the model is broken", f->folder, w->scale->name,
                             (double)number(w->scale, i), i);
    return 0;
}

static int take_gptq(struct packed_weight *w, const struct finder *f)
{
    const int64_t D = w->rows, C = w->columns, G = groups_of(w), fields = 32 / w->scheme.bits;
    TRY(take(f, "qweight", "I32", C / fields, D, &w->codes));
    TRY(take(f, "scales", NULL, G, D, &w->scale));
    TRY(take(f, "qzeros", "I32", G, D / fields, &w->zero));
    TRY(take(f, "g_idx", "I32", C, 0, &w->order));
    return check_order(w, f);
}

static int take_words(struct packed_weight *w, const struct finder *f)
{
    const int64_t D = w->rows, C = w->columns, G = groups_of(w), fields = 32 / w->scheme.bits;
    TRY(take(f, "weight_packed", "I32", D, (C + fields - 1) / fields, &w->codes));
    TRY(take(f, "weight_shape", "I64", 2, 0, &w->shape));
    if (word(w->shape, 0) != (uint64_t)D || word(w->shape, 2) != (uint64_t)C)
        return error_set(f->err, "%s: tensor %s says [%" PRIu32 ", %" PRIu32 "]; config.json says [%" PRId64 ", %" PRId64 "]", f->folder,
                         w->shape->name, word(w->shape, 0), word(w->shape, 2), D, C);
    if (!w->scheme.symmetric)
        TRY(take(f, "weight_zero_point", "I32", (D + fields - 1) / fields, G, &w->zero));
    if (!look(f, "weight_g_idx"))
        return 0;
    TRY(take(f, "weight_g_idx", "I32", C, 0, &w->order));
    return check_order(w, f);
}

int packed_find(struct packed_weight *w, const struct packed_scheme *s, const struct safetensors *files, const char *name, int64_t rows,
                int64_t columns, const char *folder, struct error *err)
{
    static const char *const codes[] = {[PACKED_INT] = "weight", [PACKED_WORDS] = "weight_packed", [PACKED_GPTQ] = "qweight"};
    const struct finder f = {files, name, folder, err};
    *w = (struct packed_weight){.scheme = *s, .rows = rows, .columns = columns};
    const struct safetensor *first = s->layout == PACKED_NONE ? NULL : look(&f, codes[s->layout]);
    if (!first || first->is_float)
        return 0;
    const int64_t fields = 32 / s->bits;
    if ((s->group && columns % s->group) || (s->layout == PACKED_GPTQ && (columns % fields || rows % fields)))
        return error_set(err, "%s: %s is [%" PRId64 ", %" PRId64 "]; groups of %" PRId64 " columns in words of %" PRId64 " codes do not fit", folder,
                         name, rows, columns, s->group, fields);
    if (s->layout == PACKED_INT)
        TRY(take(&f, "weight", "I8", rows, columns, &w->codes));
    if (s->layout == PACKED_WORDS)
        TRY(take_words(w, &f));
    if (s->layout == PACKED_GPTQ)
        TRY(take_gptq(w, &f));
    else
        TRY(take(&f, "weight_scale", NULL, rows, groups_of(w), &w->scale));
    if (s->static_input)
        TRY(take(&f, "input_scale", NULL, 1, 0, &w->input));
    TRY(check_scales(w, &f));
    if (w->input && !(number(w->input, 0) > 0 && isfinite(number(w->input, 0))))
        return error_set(err, "%s: tensor %s is %g; expected a scale above 0: the model is broken", folder, w->input->name, (double)number(w->input, 0));
    return 1;
}

// ---- values ----

static int field(uint32_t v, int bits, int64_t i) { return (int)(v >> (bits * (int)i) & ((1U << bits) - 1)); }

static void gptq_row(const struct packed_weight *w, int64_t row, float *to)
{
    const int64_t D = w->rows, fields = 32 / w->scheme.bits;
    for (int64_t c = 0; c < w->columns; c++) {
        const int64_t g = word(w->order, c);
        const int zero = field(word(w->zero, g * (D / fields) + row / fields), w->scheme.bits, row % fields) + 1;
        to[c] = (float)(field(word(w->codes, c / fields * D + row), w->scheme.bits, c % fields) - zero) * number(w->scale, g * D + row);
    }
}

static void words_row(const struct packed_weight *w, int64_t row, float *to)
{
    const int64_t C = w->columns, G = groups_of(w), fields = 32 / w->scheme.bits, width = C / G, words = (C + fields - 1) / fields;
    for (int64_t c = 0; c < C; c++) {
        const int64_t g = w->order ? word(w->order, c) : c / width;
        const int middle = 1 << (w->scheme.bits - 1);
        const int zero = w->zero ? field(word(w->zero, row / fields * G + g), w->scheme.bits, row % fields) : middle;
        to[c] = (float)(field(word(w->codes, row * words + c / fields), w->scheme.bits, c % fields) - zero) * number(w->scale, row * G + g);
    }
}

static void int_row(const struct packed_weight *w, int64_t row, float *to)
{
    const int64_t C = w->columns, G = groups_of(w);
    const int8_t *code = (const int8_t *)w->codes->data + row * C;
    for (int64_t c = 0; c < C; c++)
        to[c] = (float)code[c] * number(w->scale, row * G + c / (C / G));
}

void packed_rows(const struct packed_weight *w, int64_t row0, int64_t n, float *to)
{
    static void (*const row[])(const struct packed_weight *w, int64_t row, float *to) = {
        [PACKED_INT] = int_row, [PACKED_WORDS] = words_row, [PACKED_GPTQ] = gptq_row};
    for (int64_t r = 0; r < n; r++)
        row[w->scheme.layout](w, row0 + r, to + r * w->columns);
}

float packed_input_scale(const struct packed_weight *w) { return w->input ? number(w->input, 0) : 0; }
