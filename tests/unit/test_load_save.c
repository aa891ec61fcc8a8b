// test_load_save.c: model directories out and in again: families, dtypes, shards, aliases, tied halves, what is
// carried along, and directories that do not fit their config.json.
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/model/load.h"
#include "common/model/safetensors.h"
#include "common/model/save.h"
#include "tests/unit/shared_path.h"

static char folder[64];
static struct error err;

static void make_folder(void) {
    strcpy(folder, "/tmp/pdq-load-save-XXXXXX");
    cr_assert(mkdtemp(folder));
    log_level = LOG_QUIET;
}

static void drop_folder(void) { directory_remove(folder, &err); }

TestSuite(load_save, .init = make_folder, .fini = drop_folder);

static const char *in_folder(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static struct model *make_model(const char *family, int tied, int biases) {
    struct layer_shape layers[2] = {{4, 2, 24}, {4, 2, 24}};
    struct config c = {.n_layer = 2,
                       .hidden = 16,
                       .head_dim = 6,
                       .vocab = 40,
                       .context = 64,
                       .layer = layers,
                       .norm_eps = 1e-5,
                       .rope_theta = 50000,
                       .tie_embeddings = tied,
                       .bos_id = 1,
                       .eos_id = 2};
    c.qkv_bias = biases || strcmp(family, "qwen2") == 0;
    c.out_bias = c.mlp_bias = biases;
    snprintf(c.model_type, sizeof c.model_type, "%s", family);
    struct model *m = model_new(&c, 1);
    model_initialise(m, 7);
    for (int i = 0; i < m->n_parameter; i++) // biases and norms are all alike otherwise
        if (m->parameter[i].t.n_dim == 1)
            for (int64_t k = 0; k < tensor_count(&m->parameter[i].t); k++)
                m->parameter[i].t.data[k] += (float)k / 64;
    return m;
}

static float rounded(enum dtype dtype, float x) {
    return dtype == DTYPE_F32 ? x : dtype == DTYPE_F16 ? f16_to_f32(f32_to_f16(x)) : bf16_to_f32(f32_to_bf16(x));
}

static void expect_same(const struct model *got, const struct model *want, enum dtype dtype) {
    cr_assert(got->n_element == want->n_element && got->n_parameter == want->n_parameter);
    for (int64_t i = 0; i < want->n_element; i++)
        cr_assert(got->data[i] == rounded(dtype, want->data[i]), "value %lld", (long long)i);
}

static void save_plainly(const struct model *m) {
    struct save_options o = {.dtype = DTYPE_F32};
    cr_assert(model_save(m, folder, &o, &err) == 0, "%s", err.text);
}

static struct model *load(void) {
    struct model *m = model_load(folder, &err);
    cr_assert(m, "%s", err.text);
    return m;
}

static void expect_refused(const char *named) {
    struct model *m = model_load(folder, &err);
    cr_assert_null(m, "loaded; expected a message with \"%s\"", named);
    cr_assert(strstr(err.text, named) && strstr(err.text, folder), "\"%s\" is not in: %s", named, err.text);
}

// The model's tensors as items, to be changed and written with safetensors_write; room for two more.
static struct safetensors_item *items_of(const struct model *m) {
    struct safetensors_item *items = calloc((size_t)m->n_parameter + 2, sizeof *items);
    for (int i = 0; i < m->n_parameter; i++) {
        const struct tensor *t = &m->parameter[i].t;
        items[i] = (struct safetensors_item){
            .name = m->parameter[i].name, .n_dim = t->n_dim, .dim = {t->dim[0], t->dim[1]}, .data = t->data};
    }
    return items;
}

static struct safetensors_item *item_named(struct safetensors_item *items, const char *name) {
    while (strcmp(items->name, name) != 0)
        items++;
    return items;
}

static void write_items(const struct safetensors_item *items, int n, const char *metadata_text) {
    struct json *metadata = metadata_text ? json_parse(metadata_text, strlen(metadata_text), "", 0, &err) : NULL;
    cr_assert(safetensors_write(folder, items, n, DTYPE_F32, 0, metadata, &err) == 0, "%s", err.text);
    json_free(metadata);
}

Test(load_save, families_dtypes_and_shards) {
    static const struct {
        const char *family;
        int tied, biases;
    } rows[] = {{"llama", 0, 0}, {"llama", 1, 1}, {"mistral", 0, 0}, {"qwen2", 1, 0}, {"qwen2", 0, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct model *m = make_model(rows[i].family, rows[i].tied, rows[i].biases);
        cr_assert_eq(config_parameters(&m->config), m->n_element);
        for (int d = DTYPE_F32; d <= DTYPE_BF16; d++)
            for (int64_t shard = 0; shard <= 8000; shard += 4000) {
                struct save_options o = {.dtype = (enum dtype)d, .shard_bytes = shard};
                cr_assert(model_save(m, folder, &o, &err) == 0, "%s", err.text);
                struct model *got = load();
                expect_same(got, m, (enum dtype)d);
                cr_assert_str_eq(got->config.model_type, rows[i].family);
                cr_assert(got->config.qkv_bias == m->config.qkv_bias && got->config.rope_theta == 50000);
                cr_assert(model_save(got, folder, &o, &err) == 0, "over itself: %s", err.text);
                model_free(got);
                got = load();
                expect_same(got, m, (enum dtype)d);
                model_free(got);
            }
        model_free(m);
    }
}

Test(load_save, config_and_provenance) {
    struct model *m = make_model("llama", 1, 0);
    struct json *provenance = json_object();
    json_set_string(provenance, "recipe", "x \"y\"");
    struct save_options o = {.dtype = DTYPE_BF16, .provenance = provenance};
    m->config.rope = (struct rope_scaling){.type = ROPE_LINEAR, .factor = 8};
    char *deep = path_join(folder, "made/on/the/way"), *path = path_join(deep, "config.json"), *text;
    size_t len;
    cr_assert(model_save(m, deep, &o, &err) == 0, "%s", err.text);
    cr_assert(file_read(path, &text, &len, &err) == 0);
    // floats stay floats for readers that check
    cr_assert(strstr(text, "\"rope_theta\": 50000.0") && strstr(text, "\"factor\": 8.0"), "%s", text);
    cr_assert(strstr(text, "\"head_dim\": 6") && strstr(text, "\"torch_dtype\": \"bfloat16\""), "%s", text);
    free(text);
    struct safetensors s;
    cr_assert(safetensors_open(&s, deep, &err) == 0, "%s", err.text);
    cr_assert_str_eq(json_string(json_get(s.metadata, "pdq")), "{\"recipe\":\"x \\\"y\\\"\"}");
    cr_assert_null(safetensors_find(&s, "lm_head.weight"));
    safetensors_close(&s);
    json_free(provenance);
    free(deep);
    free(path);
    model_free(m);
}

Test(load_save, files_carried) {
    static const char *const names[] = {
        "tokenizer.json", "tokenizer_config.json", "merges.txt", "chat_template.jinja", "LICENSE.txt",
        "README.md",      "pytorch_model.bin",     "config.json"};
    struct model *m = make_model("llama", 1, 0);
    char *from = path_join(folder, "from"), *to = path_join(folder, "to");
    directory_make(from, &err);
    for (int i = 0; i < 8; i++) {
        char *path = path_join(from, names[i]);
        cr_assert(file_write(path, names[i], strlen(names[i]), &err) == 0);
        free(path);
    }
    struct save_options o = {.dtype = DTYPE_F32, .carry_from = from};
    cr_assert(model_save(m, to, &o, &err) == 0, "%s", err.text);
    for (int i = 0; i < 8; i++) {
        char *path = path_join(to, names[i]);
        cr_assert_eq(file_exists(path), i < 5 || i == 7, "%s", names[i]);
        free(path);
    }
    cr_assert(model_save(m, from, &o, &err) == 0, "carried from itself: %s", err.text);
    o.carry_from = "/nonexistent";
    cr_assert(model_save(m, to, &o, &err) < 0 && strstr(err.text, "/nonexistent"));
    free(from);
    free(to);
    model_free(m);
}

static void count_up(void *context, const struct tensor *w, int64_t row0, int64_t n, float *to) {
    (void)context;
    for (int64_t i = 0; i < n * tensor_columns(w); i++)
        to[i] = (float)(row0 * tensor_columns(w) + i);
}

Test(load_save, a_hooked_weight_is_saved_as_its_hook_gives_it) {
    struct model *m = make_model("llama", 1, 0);
    struct weight_hook hook = {.rows = count_up};
    const char *name = "model.layers.1.mlp.up_proj.weight";
    model_find(m, name)->t.hook = &hook;
    model_find(m, name)->t.data = NULL;
    save_plainly(m);
    struct model *got = load();
    const struct tensor *t = &model_find(got, name)->t;
    for (int64_t i = 0; i < tensor_count(t); i++)
        cr_assert(t->data[i] == (float)i);
    model_free(got);
    model_free(m);
}

// per_layer_config says each layer's widths; a layer may be without attention.
Test(load_save, layers_that_differ_come_back) {
    struct model *m = make_model("llama", 1, 0);
    struct save_options o = {.dtype = DTYPE_F32};
    struct config c;
    config_copy(&c, &m->config);
    c.layer[0] = (struct layer_shape){0, 0, c.layer[0].n_ff};
    c.layer[1].n_ff = 8;
    struct model *uneven = model_new(&c, 1), *back;
    model_initialise(uneven, 3);
    cr_assert(model_save(uneven, folder, &o, &err) == 0, "%s", err.text);
    back = model_load(folder, &err);
    cr_assert(back, "%s", err.text);
    cr_assert(memcmp(back->config.layer, c.layer, (size_t)c.n_layer * sizeof *c.layer) == 0);
    cr_assert(back->n_element == uneven->n_element && config_parameters(&c) == uneven->n_element);
    cr_assert(memcmp(back->data, uneven->data, (size_t)back->n_element * sizeof *back->data) == 0);
    model_free(m);
    model_free(uneven);
    model_free(back);
    config_release(&c);
}

Test(load_save, not_enough_disk) {
    struct layer_shape layer = {4096, 4096, 1 << 22};
    struct config c = {.model_type = "llama",
                       .n_layer = 1,
                       .hidden = 1 << 20,
                       .head_dim = 256,
                       .vocab = 1 << 24,
                       .context = 64,
                       .layer = &layer,
                       .norm_eps = 1e-5,
                       .rope_theta = 10000};
    struct model *m = model_new(&c, 0);
    struct save_options o = {.dtype = DTYPE_F32};
    char *path = path_join(folder, "huge");
    cr_assert(model_save(m, path, &o, &err) < 0 && strstr(err.text, "MB are free"), "%s", err.text);
    cr_assert(!file_exists(path));
    free(path);
    model_free(m);
}

// ---- Tied embeddings and aliases ----

Test(load_save, tied_table_under_either_name) {
    struct model *m = make_model("llama", 1, 0), *got;
    save_plainly(m);
    struct safetensors_item *items = items_of(m), *embedding = item_named(items, "model.embed_tokens.weight");
    embedding->name = "lm_head.weight";
    write_items(items, m->n_parameter, NULL);
    expect_same(got = load(), m, DTYPE_F32);
    model_free(got);
    write_items(items, m->n_parameter, "{\"model.embed_tokens.weight\": \"lm_head.weight\"}");
    expect_same(got = load(), m, DTYPE_F32);
    model_free(got);
    // both there: the embedding counts, whether the head is the same or not
    float *other = calloc(40 * 16, sizeof *other);
    embedding->name = "model.embed_tokens.weight";
    for (int same = 0; same < 2; same++) {
        items[m->n_parameter] = *embedding;
        items[m->n_parameter].name = "lm_head.weight";
        if (!same)
            items[m->n_parameter].data = other;
        write_items(items, m->n_parameter + 1, NULL);
        expect_same(got = load(), m, DTYPE_F32);
        model_free(got);
    }
    free(other);
    free(items);
    model_free(m);
}

Test(load_save, untied_head_must_be_there_or_aliased) {
    struct model *m = make_model("llama", 0, 0), *got;
    save_plainly(m);
    struct safetensors_item *items = items_of(m), *head = item_named(items, "lm_head.weight");
    *head = items[m->n_parameter - 1];
    write_items(items, m->n_parameter - 1, NULL);
    expect_refused("lm_head.weight is missing");
    write_items(items, m->n_parameter - 1, "{\"lm_head.weight\": \"model.embed_tokens.weight\"}");
    got = load();
    cr_assert(memcmp(model_find(got, "lm_head.weight")->t.data, model_find(m, "model.embed_tokens.weight")->t.data,
                     40 * 16 * sizeof(float)) == 0);
    model_free(got);
    write_items(items, m->n_parameter - 1, "{\"lm_head.weight\": \"lm_head.weight\"}");
    expect_refused("lm_head.weight is missing");
    free(items);
    model_free(m);
}

// ---- Files that do not fit ----

Test(load_save, missing_left_over_and_misshapen) {
    struct model *m = make_model("llama", 1, 0), *got;
    save_plainly(m);
    struct safetensors_item *items = items_of(m), *last = &items[m->n_parameter - 1], *extra = last + 1;
    write_items(items, m->n_parameter - 1, NULL);
    expect_refused(last->name);
    *extra = *items;
    extra->name = "model.layers.2.mlp.up_proj.weight";
    write_items(items, m->n_parameter + 1, NULL);
    expect_refused("model.layers.2.mlp.up_proj.weight");
    extra->name = "model.layers.0.self_attn.q_proj.bias";
    write_items(items, m->n_parameter + 1, NULL);
    expect_refused("attention bias no");
    extra->name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    write_items(items, m->n_parameter + 1, NULL);
    expect_same(got = load(), m, DTYPE_F32);
    model_free(got);
    struct safetensors_item *q = item_named(items, "model.layers.0.self_attn.q_proj.weight");
    q->dim[0] = 16, q->dim[1] = 24;
    write_items(items, m->n_parameter, NULL);
    expect_refused("q_proj.weight has shape [16, 24]; config.json says [24, 16]");
    q->n_dim = 1, q->dim[0] = 384;
    write_items(items, m->n_parameter, NULL);
    expect_refused("q_proj.weight has shape [384]");
    free(items);
    model_free(m);
}

// A config that promises far more than the files hold must cost a message, not memory.
Test(load_save, config_with_wild_sizes) {
    struct model *m = make_model("llama", 1, 0);
    save_plainly(m);
    struct json *o = json_read(in_folder("config.json"), &err);
    json_set_number(o, "vocab_size", 16000000);
    json_set_number(o, "intermediate_size", 4000000);
    json_set_number(o, "num_hidden_layers", 1024);
    char *text = json_text(o, 1);
    cr_assert(file_write(in_folder("config.json"), text, strlen(text), &err) == 0);
    expect_refused("model.embed_tokens.weight has shape [40, 16]; config.json says [16000000, 16]");
    free(text);
    json_free(o);
    model_free(m);
}

// Changes the saved header; both texts have the same length.
static void patch_header(const char *from, const char *to) {
    char *bytes;
    size_t len;
    cr_assert(file_read(in_folder("model.safetensors"), &bytes, &len, &err) == 0);
    char *at = memmem(bytes, len, from, strlen(from));
    cr_assert(at && strlen(from) == strlen(to), "%s", from);
    memcpy(at, to, strlen(to));
    cr_assert(file_write(in_folder("model.safetensors"), bytes, len, &err) == 0);
    free(bytes);
}

Test(load_save, dtypes_that_hold_no_weights) {
    struct model *m = make_model("llama", 1, 0);
    save_plainly(m);
    patch_header("\"model.embed_tokens.weight\":{\"dtype\":\"F32\"",
                 "\"model.embed_tokens.weight\":{\"dtype\":\"I32\"");
    expect_refused("model.embed_tokens.weight has dtype I32");
    struct safetensors_item *items = items_of(m), *extra = &items[m->n_parameter];
    *extra = *items;
    extra->name = "model.position_ids";
    write_items(items, m->n_parameter + 1, NULL);
    expect_refused("model.position_ids"); // as F32 it is a weight that nobody wants
    patch_header("\"model.position_ids\":{\"dtype\":\"F32\"", "\"model.position_ids\":{\"dtype\":\"I32\"");
    struct model *got = load();
    expect_same(got, m, DTYPE_F32);
    model_free(got);
    free(items);
    model_free(m);
}

// Old writers did not pad the header, so that data may lie at any address.
Test(load_save, unaligned_data) {
    for (int d = DTYPE_F32; d <= DTYPE_BF16; d++)
        for (size_t shift = 1; shift <= 3; shift++) {
            struct model *m = make_model("llama", 1, 0);
            struct save_options o = {.dtype = (enum dtype)d};
            char *bytes;
            size_t len;
            cr_assert(model_save(m, folder, &o, &err) == 0, "%s", err.text);
            cr_assert(file_read(in_folder("model.safetensors"), &bytes, &len, &err) == 0);
            uint64_t header;
            memcpy(&header, bytes, 8);
            char *longer = malloc(len + shift);
            memcpy(longer, bytes, 8 + header);
            memset(longer + 8 + header, ' ', shift);
            memcpy(longer + 8 + header + shift, bytes + 8 + header, len - 8 - header);
            header += shift;
            memcpy(longer, &header, 8);
            cr_assert(file_write(in_folder("model.safetensors"), longer, len + shift, &err) == 0);
            struct model *got = load();
            expect_same(got, m, (enum dtype)d);
            free(bytes);
            free(longer);
            model_free(got);
            model_free(m);
        }
}

Test(load_save, folders_without_a_model) {
    expect_refused("no config.json");
    struct model *m = make_model("llama", 1, 0);
    save_plainly(m);
    unlink(in_folder("model.safetensors"));
    expect_refused("neither model.safetensors nor");
    model_free(m);
}

// ---- Checkpoints made by other programs ----

Test(load_save, shared_models) {
    static const char *const names[] = {"models/tinystories-656k", "models/stories260k"};
    int found = 0;
    for (int i = 0; i < 2; i++) {
        const char *path = shared_path(names[i]);
        if (!path)
            continue;
        found = 1;
        struct model *m = model_load(path, &err);
        cr_assert(m, "%s", err.text);
        cr_assert(config_parameters(&m->config) == m->n_element && m->config.tie_embeddings);
        struct save_options o = {.dtype = DTYPE_F32, .shard_bytes = 300000, .carry_from = path};
        cr_assert(model_save(m, folder, &o, &err) == 0, "%s", err.text);
        cr_assert(file_exists(in_folder("tokenizer.json")) && !file_exists(in_folder("SOURCE.txt")));
        struct model *got = load();
        expect_same(got, m, DTYPE_F32);
        model_free(got);
        model_free(m);
    }
    if (!found)
        cr_skip_test("no shared/models");
}
