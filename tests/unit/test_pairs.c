// test_pairs.c: what stands between the two texts of a pair: BERT's one [SEP], RoBERTa's two </s>, a template's own; RoBERTa's tokenizer from
// vocab.json and merges.txt.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/data/examples.h"

static char folder[64];

static void put_file(const char *name, const char *text) {
    struct error err = {""};
    char *path = path_join(folder, name);
    cr_assert_eq(file_write(path, text, strlen(text), &err), 0, "%s", err.text);
    free(path);
}

static void make_folder(void) {
    strcpy(folder, "/tmp/pdq-pairs-XXXXXX");
    cr_assert(mkdtemp(folder));
}

static void remove_folder(void) {
    struct error err;
    directory_remove(folder, &err);
}
TestSuite(pairs, .init = make_folder, .fini = remove_folder);

#define VOCAB "{\"<s>\": 0, \"<pad>\": 1, \"</s>\": 2, \"<unk>\": 3, \"a\": 4, \"b\": 5, \"\xC4\xA0\": 6, \"ab\": 7, \"\xC4\xA0" "ab\": 8, \"<mask>\": 9}"
#define BYTE_LEVEL "{\"type\": \"ByteLevel\", \"add_prefix_space\": false}"
#define TOKENIZER(processor) \
    "{\"added_tokens\": [], \"pre_tokenizer\": " BYTE_LEVEL ", \"decoder\": " BYTE_LEVEL ", \"post_processor\": " processor ", \"model\": {\"type\": " \
    "\"BPE\", \"vocab\": " VOCAB ", \"merges\": [\"a b\", \"\xC4\xA0 ab\"]}}"
#define TOKEN(name) "{\"SpecialToken\": {\"id\": \"" name "\", \"type_id\": 0}}"
#define TEXT(name) "{\"Sequence\": {\"id\": \"" name "\", \"type_id\": 0}}"
#define TEMPLATE(between) \
    "{\"type\": \"TemplateProcessing\", \"single\": [" TOKEN("<s>") "," TEXT("A") "," TOKEN("</s>") "], \"pair\": [" TOKEN("<s>") "," TEXT("A") "," \
    between TEXT("B") "," TOKEN("</s>") "], \"special_tokens\": {\"<s>\": {\"ids\": [0]}, \"</s>\": {\"ids\": [2]}}}"

// The tokens of the pair "ab ab", "a b".
static void expect_pair(const char *name, const int32_t *ids, size_t n, int32_t second) {
    struct error err = {""};
    struct examples e;
    put_file("pairs.tsv", "x\ty\tlabel\nab ab\ta b\t1\n");
    char *path = path_join(folder, "pairs.tsv");
    const char *paths[] = {path};
    const struct example_columns columns = {"x", "y", "label"};
    const struct example_classes classes = {2, NULL};
    struct tokenizer *t = tokenizer_open(folder, &err);
    cr_assert(t, "%s: %s", name, err.text);
    cr_assert_eq(examples_read(&e, t, &classes, paths, 1, &columns, 16, "test", &err), 0, "%s: %s", name, err.text);
    cr_assert_eq((size_t)e.start[1], n, "%s: %ld tokens", name, (long)e.start[1]);
    for (size_t i = 0; i < n; i++)
        cr_expect_eq(e.token[i], ids[i], "%s: token %zu is %d, expected %d", name, i, e.token[i], ids[i]);
    cr_expect_eq(e.pair[0], second, "%s: the second text begins at %d", name, e.pair[0]);
    examples_release(&e);
    // cut to six: the ends stay
    cr_assert_eq(examples_read(&e, t, &classes, paths, 1, &columns, 6, "test", &err), 0, "%s: %s", name, err.text);
    cr_expect(e.start[1] == 6 && e.token[0] == ids[0] && e.token[5] == ids[n - 1] && e.n_cut == 1, "%s", name);
    examples_release(&e);
    tokenizer_free(t);
    free(path);
}

Test(pairs, roberta_from_vocab_and_merges) {
    struct error err = {""};
    put_file("vocab.json", VOCAB);
    put_file("merges.txt", "#version: 0.2\na b\n\xC4\xA0 ab\n");
    put_file("config.json", "{\"model_type\": \"roberta\", \"vocab_size\": 10}");
    expect_pair("vocab.json", (const int32_t[]){0, 7, 8, 2, 2, 4, 6, 5, 2}, 9, 5);
    struct tokenizer *t = tokenizer_open(folder, &err);
    struct token_list list = {0};
    tokenizer_encode(t, "ab <mask>", 9, TOKENIZE_SPECIAL, &list, NULL); // <mask> takes the space in front of it
    cr_expect(list.count == 4 && list.id[0] == 0 && list.id[1] == 7 && list.id[2] == 9 && list.id[3] == 2);
    token_list_free(&list);
    tokenizer_free(t);
    put_file("vocab.json", "{\"a\": 0}");
    put_file("merges.txt", "");
    cr_expect(!tokenizer_open(folder, &err) && strstr(err.text, "no token <s>; expected RoBERTa's vocab.json"), "%s", err.text);
}

Test(pairs, post_processors) {
    put_file("tokenizer.json", TOKENIZER("{\"type\": \"RobertaProcessing\", \"sep\": [\"</s>\", 2], \"cls\": [\"<s>\", 0]}"));
    expect_pair("RobertaProcessing", (const int32_t[]){0, 7, 8, 2, 2, 4, 6, 5, 2}, 9, 5);
    put_file("tokenizer.json", TOKENIZER("{\"type\": \"BertProcessing\", \"sep\": [\"</s>\", 2], \"cls\": [\"<s>\", 0]}"));
    expect_pair("BertProcessing", (const int32_t[]){0, 7, 8, 2, 4, 6, 5, 2}, 8, 4);
    put_file("tokenizer.json", TOKENIZER(TEMPLATE(TOKEN("</s>") "," TOKEN("</s>") ",")));
    expect_pair("a template with two", (const int32_t[]){0, 7, 8, 2, 2, 4, 6, 5, 2}, 9, 5);
    put_file("tokenizer.json", TOKENIZER(TEMPLATE("")));
    expect_pair("a template with none", (const int32_t[]){0, 7, 8, 4, 6, 5, 2}, 7, 3);
}
