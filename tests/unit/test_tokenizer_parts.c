// test_tokenizer_parts.c: the pieces that the tokenizers are made of: UTF-8 and escapes, the byte alphabet, splitting,
// normalizing, and the merging engine against a naive one.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/random.h"
#include "common/text/byte_level.h"
#include "common/text/tokenizer_parts.h"

Test(tokenizer_utf8, valid_and_invalid) {
    static const struct {
        const char *bytes;
        size_t len, valid;
    } cases[] = {
        {"a", 1, 1},
        {"\xC3\xA9", 2, 2},
        {"\xE2\x96\x81", 3, 3},
        {"\xF0\x9F\x99\x82", 4, 4},
        {"\xC0\xAF", 2, 0},
        {"\x80", 1, 0},
        {"\xE2\x96", 2, 0},
        {"\xED\xA0\x80", 3, 0}, // surrogate
        {"\xE0\x80\x80", 3, 0},
        {"\xF5\x80\x80\x80", 4, 0},
        {"\xF4\x90\x80\x80", 4, 0},
        {"\xFF", 1, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t code;
        char back[4];
        size_t n = utf8_decode(cases[i].bytes, cases[i].len, &code);
        cr_expect_eq(n, cases[i].valid, "case %zu", i);
        if (n)
            cr_expect(utf8_put(back, code) == n && memcmp(back, cases[i].bytes, n) == 0, "case %zu", i);
    }
}

Test(tokenizer_utf8, escapes) {
    struct text out = {0};
    int changed;
    cr_expect_eq(utf8_escape("plain \xC3\xA9", 8, &out, &changed), 0);
    cr_expect(!changed);
    cr_expect_eq(utf8_escape("a\xFF\xE2\x96z", 5, &out, &changed), 3);
    cr_expect(changed);
    cr_expect(utf8_valid(out.data, out.len));
    cr_expect_eq(out.len, 2 + 3 * 4);
    // A private-use character of the text's own that looks like an escape is taken apart, and is no invalid byte.
    text_clear(&out);
    cr_expect_eq(utf8_escape("\xF4\x8F\xBA\x85", 4, &out, &changed), 0);
    cr_expect_eq(out.len, 4 * 4);
    text_release(&out);
}

Test(tokenizer_bytes, alphabet) {
    // The well-known ones: space is U+0120, newline U+010A; 0xAD, the soft hyphen, does not print.
    cr_expect_eq(byte_level_code(' '), 0x120);
    cr_expect_eq(byte_level_code('\n'), 0x10A);
    cr_expect_eq(byte_level_code('A'), 'A');
    cr_expect_eq(byte_level_code(0x7F), 0x121);
    cr_expect_eq(byte_level_code(0xAD), 0x143);
    cr_expect_eq(byte_level_code(0xE9), 0xE9);
    int seen[0x200] = {0};
    for (int b = 0; b < 256; b++) {
        struct text code = {0}, back = {0};
        uint32_t c = byte_level_code((unsigned char)b);
        cr_expect_eq(seen[c]++, 0);
        text_append_code(&code, c);
        cr_expect(byte_level_decode(code.data, code.len, &back));
        cr_expect(back.len == 1 && (unsigned char)back.data[0] == b);
        text_release(&code);
        text_release(&back);
    }
}

// --- splitting

struct collected {
    char text[4096];
};

static void collect(void *context, const char *text, size_t len) {
    struct collected *c = context;
    snprintf(c->text + strlen(c->text), sizeof c->text - strlen(c->text), "[%.*s]", (int)len, text);
}

static void expect_split(const struct steps *s, const char *text, const char *expected) {
    struct collected c = {""};
    struct pattern_match *m = pattern_match_new();
    pretokenize_text(s, m, text, strlen(text), 1, collect, &c);
    cr_expect_str_eq(c.text, expected);
    pattern_match_free(m);
}

static void named_rule(const char *name, struct steps *out) {
    struct error err;
    cr_assert(pre_rule_steps(pre_rule_by_name(name), out, &err) == 0, "%s", err.text);
    out->count--; // without the step to bytes, so that the pieces can be read
}

Test(tokenizer_split, published_examples_of_gpt2) {
    struct steps s = {0};
    named_rule("gpt-2", &s);
    expect_split(&s, "Hello've world123 how's are you!!!?", "[Hello]['ve][ world][123][ how]['s][ are][ you][!!!?]");
    expect_split(&s, "Hello world   ", "[Hello][ world][   ]");
    expect_split(&s, "a   b", "[a][  ][ b]");
    expect_split(&s, "x\n\n  y", "[x][\n\n ][ y]");
    expect_split(&s, "I'LL caf\u00e9 \u65e5\u672c", "[I]['][LL][ caf\u00e9][ \u65e5\u672c]");
    s.count++;
    steps_release(&s);
}

Test(tokenizer_split, llama3_qwen2_smollm) {
    struct steps s = {0};
    named_rule("llama-bpe", &s);
    expect_split(&s, "I'LL pay $1234567 (now)\n\n  ok", "[I]['LL][ pay][ $][123][456][7][ (][now][)\n\n][ ][ ok]");
    s.count++;
    steps_release(&s);
    named_rule("qwen2", &s);
    expect_split(&s, "pay 1234 now", "[pay][ ][1][2][3][4][ now]");
    s.count++;
    steps_release(&s);
    named_rule("smollm", &s);
    expect_split(&s, "pay 1234 now", "[pay][ ][1][2][3][4][ now]");
    expect_split(&s, "it's  42", "[it]['s][  ][4][2]");
    s.count++;
    steps_release(&s);
}

Test(tokenizer_split, behaviours) {
    static const struct {
        enum split_behavior behavior;
        int invert;
        const char *expected;
    } cases[] = {
        {SPLIT_REMOVED, 0, "[the][final][countdown]"},
        {SPLIT_ISOLATED, 0, "[the][-][final][-][-][countdown]"},
        {SPLIT_PREVIOUS, 0, "[the-][final-][-][countdown]"},
        {SPLIT_NEXT, 0, "[the][-final][-][-countdown]"},
        {SPLIT_CONTIGUOUS, 0, "[the][-][final][--][countdown]"},
        {SPLIT_REMOVED, 1, "[-][-][-]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct steps s = {0};
        struct step *step = steps_add(&s, STEP_SPLIT);
        step->from = strdup("-");
        step->behavior = cases[i].behavior;
        step->invert = cases[i].invert;
        expect_split(&s, "the-final--countdown", cases[i].expected);
        steps_release(&s);
    }
}

Test(tokenizer_split, metaspace) {
    struct steps s = {0};
    struct step *step = steps_add(&s, STEP_METASPACE);
    step->to = strdup(META);
    step->split = 1;
    step->scheme = PREPEND_ALWAYS;
    expect_split(&s, "Hey my  friend", "[\u2581Hey][\u2581my][\u2581][\u2581friend]");
    expect_split(&s, " Hey", "[\u2581Hey]");
    s.item[0].split = 0;
    s.item[0].scheme = PREPEND_NEVER;
    expect_split(&s, "Hey my", "[Hey\u2581my]");
    steps_release(&s);
}

// --- normalizing

static void expect_normal(enum step_kind kind, const char *text, const char *expected) {
    struct steps s = {0};
    struct text out = {0};
    struct step *step = steps_add(&s, kind);
    step->to = strdup("\u2581");
    step->left = step->right = 1;
    normalize_text(&s, NULL, text, strlen(text), &out);
    cr_expect(out.len == strlen(expected) && memcmp(out.data, expected, out.len) == 0, "step %d on '%s' gave '%.*s'",
              (int)kind, text, (int)out.len, out.data);
    text_release(&out);
    steps_release(&s);
}

Test(tokenizer_normalize, steps) {
    expect_normal(STEP_NFC, "e\u0301\u212b", "\u00e9\u00c5");
    expect_normal(STEP_NFD, "\u00e9", "e\u0301");
    expect_normal(STEP_NFKC, "\ufb01\u2460", "fi1");
    expect_normal(STEP_NFKD, "\ufb01\u00e9", "fie\u0301");
    expect_normal(STEP_LOWERCASE, "ÀB\u0130", "àbi\u0307");
    expect_normal(STEP_TRIM, "\u3000 a b\t\n", "a b");
    expect_normal(STEP_PREPEND, "a", "\u2581a");
    expect_normal(STEP_PREPEND, "", "");
}

// --- merging

// The definition: again and again the best pair, the leftmost of equals.
static void merge_naively(const struct bpe *b, const char *text, struct token_list *out) {
    size_t n = strlen(text);
    int32_t *id = malloc((n + 1) * sizeof *id);
    for (size_t i = 0; i < n; i++)
        id[i] = pieces_find(b->symbols, text + i, 1);
    for (;;) {
        const struct merge *best = NULL;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            const struct merge *m = merge_find(&b->rules, id[i], id[i + 1]);
            if (m && (!best || m->rank < best->rank)) {
                best = m;
                at = i;
            }
        }
        if (!best)
            break;
        id[at] = best->result;
        memmove(id + at + 1, id + at + 2, (n - at - 2) * sizeof *id);
        n--;
    }
    for (size_t i = 0; i < n; i++)
        token_list_push(out, id[i]);
    free(id);
}

static void compare_with_naive(const struct bpe *b, struct random *r) {
    struct bpe_scratch *s = bpe_scratch_new();
    for (int k = 0; k < 200; k++) {
        char text[64] = "";
        int n = (int)random_below(r, 60);
        for (int i = 0; i < n; i++)
            text[i] = (char)('a' + random_below(r, 4));
        struct token_list fast = {0}, naive = {0};
        bpe_encode(b, s, text, strlen(text), &fast);
        merge_naively(b, text, &naive);
        cr_expect(fast.count == naive.count &&
                      (fast.count == 0 || memcmp(fast.id, naive.id, fast.count * sizeof *fast.id) == 0),
                  "text %s", text);
        token_list_free(&fast);
        token_list_free(&naive);
    }
    bpe_scratch_free(s);
}

static int32_t find_or_put(struct pieces *p, const char *text) {
    int32_t id = pieces_find(p, text, strlen(text));
    if (id < 0)
        pieces_put(p, id = p->count, text, strlen(text));
    return id;
}

// Random vocabularies: each piece joins two earlier ones, some of them several times.
Test(tokenizer_merge, ranks_as_the_definition) {
    struct random r;
    random_init(&r, 7, "merge", 0);
    for (int round = 0; round < 20; round++) {
        struct pieces p = {0};
        struct merge_rule rule[40];
        for (char c = 'a'; c <= 'd'; c++)
            find_or_put(&p, (char[]){c, 0});
        for (int k = 0; k < 40; k++) {
            char joined[64];
            int32_t left, right;
            do {
                left = (int32_t)random_below(&r, p.count);
                right = (int32_t)random_below(&r, p.count);
            } while (p.len[left] + p.len[right] > 12);
            snprintf(joined, sizeof joined, "%s%s", p.text[left], p.text[right]);
            rule[k] = (struct merge_rule){left, right, find_or_put(&p, joined)};
        }
        struct bpe b = {.symbols = &p, .size = p.count, .unk = -1};
        bpe_finish_ranks(&b, rule, 40);
        compare_with_naive(&b, &r);
        bpe_release(&b);
        pieces_release(&p);
    }
}

Test(tokenizer_merge, scores_as_the_definition) {
    struct random r;
    random_init(&r, 8, "merge", 0);
    for (int round = 0; round < 20; round++) {
        struct pieces p = {0};
        for (char c = 'a'; c <= 'd'; c++)
            find_or_put(&p, (char[]){c, 0});
        for (int k = 0; k < 40; k++) {
            char text[8] = "";
            int n = 2 + (int)random_below(&r, 4);
            for (int i = 0; i < n; i++)
                text[i] = (char)('a' + random_below(&r, 4));
            find_or_put(&p, text);
        }
        float score[64];
        uint8_t all[64];
        for (int i = 0; i < 64; i++) {
            score[i] = -(float)random_below(&r, 20); // some are equal
            all[i] = 1;
        }
        struct bpe b = {.symbols = &p, .size = p.count, .unk = -1};
        bpe_finish_scores(&b, score, all);
        compare_with_naive(&b, &r);
        bpe_release(&b);
        pieces_release(&p);
    }
}

Test(tokenizer_merge, names_of_pre_tokenizers) {
    static const char *const names[] = {"gpt-2", "smollm", "llama-bpe", "smaug-bpe", "qwen2", "deepseek-coder"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct steps s = {0};
        struct error err;
        const struct pre_rule *rule = pre_rule_by_name(names[i]);
        cr_assert_eq(pre_rule_steps(rule, &s, &err), 0);
        cr_expect_eq(pre_rule_by_steps(&s, rule->ignore_merges), rule);
        s.item[0].behavior = SPLIT_REMOVED;
        cr_expect_null(pre_rule_by_steps(&s, rule->ignore_merges));
        steps_release(&s);
    }
    cr_expect_null(pre_rule_by_name("no-such-name"));
}
