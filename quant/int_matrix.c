// int_matrix.c: see int_matrix.h.
//
// A group at work is a block {scale, zero, a byte for each code}, so that GPTQ rounds it as it rounds any block (block_codes.c).
#include "quant/int_matrix.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "quant/block_codes.h"

struct int_block {
    float scale; // as it is stored
    int32_t zero;
    uint8_t code[];
};

#define TRIES 24         // scales that are tried for the least weighted error ..
#define TRY_STEP 0.025f  // .. each so much of the largest values' smaller
#define LEAST_SCALE 1.1920929e-07f // of a group of zeros, as compressed-tensors has it

static float stored_scale(enum dtype type, float s)
{
    uint32_t raw = 0;
    float back;
    s = s > LEAST_SCALE ? s : LEAST_SCALE;
    dtype_from_f32(type, &s, &raw, 1);
    dtype_to_f32(type, &raw, &back, 1);
    return back;
}

// Codes under a scale and a zero; returns the weighted squared error, and what the scale should rather be.
static double put_codes(const struct int_type *t, const float *x, const float *w, int64_t n, struct int_block *b, double *better)
{
    const float most = (float)((1 << t->bits) - 1), zero = (float)b->zero;
    double error = 0, xq = 0, qq = 0;
    for (int64_t i = 0; i < n; i++) {
        const float q = fminf(fmaxf(rintf(x[i] / b->scale + zero), 0), most), signed_q = q - zero;
        const double weight = w ? (double)w[i] : 1, d = (double)(x[i] - signed_q * b->scale);
        b->code[i] = (uint8_t)q;
        error += weight * d * d;
        xq += weight * (double)x[i] * (double)signed_q;
        qq += weight * (double)signed_q * (double)signed_q;
    }
    *better = qq > 0 ? xq / qq : 0;
    return error;
}

static void range_of(const float *x, int64_t n, float *low, float *high)
{
    *low = *high = 0;
    for (int64_t i = 0; i < n; i++) {
        *low = x[i] < *low ? x[i] : *low;
        *high = x[i] > *high ? x[i] : *high;
    }
}

// Scale and zero for values from low to high. GPTQ's layout has no zero of 0: stored less one, it would reach into its neighbours.
static void put_range(const struct int_type *t, float low, float high, struct int_block *b)
{
    const int most = (1 << t->bits) - 1, first = t->layout == PACKED_GPTQ ? 1 : 0;
    if (t->symmetric) {
        b->zero = (most + 1) / 2;
        b->scale = stored_scale(t->dtype, (-low > high ? -low : high) / ((float)most / 2));
        return;
    }
    b->scale = stored_scale(t->dtype, (high - low) / (float)most);
    b->zero = (int32_t)fminf(fmaxf(rintf(-low / b->scale), 0), (float)most);
    if (b->zero < first) {
        b->zero = first;
        b->scale = stored_scale(t->dtype, high / (float)(most - first));
    }
}

// importance NULL: the range of the values themselves.
static void encode_block(const void *type, const float *x, const float *importance, int64_t n, void *to)
{
    const struct int_type *t = type;
    struct int_block *b = to;
    float low, high, best_scale = 0;
    int32_t best_zero = 0;
    double best = INFINITY, better;
    range_of(x, n, &low, &high);
    put_range(t, low, high, b);
    for (int k = 0; k < TRIES && importance; k++) {
        put_range(t, low * (1 - TRY_STEP * (float)k), high * (1 - TRY_STEP * (float)k), b);
        for (int again = 0; again < 2; again++) {
            const double error = put_codes(t, x, importance, n, b, &better);
            if (error < best) {
                best = error;
                best_scale = b->scale;
                best_zero = b->zero;
            }
            b->scale = stored_scale(t->dtype, (float)better);
        }
    }
    if (importance && best < (double)INFINITY) {
        b->scale = best_scale;
        b->zero = best_zero;
    }
    put_codes(t, x, importance, n, b, &better);
}

static void decode_block(const void *from, float *to, int64_t n)
{
    const struct int_block *b = from;
    for (int64_t i = 0; i < n; i++)
        to[i] = (float)(b->code[i] - b->zero) * b->scale;
}

// ---- a matrix ----

void int_matrix_init(struct int_matrix *m, const struct int_type *t, int64_t D, int64_t C, int64_t group)
{
    const int64_t width = int_type_group(t, group, C), n = D * (C / width);
    *m = (struct int_matrix){.type = t, .D = D, .C = C, .group = width};
    m->code = xmalloc((size_t)(D * C), "integer weights");
    m->scale = xmalloc((size_t)n * sizeof *m->scale, "scales");
    m->zero = xmalloc((size_t)n, "zeros");
}

