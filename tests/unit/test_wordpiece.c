// test_wordpiece.c: BERT's tokenizer, from vocab.txt and from tokenizer.json, against ids by tests/ref/wordpiece_golden.py: accents, CJK,
// emoji, control characters, very long words; decoding.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/text/tokenizer.h"

static char folder[64];

static void put_file(const char *name, const char *text) {
    struct error err;
    char *path = path_join(folder, name);
    cr_assert(file_write(path, text, strlen(text), &err) == 0, "%s", err.text);
    free(path);
}

static char *golden_file(const char *name, size_t *len) {
    struct error err;
    char *path = xasprintf("%s/tests/golden/wordpiece/%s", PDQ_SOURCE_DIR, name), *text;
    cr_assert(file_read(path, &text, len, &err) == 0, "%s", err.text);
    free(path);
    return text;
}

static struct tokenizer *open_words(int lower) {
    struct error err;
    size_t len;
    strcpy(folder, "/tmp/pdq-wordpiece-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    char *vocab = golden_file("vocab.txt", &len);
    put_file("vocab.txt", vocab);
    put_file("tokenizer_config.json", lower ? "{\"tokenizer_class\": \"BertTokenizer\"}" : "{\"do_lower_case\": false}");
    struct tokenizer *t = tokenizer_open(folder, &err);
    cr_assert_not_null(t, "%s", err.text);
    free(vocab);
    return t;
}

static char *unhex(const char *hex, size_t *len) {
    *len = strlen(hex) / 2;
    char *out = xmalloc(*len + 1, "text");
    for (size_t i = 0; i < *len; i++) {
        unsigned byte;
        sscanf(hex + 2 * i, "%2x", &byte);
        out[i] = (char)byte;
    }
    out[*len] = 0;
    return out;
}

static void check_cases(const struct tokenizer *t, const char *kind) {
    struct error err;
    size_t len;
    char *text = golden_file("cases.json", &len);
    struct json *root = json_parse(text, len, "cases.json", 0, &err);
    cr_assert_not_null(root, "%s", err.text);
    int n = 0;
    for (const struct json *c = json_first(json_get(root, "cases")); c; c = json_next(c), n++) {
        size_t bytes;
        char *input = unhex(json_string(json_get(c, "hex")), &bytes);
        struct token_list found = {0};
        tokenizer_encode(t, input, bytes, TOKENIZE_SPECIAL, &found, NULL);
        const struct json *wanted = json_get(c, kind);
        int same = (int64_t)found.count == json_count(wanted);
        size_t i = 0;
        for (const struct json *v = json_first(wanted); v && same; v = json_next(v), i++)
            same = found.id[i] == (int32_t)json_number(v);
        char ids[400] = "";
        for (size_t k = 0; k < found.count && k < 40; k++)
            snprintf(ids + strlen(ids), sizeof ids - strlen(ids), " %d", found.id[k]);
        char *expected = json_text(wanted, 0);
        cr_expect(same, "%s, case %d '%s': found%s, expected %s", kind, n, input, ids, expected);
        free(expected);
        free(input);
        token_list_free(&found);
    }
    cr_assert(n > 25);
    json_free(root);
    free(text);
}

Test(wordpiece, vocab_text_uncased) {
    struct tokenizer *t = open_words(1);
    check_cases(t, "uncased");
    cr_assert(tokenizer_is_numbers(t) == 0 && tokenizer_size(t) > 100);
    tokenizer_free(t);
}

Test(wordpiece, vocab_text_cased) {
    struct tokenizer *t = open_words(0);
    check_cases(t, "cased");
    tokenizer_free(t);
}

// The same tokenizer as transformers' fast one saves it.
Test(wordpiece, tokenizer_json) {
    struct error err;
    size_t len;
    struct tokenizer *words = open_words(1);
    char *vocab = golden_file("vocab.txt", &len), *at = vocab;
    struct json *table = json_object();
    for (int id = 0; *at; id++) {
        char *end = at + strcspn(at, "\n");
        *end = 0;
        json_append(table, at, json_from_number(id));
        at = end + 1;
    }
    char *map = json_text(table, 0);
    char *json = xasprintf(
        "{\"added_tokens\": [{\"id\": 0, \"content\": \"[PAD]\", \"special\": true}, {\"id\": 1, \"content\": \"[UNK]\", \"special\": true},"
        "{\"id\": 2, \"content\": \"[CLS]\", \"special\": true}, {\"id\": 3, \"content\": \"[SEP]\", \"special\": true},"
        "{\"id\": 4, \"content\": \"[MASK]\", \"special\": true}], \"normalizer\": {\"type\": \"BertNormalizer\", \"clean_text\": true,"
        "\"handle_chinese_chars\": true, \"strip_accents\": null, \"lowercase\": true}, \"pre_tokenizer\": {\"type\": \"BertPreTokenizer\"},"
        "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"[CLS]\", \"type_id\": 0}},"
        "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, {\"SpecialToken\": {\"id\": \"[SEP]\", \"type_id\": 0}}], \"special_tokens\": {"
        "\"[CLS]\": {\"id\": \"[CLS]\", \"ids\": [2], \"tokens\": [\"[CLS]\"]}, \"[SEP]\": {\"id\": \"[SEP]\", \"ids\": [3], \"tokens\": [\"[SEP]\"]}}},"
        "\"decoder\": {\"type\": \"WordPiece\", \"prefix\": \"##\", \"cleanup\": true}, \"model\": {\"type\": \"WordPiece\", \"unk_token\": \"[UNK]\","
        "\"continuing_subword_prefix\": \"##\", \"max_input_chars_per_word\": 100, \"vocab\": %s}}", map);
    put_file("tokenizer.json", json);
    struct tokenizer *t = tokenizer_open(folder, &err);
    cr_assert_not_null(t, "%s", err.text);
    check_cases(t, "uncased");
    struct token_list ids = {0};
    tokenizer_encode(t, "The cat, unaffable; don't!", 26, TOKENIZE_SPECIAL, &ids, NULL);
    char *text = tokenizer_decode(t, ids.id, ids.count, NULL);
    cr_expect_str_eq(text, "the cat, unaffable ; don ' t!", "%s", text); // as transformers cleans up: ' t is no contraction of its list
    free(text);
    token_list_free(&ids);
    tokenizer_free(t);
    tokenizer_free(words);
    json_free(table);
    free(map);
    free(json);
    free(vocab);
}

Test(wordpiece, refusals) {
    struct error err;
    strcpy(folder, "/tmp/pdq-wordpiece-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    put_file("vocab.txt", "[PAD]\n[UNK]\n[CLS]\na\n");
    cr_assert(tokenizer_open(folder, &err) == NULL && strstr(err.text, "no line [SEP]"), "%s", err.text);
    put_file("vocab.txt", "[CLS]\n[SEP]\na\n");
    cr_assert(tokenizer_open(folder, &err) == NULL && strstr(err.text, "unk_token '[UNK]' is not in the vocabulary"), "%s", err.text);
}
