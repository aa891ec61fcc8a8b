// pre_names.c: the pre-tokenizers that llama.cpp (February 2025) knows by name, as lists of regular expressions.
//
// llama.cpp holds no regular expression in its files, only a name (tokenizer.ggml.pre), so a tokenizer.json can go
// into GGUF only when its pre-tokenizer is one of these. The expressions are written as tokenizer.json has them;
// each is applied to what the one before left, matches and gaps alike. To add one: its expressions and a row.
#include <stdlib.h>
#include <string.h>

#include "common/text/tokenizer_parts.h"

const char gpt2_regex[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
static const char llama3_regex[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
                                   "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char qwen2_regex[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
                                  "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

static const char *const gpt2[] = {gpt2_regex, NULL};
static const char *const smollm[] = {"\\p{N}", gpt2_regex, NULL};
static const char *const llama3[] = {llama3_regex, NULL};
static const char *const qwen2[] = {qwen2_regex, NULL};
static const char *const deepseek_coder[] = {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[一-龥ࠀ-一가-퟿]+",
                                             "\\p{N}", NULL};
static const char *const fallback[] = {"[\\p{P}\\$\\+<=>\\^~\\|]+", gpt2_regex, "\\p{N}+", "[0-9][0-9][0-9]", NULL};

// Of several names for one rule the first is written.
static const struct pre_rule table[] = {
    {"gpt-2", gpt2, 0, 0},
    {"smollm", smollm, 0, 0},
    {"llama-bpe", llama3, 1, 1},
    {"smaug-bpe", llama3, 0, 0},
    {"qwen2", qwen2, 0, 0},
    {"deepseek-coder", deepseek_coder, 0, 0},
    {"mpt", gpt2, 0, 0},
    {"olmo", gpt2, 0, 0},
    {"jais", gpt2, 0, 0},
    {"phi-2", gpt2, 0, 0},
    {"gigachat", gpt2, 0, 0},
    {"roberta-bpe", gpt2, 0, 0},
    {"starcoder", smollm, 0, 0},
    {"refact", smollm, 0, 0},
    {"command-r", smollm, 0, 0},
    {"codeshell", smollm, 0, 0},
    {"exaone", smollm, 0, 0},
    {"minerva-7b", smollm, 0, 0},
    {"llama3", llama3, 1, 1},
    {"llama-v3", llama3, 1, 1},
    {"falcon3", llama3, 1, 1},
    {"dbrx", llama3, 0, 0},
    {"chatglm-bpe", llama3, 0, 0},
    {"stablelm2", qwen2, 0, 0},
    {"deepseek-r1-qwen", qwen2, 0, 0},
    {"megrez", qwen2, 0, 0},
    {"default", fallback, 0, 0},
};

const struct pre_rule *pre_rule_by_name(const char *name) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (strcmp(table[i].name, name) == 0)
            return &table[i];
    }
    return NULL;
}

static int same_steps(const struct pre_rule *r, const struct steps *s) {
    int i = 0;
    for (; i < s->count && s->item[i].kind == STEP_SPLIT; i++) {
        const struct step *step = &s->item[i];
        if (!r->regex[i] || !step->pattern || step->behavior != SPLIT_ISOLATED || step->invert ||
            strcmp(r->regex[i], step->from) != 0)
            return 0;
    }
    return !r->regex[i] && i == s->count - 1 && s->item[i].kind == STEP_BYTES;
}

const struct pre_rule *pre_rule_by_steps(const struct steps *s, int ignore_merges) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (table[i].ignore_merges == ignore_merges && same_steps(&table[i], s))
            return &table[i];
    }
    return NULL;
}

void steps_add_split(struct steps *s, const char *regex, struct pattern *pattern) {
    struct step *step = steps_add(s, STEP_SPLIT);
    step->from = xstrdup(regex);
    step->pattern = pattern;
    step->behavior = SPLIT_ISOLATED;
}

int pre_rule_steps(const struct pre_rule *r, struct steps *out, struct error *err) {
    for (const char *const *regex = r->regex; *regex; regex++) {
        struct pattern *p = pattern_new(*regex, r->name, err);
        if (!p)
            return -1;
        steps_add_split(out, *regex, p);
    }
    steps_add(out, STEP_BYTES);
    return 0;
}
