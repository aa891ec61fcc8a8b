// test_examples.c: rows of tables by named columns, a classifier's sequences, their batches; shares and McNemar's test.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/data/examples.h"
#include "common/data/table.h"
#include "common/eval/statistics.h"
#include "tests/unit/tolerance.h"

static char folder[64];

static char *put(const char *name, const char *text) {
    struct error err;
    if (!folder[0]) {
        strcpy(folder, "/tmp/pdq-examples-XXXXXX");
        cr_assert_not_null(mkdtemp(folder));
    }
    char *path = path_join(folder, name);
    cr_assert(file_write(path, text, strlen(text), &err) == 0, "%s", err.text);
    return path;
}

static int collect(void *context, const char *const *field, const char *where, struct error *err) {
    (void)where;
    (void)err;
    char *all = context;
    sprintf(all + strlen(all), "[%s|%s]", field[0], field[1]);
    return 0;
}

static void expect_rows(const char *name, const char *text, const char *expected) {
    static const char *const columns[] = {"b", "a"};
    char found[1000] = "";
    struct error err = {""};
    char *path = put(name, text);
    int status = table_read(path, columns, 2, collect, found, &err);
    if (expected[0] == '!')
        cr_expect(status < 0 && strstr(err.text, expected + 1), "%s: %s", name, status < 0 ? err.text : "read");
    else
        cr_expect(status == 0 && strcmp(found, expected) == 0, "%s: %s, expected %s (%s)", name, found, expected, err.text);
    free(path);
}

Test(examples, tables) {
    expect_rows("a.tsv", "a\tb\n1\t2\n3\t4\n", "[2|1][4|3]");
    expect_rows("a.tsv", "a\tc\tb\r\n1\tx\t2\r\n\"q\t\t\"2\"\r\n", "[2|1][\"2\"|\"q]"); // tabs know no quotes
    expect_rows("a.tsv", "a\tb\n1\t2", "[2|1]");
    expect_rows("a.tsv", "a\tb\n\n1\t\n", "[|1]");
    expect_rows("a.csv", "a,b\n1,2\n", "[2|1]");
    expect_rows("a.csv", "a,b\n\"x, \"\"y\"\"\nz\",\"\"\n", "[|x, \"y\"\nz]");
    expect_rows("a.csv", "b,a\r\n\"q\",w\r\n", "[q|w]");
    expect_rows("a.jsonl", "{\"a\": 1, \"b\": \"t\"}\n\n{\"b\": true, \"a\": 0.5}\n", "[t|1][true|0.5]");
    expect_rows("a.tsv", "a\tc\n", "!no column \"b\"; the first line names: a, c");
    expect_rows("a.tsv", "a\tb\n1\n", "!row 2: 1 fields; the first line names 2 columns");
    expect_rows("a.csv", "a,b\n\"1,2\n", "!row 2: a quote is not closed");
    expect_rows("a.csv", "", "!the file is empty");
    expect_rows("a.jsonl", "{\"a\": 1}\n", "!line 1: \"b\" is missing");
    expect_rows("a.jsonl", "{\"a\": 1, \"b\": [2]}\n", "!\"b\" is a list");
    expect_rows("a.txt", "a\tb\n", "!ends in .tsv, .csv or .jsonl");
}

static struct tokenizer *words(void) {
    struct error err;
    free(put("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\nc\nd\n"));
    struct tokenizer *t = tokenizer_open(folder, &err);
    cr_assert_not_null(t, "%s", err.text);
    return t;
}

Test(examples, sequences_and_batches) {
    struct error err;
    struct tokenizer *t = words();
    struct json *names = json_object();
    json_set_string(names, "0", "no");
    json_set_string(names, "1", "yes");
    const struct example_classes classes = {2, names};
    const struct example_columns pair = {"x", "y", "label"};
    const char *const paths[] = {put("p.tsv", "x\ty\tlabel\na b\tc\tyes\na b c d a b\tc d\t0\nd\tA ?\t1\n")};
    struct examples e;
    cr_assert(examples_read(&e, t, &classes, paths, 1, &pair, 8, "data", &err) == 0, "%s", err.text);
    static const int32_t first[] = {2, 4, 5, 3, 6, 3}, second[] = {2, 4, 5, 6, 3, 6, 7, 3}, third[] = {2, 7, 3, 4, 1, 3};
    cr_assert(e.n == 3 && e.longest == 8 && e.n_cut == 1 && e.label[0] == 1 && e.label[1] == 0 && e.label[2] == 1);
    cr_assert(memcmp(e.token + e.start[0], first, sizeof first) == 0 && e.pair[0] == 4);
    cr_assert(memcmp(e.token + e.start[1], second, sizeof second) == 0 && e.pair[1] == 5, "the longer text is cut");
    cr_assert(memcmp(e.token + e.start[2], third, sizeof third) == 0);
    struct example_batch b;
    const int64_t pick[] = {2, 1};
    example_batch_init(&b, 2, e.longest);
    examples_pick(&e, pick, 2, &b);
    cr_assert(b.T == 8 && b.length[0] == 6 && b.length[1] == 8 && b.label[0] == 1);
    static const int32_t types[] = {0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1};
    cr_assert(memcmp(b.types, types, sizeof types) == 0 && b.ids[6] == 0 && b.ids[7] == 0);
    example_batch_release(&b);
    examples_release(&e);
    json_free(names);
    tokenizer_free(t);
}

