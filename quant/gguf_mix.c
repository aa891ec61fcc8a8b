// gguf_mix.c: which type each matrix gets. The choices are those of llama-quantize (February 2025), so that files of one
// name can be compared.
//
// To add a mix: one row in `mixes`, its name in GGUF_TYPES, and rows in `rules` for the matrices that get another type.
#include "quant/gguf_mix.h"

#include <string.h>
#include <strings.h>

#include "common/base/options.h"

static const struct gguf_mix mixes[] = {
    {"F32", NULL, 0, "F32"},       {"F16", NULL, 1, "F16"},         {"BF16", NULL, 32, "BF16"},
    {"Q8_0", NULL, 7, "Q8_0"},     {"Q4_0", NULL, 2, "Q4_0"},       {"Q4_1", NULL, 3, "Q4_1"},
    {"Q5_0", NULL, 8, "Q5_0"},     {"Q5_1", NULL, 9, "Q5_1"},       {"Q2_K", NULL, 10, "Q2_K"},
    {"Q3_K_S", NULL, 11, "Q3_K"},  {"Q3_K", "Q3_K_M", 12, "Q3_K"},  {"Q3_K_L", NULL, 13, "Q3_K"},
    {"Q4_K_S", NULL, 14, "Q4_K"},  {"Q4_K", "Q4_K_M", 15, "Q4_K"},  {"Q5_K_S", NULL, 16, "Q5_K"},
    {"Q5_K", "Q5_K_M", 17, "Q5_K"}, {"Q6_K", NULL, 18, "Q6_K"},     {"IQ4_NL", NULL, 25, "IQ4_NL"},
    {"IQ4_XS", NULL, 30, "IQ4_XS"},
};
#define N_MIXES (sizeof mixes / sizeof *mixes)

// Which layers, counted among those that have the matrix.
enum layers {
    EVERY,
    FIRST_2,
    FIRST_4,
    FIRST_8TH,
    FIRST_16TH,
    MORE_BITS, // the first and the last eighth, and every third between
    SHARED_4,  // every one, where four query heads or more share a key and value head
};

// The first row that fits a matrix decides; without one it gets the base.
static const struct rule {
    const char *mix, *matrix;
    enum layers layers;
    const char *type;
} rules[] = {
    {"Q2_K", "attn_v", SHARED_4, "Q4_K"},
    {"Q2_K", "attn_v", EVERY, "Q3_K"},
    {"Q2_K", "ffn_down", EVERY, "Q3_K"},
    {"Q2_K", "attn_output", EVERY, "Q3_K"},
    {"Q3_K", "attn_v", FIRST_2, "Q5_K"},
    {"Q3_K", "attn_v", EVERY, "Q4_K"},
    {"Q3_K", "ffn_down", FIRST_16TH, "Q5_K"},
    {"Q3_K", "ffn_down", EVERY, "Q4_K"},
    {"Q3_K", "attn_output", EVERY, "Q4_K"},
    {"Q3_K", "attn_qkv", EVERY, "Q4_K"},
    {"Q3_K_L", "attn_v", EVERY, "Q5_K"},
    {"Q3_K_L", "ffn_down", EVERY, "Q5_K"},
    {"Q3_K_L", "attn_output", EVERY, "Q5_K"},
    {"Q3_K_L", "attn_qkv", EVERY, "Q4_K"},
    {"Q4_K_S", "attn_v", FIRST_4, "Q5_K"},
    {"Q4_K_S", "ffn_down", FIRST_8TH, "Q5_K"},
    {"Q4_K", "attn_v", MORE_BITS, "Q6_K"},
    {"Q4_K", "ffn_down", MORE_BITS, "Q6_K"},
    {"Q4_K", "attn_qkv", EVERY, "Q5_K"},
    {"Q5_K", "attn_v", MORE_BITS, "Q6_K"},
    {"Q5_K", "ffn_down", MORE_BITS, "Q6_K"},
    {"Q5_K", "attn_qkv", EVERY, "Q6_K"},
    {"IQ4_NL", "attn_v", SHARED_4, "Q5_K"},
    {"IQ4_NL", "ffn_down", FIRST_8TH, "Q5_K"},
    {"IQ4_XS", "attn_v", SHARED_4, "Q5_K"},
    {"IQ4_XS", "ffn_down", FIRST_8TH, "Q5_K"},
};

