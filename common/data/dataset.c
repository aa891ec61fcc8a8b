// dataset.c: see dataset.h.
//
// The order of windows comes from a keyed permutation computed one index at a time (a small Feistel network over the
// next power of four, walked until it lands inside): a batch is a pure function of its number, and nothing as long as
// the data is kept or made again when a run is resumed.
//
// To add an input format: give it a reader beside read_jsonl and choose it by its ending in dataset_documents.
#include "common/data/dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/random.h"

// {"text"}, or {"prompt", "answer"}.
static int read_line(const struct json *root, const char *where, struct document *d, struct error *err)
{
    const char *text, *prompt, *answer;
    TRY(json_get_string(root, where, "text", NULL, &text, err));
    TRY(json_get_string(root, where, "prompt", NULL, &prompt, err));
    TRY(json_get_string(root, where, "answer", NULL, &answer, err));
    if (!text == !prompt || !prompt != !answer)
        return error_set(err, "%s: expected an object with a string \"text\", or with \"prompt\" and \"answer\"; found %s", where,
                         text ? "both" : prompt ? "a prompt alone" : answer ? "an answer alone" : "none");
    *d = (struct document){.prompt = prompt, .text = text ? text : answer};
    d->prompt_len = prompt ? strlen(prompt) : 0;
    d->len = strlen(d->text);
    return 0;
}

static int read_jsonl(const char *path, const char *data, size_t len, take_document *take, void *context, struct error *err)
{
    const char *end = data + len;
    int64_t number = 0;
    for (const char *line = data; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        size_t n = (size_t)((stop ? stop : end) - line);
        number++;
        if (strspn(line, " \t\r") < n) {
            char where[512];
            struct document d;
            snprintf(where, sizeof where, "%s, line %lld", path, (long long)number);
            struct json *root = json_parse(line, n, where, 0, err);
            int status = root ? read_line(root, where, &d, err) : -1;
            if (status == 0)
                take(context, &d);
            json_free(root);
            TRY(status);
        }
        line = stop ? stop + 1 : end;
    }
    return 0;
}

#define BINARY_SAMPLE 8000 // bytes; git looks at as many

// A NUL byte near the beginning: a picture, a model, a text in UTF-16, but no text as tokenizers take it.
static int refuse_binary(const char *path, const char *data, size_t len, struct error *err)
{
    const char *nul = memchr(data, 0, len < BINARY_SAMPLE ? len : BINARY_SAMPLE);
    return nul ? error_set(err, "%s: byte %zu is NUL, so this is no text; expected UTF-8 (.txt or .jsonl, may be gzipped)", path, (size_t)(nul - data)) : 0;
}

int dataset_documents(const char *const *paths, size_t n_paths, const char *where, take_document *take, void *context,
                      struct error *err)
{
    for (size_t i = 0; i < n_paths; i++) {
        char *data;
        size_t len;
        if (file_read(paths[i], &data, &len, err) < 0)
            return error_prefix(err, "%s", where);
        const int is_jsonl = path_ends_with(paths[i], ".jsonl") || path_ends_with(paths[i], ".jsonl.gz");
        int status = refuse_binary(paths[i], data, len, err);
        if (status == 0 && is_jsonl)
            status = read_jsonl(paths[i], data, len, take, context, err);
        else if (status == 0)
            take(context, &(struct document){.text = data, .len = len});
        free(data);
        if (status < 0)
            return error_prefix(err, "%s", where);
    }
    return 0;
}

static int mixed(const char *where, struct error *err)
{
    return error_set(err, "%s: has questions (\"prompt\", \"answer\") and plain text; expected one kind", where);
}

