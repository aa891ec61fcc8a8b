// test_spans.c: where tokens stand in a text; questions of SQuAD's files and rows; windows and their targets; answers' scores against
// tests/ref/squad_score.py.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/data/spans.h"
#include "common/data/squad.h"
#include "common/eval/span_score.h"
#include "common/text/byte_level.h"
#include "common/text/utf8.h"
#include "tests/unit/tolerance.h"

static char folder[64];

static char *put(const char *name, const char *text) {
    struct error err;
    if (!folder[0]) {
        strcpy(folder, "/tmp/pdq-spans-XXXXXX");
        cr_assert_not_null(mkdtemp(folder));
    }
    char *path = path_join(folder, name);
    cr_assert(file_write(path, text, strlen(text), &err) == 0, "%s", err.text);
    return path;
}

static struct tokenizer *open_tokenizer(void) {
    struct error err;
    struct tokenizer *t = tokenizer_open(folder, &err);
    cr_assert_not_null(t, "%s", err.text);
    return t;
}

// The tokens' own texts, each in bars: "|Caf|é| |".
static void expect_places(const struct tokenizer *t, const char *text, const char *expected) {
    struct error err;
    struct token_list list = {0}, plain = {0};
    struct token_place *place;
    char found[1000] = "|";
    cr_assert(tokenizer_encode_places(t, text, strlen(text), &list, &place, "here", &err) == 0, "%s: %s", text, err.text);
    tokenizer_encode(t, text, strlen(text), TOKENIZE_LITERAL, &plain, NULL);
    cr_assert(list.count == plain.count && (!list.count || memcmp(list.id, plain.id, plain.count * sizeof *plain.id) == 0), "%s: other ids", text);
    for (size_t i = 0; i < list.count; i++)
        sprintf(found + strlen(found), "%.*s|", (int)(place[i].end - place[i].start), text + place[i].start);
    cr_expect_str_eq(found, expected, "%s: %s, expected %s", text, found, expected);
    token_list_free(&list);
    token_list_free(&plain);
    free(place);
}

Test(spans, places_of_word_pieces) {
    free(put("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncafe\n##s\nun\n##able\nthe\n日\n本\n.\ni\n##o\nnaive\n$\n5\n"));
    struct tokenizer *t = open_tokenizer();
    expect_places(t, "The  Cafés.", "|The|Café|s|.|");
    expect_places(t, " UNABLE the\tthe\n", "|UN|ABLE|the|the|");
    expect_places(t, "Cafe\xCC\x81s the", "|Cafe\xCC\x81|s|the|"); // a mark that is dropped stays with its letter
    expect_places(t, "the日本cafe", "|the|日|本|cafe|");
    expect_places(t, "na\u00efve qqq, na\u0308i\u0308ve", "|na\u00efve|qqq|,|na\u0308i\u0308ve|"); // unknown words as a whole
    expect_places(t, "un\u200bable $5", "|un\u200b|able|$|5|"); // so does any character that is dropped inside a word
    expect_places(t, "\u0130o the", "|\u0130|o|the|");   // one that becomes i and a mark
    expect_places(t, "[SEP] the", "|[|SEP|]|the|");
    expect_places(t, "", "|");
    struct error err;
    struct token_list list = {0};
    struct token_place *place;
    cr_expect(tokenizer_encode_places(t, "the \xFF", 5, &list, &place, "here", &err) < 0 && strstr(err.text, "not UTF-8"), "%s", err.text);
    tokenizer_free(t);
}

// Random texts of odd characters: places go forward, and each token's text gives the token again.
Test(spans, places_of_any_text) {
    static const char *const part[] = {"the", "Cafés", "un", "able", "日", "é", "\u0301", "\u0323", " ", "  ", ".", "\u00a0", "\u200d", "\u0130", "ß",
                                       "\u1e69", "\U0001F600", "$5", "[MASK]", "\u2028", "qq"};
    free(put("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncafe\n##s\nun\n##able\nthe\n##the\n日\n.\ni\n##i\ns\n##e\ne\n$\n5\n"));
    struct tokenizer *t = open_tokenizer();
    unsigned state = 1;
    for (int n = 0; n < 3000; n++) {
        char text[300] = "";
        for (int k = 0; k < n % 9; k++)
            strcat(text, part[(state = state * 1664525 + 1013904223) / 65536 % (sizeof part / sizeof *part)]);
        struct error err;
        struct token_list list = {0};
        struct token_place *place;
        cr_assert(tokenizer_encode_places(t, text, strlen(text), &list, &place, "here", &err) == 0, "%s: %s", text, err.text);
        for (size_t i = 0; i < list.count; i++) {
            cr_assert(place[i].start < place[i].end && place[i].end <= (int64_t)strlen(text), "\"%s\": token %zu", text, i);
            cr_assert(i == 0 || place[i].start >= place[i - 1].start, "\"%s\": token %zu begins before the one before it", text, i);
        }
        token_list_free(&list);
        free(place);
    }
    tokenizer_free(t);
}

