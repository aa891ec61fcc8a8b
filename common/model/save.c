// save.c: a model into a directory in transformers' layout.
//
// Order: weights, carried files, config.json last. A folder without config.json is no model, so an interrupted save
// into a new folder leaves nothing that loads. What is there already is replaced file by file.
#include "common/model/save.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/model/stored.h"

#define SLACK ((int64_t)1 << 20) // headers, config, the file system's own needs

// Tokenizer, generation defaults and licence go with the weights; a model card describes the parent and does not.
static int is_carried(const char *name) {
    static const char *const names[] = {
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "vocab.json",
        "merges.txt",
        "vocab.txt",
        "added_tokens.json",
        "chat_template.jinja",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0)
            return 1;
    return strncmp(name, "LICENSE", 7) == 0;
}

// Calls for every file to carry; to NULL: only adds up their sizes.
static int carry_files(const char *from, const char *to, int64_t *bytes, struct error *err) {
    char **names;
    size_t n;
    int rc = 0;
    TRY(directory_list(from, &names, &n, err));
    for (size_t i = 0; i < n && rc == 0; i++) {
        char *source = path_join(from, names[i]);
        if (is_carried(names[i]) && !file_is_directory(source)) {
            *bytes += file_size(source);
            char *target = to ? path_join(to, names[i]) : NULL;
            rc = to ? file_copy(source, target, err) : 0;
            free(target);
        }
        free(source);
    }
    names_free(names, n);
    return rc;
}

// Two spellings of one folder: nothing needs carrying then.
static int same_folder(const char *a, const char *b) {
    char *x = realpath(a, NULL), *y = realpath(b, NULL);
    int same = x && y && strcmp(x, y) == 0;
    free(x);
    free(y);
    return same;
}

static int check_disk(const struct model *m, const char *folder, enum dtype dtype, int64_t carried,
                      struct error *err) {
    int64_t need = m->n_element * (int64_t)dtype_size(dtype) + carried + SLACK, room = disk_free(folder);
    if (room >= 0 && room < need)
        return error_set(
            err, "%s: the model needs %.1f MB of disk and %.1f MB are free: make room or choose another place",
            folder, (double)need / 1e6, (double)room / 1e6);
    return 0;
}

static int write_weights(const struct model *m, const char *folder, const struct save_options *o, struct error *err) {
    struct json *metadata = NULL;
    int n;
    const struct save_integers *q = o->integers;
    struct stored_tensor *stored = stored_list(m, &n);
    struct safetensors_item *items = xcalloc((size_t)(n + (q ? q->n : 0)), sizeof *items, "tensors to write");
    int64_t n_item = 0;
    for (int i = 0; i < n; i++) {
        const struct tensor *t = &stored[i].t, *own = &stored[i].part[0]->t;
        const int plain = stored_plainly(stored[i].part[0]) && !own->hook;
        if (q && q->replaced[stored[i].part[0] - m->parameter])
            continue;
        items[n_item] = (struct safetensors_item){
            .name = stored[i].name, .n_dim = t->n_dim, .data = plain ? own->data : NULL, .hooked = plain ? NULL : t};
        memcpy(items[n_item].dim, t->dim, (size_t)t->n_dim * sizeof t->dim[0]);
        if (!own->hook && !own->data)
            BUG("model_save: tensor %s has neither data nor hook", items[n_item].name);
        n_item++;
    }
    for (int64_t i = 0; q && i < q->n; i++)
        items[n_item++] = q->item[i];
    if (o->provenance) {
        char *text = json_text(o->provenance, 0);
        metadata = json_object();
        json_set_string(metadata, "pdq", text);
        free(text);
    }
    struct safetensors_writer *to = safetensors_begin(folder, items, n_item, o->dtype, o->shard_bytes, metadata, err);
    int rc = to ? 0 : -1;
    if (rc == 0 && q)
        rc = q->write(q->context, to, err);
    if (rc == 0)
        rc = safetensors_commit(to, err);
    safetensors_end(to);
    json_free(metadata);
    free(items);
    free(stored);
    return rc;
}

// transformers checks that these are floats, and a whole number read from JSON is none: "8" becomes "8.0".
static void spell_floats(char **text) {
    static const char *const keys[] = {"rope_theta",        "factor",          "low_freq_factor",
                                       "high_freq_factor",  "rms_norm_eps",    "attention_dropout",
                                       "initializer_range", "attention_factor",  "layer_norm_epsilon", "embd_pdrop", "attn_pdrop", "resid_pdrop",
                                       "layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout",
                                       "dropout", "qa_dropout", "seq_classif_dropout"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        char *pattern = xasprintf("\"%s\": ", keys[i]);
        for (char *at = strstr(*text, pattern); at; at = strstr(at + 1, pattern)) {
            char *number = at + strlen(pattern);
            size_t length = strspn(number, "-0123456789");
            if (!length || strchr(".eE", number[length]))
                continue;
            char *longer = xasprintf("%.*s.0%s", (int)(number + length - *text), *text, number + length);
            at = longer + (at - *text);
            free(*text);
            *text = longer;
        }
        free(pattern);
    }
}

int model_save(const struct model *m, const char *folder, const struct save_options *o, struct error *err) {
    static const char *const names[] = {[DTYPE_F32] = "float32", [DTYPE_F16] = "float16", [DTYPE_BF16] = "bfloat16"};
    int rc = -1;
    int64_t carried = 0;
    struct json *config = config_to_json(&m->config, names[o->dtype]);
    if (o->integers)
        json_set(config, "quantization_config", json_copy(o->integers->config));
    char *text = json_text(config, 1), *path = path_join(folder, "config.json");
    spell_floats(&text);
    const int carry = o->carry_from && !same_folder(o->carry_from, folder), was_there = file_exists(folder);
    if (carry && carry_files(o->carry_from, NULL, &carried, err) < 0)
        goto out;
    if (check_disk(m, folder, o->dtype, carried, err) < 0 || directory_make(folder, err) < 0)
        goto out;
    if (write_weights(m, folder, o, err) < 0)
        goto out;
    if (carry && carry_files(o->carry_from, folder, &carried, err) < 0)
        goto out;
    rc = file_write(path, text, strlen(text), err);
out:
    if (rc < 0 && !was_there)
        rmdir(folder); // unless something is in it
    json_free(config);
    free(text);
    free(path);
    return rc;
}
