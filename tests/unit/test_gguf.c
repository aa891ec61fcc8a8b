// The GGUF container: what the writer wrote the reader finds, and hostile files are refused without a crash.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/random.h"
#include "quant/gguf.h"

static char *scratch_path(const char *name)
{
    static char path[8][256];
    static int next;
    char *p = path[next++ % 8];
    snprintf(p, sizeof path[0], "/tmp/pdq-gguf-%ld-%s", (long)getpid(), name);
    return p;
}

static void put_all(struct gguf_writer *w)
{
    char *const words[] = {(char *)"a", (char *)"",
                           (char *)"\xe2\x96\x81"
                                   "c"};
    const float scores[] = {0.5f, -1};
    const int32_t types[] = {3, -7, 1};
    gguf_put_string(w, "general.architecture", "llama");
    gguf_put_u32(w, "llama.block_count", 4000000000);
    gguf_put_f32(w, "llama.eps", 0.25);
    gguf_put_bool(w, "flag", 1);
    gguf_put_strings(w, "words", words, 3);
    gguf_put_f32s(w, "scores", scores, 2);
    gguf_put_i32s(w, "types", types, 3);
}

// A small file with two tensors.
static char *write_small(const char *name)
{
    char *path = scratch_path(name);
    struct gguf_writer w = {0};
    struct error err;
    put_all(&w);
    gguf_put_tensor(&w, "vector", 1, (const int64_t[]){3}, block_format_find("F32"));
    gguf_put_tensor(&w, "matrix", 2, (const int64_t[]){2, 64}, block_format_find("Q8_0"));
    const float vector[] = {1, 2, 3};
    unsigned char matrix[2 * 68];
    for (size_t i = 0; i < sizeof matrix; i++)
        matrix[i] = (unsigned char)i;
    cr_assert_eq(gguf_writer_begin(&w, path, &err), 0, "%s", err.text);
    cr_assert_eq(gguf_writer_data(&w, vector, sizeof vector, &err), 0);
    cr_assert_eq(gguf_writer_end_tensor(&w, &err), 0);
    cr_assert_eq(gguf_writer_data(&w, matrix, 68, &err), 0);
    cr_assert_eq(gguf_writer_data(&w, matrix + 68, 68, &err), 0);
    cr_assert_eq(gguf_writer_end_tensor(&w, &err), 0);
    const int64_t size = gguf_writer_size(&w);
    cr_assert_eq(gguf_writer_commit(&w, &err), 0);
    gguf_writer_release(&w);
    cr_assert_eq(file_size(path), size);
    return path;
}

Test(gguf, round_trip)
{
    char *path = write_small("round");
    struct gguf g;
    struct error err;
    cr_assert_eq(gguf_open(&g, path, &err), 0, "%s", err.text);
    int64_t n;
    double f;
    int flag;
    char *s;
    cr_assert_eq(g.version, 3);
    cr_assert_eq(gguf_get_int(&g, "llama.block_count", 0, 0, INT64_MAX, &n, &err), 0);
    cr_assert_eq(n, 4000000000);
    cr_assert_eq(gguf_get_float(&g, "llama.eps", 0, 0, 1, &f, &err), 0);
    cr_assert_eq(f, 0.25);
    cr_assert_eq(gguf_get_bool(&g, "flag", 0, &flag, &err), 0);
    cr_assert_eq(flag, 1);
    cr_assert_eq(gguf_get_string(&g, "general.architecture", &s, &err), 0);
    cr_assert_str_eq(s, "llama");
    free(s);
    char **words = gguf_strings(gguf_find_key(&g, "words"));
    cr_assert_str_eq(words[0], "a");
    cr_assert_str_eq(words[1], "");
    cr_assert_str_eq(words[2], "\xe2\x96\x81"
                               "c");
    for (int i = 0; i < 3; i++)
        free(words[i]);
    free(words);
    cr_assert_eq(gguf_int_at(gguf_find_key(&g, "types"), 1), -7);
    s = gguf_key_text(gguf_find_key(&g, "scores"));
    cr_assert_str_eq(s, "[0.5, -1] (2)");
    free(s);
    const struct gguf_tensor *m = gguf_find_tensor(&g, "matrix");
    cr_assert_eq(m->dim[0], 2);
    cr_assert_eq(m->dim[1], 64);
    cr_assert_eq(m->bytes, 136);
    cr_assert_eq(m->data[100], 100);
    cr_assert_eq((size_t)(m->data - g.map.data) % 32, 0);
    gguf_close(&g);
    unlink(path);
}