int dataset_add(struct dataset *d, const struct tokenizer *t, const struct document *document, int ends, const char *where,
                struct error *err)
{
    struct token_list list = {.id = d->token, .count = (size_t)d->n_token, .capacity = (size_t)d->n_token};
    if (d->n_token && !d->n_question != !document->prompt)
        return mixed(where, err);
    if (document->prompt)
        TRY(tokenizer_check_text(t, document->prompt, document->prompt_len, where, err));
    TRY(tokenizer_check_text(t, document->text, document->len, where, err));
    if (tokenizer_adds_bos(t) && tokenizer_bos(t) >= 0)
        token_list_push(&list, tokenizer_bos(t));
    if (document->prompt) {
        d->start = xrealloc(d->start, (size_t)(d->n_question + 2) * sizeof *d->start, "questions");
        d->answer = xrealloc(d->answer, (size_t)(d->n_question + 1) * sizeof *d->answer, "questions");
        d->start[d->n_question] = d->n_token;
        tokenizer_encode(t, document->prompt, document->prompt_len, 0, &list, &d->invalid_bytes);
        d->answer[d->n_question++] = (int64_t)list.count;
    }
    tokenizer_encode(t, document->text, document->len, 0, &list, &d->invalid_bytes);
    if (ends && tokenizer_adds_eos(t) && tokenizer_eos(t) >= 0)
        token_list_push(&list, tokenizer_eos(t));
    d->token = list.id;
    d->n_token = (int64_t)list.count;
    d->text_bytes += (int64_t)document->len;
    if (!document->prompt)
        return 0;
    d->start[d->n_question] = d->n_token;
    const int64_t first = d->answer[d->n_question - 1];
    if (first == d->start[d->n_question - 1] || first == d->n_token)
        return error_set(err, "%s: question %lld has %s without a token; expected some text", where, (long long)d->n_question,
                         first == d->n_token ? "an answer" : "a prompt");
    return 0;
}

int dataset_append(struct dataset *d, struct dataset *more, const char *where, struct error *err)
{
    if (d->n_token && !d->n_question != !more->n_question)
        return mixed(where, err);
    d->token = xrealloc(d->token, (size_t)(d->n_token + more->n_token) * sizeof *d->token, "tokens");
    memcpy(d->token + d->n_token, more->token, (size_t)more->n_token * sizeof *more->token);
    if (more->n_question) {
        const size_t n = (size_t)(d->n_question + more->n_question);
        d->start = xrealloc(d->start, (n + 1) * sizeof *d->start, "questions");
        d->answer = xrealloc(d->answer, n * sizeof *d->answer, "questions");
        for (int64_t i = 0; i <= more->n_question; i++)
            d->start[d->n_question + i] = d->n_token + more->start[i];
        for (int64_t i = 0; i < more->n_question; i++)
            d->answer[d->n_question + i] = d->n_token + more->answer[i];
    }
    d->n_question += more->n_question;
    d->n_token += more->n_token;
    d->text_bytes += more->text_bytes;
    d->invalid_bytes += more->invalid_bytes;
    dataset_release(more);
    return 0;
}

int dataset_add_source(struct dataset *d, struct dataset *source, const char *where, struct error *err)
{
    d->source = xrealloc(d->source, (size_t)(d->n_source + 2) * sizeof *d->source, "sources");
    d->source[d->n_source] = source->n_question ? d->n_question : d->n_token;
    TRY(dataset_append(d, source, where, err));
    d->source[++d->n_source] = d->n_question ? d->n_question : d->n_token;
    return 0;
}

void dataset_mix(struct dataset *d, const double *weight)
{
    mixture_release(&d->mixture);
    mixture_init(&d->mixture, weight, d->n_source);
}

void dataset_view(struct dataset *view, const struct dataset *d)
{
    *view = *d;
    view->mixture = (struct mixture){0};
    if (d->n_source)
        mixture_copy(&view->mixture, &d->mixture);
}

void dataset_drop_view(struct dataset *view)
{
    mixture_release(&view->mixture);
    *view = (struct dataset){0};
}

void dataset_hash_windows(const struct dataset *d, struct hasher *h)
{
    hasher_add(h, d->token, (size_t)d->n_token * sizeof *d->token);
    hasher_add(h, d->answer, (size_t)d->n_question * sizeof *d->answer);
    if (d->n_source)
        hasher_add(h, d->source, (size_t)(d->n_source + 1) * sizeof *d->source);
}

struct encoding {
    const struct tokenizer *tokenizer;
    struct dataset *dataset;
    const char *where;
    struct error *err;
    int status;
};

static void encode_document(void *context, const struct document *d)
{
    struct encoding *e = context;
    if (e->status == 0)
        e->status = dataset_add(e->dataset, e->tokenizer, d, 1, e->where, e->err);
}