static void write_bytes_vocabulary(void) {
    struct text vocab = {0};
    text_append(&vocab, "{", 1);
    for (int b = 0; b < 256; b++) {
        char code[5] = "", item[64];
        utf8_put(code, byte_level_code((unsigned char)b));
        sprintf(item, "\"%s%s\": %d, ", strchr("\"\\", code[0]) ? "\\" : "", code, b);
        text_append(&vocab, item, strlen(item));
    }
    text_append(&vocab, "\"\u0120a\": 256, \"ab\": 257, \"<|endoftext|>\": 258}", strlen("\"\u0120a\": 256, \"ab\": 257, \"<|endoftext|>\": 258}") + 1);
    free(put("vocab.json", vocab.data));
    free(put("merges.txt", "#version: 0.2\n\u0120 a\na b\n"));
    text_release(&vocab);
}

Test(spans, places_of_byte_pieces) {
    write_bytes_vocabulary();
    struct tokenizer *t = open_tokenizer();
    expect_places(t, "ab a\n", "|ab| a|\n|");
    expect_places(t, "é", "|\xC3|\xA9|");
    tokenizer_free(t);
}

static int collect(void *context, const struct squad_question *q, const char *where, struct error *err) {
    (void)where;
    (void)err;
    char *all = context;
    sprintf(all + strlen(all), "[%s|%s", q->id ? q->id : "", q->question);
    for (int64_t k = 0; k < q->n_answer; k++)
        sprintf(all + strlen(all), "|%.*s", (int)(q->end[k] - q->start[k]), q->context + q->start[k]);
    strcat(all, "]");
    return 0;
}

static void expect_questions(const char *name, const char *text, const char *expected) {
    char found[1000] = "", *path = put(name, text);
    struct error err = {""};
    const int status = squad_read(path, collect, found, &err);
    if (expected[0] == '!')
        cr_expect(status < 0 && strstr(err.text, expected + 1), "%s: %s", text, status < 0 ? err.text : "read");
    else
        cr_expect(status == 0 && strcmp(found, expected) == 0, "%s: %s, expected %s (%s)", text, found, expected, err.text);
    free(path);
}

#define NESTED(qas) "{\"version\": \"v2.0\", \"data\": [{\"title\": \"t\", \"paragraphs\": [{\"context\": \"😀 é was here\", \"qas\": [" qas "]}]}]}"

Test(spans, files) {
    expect_questions("a.json", NESTED("{\"id\": \"1\", \"question\": \"q\", \"answers\": [{\"text\": \"was\", \"answer_start\": 4}, "
                                      "{\"text\": \"é\", \"answer_start\": 2}]}, {\"question\": \"r\", \"answers\": [], \"is_impossible\": true}"),
                     "[1|q|was|é][|r]");
    expect_questions("a.jsonl", "{\"id\": \"x\", \"context\": \"a b a\", \"question\": \"q\", \"answers\": {\"text\": [\"a\"], \"answer_start\": [4]}}\n\n"
                                "{\"context\": \"a b\", \"question\": \"r\", \"answers\": {\"text\": [], \"answer_start\": []}}\n", "[x|q|a][|r]");
    expect_questions("a.json", NESTED("{\"id\": \"7\", \"question\": \"q\", \"answers\": [{\"text\": \"was\", \"answer_start\": 5}]}"),
                     "!a.json, question 1 (id 7): answer 1, \"was\", does not stand at answer_start 5 of its context (there: \"as here\")");
    expect_questions("a.json", NESTED("{\"question\": \"q\", \"answers\": [{\"text\": \"was\", \"answer_start\": 50}]}"), "!(which is shorter)");
    expect_questions("a.json", NESTED("{\"question\": \"q\", \"answers\": [{\"text\": \"\", \"answer_start\": 5}]}"), "!answer 1 is empty");
    expect_questions("a.json", NESTED("{\"question\": \"q\", \"answers\": [{\"text\": \"was\"}]}"), "!a whole number \"answer_start\"");
    expect_questions("a.json", NESTED("{\"question\": \"q\", \"answers\": \"was\"}"), "!\"answers\" is a string; expected [{\"text\"");
    expect_questions("a.json", NESTED("{\"question\": 5, \"answers\": []}"), "!question 1: \"question\" is a number; expected a string");
    expect_questions("a.json", "{\"data\": [{\"paragraphs\": [{\"context\": \"c\"}]}]}", "!\"qas\" is missing");
    expect_questions("a.json", "{\"data\": [{}]}", "!no list \"paragraphs\"");
    expect_questions("a.json", "[1]", "!no list \"data\" in it; expected SQuAD's file");
    expect_questions("a.jsonl", "{\"question\": \"q\"}\n", "!line 1: \"context\" is missing");
    expect_questions("a.jsonl", "{\"context\": \"a\", \"question\": \"q\", \"answers\": {\"text\": [\"a\"], \"answer_start\": []}}\n", "!answer 1: expected");
    expect_questions("a.txt", "", "!ends in .json");
}