// Every example comes once in a pass; a batch is a function of its number; what is set aside is gone from the rest.
Test(examples, passes) {
    struct error err;
    struct tokenizer *t = words();
    const struct example_classes classes = {100, NULL};
    const struct example_columns columns = {"x", NULL, "label"};
    char text[8000] = "x\tlabel\n";
    for (int i = 0; i < 100; i++)
        sprintf(text + strlen(text), "%.*s\t%d\n", 1 + 2 * (i * 7 % 9), "a b c d a b c d a", i);
    const char *const paths[] = {put("n.tsv", text)};
    struct examples e, aside;
    cr_assert(examples_read(&e, t, &classes, paths, 1, &columns, 16, "data", &err) == 0, "%s", err.text);
    cr_assert(examples_set_aside(&aside, &e, 36, 5, "data", &err) == 0, "%s", err.text);
    cr_assert(e.n == 64 && aside.n == 36 && strcmp(e.hash, aside.hash) != 0);
    int seen[100] = {0}, kept[100] = {0};
    for (int64_t i = 0; i < 36; i++)
        seen[aside.label[i]]++;
    for (int64_t i = 0; i < 64; i++)
        seen[e.label[i]]++;
    for (int i = 0; i < 100; i++)
        cr_assert_eq(seen[i], 1);
    struct example_batch b, again;
    example_batch_init(&b, 2, e.longest);
    example_batch_init(&again, 2, e.longest);
    int64_t padding = 0;
    for (int64_t k = 0; k < 32; k++) { // 32 batches of 2 are one pass over 64
        examples_batch(&e, 9, k, 2, &b);
        examples_batch(&e, 9, k, 2, &again);
        cr_assert(memcmp(b.ids, again.ids, (size_t)(2 * b.T) * sizeof *b.ids) == 0);
        kept[b.label[0]]++;
        kept[b.label[1]]++;
        padding += 2 * b.T - b.length[0] - b.length[1];
    }
    for (int64_t i = 0; i < 64; i++)
        cr_assert_eq(kept[e.label[i]], 1, "example %d", e.label[i]);
    cr_assert(padding <= 16, "%ld tokens of padding", (long)padding); // sorted: only where the length changes
    cr_assert(examples_set_aside(&aside, &e, 64, 5, "data", &err) < 0 && strstr(err.text, "64 examples, of which 64"), "%s", err.text);
    example_batch_release(&b);
    example_batch_release(&again);
    examples_release(&e);
    tokenizer_free(t);
}

// Wilson's interval for 8 of 10 is 0.490 to 0.943 (Agresti and Coull 1998 give such tables); McNemar's exact p for 1 against 9 is 22/1024.
Test(examples, hidden_words) {
    struct error err;
    struct examples e;
    char *rows = put("t.tsv", "x\tlabel\na b c d a b c\tq\n\t1\nb\t1\n"), *text = put("t.txt", "a b c d");
    struct tokenizer *t = words();
    const char *paths[] = {rows, text};
    cr_expect(examples_read_unlabelled(&e, t, paths, 2, "x", 6, "here", &err) < 0 && strstr(err.text, "no token that hides a word"), "%s", err.text);
    tokenizer_free(t);
    free(put("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\nc\nd\n[MASK]\n"));
    cr_assert_not_null(t = tokenizer_open(folder, &err), "%s", err.text);
    cr_assert(examples_read_unlabelled(&e, t, paths, 2, "x", 6, "here", &err) == 0, "%s", err.text);
    // seven words in two sequences of at most four words, nothing of an empty text, one word, and the document
    const int64_t lengths[] = {6, 5, 3, 6};
    cr_assert_eq(e.n, 4);
    for (int64_t i = 0; i < e.n; i++)
        cr_expect_eq(e.start[i + 1] - e.start[i], lengths[i]);
    struct example_batch b, again;
    example_batch_init(&b, 4, e.longest);
    example_batch_init(&again, 4, e.longest);
    int64_t hidden = 0, masked = 0, kept = 0, words_there = 0, number[] = {0, 1, 2, 3};
    const uint64_t n = 4000;
    for (uint64_t index = 0; index < n; index++) {
        examples_pick(&e, number, 4, &b);
        examples_pick(&e, number, 4, &again);
        examples_mask(&e, SHARE_HIDDEN, 7, index, &b);
        cr_assert_gt(b.n_hidden, 0);
        for (int64_t k = 0; k < b.n_hidden; k++) {
            const int32_t at = b.hidden[k];
            cr_assert_eq(b.word[k], again.ids[at]);
            cr_assert(b.ids[at] < 9 && again.ids[at] >= 4 && again.ids[at] < 8);
            masked += b.ids[at] == 8;
            kept += b.ids[at] == b.word[k];
            again.ids[at] = b.ids[at];
        }
        cr_assert_arr_eq(b.ids, again.ids, (size_t)(b.B * b.T) * sizeof *b.ids); // nothing else was touched
        hidden += b.n_hidden;
        words_there += 12;
    }
    // a batch without any is drawn again: 0.15 / (1 - 0.85^12)
    cr_expect(fabs((double)hidden / (double)words_there - 0.1749) < share_deviations(5, 0.1749, (double)words_there), "%g hidden", (double)hidden / (double)words_there);
    cr_expect(fabs((double)masked / (double)hidden - 0.8111) < share_deviations(5, 0.8111, (double)hidden), "%g masked", (double)masked / (double)hidden); // one of nine at random, too
    cr_expect(fabs((double)kept / (double)hidden - 0.1111) < share_deviations(5, 0.1111, (double)hidden), "%g kept", (double)kept / (double)hidden);
    example_batch_release(&b);
    example_batch_release(&again);
    examples_release(&e);
    tokenizer_free(t);
    free(rows);
    free(text);
}