void int_matrix_release(struct int_matrix *m)
{
    free(m->code);
    free(m->scale);
    free(m->zero);
    free(m->order);
    *m = (struct int_matrix){0};
}

void int_matrix_round(struct int_matrix *m, const float *W, const float *weight)
{
    const int64_t C = m->C, G = C / m->group;
#pragma omp parallel
    {
        struct int_block *b = xmalloc(sizeof *b + (size_t)m->group, "a group being rounded");
#pragma omp for schedule(static)
        for (int64_t d = 0; d < m->D; d++)
            for (int64_t g = 0; g < G; g++) {
                encode_block(m->type, W + d * C + g * m->group, weight ? weight + g * m->group : NULL, m->group, b);
                memcpy(m->code + d * C + g * m->group, b->code, (size_t)m->group);
                m->scale[d * G + g] = b->scale;
                m->zero[d * G + g] = (uint8_t)b->zero;
            }
        free(b);
    }
}

void int_matrix_row(const struct int_matrix *m, int64_t row, float *to)
{
    const int64_t G = m->C / m->group;
    for (int64_t c = 0; c < m->C; c++) {
        const int64_t g = row * G + (m->order ? m->order[c] : c / m->group);
        to[c] = (float)(m->code[row * m->C + c] - m->zero[g]) * m->scale[g];
    }
}

// ---- GPTQ ----

struct ranked {
    double score;
    int64_t column;
};

static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->column < y->column ? -1 : x->column > y->column;
}

// place[n]: the column that comes n-th, largest inputs first where wanted.
static int64_t *choose_places(const double *H, int64_t C, int ordered)
{
    int64_t *place = xmalloc((size_t)C * sizeof *place, "order of columns");
    struct ranked *list = xmalloc((size_t)C * sizeof *list, "order of columns");
    for (int64_t c = 0; c < C; c++)
        list[c] = (struct ranked){ordered ? H[c * C + c] : 0, c};
    qsort(list, (size_t)C, sizeof *list, by_score);
    for (int64_t n = 0; n < C; n++)
        place[n] = list[n].column;
    free(list);
    return place;
}

// Columns that are rounded under one choice of scales: a group where that fits into a panel, else a part of a row, whose scale stands before.
static int64_t step_of(const struct int_matrix *m)
{
    int64_t step = 1; // a power of two, so that it divides a panel
    while (2 * step <= CODE_ELEMENTS_MAX && m->group % (2 * step) == 0)
        step *= 2;
    return step;
}

// Blocks of `step` columns that have their group's scale and zero, chosen for W as it is.
static uint8_t *given_scales(struct int_matrix *m, const float *W, const float *weight, int64_t step, int64_t bytes)
{
    const int64_t n = m->C / step, G = m->C / m->group;
    uint8_t *given = xcalloc((size_t)(m->D * n), (size_t)bytes, "scales of rows");
    int_matrix_round(m, W, weight);
    for (int64_t d = 0; d < m->D; d++)
        for (int64_t k = 0; k < n; k++) {
            struct int_block *b = (struct int_block *)(given + (d * n + k) * bytes);
            b->scale = m->scale[d * G + k * step / m->group];
            b->zero = m->zero[d * G + k * step / m->group];
        }
    return given;
}

static void take_blocks(struct int_matrix *m, const uint8_t *blocks, int64_t step, int64_t bytes, const int64_t *place)
{
    const int64_t n = m->C / step, G = m->C / m->group;
    for (int64_t d = 0; d < m->D; d++)
        for (int64_t k = 0; k < n; k++) {
            const struct int_block *b = (const struct int_block *)(blocks + (d * n + k) * bytes);
            m->scale[d * G + k * step / m->group] = b->scale;
            m->zero[d * G + k * step / m->group] = (uint8_t)b->zero;
            for (int64_t i = 0; i < step; i++)
                m->code[d * m->C + place[k * step + i]] = b->code[i];
        }
}

static double *permuted(const double *H, const int64_t *place, int64_t C)
{
    double *to = xmalloc((size_t)(C * C) * sizeof *to, "second moments");
    for (int64_t i = 0; i < C; i++)
        for (int64_t k = 0; k < C; k++)
            to[i * C + k] = H[place[i] * C + place[k]];
    return to;
}

// Columns into the order of `place`, or back.
static void permute_rows(float *W, int64_t D, int64_t C, const int64_t *place, int back)
{
    float *row = xmalloc((size_t)C * sizeof *row, "row");
    for (int64_t d = 0; d < D; d++) {
        memcpy(row, W + d * C, (size_t)C * sizeof *row);
        for (int64_t n = 0; n < C; n++)
            W[d * C + (back ? place[n] : n)] = row[back ? n : place[n]];
    }
    free(row);
}

