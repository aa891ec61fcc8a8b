// test_tokenizer.c: whole tokenizers: tokenizer.json, tokenizer.model and GGUF's arrays against known ids and against
// each other, and what is refused. The golden ids are those that spm_encode 0.1.97 gives for the golden lines.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "common/text/byte_level.h"
#include "common/text/tokenizer.h"
#include "tests/unit/shared_path.h"

static struct tokenizer *open_or_fail(const char *folder) {
    struct error err;
    struct tokenizer *t = tokenizer_open(folder, &err);
    cr_assert_not_null(t, "%s", err.text);
    return t;
}

static struct token_list encode(const struct tokenizer *t, const char *text, size_t len, int flags) {
    struct token_list l = {0};
    tokenizer_encode(t, text, len, flags, &l, NULL);
    return l;
}

// Ids as "1 22 333".
static char *id_text(const struct token_list *l) {
    char *out = calloc(l->count + 1, 12);
    size_t at = 0;
    for (size_t i = 0; i < l->count; i++)
        at += (size_t)sprintf(out + at, "%s%d", i ? " " : "", l->id[i]);
    return out;
}

static void expect_ids(const struct tokenizer *t, const char *text, int flags, const char *expected) {
    struct token_list l = encode(t, text, strlen(text), flags);
    char *found = id_text(&l);
    cr_expect_str_eq(found, expected, "'%s' gave %s; expected %s", text, found, expected);
    free(found);
    token_list_free(&l);
}

// The pieces of a text, joined by '|'.
static void expect_pieces(const struct tokenizer *t, const char *text, int flags, const char *expected) {
    struct token_list l = encode(t, text, strlen(text), flags);
    char found[4096] = "";
    for (size_t i = 0; i < l.count; i++)
        snprintf(found + strlen(found), sizeof found - strlen(found), "%s%s", i ? "|" : "",
                 tokenizer_id_to_token(t, l.id[i]));
    cr_expect_str_eq(found, expected, "'%s' gave %s; expected %s", text, found, expected);
    token_list_free(&l);
}

static void expect_same(const struct tokenizer *a, const struct tokenizer *b, const char *text, size_t len,
                        int flags) {
    struct token_list x = encode(a, text, len, flags), y = encode(b, text, len, flags);
    cr_expect(x.count == y.count && (x.count == 0 || memcmp(x.id, y.id, x.count * sizeof *x.id) == 0),
              "%zu and %zu ids for '%.60s'", x.count, y.count, text);
    token_list_free(&x);
    token_list_free(&y);
}

// --- scratch folders with a tokenizer.json of ours

static char folder[] = "/tmp/pdq-tokenizer-XXXXXX";

static void make_folder(void) {
    log_level = LOG_QUIET;
    strcpy(folder + strlen(folder) - 6, "XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static void remove_folder(void) {
    struct error err;
    cr_expect_eq(directory_remove(folder, &err), 0);
}

TestSuite(tokenizer, .init = make_folder, .fini = remove_folder);

static void write_file(const char *name, const char *data, size_t len) {
    struct error err;
    char *path = path_join(folder, name);
    cr_assert(file_write(path, data, len, &err) == 0, "%s", err.text);
    free(path);
}

static const char split_llama3[] =
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
    "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+"
    "[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false},"
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}]}";
static const char byte_level[] = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}";
static const char digits_then_bytes[] =
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true},"
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}]}";

static void append(struct text *s, const char *more) { text_append(s, more, strlen(more)); }

