// One row per option: flag, recipe key, range, help and the effective value agree.
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/options.h"

struct sample {
    int quick, precision;
    int64_t seq_len;
    double rate;
    char *output;
    struct option_list data;
    struct json *recover;
};

#define ROW(field) offsetof(struct sample, field)
static const struct option table[] = {
    {"quick", OPTION_BOOL, ROW(quick), "true", 0, 0, NULL, NULL, "less of everything"},
    {"precision", OPTION_CHOICE, ROW(precision), "f32", 0, 0, "f32|bf16", NULL, "of the products"},
    {"seq_len", OPTION_INT, ROW(seq_len), "256", 2, 4096, NULL, "N", "tokens of a window"},
    {"rate", OPTION_DOUBLE, ROW(rate), NULL, 0, 1, NULL, NULL, "how much"},
    {"output", OPTION_STRING, ROW(output), NULL, 0, 0, NULL, "DIR", "where it goes"},
    {"data", OPTION_LIST, ROW(data), NULL, 0, 0, NULL, "FILE", "may be repeated"},
    {"recover", OPTION_JSON, ROW(recover), NULL, 0, 0, NULL, NULL, "a block"},
    {NULL, OPTION_BOOL, 0, NULL, 0, 0, NULL, NULL, NULL},
};

struct common {
    int64_t threads;
    int force;
};
static const struct option common_table[] = {
    {"threads", OPTION_INT, offsetof(struct common, threads), "0", 0, 1024, NULL, "N", "0: all"},
    {"force", OPTION_BOOL, offsetof(struct common, force), NULL, 0, 0, NULL, NULL, "overwrite"},
    {NULL, OPTION_BOOL, 0, NULL, 0, 0, NULL, NULL, NULL},
};

// Parses the words up to NULL; the message of a failure is left in err.
static int parse(struct sample *s, struct common *c, struct error *err, const char **argv, int *n_words) {
    const char **words;
    int argc = 0;
    while (argv[argc])
        argc++;
    int result = options_parse(table, s, common_table, c, argc, (char **)argv, &words, n_words, err);
    free(words);
    return result;
}

Test(options, flags) {
    struct sample s;
    struct common c;
    struct error err;
    int n;
    options_init(table, &s);
    options_init(common_table, &c);
    cr_assert_eq(s.seq_len, 256);
    cr_assert_eq(s.quick, 1);
    const char *argv[] = {
        "model",  "--seq-len=32", "--no-quick", "--data",    "a", "-o", "dir", "--data=b",     "--precision", "bf16",
        "--rate", "1e-3",         "--force",    "--threads", "2", "-",  "--",  "--not-a-flag", NULL};
    cr_assert_eq(parse(&s, &c, &err, argv, &n), 0, "%s", err.text);
    cr_assert_eq(n, 3);
    cr_assert_eq(s.seq_len, 32);
    cr_assert_eq(s.quick, 0);
    cr_assert_eq(s.precision, 1);
    cr_assert_eq(s.rate, 1e-3);
    cr_assert_str_eq(s.output, "dir");
    cr_assert_eq(s.data.count, 2);
    cr_assert_str_eq(s.data.item[1], "b");
    cr_assert_eq(c.threads, 2);
    cr_assert_eq(c.force, 1);
    struct json *effective = options_json(table, &s);
    char *text = json_text(effective, 0);
    cr_assert_str_eq(text, "{\"quick\":false,\"precision\":\"bf16\",\"seq_len\":32,\"rate\":0.001,\"output\":\"dir\","
                           "\"data\":[\"a\",\"b\"],\"recover\":null}");
    free(text);
    json_free(effective);
    options_release(table, &s);
}

static void refused(const char *first, const char *second, const char *message) {
    struct sample s;
    struct common c;
    struct error err = {""};
    int n;
    const char *argv[] = {first, second, NULL};
    options_init(table, &s);
    options_init(common_table, &c);
    cr_assert_eq(parse(&s, &c, &err, argv, &n), -1, "accepted %s", first);
    cr_assert(strstr(err.text, message), "\"%s\" lacks \"%s\"", err.text, message);
    options_release(table, &s);
}