Test(gguf, values_of_another_kind)
{
    char *path = write_small("kinds");
    struct gguf g;
    struct error err;
    int64_t n;
    char *s;
    cr_assert_eq(gguf_open(&g, path, &err), 0, "%s", err.text);
    cr_assert_eq(gguf_get_int(&g, "flag", 0, 0, 9, &n, &err), -1);
    cr_assert(strstr(err.text, "key flag is a bool; expected a whole number"), "%s", err.text);
    cr_assert_eq(gguf_get_int(&g, "llama.block_count", 0, 0, 9, &n, &err), -1);
    cr_assert(strstr(err.text, "is 4000000000; expected 0 to 9"), "%s", err.text);
    cr_assert_eq(gguf_get_string(&g, "words", &s, &err), -1);
    cr_assert(strstr(err.text, "is an array; expected a string"), "%s", err.text);
    cr_assert_eq(gguf_get_int(&g, "absent", 5, 0, 9, &n, &err), 0);
    cr_assert_eq(n, 5);
    gguf_close(&g);
    unlink(path);
}

static void refused(const unsigned char *data, size_t size, const char *message)
{
    char *path = scratch_path("bad");
    struct gguf g;
    struct error err = {""};
    cr_assert_eq(file_write(path, data, size, &err), 0);
    cr_expect_eq(gguf_open(&g, path, &err), -1, "a file that should say \"%s\" was read", message);
    cr_expect(strstr(err.text, message) && strstr(err.text, path), "got \"%s\", expected \"%s\"", err.text, message);
    unlink(path);
}

// Position of the first occurrence of a string in the file.
static size_t place_of(const char *data, size_t size, const char *word)
{
    const char *at = memmem(data, size, word, strlen(word));
    cr_assert_not_null(at);
    return (size_t)(at - data);
}

Test(gguf, refusals)
{
    char *data, *path = write_small("good");
    size_t size;
    struct error err;
    cr_assert_eq(file_read(path, &data, &size, &err), 0);
    unlink(path);
    const size_t matrix = place_of(data, size, "matrix"), words = place_of(data, size, "words");
    const struct {
        size_t at;
        const char *bytes;
        size_t n;
        const char *message;
    } changes[] = {
        {0, "GGML", 4, "not a GGUF file"},
        {4, "\0\0\0\3", 4, "big-endian"},
        {4, "\1\0\0\0", 4, "version 1 is not supported"},
        {8, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, "cannot stand in"},
        {16, "\xff\xff\xff\xff\xff\xff\xff\x7f", 8, "cannot stand in"},
        {24, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, "the name of a key has 18446744073709551615 bytes"},
        {words + 5, "\x2a\0\0\0", 4, "value type 42"},
        {words + 9, "\x09\0\0\0", 4, "an array of arrays"},
        {words + 13, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, "claims 18446744073709551615 elements"},
        {words + 21, "\xff\xff\xff\xff\xff\xff\xff\x7f", 8, "the file ends"},
        {matrix, "vector", 6, "tensor vector stands in the file twice"},
        {words, "\0orde", 5, "contains a zero byte"},
        {matrix + 6, "\5\0\0\0", 4, "has 5 dimensions"},
        {matrix + 10, "\0\0\0\0\0\0\0\0", 8, "dimension 0 is 0"},
        {matrix + 10, "\x20\0\0\0\0\0\1\0", 8, "at most 2^48"},
        {matrix + 10, "\x21\0\0\0\0\0\0\0", 8, "needs a multiple of 32"},
        {matrix + 18, "\x40\0\0\0\0\0\0\0", 8, "needs 4352 bytes"},
        {matrix + 26, "\x12\0\0\0", 4, "type IQ3_XXS (18)"},
        {matrix + 26, "\xff\0\0\0", 4, "type unknown (255)"},
        {matrix + 30, "\x21\0\0\0\0\0\0\0", 8, "a multiple of the alignment"},
        {matrix + 30, "\xe0\xff\xff\xff\xff\xff\xff\xff", 8, "the file ends"},
        {matrix + 30, "\0\0\0\0\0\0\0\0", 8, "overlap"},
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        unsigned char *copy = malloc(size);
        memcpy(copy, data, size);
        memcpy(copy + changes[i].at, changes[i].bytes, changes[i].n);
        refused(copy, size, changes[i].message);
        free(copy);
    }
    refused((const unsigned char *)"", 0, "the file ends at byte 0");
    refused((const unsigned char *)data, size - 40, "needs 136 bytes");
    free(data);
}