// A byte-level tokenizer: ids 0..255 are the bytes, then the merges below, then BOS 272 and what `added` lists.
static void write_byte_level(const char *normalizer, const char *pre, const char *extra, const char *added) {
    static const char *const merges[] = {"h e", "l l",        "he ll",        "hell o",       "\u0120 w",
                                         "o r", "\u0120w or", "l d",          "\u0120wor ld", "\u0120 \u0120",
                                         "1 2", "12 3",       "\u00c3 \u00a9"};
    struct text s = {0};
    char line[512];
    append(&s, "{\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (int b = 0; b < 256; b++) {
        char code[5] = "";
        utf8_put(code, byte_level_code((unsigned char)b));
        snprintf(line, sizeof line, "%s\"%s%s\":%d", b ? "," : "", *code == '"' || *code == '\\' ? "\\" : "", code,
                 b);
        append(&s, line);
    }
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) {
        const char *space = strchr(merges[i], ' ');
        snprintf(line, sizeof line, ",\"%.*s%s\":%zu", (int)(space - merges[i]), merges[i], space + 1, 256 + i);
        append(&s, line);
    }
    append(&s, ",\"whole\":269,\"\u0120whole\":270},\"merges\":[");
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) { // both ways of writing a merge
        const char *space = strchr(merges[i], ' ');
        if (i % 2)
            snprintf(line, sizeof line, ",\"%s\"", merges[i]);
        else
            snprintf(line, sizeof line, "%s[\"%.*s\",\"%s\"]", i ? "," : "", (int)(space - merges[i]), merges[i],
                     space + 1);
        append(&s, line);
    }
    char *rest = xasprintf(
        "]%s},\"added_tokens\":[{\"id\":272,\"content\":\"<|begin|>\",\"special\":true,\"normalized\":false}%s],"
        "\"normalizer\":%s,\"pre_tokenizer\":%s,\"decoder\":{\"type\":\"ByteLevel\"},"
        "\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},{\"type\":"
        "\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<|begin|>\",\"type_id\":0}},"
        "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{\"<|begin|>\":{\"ids\":[272]}}}]}}",
        extra, added, normalizer, pre);
    append(&s, rest);
    free(rest);
    write_file("tokenizer.json", s.data, s.len);
    text_release(&s);
}

// --- reference

Test(tokenizer, reference_ids) {
    const char *path = shared_path("reference/llama_nll.json");
    if (!path)
        cr_skip("shared/reference is absent");
    struct error err;
    struct json *root = json_read(path, &err);
    cr_assert_not_null(root, "%s", err.text);
    int checked = 0;
    for (struct json *model = json_first(json_get(root, "models")); model; model = json_next(model)) {
        char relative[256];
        snprintf(relative, sizeof relative, "models/%s", json_key(model));
        struct tokenizer *t = open_or_fail(shared_path(relative));
        cr_expect_eq(tokenizer_bos(t), 1);
        cr_expect(tokenizer_adds_bos(t));
        for (struct json *item = json_first(model); item; item = json_next(item)) {
            const char *text = json_string(json_get(item, "text"));
            struct token_list l = encode(t, text, strlen(text), TOKENIZE_SPECIAL);
            struct json *ids = json_get(item, "ids");
            size_t i = 0;
            for (struct json *id = json_first(ids); id; id = json_next(id), i++)
                cr_assert(i < l.count && l.id[i] == (int32_t)json_number(id), "%s, id %zu", relative, i);
            cr_expect(i == l.count || i == 256);
            size_t len;
            char *back = tokenizer_decode(t, l.id, l.count, &len);
            cr_expect_str_eq(back, text);
            free(back);
            token_list_free(&l);
            checked++;
        }
        tokenizer_free(t);
    }
    cr_expect_eq(checked, 16);
    json_free(root);
}

Test(tokenizer, reference_through_gguf_arrays) {
    static const char *const models[] = {"models/tinystories-656k", "models/stories260k"};
    const char *text_path = shared_path("data/tinystories/tinystories_sample_2MB.txt");
    if (!text_path || !shared_path(models[0]))
        cr_skip("shared/models is absent");
    struct error err;
    char *text;
    size_t len;
    cr_assert_eq(file_read(text_path, &text, &len, &err), 0);
    for (int i = 0; i < 2; i++) {
        struct tokenizer *t = open_or_fail(shared_path(models[i]));
        struct vocab v;
        cr_assert(tokenizer_to_vocab(t, 0, &v, &err) == 0, "%s", err.text);
        cr_expect_str_eq(v.model, "llama");
        cr_expect(v.size == tokenizer_size(t) && v.add_space_prefix == 1 && v.add_bos == 1 && v.add_eos == 0);
        cr_expect(v.bos == 1 && v.eos == 2 && v.unk == 0);
        cr_expect(v.type[0] == TOKEN_UNKNOWN && v.type[1] == TOKEN_CONTROL && v.type[300] == TOKEN_NORMAL);
        struct tokenizer *back = tokenizer_from_vocab(&v, &err);
        cr_assert_not_null(back, "%s", err.text);
        expect_same(t, back, text, 300000, TOKENIZE_SPECIAL);
        vocab_release(&v);
        tokenizer_free(t);
        tokenizer_free(back);
    }
    free(text);
}