Test(options, refused_flags) {
    refused("--seqlen", "3", "unknown option --seqlen; did you mean --seq-len?");
    refused("--thread=3", NULL, "did you mean --threads?");
    refused("--seq-len", NULL, "--seq-len needs a value: N");
    refused("--seq-len", "1", "--seq-len: found 1, expected a whole number from 2 to 4096");
    refused("--seq-len=2.5", NULL, "--seq-len: found 2.5");
    refused("--seq-len", "12x", "found \"12x\"");
    refused("--seq-len", "", "found \"\"");
    refused("--rate", "nan", "--rate: found nan");
    refused("--precision", "f16", "--precision: found \"f16\", expected one of f32|bf16");
    refused("--recover", "{}", "unknown option --recover");
    refused("--no-seq-len", NULL, "unknown option");
    refused("--quick=maybe", NULL, "--quick: found \"maybe\"");
    refused("--no-quick=1", NULL, "--no-quick");
    refused("-x", NULL, "unknown option -x");
}

static int read_text(struct sample *s, const char *text, struct error *err) {
    struct json *v = json_parse(text, strlen(text), "r.json", 1, err);
    cr_assert_not_null(v, "%s", err->text);
    options_init(table, s);
    int result = options_read_json(table, s, v, "r.json: data", err);
    json_free(v);
    return result;
}

static void refused_json(const char *text, const char *message) {
    struct sample s;
    struct error err = {""};
    cr_assert_eq(read_text(&s, text, &err), -1, "accepted %s", text);
    cr_assert(strstr(err.text, message), "\"%s\" lacks \"%s\"", err.text, message);
    options_release(table, &s);
}

Test(options, json) {
    struct sample s;
    struct error err;
    cr_assert_eq(read_text(&s,
                           "{\"quick\": false, \"precision\": \"bf16\", \"seq_len\": 64, \"rate\": null,"
                           " \"data\": \"one\", \"recover\": {\"tokens\": 5}, \"output\": \"x\"}",
                           &err),
                 0, "%s", err.text);
    cr_assert_eq(s.quick, 0);
    cr_assert_eq(s.precision, 1);
    cr_assert_eq(s.seq_len, 64);
    cr_assert_eq(s.data.count, 1);
    cr_assert_eq(json_number(json_get(s.recover, "tokens")), 5);
    options_release(table, &s);
    cr_assert_eq(read_text(&s, "{\"data\": [\"a\", \"b\"]}", &err), 0);
    cr_assert_eq(s.data.count, 2);
    options_release(table, &s);
}

Test(options, refused_json) {
    refused_json("{\"seq_length\": 3}", "r.json: data: unknown key \"seq_length\"; did you mean \"seq_len\"?");
    refused_json("{\"zzzzzz\": 3}", "expected one of quick, precision, seq_len");
    refused_json("{\"seq_len\": \"3\"}", "r.json: data: \"seq_len\": found \"3\", expected a number");
    refused_json("{\"seq_len\": 1e9}", "expected a whole number from 2 to 4096");
    refused_json("{\"precision\": 16}", "found 16, expected one of f32|bf16");
    refused_json("{\"quick\": 1}", "found 1, expected true or false");
    refused_json("{\"data\": [\"a\", 3]}", "\"data\"[1]: found a number, expected a string");
    refused_json("{\"rate\": 0.5, \"rate\": 0.6}", "given twice");
    refused_json("[]", "expected an object");
}

Test(options, help) {
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    options_help(table, out);
    fclose(out);
    cr_assert(strstr(text, "--seq-len N"), "%s", text);
    cr_assert(strstr(text, "(default 256)"));
    cr_assert(strstr(text, "--no-quick"));
    cr_assert(strstr(text, "-o, --output DIR"));
    cr_assert(strstr(text, "--precision f32|bf16"));
    cr_assert_null(strstr(text, "recover"));
    free(text);
}

Test(options, nearest) {
    const char *const names[] = {"heads", "ffn", "score", "temperature", NULL};
    cr_assert_str_eq(nearest_name("heds", names), "heads");
    cr_assert_str_eq(nearest_name("socre", names), "score");
    cr_assert_str_eq(nearest_name("FFN", names), "ffn");
    cr_assert_str_eq(nearest_name("temprature", names), "temperature");
    cr_assert_null(nearest_name("learning_rate", names));
    cr_assert_null(nearest_name("a-word-that-is-longer-than-any-name-of-an-option-could-possibly-be-here", names));
}
