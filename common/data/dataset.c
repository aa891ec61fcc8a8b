// dataset.c: see dataset.h.
//
// The order of windows comes from a keyed permutation computed one index at a time (a small Feistel network over the
// next power of four, walked until it lands inside): a batch is a pure function of its number, and nothing as long as
// the data is kept or made again when a run is resumed.
//
// To add an input format: give it a reader beside read_jsonl and choose it by its ending in dataset_documents.
#include "common/data/dataset.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/random.h"

typedef void take_text(void *context, const char *text, size_t len);

static int read_jsonl(const char *path, const char *data, size_t len, take_text *take, void *context,
                      struct error *err)
{
    const char *end = data + len;
    int64_t number = 0;
    for (const char *line = data; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        size_t n = (size_t)((stop ? stop : end) - line);
        number++;
        if (strspn(line, " \t\r") < n) {
            char where[512];
            snprintf(where, sizeof where, "%s, line %lld", path, (long long)number);
            struct json *root = json_parse(line, n, where, 0, err);
            if (!root)
                return -1;
            const struct json *text = json_get(root, "text");
            if (!text || json_kind(text) != JSON_STRING) {
                error_set(err, "%s: expected an object with a string \"text\", found %s", where,
                          text ? json_kind_name(json_kind(text)) : "none");
                json_free(root);
                return -1;
            }
            take(context, json_string(text), strlen(json_string(text)));
            json_free(root);
        }
        line = stop ? stop + 1 : end;
    }
    return 0;
}

int dataset_documents(const char *const *paths, size_t n_paths, const char *where,
                      void (*take)(void *context, const char *text, size_t len), void *context, struct error *err)
{
    for (size_t i = 0; i < n_paths; i++) {
        char *data;
        size_t len;
        if (file_read(paths[i], &data, &len, err) < 0)
            return error_prefix(err, "%s", where);
        int status = 0;
        if (path_ends_with(paths[i], ".jsonl") || path_ends_with(paths[i], ".jsonl.gz"))
            status = read_jsonl(paths[i], data, len, take, context, err);
        else
            take(context, data, len);
        free(data);
        if (status < 0)
            return error_prefix(err, "%s", where);
    }
    return 0;
}

struct encoding {
    const struct tokenizer *tokenizer;
    struct token_list list;
    struct dataset *dataset;
    const char *where;
    struct error *err;
    int failed;
};

static void encode_document(void *context, const char *text, size_t len)
{
    struct encoding *e = context;
    e->failed = e->failed || tokenizer_check_text(e->tokenizer, text, len, e->where, e->err) < 0;
    if (e->failed)
        return;
    tokenizer_encode(e->tokenizer, text, len, TOKENIZE_SPECIAL, &e->list, &e->dataset->invalid_bytes);
    e->dataset->text_bytes += (int64_t)len;
}

int dataset_read(struct dataset *d, const struct tokenizer *t, const char *const *paths, size_t n_paths,
                 const char *where, struct error *err)
{
    *d = (struct dataset){0};
    struct encoding e = {.tokenizer = t, .dataset = d, .where = where, .err = err};
    if (dataset_documents(paths, n_paths, where, encode_document, &e, err) < 0 || e.failed) {
        token_list_free(&e.list);
        return -1;
    }
    d->token = e.list.id;
    d->n_token = (int64_t)e.list.count;
    if (d->n_token < 2) {
        error_set(err, "%s: %s%s: found %lld token%s, need at least 2; give more text", where,
                  n_paths ? paths[0] : "no file", n_paths > 1 ? ", ..." : "", (long long)d->n_token,
                  d->n_token == 1 ? "" : "s");
        dataset_release(d);
        return -1;
    }
    return 0;
}

void dataset_release(struct dataset *d)
{
    free(d->token);
    *d = (struct dataset){0};
}

int dataset_check(const struct dataset *d, int64_t vocab, const char *where, struct error *err)
{
    for (int64_t i = 0; i < d->n_token; i++)
        if (d->token[i] < 0 || d->token[i] >= vocab)
            return error_set(err,
                             "%s: token %lld of the text has id %d, but the model's embedding has %lld rows; "
                             "the tokenizer and the model do not belong together",
                             where, (long long)i, (int)d->token[i], (long long)vocab);
    return 0;
}

int64_t dataset_windows(const struct dataset *d, int64_t seq_len) { return (d->n_token - 1 + seq_len - 1) / seq_len; }

void dataset_batch(const struct dataset *d, int64_t seq_len, uint64_t seed, int64_t first, int64_t B, int32_t *inputs,
                   int32_t *targets)
{
    int64_t windows = dataset_windows(d, seq_len);
    for (int64_t b = 0; b < B; b++) {
        int64_t start = random_shuffled(seed, "order of the data", windows, first + b) * seq_len;
        for (int64_t j = 0; j < seq_len; j++) {
            int64_t at = start + j;
            inputs[b * seq_len + j] = at < d->n_token ? d->token[at] : 0;
            targets[b * seq_len + j] = at + 1 < d->n_token ? d->token[at + 1] : -1;
        }
    }
}