// --- SentencePiece

static void expect_golden(const struct tokenizer *t, const char *name) {
    struct error err;
    char *lines, *ids, path[4096];
    size_t len;
    snprintf(path, sizeof path, "%s/tests/golden/%s/lines.txt", PDQ_SOURCE_DIR, name);
    cr_assert(file_read(path, &lines, &len, &err) == 0, "%s", err.text);
    snprintf(path, sizeof path, "%s/tests/golden/%s/ids.txt", PDQ_SOURCE_DIR, name);
    cr_assert(file_read(path, &ids, &len, &err) == 0, "%s", err.text);
    char *line = lines, *want = ids;
    int n = 0;
    for (char *end, *want_end; (end = strchr(line, '\n')); line = end + 1, want = want_end + 1, n++) {
        want_end = strchr(want, '\n');
        cr_assert_not_null(want_end);
        *end = *want_end = 0;
        expect_ids(t, line, TOKENIZE_LITERAL, want);
    }
    cr_expect_eq(n, 10);
    free(lines);
    free(ids);
}

Test(tokenizer, sentencepiece_ids) {
    static const char *const names[] = {"tokenizer_plain", "tokenizer_charsmap"};
    for (int i = 0; i < 2; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/tests/golden/%s", PDQ_SOURCE_DIR, names[i]);
        struct tokenizer *t = open_or_fail(path);
        expect_golden(t, names[i]);
        cr_expect(tokenizer_bos(t) == 1 && tokenizer_eos(t) == 2 && tokenizer_adds_bos(t) && !tokenizer_adds_eos(t));
        tokenizer_free(t);
    }
}

Test(tokenizer, sentencepiece_to_json_and_gguf_and_back) {
    struct error err;
    struct vocab v;
    struct tokenizer *t = open_or_fail(PDQ_SOURCE_DIR "/tests/golden/tokenizer_plain");
    char *path = path_join(folder, "tokenizer.json");
    cr_assert(tokenizer_write_json(t, path, &err) == 0, "%s", err.text);
    free(path);
    path = path_join(folder, "tokenizer_config.json");
    cr_assert(tokenizer_write_config(t, path, &err) == 0, "%s", err.text);
    free(path);
    struct tokenizer *json = open_or_fail(folder);
    expect_golden(json, "tokenizer_plain");
    cr_expect(tokenizer_bos(json) == 1 && tokenizer_eos(json) == 2 && tokenizer_adds_bos(json));
    expect_ids(json, "a<s>", TOKENIZE_SPECIAL, "1 361 1"); // by name only in tokenizer.json

    cr_assert(tokenizer_to_vocab(json, 500, &v, &err) == 0, "%s", err.text);
    cr_expect(v.size == 500 && v.type[499] == TOKEN_UNUSED);
    cr_expect_str_eq(v.token[499], "[PAD499]");
    cr_expect_eq(v.type[3], TOKEN_BYTE);
    struct tokenizer *from_json = tokenizer_from_vocab(&v, &err);
    cr_assert_not_null(from_json);
    vocab_release(&v);
    cr_assert(tokenizer_to_vocab(t, 0, &v, &err) == 0, "%s", err.text);
    struct tokenizer *from_model = tokenizer_from_vocab(&v, &err);
    cr_assert_not_null(from_model);
    vocab_release(&v);
    expect_golden(from_json, "tokenizer_plain");
    expect_golden(from_model, "tokenizer_plain");

    cr_expect_eq(tokenizer_to_vocab(t, 10, &v, &err), -1);
    cr_expect(strstr(err.text, "embedding 10 rows"), "%s", err.text);
    tokenizer_free(t);
    tokenizer_free(json);
    tokenizer_free(from_json);
    tokenizer_free(from_model);
}