// Masks as often as asked for, cuts to one to five neighbours, pairs stay whole; the same batch and index give the same.
Test(examples, augmented) {
    struct error err;
    char *rows = put("t.tsv", "x\ty\tlabel\na b c d a b c d\tc\t0\nb\td\t1\n");
    free(put("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\nc\nd\n[MASK]\n"));
    struct tokenizer *t = tokenizer_open(folder, &err);
    cr_assert_not_null(t, "%s", err.text);
    const char *paths[] = {rows};
    const struct example_classes classes = {2, NULL};
    int64_t lengths[8] = {0}, masked = 0, words_there = 0, number[] = {0, 1};
    const uint64_t n = 4000;
    for (int pairs = 0; pairs < 2; pairs++) {
        const struct example_columns columns = {"x", pairs ? "y" : NULL, "label"};
        struct examples e;
        struct example_batch b, whole;
        cr_assert(examples_read(&e, t, &classes, paths, 1, &columns, 16, "here", &err) == 0, "%s", err.text);
        example_batch_init(&b, 2, e.longest);
        example_batch_init(&whole, 2, e.longest);
        for (uint64_t index = 0; index < n; index++) {
            examples_pick(&e, number, 2, &whole);
            examples_pick(&e, number, 2, &b);
            examples_augment(&e, 0.25, 0, 7, index, &b);
            for (int64_t i = 0; i < 2 * b.T; i++) {
                cr_assert(b.ids[i] == whole.ids[i] || (b.ids[i] == 8 && whole.ids[i] >= 4));
                masked += b.ids[i] == 8;
                words_there += whole.ids[i] >= 4;
            }
            examples_pick(&e, number, 2, &b);
            examples_augment(&e, 0, 0.5, 7, index, &b);
            cr_assert(b.length[1] == whole.length[1] && (!pairs || b.length[0] == whole.length[0]));
            const int64_t cut = b.length[0] - 2;
            lengths[cut < 8 ? cut : 0] += !pairs;
            cr_assert(b.ids[0] == 2 && b.ids[b.length[0] - 1] == 3);
            for (int64_t k = 2; k <= cut && !pairs; k++) // neighbours: a b c d a b c d
                cr_assert_eq((b.ids[k] - b.ids[k - 1] + 4) % 4, 1);
            for (int64_t k = b.length[0]; k < b.T; k++)
                cr_assert_eq(b.ids[k], 0);
        }
        example_batch_release(&b);
        example_batch_release(&whole);
        examples_release(&e);
    }
    // four standard deviations of a binomial are below 0.012 of its share of 4000
    cr_expect(fabs((double)masked / (double)words_there - 0.25) < 0.01, "%g masked", (double)masked / (double)words_there);
    cr_expect(fabs((double)lengths[0] / (double)n - 0.5) < 0.032, "%ld whole", (long)lengths[0]);
    for (int k = 1; k <= 5; k++)
        cr_expect(fabs((double)lengths[k] / (double)n - 0.1) < 0.02, "%ld of %d", (long)lengths[k], k);
    tokenizer_free(t);
    free(rows);
}

Test(examples, statistics) {
    const double DIGITS = 1e-6; // the wanted ones are written with six
    const struct share s = share_of(8, 10), none = share_of(0, 20), all = share_of(20, 20);
    cr_expect(fabs(s.low - 0.490162) < DIGITS && fabs(s.high - 0.943318) < DIGITS, "%g %g", s.low, s.high);
    cr_expect(none.low > -DOUBLE_FEW && fabs(none.high - 0.161125) < DIGITS && fabs(all.low - 0.838875) < DIGITS && all.high < 1 + DOUBLE_FEW);
    cr_expect(fabs(mcnemar(1, 9) - 22.0 / 1024) < DOUBLE_FEW && mcnemar(5, 5) == 1 && mcnemar(0, 0) == 1);
    cr_expect(fabs(mcnemar(0, 10) - 2.0 / 1024) < DOUBLE_FEW && mcnemar(3, 7) == mcnemar(7, 3));
}