static void expect_windows(const struct examples *e, int64_t i, const char *ids, int first, int last) {
    char found[300] = "";
    for (int64_t t = e->start[i]; t < e->start[i + 1]; t++)
        sprintf(found + strlen(found), " %d", (int)e->token[t]);
    cr_expect(strcmp(found, ids) == 0 && e->span[2 * i] == first && e->span[2 * i + 1] == last, "window %ld:%s, answer %d to %d", (long)i, found,
              (int)e->span[2 * i], (int)e->span[2 * i + 1]);
}

Test(spans, windows) {
    struct error err;
    struct examples e, aside;
    struct span_texts texts;
    free(put("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\nc\nd\ne\nf\ng\n"));
    struct tokenizer *t = open_tokenizer();
    const char *paths[] = {put("a.jsonl", "{\"context\": \"a b c d e f g\", \"question\": \"g a\", \"answers\": {\"text\": [\"E f\"], \"answer_start\": [8]}}\n")};
    cr_expect(spans_read(&e, NULL, t, paths, 1, 9, 2, "data", &err) < 0 && strstr(err.text, "\"E f\", does not stand"), "%s", err.text);
    free(put("a.jsonl", "{\"id\": \"i\", \"context\": \"a b c  d e f g\", \"question\": \"g a\", \"answers\": {\"text\": [\"e f\"], \"answer_start\": [9]}}\n"
                        "{\"context\": \"a b\", \"question\": \"c\", \"answers\": {\"text\": [], \"answer_start\": []}}\n"));
    cr_assert(spans_read(&e, &texts, t, paths, 1, 9, 2, "data", &err) == 0, "%s", err.text); // room for four tokens
    cr_assert(e.n == 4 && e.n_question == 2 && e.question[1] == 3 && e.question[2] == 4 && e.longest == 9);
    expect_windows(&e, 0, " 2 10 4 3 4 5 6 7 3", 0, 0);
    expect_windows(&e, 1, " 2 10 4 3 6 7 8 9 3", 6, 7);
    expect_windows(&e, 2, " 2 10 4 3 8 9 10 3", 4, 5);
    expect_windows(&e, 3, " 2 6 3 4 5 3", 0, 0);
    cr_assert(e.pair[0] == 4 && texts.n == 2 && texts.n_without == 1 && texts.n_place == e.start[4]);
    const struct token_place *p = texts.place + e.start[1];
    cr_expect(p[3].start == -1 && p[6].start == 9 && p[7].end == 12 && p[8].start == -1, "%ld %ld", (long)p[6].start, (long)p[7].end);
    cr_assert(examples_set_aside(&aside, &e, 1, 3, "data", &err) == 0, "%s", err.text); // whole questions
    cr_assert(aside.n_question == 1 && e.n_question == 1 && aside.n + e.n == 4 && (aside.n == 3 || aside.n == 1));
    const struct examples *three = aside.n == 3 ? &aside : &e;
    expect_windows(three, 1, " 2 10 4 3 6 7 8 9 3", 6, 7);
    cr_assert(three->question[0] == 0 && three->question[1] == 3);
    cr_expect(examples_set_aside(&aside, &e, 1, 3, "data", &err) < 0 && strstr(err.text, "1 questions, of which 1"), "%s", err.text);
    examples_release(&aside);
    examples_release(&e);
    span_texts_release(&texts);
    cr_expect(spans_read(&e, NULL, t, paths, 1, 6, 0, "data", &err) < 0 && strstr(err.text, "line 1: its question has 2 tokens, and sequences of 6"), "%s", err.text);
    free(put("a.jsonl", "{\"context\": \" \", \"question\": \"c\", \"answers\": {\"text\": [], \"answer_start\": []}}\n"));
    cr_expect(spans_read(&e, NULL, t, paths, 1, 9, 0, "data", &err) < 0 && strstr(err.text, "line 1: its context is empty"), "%s", err.text);
    free(put("a.jsonl", ""));
    cr_expect(spans_read(&e, NULL, t, paths, 1, 9, 0, "data", &err) < 0 && strstr(err.text, "no rows"), "%s", err.text);
    tokenizer_free(t);
    free((char *)paths[0]);
}

Test(spans, scores) {
    struct error err;
    struct json *cases = json_read(PDQ_SOURCE_DIR "/tests/golden/spans/scores.json", &err);
    cr_assert_not_null(cases, "%s", err.text);
    int64_t n = 0;
    for (const struct json *c = json_first(cases); c; c = json_next(c), n++) {
        char *answer[8];
        int64_t count = 0;
        for (const struct json *a = json_first(json_get(c, "answers")); a; a = json_next(a))
            answer[count++] = (char *)json_string(a);
        const char *text = json_string(json_get(c, "found")), *wanted = json_string(json_get(c, "normalized"));
        char *normalized = span_normalized(text);
        const struct span_score s = span_score_of(text, answer, count);
        cr_expect_str_eq(normalized, wanted, "\"%s\": \"%s\", Python \"%s\"", text, normalized, wanted);
        cr_expect(s.exact == (int)json_number(json_get(c, "exact")) && fabs(s.f1 - json_number(json_get(c, "f1"))) < DOUBLE_FEW, "\"%s\": %d %g", text,
                  s.exact, s.f1);
        free(normalized);
    }
    cr_assert_gt(n, 300);
    json_free(cases);
}