Test(tokenizer, own_normalizer_is_refused_for_gguf_with_the_reason) {
    struct error err;
    struct vocab v;
    struct tokenizer *t = open_or_fail(PDQ_SOURCE_DIR "/tests/golden/tokenizer_charsmap");
    cr_expect_eq(tokenizer_to_vocab(t, 0, &v, &err), -1);
    cr_expect(strstr(err.text, "a normalizer of its own"), "%s", err.text);
    char *path = path_join(folder, "tokenizer.json");
    cr_expect_eq(tokenizer_write_json(t, path, &err), -1);
    cr_expect(strstr(err.text, "a normalizer of its own"), "%s", err.text);
    cr_expect(!file_exists(path));
    free(path);
    tokenizer_free(t);
}

Test(tokenizer, sentencepiece_config) {
    char *data;
    size_t len;
    struct error err;
    cr_assert_eq(file_read(PDQ_SOURCE_DIR "/tests/golden/tokenizer_plain/tokenizer.model", &data, &len, &err), 0);
    write_file("tokenizer.model", data, len);
    free(data);
    static const char config[] =
        "{\"add_bos_token\":false,\"add_eos_token\":true,\"added_tokens_decoder\":{\"1\":"
        "{\"content\":\"<s>\",\"special\":true},\"450\":{\"content\":\"<|x|>\",\"special\":true}}}";
    write_file("tokenizer_config.json", config, strlen(config));
    struct tokenizer *t = open_or_fail(folder);
    cr_expect_eq(tokenizer_size(t), 451);
    cr_expect(!tokenizer_adds_bos(t) && tokenizer_adds_eos(t));
    expect_ids(t, "a<|x|>", TOKENIZE_SPECIAL, "361 450 2");
    tokenizer_free(t);
}

Test(tokenizer, invalid_bytes_are_byte_tokens_and_counted) {
    struct tokenizer *t = open_or_fail(PDQ_SOURCE_DIR "/tests/golden/tokenizer_plain");
    struct token_list l = {0};
    int64_t invalid = 5;
    tokenizer_encode(t, "a\xFF\xE2\x96", 4, 0, &l, &invalid);
    cr_expect_eq(invalid, 8);
    cr_assert(l.count == 4 && l.id[1] == 3 + 0xFF && l.id[2] == 3 + 0xE2 && l.id[3] == 3 + 0x96);
    size_t len;
    char *back = tokenizer_decode(t, l.id, l.count, &len);
    cr_expect(len == 4 && memcmp(back, "a\xFF\xE2\x96", 4) == 0);
    free(back);
    token_list_free(&l);
    tokenizer_free(t);
}

// --- byte-level

Test(tokenizer, byte_level_ids) {
    write_byte_level("{\"type\":\"NFC\"}", split_llama3, "", "");
    struct tokenizer *t = open_or_fail(folder);
    expect_ids(t, "hello world", TOKENIZE_SPECIAL, "272 259 264");
    expect_ids(t, "hello  world", 0, "259 32 264");
    expect_ids(t, "12345", 0, "267 52 53");
    expect_ids(t, "e\u0301", 0, "268"); // composed first
    expect_ids(t, "<|begin|>hello", 0, "272 259");
    expect_pieces(t, "<|begin|>", TOKENIZE_LITERAL, "<|||b|e|g|i|n|||>");
    expect_ids(t, "\xFF", 0, "255");
    expect_ids(t, "", TOKENIZE_SPECIAL, "272");
    expect_pieces(t, "whole", 0, "w|h|o|l|e"); // no merge makes it
    cr_expect_eq(tokenizer_token_to_id(t, "hello"), 259);
    cr_expect_eq(tokenizer_token_to_id(t, "no such token"), -1);
    cr_expect_null(tokenizer_id_to_token(t, 271)); // a gap
    cr_expect_eq(tokenizer_size(t), 273);
    tokenizer_free(t);

    write_byte_level("null", split_llama3, ",\"ignore_merges\":true", "");
    t = open_or_fail(folder);
    expect_ids(t, "whole whole", 0, "269 270");
    tokenizer_free(t);
    write_byte_level("null", "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"use_regex\":true}", "", "");
    t = open_or_fail(folder);
    expect_ids(t, "world", 0, "264");
    tokenizer_free(t);
}

