// Text files become one stream of tokens; training windows cover it once in every pass, in an order of their own.
#include <criterion/criterion.h>
#include <zlib.h>

#include "tests/unit/tiny.h"

Test(dataset, reads_text_jsonl_and_gzip)
{
    char *folder = tiny_folder();
    struct tokenizer *t = tiny_tokenizer();
    char *plain = tiny_file(folder, "a.txt", "ab\n");
    char *lines = tiny_file(folder, "b.jsonl", "{\"text\": \"c\", \"id\": 1}\n\n{\"text\":\"\xc3\xa9\"}");
    char *zipped = path_join(folder, "c.jsonl.gz");
    gzFile z = gzopen(zipped, "wb");
    gzputs(z, "{\"text\":\"d\"}\n");
    gzclose(z);
    const char *paths[] = {plain, lines, zipped};
    struct dataset d;
    struct error err;
    cr_assert_eq(dataset_read(&d, t, paths, 3, "data.train", &err), 0, "%s", err.text);
    const int32_t expected[] = {1, 3 + 'a', 3 + 'b', 3 + '\n', 1, 3 + 'c', 1, 3 + 0xc3, 3 + 0xa9, 1, 3 + 'd'};
    cr_assert_eq(d.n_token, 11);
    cr_assert_arr_eq(d.token, expected, sizeof expected);
    cr_assert_eq(d.text_bytes, 3 + 1 + 2 + 1);
    cr_assert_eq(dataset_check(&d, TINY_VOCAB, "data", &err), 0);
    cr_assert_eq(dataset_check(&d, 100, "data.train", &err), -1);
    cr_assert_not_null(strstr(err.text, "100 rows"), "%s", err.text);
    dataset_release(&d);
    tokenizer_free(t);
    free(plain);
    free(lines);
    free(zipped);
    tiny_remove(folder);
}

static void refused(const char *name, const char *text, const char *says)
{
    char *folder = tiny_folder();
    struct tokenizer *t = tiny_tokenizer();
    char *path = tiny_file(folder, name, text);
    const char *paths[] = {path};
    struct dataset d;
    struct error err;
    cr_assert_eq(dataset_read(&d, t, paths, 1, "data.train", &err), -1);
    cr_assert_not_null(strstr(err.text, "data.train"), "%s", err.text);
    cr_assert_not_null(strstr(err.text, name), "%s", err.text);
    cr_assert_not_null(strstr(err.text, says), "%s", err.text);
    tokenizer_free(t);
    free(path);
    tiny_remove(folder);
}

Test(dataset, refuses_by_name)
{
    refused("empty.txt", "", "need at least 2");
    refused("lines.jsonl", "{\"text\":\"a\"}\n{\"txt\":\"b\"}\n", "line 2");
    refused("number.jsonl", "{\"text\":7}\n", "expected a string");
    refused("cut.jsonl", "{\"text\":\"a\"}\n{\"text\":\n", "line 2");
    struct dataset d;
    struct error err;
    const char *paths[] = {"/nowhere/at/all.txt"};
    cr_assert_eq(dataset_read(&d, NULL, paths, 1, "data.train", &err), -1);
    cr_assert_not_null(strstr(err.text, "/nowhere/at/all.txt"), "%s", err.text);
}

Test(dataset, a_pass_covers_the_stream_once)
{
    const int64_t n = 103, T = 8;
    struct dataset d = {.token = xmalloc(n * sizeof(int32_t), "test"), .n_token = n};
    for (int64_t i = 0; i < n; i++)
        d.token[i] = (int32_t)i;
    const int64_t windows = dataset_windows(&d, T);
    cr_assert_eq(windows, 13); // 102 predictions
    int32_t inputs[13 * 8], targets[13 * 8], other[13 * 8];
    int64_t first_order[13];
    for (int64_t pass = 0; pass < 3; pass++) {
        dataset_batch(&d, T, 42, pass * windows, windows, inputs, targets);
        int seen[103] = {0};
        for (int64_t i = 0; i < windows * T; i++)
            if (targets[i] >= 0) {
                cr_assert_eq(targets[i], inputs[i] + 1);
                seen[targets[i]]++;
            }
        for (int64_t i = 1; i < n; i++)
            cr_assert_eq(seen[i], 1, "token %ld in pass %ld", (long)i, (long)pass);
        int same = 0;
        for (int64_t w = 0; w < windows; w++) {
            same += pass > 0 && first_order[w] == inputs[w * T];
            if (pass == 0)
                first_order[w] = inputs[w * T];
        }
        cr_assert_lt(same, 8, "pass %ld has the order of the first", (long)pass);
    }
    // A batch depends on its number alone, also across the border of two passes.
    dataset_batch(&d, T, 42, 10, 6, inputs, targets);
    for (int64_t b = 0; b < 6; b++) {
        dataset_batch(&d, T, 42, 10 + b, 1, other, targets);
        cr_assert_arr_eq(other, inputs + b * T, T * sizeof(int32_t));
    }
    dataset_release(&d);
}

Test(dataset, shorter_than_a_window)
{
    struct dataset d = tiny_data(3);
    int32_t inputs[8], targets[8];
    cr_assert_eq(dataset_windows(&d, 8), 1);
    dataset_batch(&d, 8, 1, 5, 1, inputs, targets);
    cr_assert_eq(targets[0], d.token[1]);
    cr_assert_eq(targets[1], d.token[2]);
    for (int i = 2; i < 8; i++)
        cr_assert_eq(targets[i], -1);
    dataset_release(&d);
}