// W's columns are in the order of `place`, and so is H.
static int round_placed(struct int_matrix *m, float *W, const double *H, const struct gptq_options *o, const int64_t *place, const char *name,
                        struct error *err)
{
    const int64_t step = step_of(m);
    const struct block_format format = {.name = m->type->bits == 4 ? "INT4" : "INT8", .elements = step,
                                        .bytes = (int64_t)sizeof(struct int_block) + (step + 3) / 4 * 4, .decode = decode_block};
    struct gptq_options how = *o;
    struct gptq_factor factor;
    how.encode = encode_block;
    how.encode_context = m->type;
    how.act_order = o->act_order && !m->order;
    TRY(gptq_factor_make(&factor, H, m->C, step, &how, name, err));
    uint8_t *given = step == m->group ? NULL : given_scales(m, W, factor.weight, step, format.bytes);
    uint8_t *blocks = xmalloc((size_t)(m->D * (m->C / step) * format.bytes), "integer weights at work");
    how.given = given;
    gptq_round(&factor, &format, &how, W, m->D, blocks);
    take_blocks(m, blocks, step, format.bytes, place);
    gptq_factor_release(&factor);
    free(given);
    free(blocks);
    return 0;
}

int int_matrix_gptq(struct int_matrix *m, float *W, const double *H, const struct gptq_options *o, const char *name, struct error *err)
{
    const int ordered = m->type->layout == PACKED_GPTQ && o->act_order && m->group < m->C;
    int64_t *place = choose_places(H, m->C, ordered);
    double *moments = ordered ? permuted(H, place, m->C) : NULL;
    if (ordered) {
        m->order = xmalloc((size_t)m->C * sizeof *m->order, "groups of columns");
        for (int64_t n = 0; n < m->C; n++)
            m->order[place[n]] = (int32_t)(n / m->group);
        permute_rows(W, m->D, m->C, place, 0);
    }
    const int rc = round_placed(m, W, ordered ? moments : H, o, place, name, err);
    if (ordered)
        permute_rows(W, m->D, m->C, place, 1);
    free(moments);
    free(place);
    return rc;
}

// ---- choices ----

void int_matrix_find_choices(struct int_matrix *m, const float *W, struct rounding_choice *c)
{
    const int64_t C = m->C, G = C / m->group;
    const int levels = 1 << m->type->bits;
#pragma omp parallel for schedule(static)
    for (int64_t d = 0; d < m->D; d++)
        for (int64_t j = 0; j < C; j++) {
            const int64_t k = d * C + j, g = d * G + (m->order ? m->order[j] : j / m->group);
            float level[1 << CODE_BITS_MAX];
            for (int q = 0; q < levels; q++)
                level[q] = (float)(q - m->zero[g]) * m->scale[g];
            const int low = block_level_below(level, levels, W[k]);
            rounding_choice_set(c, k, level[low], level[low + 1], W[k]);
            m->code[k] = (uint8_t)low;
        }
}

void int_matrix_put_choices(struct int_matrix *m, const struct rounding_choice *c)
{
    for (int64_t k = 0; k < m->D * m->C; k++)
        m->code[k] = (uint8_t)(m->code[k] + c->up[k]);
}

// ---- tensors ----

// type NULL: f32, which the file stores as its own dtype.
static void add(struct int_tensors *to, const char *name, const char *part, const char *type, int64_t rows, int64_t columns)
{
    const int k = to->n++;
    to->name[k] = xasprintf("%.*s%s", (int)(strlen(name) - strlen("weight")), name, part);
    to->item[k] = (struct safetensors_item){.name = to->name[k], .n_dim = columns ? 2 : 1, .dim = {rows, columns ? columns : 1}, .raw_type = type};
}

static void declare_gptq(struct int_tensors *to, int64_t D, int64_t C, int64_t G, int64_t fields, const char *name)
{
    add(to, name, "qweight", "I32", C / fields, D);
    add(to, name, "qzeros", "I32", G, D / fields);
    add(to, name, "scales", NULL, G, D);
    add(to, name, "g_idx", "I32", C, 0);
}

static void declare_words(struct int_tensors *to, const struct int_type *t, int64_t D, int64_t C, int64_t G, int64_t fields, const char *name)
{
    add(to, name, "weight_packed", "I32", D, (C + fields - 1) / fields);
    add(to, name, "weight_shape", "I64", 2, 0);
    if (!t->symmetric)
        add(to, name, "weight_zero_point", "I32", (D + fields - 1) / fields, G);
}