Test(tokenizer, any_bytes_come_back) {
    write_byte_level("null", split_llama3, "", "");
    struct tokenizer *t = open_or_fail(folder);
    struct random r;
    random_init(&r, 3, "bytes", 0);
    for (int k = 0; k < 300; k++) {
        char data[100], joined[400] = "";
        size_t n = (size_t)random_below(&r, 100), len, at = 0;
        for (size_t i = 0; i < n; i++)
            data[i] = (char)(random_below(&r, 4) ? random_below(&r, 256) : " 1a\n"[random_below(&r, 4)]);
        struct token_list l = encode(t, data, n, 0);
        char *back = tokenizer_decode(t, l.id, l.count, &len);
        cr_expect(len == n && memcmp(back, data, n) == 0);
        free(back);
        for (size_t i = 0; i < l.count; i++) { // and one by one
            back = tokenizer_decode_next(t, l.id[i], &len);
            memcpy(joined + at, back, len);
            at += len;
            free(back);
        }
        cr_expect(at == n && memcmp(joined, data, n) == 0);
        token_list_free(&l);
    }
    tokenizer_free(t);
}

Test(tokenizer, pre_tokenizers_recognised_for_gguf) {
    static const struct {
        const char *pre, *extra, *name;
    } cases[] = {{byte_level, "", "gpt-2"},
                 {digits_then_bytes, "", "smollm"},
                 {split_llama3, ",\"ignore_merges\":true", "llama-bpe"},
                 {split_llama3, "", "smaug-bpe"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err;
        struct vocab v;
        write_byte_level("null", cases[i].pre, cases[i].extra,
                         ",{\"id\":273,\"content\":\"<my tool>\",\"special\":false,\"normalized\":false}");
        struct tokenizer *t = open_or_fail(folder);
        cr_assert(tokenizer_to_vocab(t, 0, &v, &err) == 0, "%s", err.text);
        cr_expect_str_eq(v.model, "gpt2");
        cr_expect_str_eq(v.pre, cases[i].name);
        cr_expect(v.n_merges == 13 && strcmp(v.merge[3], "hell o") == 0);
        cr_expect(v.type[272] == TOKEN_CONTROL && v.type[273] == TOKEN_USER_DEFINED && v.type[271] == TOKEN_UNUSED);
        struct tokenizer *back = tokenizer_from_vocab(&v, &err);
        cr_assert_not_null(back, "%s", err.text);
        static const char text[] = "hello  world <my tool> it's 12345 whole\n\n\xFF caf\u00e9 <|begin|>";
        expect_same(t, back, text, strlen(text), TOKENIZE_SPECIAL);
        expect_same(t, back, text, strlen(text), TOKENIZE_LITERAL);
        struct token_list l = encode(back, text, strlen(text), TOKENIZE_LITERAL);
        size_t len;
        char *decoded = tokenizer_decode(back, l.id, l.count, &len);
        cr_expect(len == strlen(text) && memcmp(decoded, text, len) == 0);
        free(decoded);
        token_list_free(&l);
        vocab_release(&v);
        tokenizer_free(t);
        tokenizer_free(back);
    }
}

static void expect_no_gguf(const char *reason) {
    struct error err;
    struct vocab v;
    struct tokenizer *t = open_or_fail(folder);
    cr_expect_eq(tokenizer_to_vocab(t, 0, &v, &err), -1);
    cr_expect(strstr(err.text, reason), "%s", err.text);
    tokenizer_free(t);
}

Test(tokenizer, not_for_gguf) {
    write_byte_level(
        "null",
        "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a-z]+\"},"
        "\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\",\"use_regex\":false,\"add_prefix_space\":false}]}",
        "", "");
    expect_no_gguf("no name for its pre-tokenizer");
    write_byte_level("{\"type\":\"NFKC\"}", byte_level, "", "");
    expect_no_gguf("a normalizer other than NFC");
}

// --- tokenizer.json in SentencePiece's manner

// Vocabulary: <unk> 0, U+2581 1, a b c d 2..5, ab 6, cd 7, U+2581 a 8, abcd 9, [X] 10.
static void write_small(const char *normalizer, const char *pre, const char *merges, const char *extra) {
    char *s = xasprintf(
        "{\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true,\"normalized\":false},%s],"
        "\"normalizer\":%s,\"pre_tokenizer\":%s,\"decoder\":{\"type\":\"Metaspace\"},\"model\":{\"type\":\"BPE\","
        "\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"vocab\":{\"<unk>\":0,\"\u2581\":1,\"a\":2,\"b\":3,\"c\":4,"
        "\"d\":5,\"ab\":6,\"cd\":7,\"\u2581a\":8,\"abcd\":9},\"merges\":%s}}",
        extra, normalizer, pre, merges);
    write_file("tokenizer.json", s, strlen(s));
    free(s);
}

static const char prepend_replace[] =
    "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\u2581\"},"
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\u2581\"}]}";
static const char small_merges[] = "[\"a b\",\"c d\",\"\u2581 a\",\"ab cd\"]";
static const char plain_x[] = "{\"id\":10,\"content\":\"[X]\",\"special\":false,\"normalized\":false}";

Test(tokenizer, llama_normalizers_and_metaspace) {
    write_small(prepend_replace, "null", small_merges, plain_x);
    struct tokenizer *t = open_or_fail(folder);
    expect_ids(t, "abcd a", 0, "1 9 8");
    expect_ids(t, "a?!a", 0, "8 0 2");         // unknowns in a row are one
    expect_ids(t, "ab[X]ab", 0, "1 6 10 1 6"); // each part is normalized by itself
    expect_ids(t, "", 0, "");
    tokenizer_free(t);
    write_small("null",
                "{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":\"first\",\"split\":true}",
                small_merges, plain_x);
    t = open_or_fail(folder);
    expect_ids(t, "ab[X]ab a", 0, "1 6 10 6 8");
    expect_ids(t, " a", 0, "8");
    size_t len;
    char *back = tokenizer_decode(t, (const int32_t[]){8, 1, 6}, 3, &len);
    cr_expect_str_eq(back, "a ab");
    free(back);
    tokenizer_free(t);
}

Test(tokenizer, added_token_flags) {
    write_small(
        prepend_replace, "null", small_merges,
        "{\"id\":10,\"content\":\"[X]\",\"lstrip\":true,\"rstrip\":true,\"normalized\":false,\"special\":false},"
        "{\"id\":11,\"content\":\"ba\",\"single_word\":true,\"normalized\":false,\"special\":false},"
        "{\"id\":12,\"content\":\"dd\",\"normalized\":true,\"special\":false}");
    struct tokenizer *t = open_or_fail(folder);
    expect_ids(t, "a  [X]  b", 0, "8 10 1 3");
    expect_ids(t, "a ba b", 0, "8 1 11 1 1 3");
    expect_ids(t, "aba", 0, "1 6 2");   // inside a word it is no token
    expect_ids(t, "c dd", 0, "1 4 12"); // found as U+2581 dd
    expect_ids(t, "cdd", 0, "1 7 5");
    tokenizer_free(t);
}

Test(tokenizer, merges_that_scores_cannot_say) {
    write_small(prepend_replace, "null", "[\"a b\",\"c d\",\"\u2581 a\",\"ab cd\"]", plain_x);
    struct error err;
    struct vocab v;
    struct tokenizer *t = open_or_fail(folder);
    cr_assert(tokenizer_to_vocab(t, 0, &v, &err) == 0, "%s", err.text);
    cr_expect(v.score[6] > v.score[7] && v.score[7] > v.score[8] && v.score[8] > v.score[9] &&
              v.score[9] > v.score[2]);
    vocab_release(&v);
    tokenizer_free(t);
    // The same piece made by two merges that are apart: aab = a+ab and aa+b.
    static const char apart[] =
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"aa\":3,\"aab\":4,\"ba\":5},"
        "\"merges\":[\"a a\",\"aa b\",\"a b\",\"b a\",\"a ab\"]},\"normalizer\":{\"type\":\"Replace\","
        "\"pattern\":{\"String\":\" \"},\"content\":\"\u2581\"}}";
    write_file("tokenizer.json", apart, strlen(apart));
    expect_no_gguf("are apart");
    write_small("null", "null", small_merges, plain_x);
    expect_no_gguf("does not turn spaces");
    write_small("{\"type\":\"Lowercase\"}", "null", small_merges, plain_x);
    expect_no_gguf("a normalizer");
}

// --- bad input

static void expect_refused(const char *json, const char *reason) {
    struct error err;
    write_file("tokenizer.json", json, strlen(json));
    struct tokenizer *t = tokenizer_open(folder, &err);
    cr_expect_null(t);
    cr_expect(!t && strstr(err.text, reason), "expected '%s', found '%s'", reason, t ? "opened" : err.text);
    tokenizer_free(t);
}

Test(tokenizer, refused_by_name) {
    struct error err;
    cr_expect_null(tokenizer_open(folder, &err));
    cr_expect(strstr(err.text, "no tokenizer.json"), "%s", err.text);
    expect_refused("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", "model.vocab");
    expect_refused("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}}", "unk_token '[UNK]'");
    expect_refused("{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "\"Unigram\"");
    expect_refused("[]", "no \"model\"");
    expect_refused("{\"model\":{\"merges\":[],\"vocab\":{}}}", "model.vocab");
    expect_refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", "model.merges");
    expect_refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1e12},\"merges\":[]}}", "no usable id");
    expect_refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "both 'a' and 'b'");
    expect_refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}",
                   "not in the vocabulary");
    expect_refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[7]}}", "merge 0");
    expect_refused(
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"normalizer\":{\"type\":\"Nmt\"}}",
        "\"Nmt\"");
    expect_refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":"
                   "{\"type\":\"CharDelimiterSplit\"}}",
                   "\"CharDelimiterSplit\"");
    expect_refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"decoder\":{\"type\":\"CTC\"}}",
                   "\"CTC\"");
    expect_refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"post_processor\":"
                   "{\"type\":\"RobertaProcessing\"}}",
                   "\"cls\" is no pair");
    expect_refused(
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Split\","
        "\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}}",
        "regular expression");
    expect_refused("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"\xFF\":0},\"merges\":[]}}", "not UTF-8");
}

