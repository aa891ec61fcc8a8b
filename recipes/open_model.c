// open_model.c: see open_model.h.
#include "recipes/open_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/model/load.h"
#include "quant/gguf_model.h"

int path_is_gguf(const char *path) { return path_ends_with(path, ".gguf"); }

// Embeddings are often padded to a round number of rows, so a few unused rows are no error.
#define PADDING_UNIT 32
#define PADDING_SHARE 0.01

static int check_vocabulary(const struct opened *o, struct error *err) {
    int64_t rows = o->model->config.vocab, tokens = tokenizer_size(o->tokenizer), spare = rows - tokens;
    if (spare == 0)
        return 0;
    if (spare > 0 && rows % PADDING_UNIT == 0 && (double)spare <= PADDING_SHARE * (double)rows) {
        log_info("%s: the embedding has %ld rows for %ld tokens; the last %ld are padding", o->path, (long)rows,
                 (long)tokens, (long)spare);
        return 0;
    }
    return error_set(
        err,
        "%s: the tokenizer has %ld tokens, the embedding %ld rows (vocab_size); they must be equal (or the embedding "
        "padded by at most 1 %% to a multiple of %d): put the tokenizer there that the model was trained with",
        tokenizer_source(o->tokenizer), (long)tokens, (long)rows, PADDING_UNIT);
}

#define ROPE_TOLERANCE 1e-4 // factors lie in the file as f32

// What is wrong with a path that is neither a .gguf file nor a model's folder.
static int check_folder(const char *path, struct error *err) {
    if (!file_exists(path))
        return error_set(err,
                         "%s: no such file or directory; expected a model's folder (config.json, *.safetensors, "
                         "tokenizer.json) or a .gguf file",
                         path);
    if (!file_is_directory(path))
        return error_set(
            err, "%s: a file, but its name does not end in .gguf; expected a model's folder or a .gguf file%s", path,
            path_ends_with(path, ".json") ? " (recipes are for pdq run)" : "");
    char *config = path_join(path, "config.json"), *recipe = path_join(path, "recipe.json");
    int has_config = file_exists(config), has_recipe = file_exists(recipe);
    free(config);
    free(recipe);
    if (has_config)
        return 0;
    if (has_recipe)
        return error_set(
            err,
            "%s: the folder of a run, not a model; its models lie in the folders below (01-..., ...): name one "
            "of them",
            path);
    return error_set(err,
                     "%s: no config.json in this folder; expected a Hugging Face model (config.json, *.safetensors, "
                     "tokenizer.json)",
                     path);
}

static struct model *configured(const char *folder, int with_storage, struct error *err) {
    struct config config = {0};
    struct model *m = config_read(&config, folder, err) < 0 ? NULL : model_new(&config, with_storage);
    config_release(&config);
    return m;
}

int opened_look(struct opened *o, const char *path, int has_weights, struct error *err) {
    *o = (struct opened){.path = xstrdup(path), .is_gguf = path_is_gguf(path) && !file_is_directory(path)};
    if (o->is_gguf) {
        o->model = gguf_model_open(path, &o->tokenizer, err);
    } else if (check_folder(path, err) == 0) {
        o->model = has_weights ? model_load_shape(path, err) : configured(path, 0, err);
    }
    const int is_language = o->model && model_is_language(&o->model->config);
    if (is_language && !o->is_gguf)
        o->tokenizer = tokenizer_open(path, err);
    if (!o->model || (is_language && (!o->tokenizer || check_vocabulary(o, err) < 0))) {
        opened_release(o);
        return -1;
    }
    return 0;
}

// A GGUF file's rotary frequencies are its own; a model of the same config must have them, too.
static int check_rope(const struct opened *o, struct error *err) {
    struct model *m = model_new(&o->model->config, 0);
    int64_t i = 0;
    while (i < m->config.head_dim / 2 && fabs(m->rope[i] - o->model->rope[i]) <= ROPE_TOLERANCE * fabs(o->model->rope[i])) // all 0: it does not rotate
        i++;
    const int agree = i == m->config.head_dim / 2;
    model_free(m);
    return agree ? 0 : error_set(err, "%s: rope_freqs.weight holds factors that no config.json can say, so the file can be evaluated, but not "
                                 "pruned, trained or exported", o->path);
}

int opened_map(struct opened *o, struct error *err) {
    if (o->is_gguf && !o->model->data) // else it was widened
        gguf_model_stream(o->model);
    if (o->is_gguf)
        return check_rope(o, err);
    if (o->model->data)
        return 0;
    struct model *m = model_map(o->path, err);
    if (!m)
        return -1;
    model_free(o->model);
    o->model = m;
    return 0;
}