int dataset_read(struct dataset *d, const struct tokenizer *t, const char *const *paths, size_t n_paths,
                 const char *where, struct error *err)
{
    *d = (struct dataset){0};
    struct encoding e = {.tokenizer = t, .dataset = d, .where = where, .err = err};
    if (dataset_documents(paths, n_paths, where, encode_document, &e, err) < 0 || e.status < 0) {
        dataset_release(d);
        return -1;
    }
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
    free(d->start);
    free(d->answer);
    free(d->source);
    mixture_release(&d->mixture);
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

int dataset_fits(const struct dataset *d, int64_t seq_len, const char *where, struct error *err)
{
    for (int64_t i = 0; i < d->n_question; i++)
        if (d->start[i + 1] - d->start[i] > seq_len + 1)
            return error_set(err, "%s: question %lld has %lld tokens with its answer; a window of seq_len %lld holds %lld", where,
                             (long long)i + 1, (long long)(d->start[i + 1] - d->start[i]), (long long)seq_len, (long long)seq_len + 1);
    return 0;
}

struct window { // tokens start .. end - 1, of which those from `wanted` on are predicted
    int64_t start, end, wanted;
};

static int64_t windows_of(int64_t tokens, int64_t seq_len) { return (tokens - 1 + seq_len - 1) / seq_len; }

int64_t dataset_source_windows(const struct dataset *d, int64_t seq_len, int source)
{
    const int64_t n = d->source[source + 1] - d->source[source];
    return d->n_question ? n : windows_of(n, seq_len);
}

int64_t dataset_windows(const struct dataset *d, int64_t seq_len)
{
    int64_t n = 0;
    for (int k = 0; k < d->n_source && !d->n_question; k++)
        n += dataset_source_windows(d, seq_len, k);
    return d->n_question ? d->n_question : d->n_source ? n : windows_of(d->n_token, seq_len);
}

static struct window window_at(const struct dataset *d, int64_t seq_len, int64_t w)
{
    if (d->n_question)
        return (struct window){d->start[w], d->start[w + 1], d->answer[w]};
    int64_t begin = 0, end = d->n_token;
    for (int k = 0; k < d->n_source; k++) { // of the source that w is in, where w becomes its number
        const int64_t n = dataset_source_windows(d, seq_len, k);
        begin = d->source[k];
        end = d->source[k + 1];
        if (w < n)
            break;
        w -= n;
    }
    const int64_t start = begin + w * seq_len, stop = start + seq_len + 1;
    return (struct window){start, stop < end ? stop : end, start + 1};
}

void dataset_choose(struct dataset *chosen, const struct dataset *d, int64_t seq_len, const int64_t *window, int64_t n)
{
    *chosen = (struct dataset){.n_question = n, .text_bytes = d->text_bytes};
    chosen->start = xmalloc((size_t)(n + 1) * sizeof *chosen->start, "chosen windows");
    chosen->answer = xmalloc((size_t)(n + 1) * sizeof *chosen->answer, "chosen windows");
    for (int64_t i = 0; i < n; i++)
        chosen->n_token += window_at(d, seq_len, window[i]).end - window_at(d, seq_len, window[i]).start;
    chosen->token = xmalloc((size_t)(chosen->n_token + 1) * sizeof *chosen->token, "chosen windows");
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        const struct window w = window_at(d, seq_len, window[i]);
        memcpy(chosen->token + at, d->token + w.start, (size_t)(w.end - w.start) * sizeof *chosen->token);
        chosen->start[i] = at;
        chosen->answer[i] = at + w.wanted - w.start;
        at += w.end - w.start;
    }
    chosen->start[n] = at;
}

int64_t dataset_window(const struct dataset *d, int64_t seq_len, uint64_t seed, int64_t i)
{
    if (!d->n_source)
        return random_shuffled(seed, "order of the data", dataset_windows(d, seq_len), i);
    const struct mixture_draw draw = mixture_at(&d->mixture, i);
    int64_t before = 0;
    for (int k = 0; k < draw.source; k++)
        before += dataset_source_windows(d, seq_len, k);
    return before + random_shuffled(seed, "order of the data", dataset_source_windows(d, seq_len, draw.source), draw.number);
}

void dataset_read_window(const struct dataset *d, int64_t seq_len, int64_t w, int32_t *inputs, int32_t *targets)
{
    const struct window window = window_at(d, seq_len, w);
    for (int64_t j = 0; j < seq_len; j++) {
        const int64_t at = window.start + j, next = at + 1;
        inputs[j] = at < window.end ? d->token[at] : 0;
        targets[j] = next < window.end && next >= window.wanted ? d->token[next] : -1;
    }
}

void dataset_batch(const struct dataset *d, int64_t seq_len, uint64_t seed, int64_t first, int64_t B, int32_t *inputs,
                   int32_t *targets)
{
    for (int64_t b = 0; b < B; b++)
        dataset_read_window(d, seq_len, dataset_window(d, seq_len, seed, first + b), inputs + b * seq_len, targets + b * seq_len);
}