Test(tokenizer, damaged_files_never_crash) {
    struct error err;
    struct random r;
    random_init(&r, 11, "damage", 0);
    log_level = LOG_QUIET;
    for (int kind = 0; kind < 3; kind++) {
        char *data;
        size_t len;
        write_byte_level("null", split_llama3, "", "");
        char *json = path_join(folder, "tokenizer.json");
        const char *from = kind == 0   ? json
                           : kind == 1 ? PDQ_SOURCE_DIR "/tests/golden/tokenizer_plain/tokenizer.model"
                                       : PDQ_SOURCE_DIR "/tests/golden/tokenizer_charsmap/tokenizer.model";
        cr_assert_eq(file_read(from, &data, &len, &err), 0);
        unlink(json);
        free(json);
        for (int k = 0; k < 150; k++) {
            char *copy = malloc(len);
            memcpy(copy, data, len);
            size_t n = k % 3 ? len : (size_t)random_below(&r, (int64_t)len);
            for (int i = 0; k % 3 && i < k % 7 + 1; i++) // often in the specs at the end
                copy[k % 2 ? (int64_t)len - 1 - random_below(&r, 400) : random_below(&r, (int64_t)len)] ^=
                    (char)(1 << random_below(&r, 8));
            write_file(kind ? "tokenizer.model" : "tokenizer.json", copy, n);
            struct tokenizer *t = tokenizer_open(folder, &err);
            if (t) {
                struct token_list l = encode(t, "hello  caf\u00e9 \ufb01 123\n\xFF<s>", 24, TOKENIZE_SPECIAL);
                size_t out;
                free(tokenizer_decode(t, l.id, l.count, &out));
                token_list_free(&l);
            }
            tokenizer_free(t);
            free(copy);
        }
        free(data);
        char *path = path_join(folder, kind ? "tokenizer.model" : "tokenizer.json");
        unlink(path);
        free(path);
    }
}