static void put_alignment(const char *path, int64_t alignment)
{
    struct gguf_writer w = {0};
    struct error err;
    gguf_put_u32(&w, "general.alignment", alignment);
    cr_assert_eq(gguf_writer_begin(&w, path, &err), 0);
    cr_assert_eq(gguf_writer_commit(&w, &err), 0);
    gguf_writer_release(&w);
}

Test(gguf, alignment)
{
    char *path = scratch_path("alignment");
    struct gguf g;
    struct error err;
    put_alignment(path, 64);
    cr_assert_eq(gguf_open(&g, path, &err), 0, "%s", err.text);
    cr_assert_eq(g.alignment, 64);
    gguf_close(&g);
    put_alignment(path, 48);
    cr_assert_eq(gguf_open(&g, path, &err), -1);
    cr_assert(strstr(err.text, "expected a power of two"), "%s", err.text);
    put_alignment(path, 0);
    cr_assert_eq(gguf_open(&g, path, &err), -1);
    unlink(path);
}

// Reads everything that the reader lets through.
static void touch(const struct gguf *g)
{
    unsigned sum = 0;
    for (int64_t i = 0; i < g->n_key; i++)
        free(gguf_key_text(&g->key[i]));
    for (int64_t i = 0; i < g->n_tensor; i++)
        for (int64_t b = 0; b < g->tensor[i].bytes; b++)
            sum += g->tensor[i].data[b];
    cr_assert_geq(sum, 0);
}

// A few thousand files with one to four changed bytes in the header, or cut short: none may crash (run under ASan
// too).
Test(gguf, mutated)
{
    char *data, *path = write_small("fuzz");
    size_t size;
    struct error err;
    struct random r;
    int opened = 0;
    cr_assert_eq(file_read(path, &data, &size, &err), 0);
    random_init(&r, 1, "mutated", 0);
    unsigned char *copy = malloc(size);
    for (int i = 0; i < 3000; i++) {
        memcpy(copy, data, size);
        for (int64_t k = random_below(&r, 4); k >= 0; k--) {
            static const unsigned char wild[] = {0, 1, 0x7f, 0x80, 0xff, 8, 9};
            copy[random_below(&r, (int64_t)size - 200)] = wild[random_below(&r, sizeof wild)];
        }
        const size_t length = random_below(&r, 8) ? size : (size_t)random_below(&r, (int64_t)size);
        FILE *f = fopen(path, "wb");
        cr_assert_eq(fwrite(copy, 1, length, f), length);
        fclose(f);
        struct gguf g;
        if (gguf_open(&g, path, &err) == 0) {
            touch(&g);
            gguf_close(&g);
            opened++;
        }
    }
    cr_log_info("%d of 3000 mutated files were readable", opened);
    free(copy);
    free(data);
    unlink(path);
}