// The next better type in blocks of 32.
static const struct {
    const char *wanted, *instead;
} fallbacks[] = {
    {"Q2_K", "IQ4_NL"}, {"Q3_K", "IQ4_NL"}, {"IQ4_XS", "IQ4_NL"},
    {"Q4_K", "Q5_0"},   {"Q5_K", "Q5_1"},   {"Q6_K", "Q8_0"},
};

const struct gguf_mix *gguf_mix_find(const char *name)
{
    for (size_t i = 0; i < N_MIXES; i++)
        if (strcasecmp(mixes[i].name, name) == 0 || (mixes[i].alias && strcasecmp(mixes[i].alias, name) == 0))
            return &mixes[i];
    return NULL;
}

const struct gguf_mix *gguf_mix_nearest(const char *wrong)
{
    const char *names[N_MIXES + 1] = {NULL};
    for (size_t i = 0; i < N_MIXES; i++)
        names[i] = mixes[i].name;
    const char *near = nearest_name(wrong, names);
    return near ? gguf_mix_find(near) : NULL;
}

int64_t gguf_mix_block(const struct gguf_mix *mix) { return block_format_find(mix->base)->elements; }

static int layers_include(enum layers layers, int64_t i, int64_t n, int64_t queries_per_key)
{
    switch (layers) {
    case EVERY: return 1;
    case FIRST_2: return i < 2;
    case FIRST_4: return i < 4;
    case FIRST_8TH: return i < n / 8;
    case FIRST_16TH: return i < n / 16;
    case MORE_BITS: return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
    case SHARED_4: return queries_per_key >= 4;
    }
    return 0;
}

// "blk.3.attn_v.weight" has the matrix "attn_v".
static int is_matrix(const char *name, const char *matrix)
{
    const char *at = strstr(name, matrix);
    return at && strcmp(at + strlen(matrix), ".weight") == 0;
}

static const char *rule_type(const struct gguf_mix *mix, const struct gguf_place *p)
{
    const int attention = is_matrix(p->name, "attn_v") || is_matrix(p->name, "attn_qkv");
    const int64_t i = attention ? p->attention_rank : p->layer, n = attention ? p->n_attention : p->n_layer;
    for (size_t k = 0; k < sizeof rules / sizeof *rules; k++)
        if (strcmp(rules[k].mix, mix->name) == 0 && is_matrix(p->name, rules[k].matrix) &&
            layers_include(rules[k].layers, i, n, p->queries_per_key))
            return rules[k].type;
    return mix->base;
}

const struct block_format *gguf_mix_format(const struct gguf_mix *mix, const struct gguf_place *p)
{
    const struct block_format *base = block_format_find(mix->base), *head = block_format_find("Q6_K");
    if (p->is_head && base->elements > 1 && strcmp(base->name, "Q8_0") != 0)
        // In a mix of blocks of 32 the better head is an extra: short rows take the next type that fits, which is no fall-back.
        return base->elements < head->elements && p->columns % head->elements ? block_format_find("Q8_0") : head;
    const char *type = rule_type(mix, p);
    // The value matrices of 80 layers with grouped heads (Llama 2 70B) are an eighth of the others, and worth more.
    if (p->n_layer == 80 && p->queries_per_key > 1 && is_matrix(p->name, "attn_v") &&
        (strcmp(type, "Q3_K") == 0 || strcmp(type, "Q4_K") == 0))
        type = "Q5_K";
    return block_format_find(type);
}

const struct block_format *gguf_mix_fitting(const struct block_format *wanted, int64_t columns)
{
    if (columns % wanted->elements == 0)
        return wanted;
    for (size_t i = 0; i < sizeof fallbacks / sizeof *fallbacks; i++)
        if (strcmp(fallbacks[i].wanted, wanted->name) == 0 && columns % block_format_find(fallbacks[i].instead)->elements == 0)
            return block_format_find(fallbacks[i].instead);
    return block_format_find("F16");
}