int opened_read(struct opened *o, struct error *err) {
    if (o->is_gguf || o->model->data)
        return 0;
    struct model *m = model_load(o->path, err);
    if (!m)
        return -1;
    model_free(o->model);
    o->model = m;
    return 0;
}

int opened_widen(struct opened *o, struct error *err) {
    TRY(check_rope(o, err));
    struct model *m = model_new(&o->model->config, 1);
    for (int i = 0; i < m->n_parameter; i++) {
        const struct tensor *from = &o->model->parameter[i].t;
        tensor_read_rows(from, 0, tensor_rows(from), m->parameter[i].t.data);
    }
    model_free(o->model);
    o->model = m;
    return model_check_values(m, err) < 0 ? error_prefix(err, "%s", o->path) : 0;
}

int opened_open(struct opened *o, const char *path, struct error *err) {
    TRY(opened_any(o, path, err));
    if (model_is_causal(&o->model->config))
        return 0;
    const int is_language = model_is_language(&o->model->config);
    error_set(err, "%s: %s (model_type %s); this works on language models%s", path,
              is_language ? "a model that reads both ways" : "a classifier of images", o->model->config.model_type,
              is_language ? " that predict the next token" : "");
    opened_release(o);
    return -1;
}

int opened_any(struct opened *o, const char *path, struct error *err) {
    TRY(opened_look(o, path, 1, err));
    if (opened_read(o, err) < 0) {
        opened_release(o);
        return -1;
    }
    return 0;
}

int opened_shape(struct opened *o, const char *folder, struct error *err) {
    TRY(opened_look(o, folder, 0, err));
    model_free(o->model);
    o->model = configured(folder, 1, err);
    if (!o->model)
        opened_release(o);
    return o->model ? 0 : -1;
}

void opened_release(struct opened *o) {
    if (!o->borrowed) {
        model_free(o->model);
        tokenizer_free(o->tokenizer);
    }
    free(o->path);
    *o = (struct opened){0};
}

int shape_read(struct config *c, const char *path, struct error *err) {
    if (path_is_gguf(path) && !file_is_directory(path)) {
        struct tokenizer *tokenizer = NULL;
        struct model *m = gguf_model_open(path, &tokenizer, err); // a map: no weight is read
        if (!m)
            return -1;
        config_copy(c, &m->config);
        model_free(m);
        tokenizer_free(tokenizer);
        return 0;
    }
    TRY(check_folder(path, err));
    return config_read(c, path, err);
}

static int counts_for_hash(const char *name, int shape_only) {
    int is_weight = path_ends_with(name, ".safetensors") || path_ends_with(name, ".safetensors.index.json");
    return (is_weight && !shape_only) || strcmp(name, "config.json") == 0 || strncmp(name, "tokenizer", 9) == 0 ||
           strcmp(name, "special_tokens_map.json") == 0 || strcmp(name, "vocab.json") == 0 || strcmp(name, "merges.txt") == 0 ||
           strcmp(name, "vocab.txt") == 0;
}

int model_hash(const char *path, int shape_only, char out[HASH_TEXT], struct error *err) {
    if (!file_is_directory(path))
        return hash_file(path, out, err);
    char **names;
    size_t n;
    TRY(directory_list(path, &names, &n, err));
    struct hasher *h = hasher_new();
    int result = 0;
    for (size_t i = 0; i < n && result == 0; i++) {
        if (!counts_for_hash(names[i], shape_only))
            continue;
        char *file = path_join(path, names[i]), text[HASH_TEXT];
        result = hash_file(file, text, err);
        hasher_add_text(h, names[i]);
        hasher_add_text(h, result == 0 ? text : "");
        free(file);
    }
    names_free(names, n);
    hasher_end(h, out);
    return result;
}

int64_t model_bytes(const char *path) {
    if (!file_is_directory(path))
        return file_size(path);
    struct error err;
    char **names;
    size_t n;
    if (directory_list(path, &names, &n, &err) < 0)
        return -1;
    int64_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        if (path_ends_with(names[i], ".safetensors")) {
            char *file = path_join(path, names[i]);
            bytes += file_size(file);
            free(file);
        }
    names_free(names, n);
    return bytes;
}

int model_gzip_bytes(const char *path, int64_t *bytes, struct error *err) {
    *bytes = 0;
    if (!file_is_directory(path))
        return file_gzip_size(path, bytes, err);
    char **names;
    size_t n;
    int status = 0;
    TRY(directory_list(path, &names, &n, err));
    for (size_t i = 0; i < n && status == 0; i++) {
        char *file = path_join(path, names[i]);
        int64_t one = 0;
        if (path_ends_with(file, ".safetensors"))
            status = file_gzip_size(file, &one, err);
        *bytes += one;
        free(file);
    }
    names_free(names, n);
    return status;
}