void int_tensors_declare(struct int_tensors *to, const struct int_type *t, int64_t D, int64_t C, int64_t group, const char *name)
{
    const int64_t G = C / int_type_group(t, group, C), fields = 32 / t->bits;
    *to = (struct int_tensors){0};
    if (t->layout == PACKED_GPTQ) {
        declare_gptq(to, D, C, G, fields, name);
        return;
    }
    if (t->layout == PACKED_WORDS)
        declare_words(to, t, D, C, G, fields, name);
    else
        add(to, name, "weight", "I8", D, C);
    add(to, name, "weight_scale", NULL, D, G);
    if (t->static_input)
        add(to, name, "input_scale", NULL, 1, 0);
}

// Room for the values of the tensor that was declared as `part`.
static void *room(struct int_tensors *to, const char *part)
{
    int k = 0;
    while (!path_ends_with(to->name[k], part)) // no part's name ends in another one's
        k++;
    struct safetensors_item *item = &to->item[k];
    const size_t element = !item->raw_type ? sizeof(float) : strcmp(item->raw_type, "I64") == 0 ? 8 : strcmp(item->raw_type, "I32") == 0 ? 4 : 1;
    to->bytes[k] = xcalloc((size_t)(item->dim[0] * item->dim[1]), element, to->name[k]);
    if (item->raw_type)
        item->raw = to->bytes[k];
    else
        item->data = to->bytes[k];
    return to->bytes[k];
}

static void put_field(uint32_t *word, int bits, int64_t i, int value) { *word |= (uint32_t)value << (bits * (int)i); }

static void make_gptq(struct int_tensors *to, const struct int_matrix *m)
{
    const int64_t D = m->D, C = m->C, G = C / m->group, fields = 32 / m->type->bits;
    uint32_t *codes = room(to, ".qweight"), *zeros = room(to, ".qzeros");
    float *scales = room(to, ".scales");
    int32_t *order = room(to, ".g_idx");
    for (int64_t c = 0; c < C; c++) {
        order[c] = m->order ? m->order[c] : (int32_t)(c / m->group);
        for (int64_t d = 0; d < D; d++)
            put_field(&codes[c / fields * D + d], m->type->bits, c % fields, m->code[d * C + c]);
    }
    for (int64_t d = 0; d < D; d++)
        for (int64_t g = 0; g < G; g++) {
            put_field(&zeros[g * (D / fields) + d / fields], m->type->bits, d % fields, m->zero[d * G + g] - 1);
            scales[g * D + d] = m->scale[d * G + g];
        }
}

static void make_words(struct int_tensors *to, const struct int_matrix *m)
{
    const int64_t D = m->D, C = m->C, G = C / m->group, fields = 32 / m->type->bits, words = (C + fields - 1) / fields;
    uint32_t *codes = room(to, ".weight_packed"), *zeros = m->type->symmetric ? NULL : room(to, ".weight_zero_point");
    int64_t *shape = room(to, ".weight_shape");
    shape[0] = D;
    shape[1] = C;
    for (int64_t d = 0; d < D; d++) {
        for (int64_t c = 0; c < C; c++)
            put_field(&codes[d * words + c / fields], m->type->bits, c % fields, m->code[d * C + c]);
        for (int64_t g = 0; g < G && zeros; g++)
            put_field(&zeros[d / fields * G + g], m->type->bits, d % fields, m->zero[d * G + g]);
    }
}

static void make_bytes(struct int_tensors *to, const struct int_matrix *m)
{
    int8_t *codes = room(to, ".weight");
    for (int64_t i = 0; i < m->D * m->C; i++)
        codes[i] = (int8_t)(m->code[i] - (1 << (m->type->bits - 1)));
}

void int_tensors_make(struct int_tensors *to, const struct int_matrix *m, const char *name)
{
    int_tensors_declare(to, m->type, m->D, m->C, m->group, name);
    if (m->type->layout == PACKED_GPTQ) {
        make_gptq(to, m);
        return;
    }
    if (m->type->layout == PACKED_WORDS)
        make_words(to, m);
    else
        make_bytes(to, m);
    memcpy(room(to, ".weight_scale"), m->scale, (size_t)(m->D * (m->C / m->group)) * sizeof *m->scale);
    if (m->type->static_input)
        *(float *)room(to, ".input_scale") = m->input_scale;
}

void int_tensors_release(struct int_tensors *t)
{
    for (int k = 0; k < t->n; k++) {
        free(t->name[k]);
        free(t->bytes[k]);
    }
    *t = (struct int_tensors){0};
}
