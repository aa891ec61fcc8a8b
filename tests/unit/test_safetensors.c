// test_safetensors.c: what is written is read back in every dtype and sharding, and every hostile file is refused
// with a message that names it. All files are made here.
#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/random.h"
#include "common/model/safetensors.h"

static char folder[64];
static struct error err;

static void make_folder(void) {
    strcpy(folder, "/tmp/pdq-safetensors-XXXXXX");
    cr_assert(mkdtemp(folder));
}

static void drop_folder(void) { directory_remove(folder, &err); }

TestSuite(safetensors, .init = make_folder, .fini = drop_folder);

static const char *in_folder(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

// A file of the given header text (or, with length >= 0, a lying header length) and data_bytes of data.
static void write_raw(const char *name, const char *header, int64_t length, size_t data_bytes) {
    size_t n = strlen(header);
    unsigned char *bytes = calloc(8 + n + data_bytes, 1);
    uint64_t said = length >= 0 ? (uint64_t)length : n;
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(said >> (8 * i));
    memcpy(bytes + 8, header, n);
    for (size_t i = 0; i < data_bytes; i++)
        bytes[8 + n + i] = (unsigned char)i;
    cr_assert(file_write(in_folder(name), bytes, 8 + n + data_bytes, &err) == 0, "%s", err.text);
    free(bytes);
}

static void write_text(const char *name, const char *text) {
    cr_assert(file_write(in_folder(name), text, strlen(text), &err) == 0, "%s", err.text);
}

static void expect_refused(const char *path, const char *named) {
    struct safetensors s;
    err.text[0] = '\0';
    cr_assert(safetensors_open(&s, path, &err) < 0, "accepted; expected a message with \"%s\"", named);
    cr_assert(strstr(err.text, named), "\"%s\" is not in: %s", named, err.text);
    cr_assert(s.map == NULL && s.tensor == NULL && s.metadata == NULL);
}

// ---- Round trips ----

static struct safetensors_item *make_items(int64_t n, float **values) {
    static char names[16][32];
    struct safetensors_item *items = calloc((size_t)n, sizeof *items);
    struct random r;
    random_init(&r, 1, "items", 0);
    *values = malloc((size_t)n * 600 * sizeof(float));
    for (int64_t i = 0; i < n * 600; i++)
        (*values)[i] = (float)random_normal(&r);
    for (int64_t i = 0; i < n; i++) {
        snprintf(names[i], sizeof names[i], "layer.%lld.weight", (long long)(n - 1 - i)); // not sorted
        items[i] =
            (struct safetensors_item){.name = names[i], .n_dim = 2, .dim = {20, 30}, .data = *values + i * 600};
    }
    items[0].n_dim = 1;
    items[0].dim[0] = 600;
    return items;
}

static void check_items(enum dtype dtype, const struct safetensors_item *items, int64_t n, int n_map) {
    struct safetensors s;
    cr_assert(safetensors_open(&s, folder, &err) == 0, "%s", err.text);
    cr_assert(s.n_tensor == n && s.n_map == n_map, "%lld tensors, %d files", (long long)s.n_tensor, s.n_map);
    cr_assert_str_eq(json_string(json_get(s.metadata, "format")), "pt");
    cr_assert_str_eq(json_string(json_get(s.metadata, "pdq")), "say \"so\"");
    for (int64_t i = 0; i < n; i++) {
        const struct safetensor *t = safetensors_find(&s, items[i].name);
        float got[600];
        cr_assert(t && t->is_float && t->dtype == dtype && t->n_dim == items[i].n_dim &&
                  t->dim[0] == items[i].dim[0]);
        cr_assert((uintptr_t)t->data % dtype_size(dtype) == 0);
        dtype_to_f32(dtype, t->data, got, 600);
        for (int k = 0; k < 600; k++) {
            float x = items[i].data[k];
            float want = dtype == DTYPE_F32   ? x
                         : dtype == DTYPE_F16 ? f16_to_f32(f32_to_f16(x))
                                              : bf16_to_f32(f32_to_bf16(x));
            cr_assert(got[k] == want, "%s[%d]: %g, expected %g", t->name, k, (double)got[k], (double)want);
        }
    }
    cr_assert_null(safetensors_find(&s, "layer.99.weight"));
    safetensors_close(&s);
}

Test(safetensors, round_trips) {
    float *values;
    struct safetensors_item *items = make_items(7, &values);
    struct json *metadata = json_object();
    json_set_string(metadata, "pdq", "say \"so\"");
    for (int d = DTYPE_F32; d <= DTYPE_BF16; d++) {
        int64_t bytes = 600 * (int64_t)dtype_size((enum dtype)d);
        // one file, three shards of up to three tensors, one shard for each, back to one file; each over the one
        // before
        static const struct {
            int64_t tensors_in_shard;
            int files;
        } rows[] = {{0, 1}, {3, 3}, {1, 7}, {7, 1}};
        for (size_t i = 0; i < 4; i++) {
            cr_assert(safetensors_write(folder, items, 7, (enum dtype)d, rows[i].tensors_in_shard * bytes, metadata,
                                        &err) == 0,
                      "%s", err.text);
            check_items((enum dtype)d, items, 7, rows[i].files);
            char **names;
            size_t n;
            directory_list(folder, &names, &n, &err); // nothing of an earlier save, no temporary file
            cr_assert_eq(n, (size_t)(rows[i].files == 1 ? 1 : rows[i].files + 1));
            names_free(names, n);
        }
    }
    json_free(metadata);
    free(items);
    free(values);
}

Test(safetensors, a_tensor_larger_than_a_shard_has_its_own) {
    float *values;
    struct safetensors_item *items = make_items(3, &values);
    struct json *metadata = json_object();
    json_set_string(metadata, "pdq", "say \"so\"");
    cr_assert(safetensors_write(folder, items, 3, DTYPE_F32, 100, metadata, &err) == 0, "%s", err.text);
    check_items(DTYPE_F32, items, 3, 3);
    json_free(metadata);
    free(items);
    free(values);
}

static void twice_rows(void *context, const struct tensor *w, int64_t row0, int64_t n, float *to) {
    (void)context;
    int64_t columns = tensor_columns(w);
    for (int64_t i = 0; i < n * columns; i++)
        to[i] = (float)(2 * (row0 * columns + i));
}

// Larger than one chunk of the writer, so that the second begins in the middle.
Test(safetensors, values_from_a_hook) {
    struct weight_hook hook = {.rows = twice_rows};
    struct tensor w = {.name = "w", .n_dim = 2, .dim = {700, 1000}, .hook = &hook};
    struct safetensors_item item = {.name = "w", .n_dim = 2, .dim = {700, 1000}, .hooked = &w};
    struct safetensors s;
    cr_assert(safetensors_write(folder, &item, 1, DTYPE_F32, 0, NULL, &err) == 0, "%s", err.text);
    cr_assert(safetensors_open(&s, in_folder("model.safetensors"), &err) == 0, "%s", err.text);
    const float *v = safetensors_find(&s, "w")->data;
    for (int i = 0; i < 700000; i++)
        cr_assert(v[i] == (float)(2 * i));
    safetensors_close(&s);
}

Test(safetensors, f16_overflow_is_named_and_leaves_the_old_file) {
    float small[2] = {1, -65504}, large[2] = {1, 70000}, infinite[2] = {1, INFINITY};
    struct safetensors_item item = {.name = "model.norm.weight", .n_dim = 1, .dim = {2}, .data = small};
    cr_assert(safetensors_write(folder, &item, 1, DTYPE_F16, 0, NULL, &err) == 0, "%s", err.text);
    item.data = large;
    cr_assert(safetensors_write(folder, &item, 1, DTYPE_F16, 0, NULL, &err) < 0);
    cr_assert(strstr(err.text, "model.norm.weight") && strstr(err.text, "70000"), "%s", err.text);
    char **names;
    size_t n;
    directory_list(folder, &names, &n, &err);
    cr_assert_eq(n, 1);
    names_free(names, n);
    struct safetensors s;
    cr_assert(safetensors_open(&s, folder, &err) == 0);
    cr_assert(f16_to_f32(((const uint16_t *)s.tensor[0].data)[1]) == -65504);
    safetensors_close(&s);
    item.data = infinite;
    for (int dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) { // which could not be loaded again
        cr_assert(safetensors_write(folder, &item, 1, (enum dtype)dtype, 0, NULL, &err) < 0);
        cr_assert(strstr(err.text, "model.norm.weight would hold inf"), "%s", err.text);
    }
}

Test(safetensors, too_many_shards) {
    static float one[1];
    struct safetensors_item *items = calloc(600, sizeof *items);
    char(*names)[16] = calloc(600, 16);
    for (int i = 0; i < 600; i++) {
        snprintf(names[i], 16, "t%d", i);
        items[i] = (struct safetensors_item){.name = names[i], .n_dim = 1, .dim = {1}, .data = one};
    }
    cr_assert(safetensors_write(folder, items, 600, DTYPE_F32, 4, NULL, &err) < 0);
    cr_assert(strstr(err.text, "600 files"), "%s", err.text);
    free(items);
    free(names);
}

// ---- Reading what others write ----

Test(safetensors, other_dtypes_empty_tensors_and_padding) {
    struct safetensors s;
    write_raw("a.safetensors",
              "{\"ids\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[3,19]},"
              "\"mask\":{\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[0,3]},"
              "\"none\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[3,3]},"
              "\"scalar\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[19,21]}}     \n",
              -1, 21);
    cr_assert(safetensors_open(&s, in_folder("a.safetensors"), &err) == 0, "%s", err.text);
    cr_assert(s.n_tensor == 4 && s.metadata == NULL);
    cr_assert(!safetensors_find(&s, "ids")->is_float && safetensors_find(&s, "scalar")->n_dim == 0);
    cr_assert_str_eq(safetensors_find(&s, "ids")->dtype_name, "I64");
    cr_assert(*(const unsigned char *)safetensors_find(&s, "ids")->data == 3);
    safetensors_close(&s);
    write_raw("empty.safetensors", "{}", -1, 0);
    cr_assert(safetensors_open(&s, in_folder("empty.safetensors"), &err) == 0, "%s", err.text);
    cr_assert(s.n_tensor == 0 && !safetensors_find(&s, "x"));
    safetensors_close(&s);
}

#define F32(name, shape, offsets) "\"" name "\":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

Test(safetensors, hostile_headers) {
    static const struct {
        const char *header;
        int64_t length; // -1: true
        const char *named;
    } rows[] = {
        {"{}", INT64_MAX, "header would be"},
        {"{}", 1 << 20, "header would be"},
        {"not json", -1, "line 1"},
        {"{\"a\":", -1, "header"},
        {"[1,2]", -1, "expected an object"},
        {"", -1, "header"},
        {"{\"a\":3}", -1, "tensor a"},
        {"{\"a\":{}}", -1, "dtype"},
        {"{\"a\":{\"dtype\":\"F33\",\"shape\":[4],\"data_offsets\":[0,16]}}", -1, "F33"},
        {"{\"a\":{\"dtype\":5,\"shape\":[4],\"data_offsets\":[0,16]}}", -1, "dtype"},
        {"{" F32("a", "[4]", "[0,20]") "}", -1, "ends at byte 20"},
        {"{" F32("a", "[4]", "[1000000,1000016]") "}", -1, "ends at byte"},
        {"{" F32("a", "[4]", "[16,0]") "}", -1, "data_offsets"},
        {"{" F32("a", "[4]", "[-16,0]") "}", -1, "data_offsets"},
        {"{" F32("a", "[4]", "[0,1e300]") "}", -1, "data_offsets"},
        {"{" F32("a", "[4]", "[0.5,16]") "}", -1, "data_offsets"},
        {"{" F32("a", "[4]", "[0]") "}", -1, "data_offsets"},
        {"{" F32("a", "[4]", "[0,16,32]") "}", -1, "data_offsets"},
        {"{" F32("a", "[4]", "\"0-16\"") "}", -1, "data_offsets"},
        {"{" F32("a", "[5]", "[0,16]") "}", -1, "need 20"},
        {"{" F32("a", "[4294967296,4294967296,4294967296]", "[0,16]") "}", -1, "more elements"},
        {"{" F32("a", "[2305843009213693953,4]", "[0,16]") "}", -1, "shape"},
        {"{" F32("a", "[-4]", "[0,16]") "}", -1, "shape"},
        {"{" F32("a", "[1,1,1,1,4]", "[0,16]") "}", -1, "shape"},
        {"{" F32("a", "4", "[0,16]") "}", -1, "shape"},
        {"{" F32("a", "[3]", "[0,12]") "," F32("b", "[2]", "[8,16]") "}", -1, "overlap"},
        {"{" F32("a", "[4]", "[0,16]") "," F32("b", "[4]", "[0,16]") "}", -1, "overlap"},
        {"{" F32("a", "[1]", "[0,4]") "," F32("b", "[2]", "[8,16]") "}", -1, "belong to no tensor"},
        {"{" F32("a", "[3]", "[0,12]") "}", -1, "after the last tensor"},
        {"{" F32("a", "[2]", "[0,8]") "," F32("a", "[2]", "[8,16]") "}", -1, "twice"},
        {"{\"__metadata__\":3," F32("a", "[4]", "[0,16]") "}", -1, "__metadata__"},
        {"{\"__metadata__\":{\"x\":{}}," F32("a", "[4]", "[0,16]") "}", -1, "__metadata__"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        write_raw("model.safetensors", rows[i].header, rows[i].length, 16);
        expect_refused(in_folder("model.safetensors"), rows[i].named);
        expect_refused(folder, "model.safetensors");
    }
    write_text("model.safetensors", "");
    expect_refused(folder, "0 bytes");
    write_text("model.safetensors", "1234567");
    expect_refused(folder, "7 bytes");
}

// Every possible place for a file to be cut off.
Test(safetensors, truncated_anywhere) {
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"}," F32("a", "[2]", "[0,8]") "," F32("b", "[2]", "[8,16]") "}";
    write_raw("whole", header, -1, 16);
    char *bytes;
    size_t len;
    struct safetensors s;
    cr_assert(file_read(in_folder("whole"), &bytes, &len, &err) == 0);
    for (size_t cut = 0; cut < len; cut++) {
        cr_assert(file_write(in_folder("cut.safetensors"), bytes, cut, &err) == 0);
        cr_assert(safetensors_open(&s, in_folder("cut.safetensors"), &err) < 0, "%zu of %zu bytes accepted", cut,
                  len);
    }
    free(bytes);
}

Test(safetensors, folders_and_indexes) {
    expect_refused(folder, "neither model.safetensors nor");
    expect_refused(in_folder("gone.safetensors"), "gone.safetensors");
    write_text("pytorch_model.bin", "x");
    expect_refused(folder, "pytorch_model.bin");
    write_raw("one.safetensors", "{" F32("a", "[4]", "[0,16]") "}", -1, 16);
    write_raw("two.safetensors", "{" F32("b", "[4]", "[0,16]") "}", -1, 16);
    static const struct {
        const char *index, *named;
    } rows[] = {
        {"{", "model.safetensors.index.json"},
        {"{}", "weight_map"},
        {"{\"weight_map\": []}", "weight_map"},
        {"{\"weight_map\": {}}", "weight_map"},
        {"{\"weight_map\": {\"a\": 3}}", "names no file"},
        {"{\"weight_map\": {\"a\": \"../one.safetensors\"}}", "names no file"},
        {"{\"weight_map\": {\"a\": \"one.safetensors\", \"b\": \"three.safetensors\"}}",
         "three.safetensors is missing"},
        {"{\"weight_map\": {\"a\": \"one.safetensors\", \"c\": \"two.safetensors\"}}", "tensor c should be in two"},
        {"{\"weight_map\": {\"a\": \"two.safetensors\", \"b\": \"one.safetensors\"}}", "should be in"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        write_text("model.safetensors.index.json", rows[i].index);
        expect_refused(folder, rows[i].named);
    }
    struct safetensors s;
    static const char good[] = "{\"weight_map\": {\"a\": \"one.safetensors\", \"b\": \"two.safetensors\"}}";
    write_text("model.safetensors.index.json", good);
    cr_assert(safetensors_open(&s, folder, &err) == 0, "%s", err.text);
    cr_assert(s.n_map == 2 && s.n_tensor == 2);
    safetensors_close(&s);
    write_raw("two.safetensors", "{" F32("b", "[4]", "[0,16]") "}", -1, 12);
    expect_refused(folder, "two.safetensors");
    write_raw("two.safetensors", "{" F32("b", "[2]", "[0,8]") "," F32("a", "[2]", "[8,16]") "}", -1, 16);
    expect_refused(folder, "twice");
}
