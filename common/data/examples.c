// examples.c: see examples.h.
#include "common/data/examples.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/random.h"
#include "common/data/dataset.h"
#include "common/data/reading.h"
#include "common/data/table.h"

// A class by its number, or by its name in id2label; -1: none.
static int32_t label_of(const struct example_classes *c, const char *text)
{
    char *end;
    const long number = strtol(text, &end, 10);
    for (const struct json *v = json_first(c->names); v; v = json_next(v))
        if (json_string(v) && strcmp(json_string(v), text) == 0)
            return (int32_t)strtol(json_key(v), NULL, 10);
    return end != text && !*end && number >= 0 && number < c->n ? (int32_t)number : -1;
}

static void put(struct reading *r, int32_t id)
{
    if (r->n_token == r->token_room) {
        r->token_room = r->token_room ? 2 * r->token_room : 4096;
        r->e->token = xrealloc(r->e->token, (size_t)r->token_room * sizeof *r->e->token, "tokens of examples");
    }
    r->e->token[r->n_token++] = id;
}

static void put_all(struct reading *r, const struct token_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        put(r, list->id[i]);
}

static void make_room(struct reading *r)
{
    struct examples *e = r->e;
    if (e->n < r->room)
        return;
    r->room = r->room ? 2 * r->room : 1024;
    e->start = xrealloc(e->start, (size_t)(r->room + 1) * sizeof *e->start, "examples");
    e->pair = xrealloc(e->pair, (size_t)r->room * sizeof *e->pair, "examples");
    e->label = xrealloc(e->label, (size_t)r->room * sizeof *e->label, "examples");
    if (r->has_spans)
        e->span = xrealloc(e->span, (size_t)(2 * r->room) * sizeof *e->span, "examples");
}

// Ends the sequence that began at `start`.
static void add(struct reading *r, int64_t start, int32_t pair, int32_t label)
{
    struct examples *e = r->e;
    make_room(r);
    e->start[e->n] = start;
    e->pair[e->n] = pair;
    e->label[e->n] = label;
    e->n++;
    e->start[e->n] = r->n_token;
    e->longest = r->n_token - start > e->longest ? r->n_token - start : e->longest;
}

int64_t reading_ends(const struct reading *r, int has_pair)
{
    int32_t n_between;
    tokenizer_between(r->t, &n_between);
    return has_pair ? 2 + n_between : 2;
}

int64_t reading_put(struct reading *r, const struct token_list *first, const struct token_list *second, int32_t label)
{
    const int64_t start = r->n_token;
    put(r, tokenizer_bos(r->t));
    put_all(r, first);
    int32_t n_between;
    const int32_t *between = tokenizer_between(r->t, &n_between);
    for (int32_t i = 0; second && i < n_between; i++)
        put(r, between[i]);
    const int64_t pair = r->n_token - start + !second;
    if (second)
        put_all(r, second);
    put(r, tokenizer_eos(r->t));
    add(r, start, (int32_t)pair, label);
    return pair;
}

// In as many sequences as it takes.
static void take_text(struct reading *r, const char *text, size_t len)
{
    struct token_list list = {0};
    tokenizer_encode(r->t, text, len, TOKENIZE_LITERAL, &list, NULL);
    const size_t most = (size_t)(r->most - reading_ends(r, 0));
    for (size_t at = 0; at < list.count; at += most) {
        const struct token_list part = {.id = list.id + at, .count = list.count - at < most ? list.count - at : most};
        reading_put(r, &part, NULL, 0);
    }
    token_list_free(&list);
}

static int take_unlabelled(void *context, const char *const *field, const char *where, struct error *err)
{
    struct reading *r = context;
    TRY(tokenizer_check_text(r->t, field[0], strlen(field[0]), where, err));
    take_text(r, field[0], strlen(field[0]));
    return 0;
}

static void take_whole(void *context, const struct document *d)
{
    take_text(context, d->text, d->len);
}

static int take(void *context, const char *const *field, const char *where, struct error *err)
{
    struct reading *r = context;
    struct examples *e = r->e;
    struct token_list text[2] = {{0}};
    const int n_text = r->has_pair ? 2 : 1;
    const int32_t label = label_of(r->classes, field[n_text]);
    if (label < 0 || label >= r->classes->n)
        return error_set(err, "%s: label \"%.40s\"; expected a number from 0 to %lld, or a name of config.json's id2label", where, field[n_text],
                         (long long)r->classes->n - 1);
    const int64_t ends = reading_ends(r, r->has_pair);
    for (int k = 0; k < n_text; k++) {
        TRY(tokenizer_check_text(r->t, field[k], strlen(field[k]), where, err));
        tokenizer_encode(r->t, field[k], strlen(field[k]), TOKENIZE_LITERAL, &text[k], NULL);
    }
    const size_t whole = text[0].count + text[1].count;
    while ((int64_t)(text[0].count + text[1].count) + ends > r->most)
        text[text[1].count > text[0].count].count--;
    e->n_cut += text[0].count + text[1].count < whole;
    reading_put(r, &text[0], r->has_pair ? &text[1] : NULL, label);
    token_list_free(&text[0]);
    token_list_free(&text[1]);
    return 0;
}

static void hash(struct examples *e)
{
    struct hasher *h = hasher_new();
    hasher_add(h, e->token, (size_t)e->start[e->n] * sizeof *e->token);
    hasher_add(h, e->start, (size_t)(e->n + 1) * sizeof *e->start);
    hasher_add(h, e->pair, (size_t)e->n * sizeof *e->pair);
    hasher_add(h, e->label, (size_t)e->n * sizeof *e->label);
    if (e->span)
        hasher_add(h, e->span, (size_t)(2 * e->n) * sizeof *e->span);
    hasher_end(h, e->hash);
}

int reading_begin(struct reading *r, const char *where, struct error *err)
{
    const struct tokenizer *t = r->t;
    const int32_t mask = tokenizer_token_to_id(t, "[MASK]");
    *r->e = (struct examples){.mask = mask < 0 ? tokenizer_token_to_id(t, "<mask>") : mask, .vocab = (int32_t)tokenizer_size(t)};
    if (tokenizer_bos(t) < 0 || tokenizer_eos(t) < 0)
        return error_set(err, "%s: %s puts nothing around a text; expected a tokenizer with [CLS] and [SEP]", where, tokenizer_source(t));
    if (r->most < 4)
        return error_set(err, "%s: sequences of %lld tokens; expected at least 4", where, (long long)r->most);
    return 0;
}

int reading_end(struct reading *r, int status, const char *const *paths, size_t n_paths, const char *where, struct error *err)
{
    struct examples *e = r->e;
    if (status == 0 && e->n == 0)
        status = error_set(err, "%s: no rows", n_paths ? paths[0] : "no file");
    if (status < 0) {
        examples_release(e);
        return error_prefix(err, "%s", where);
    }
    hash(e);
    return 0;
}

int examples_read(struct examples *e, const struct tokenizer *t, const struct example_classes *classes, const char *const *paths, size_t n_paths,
                  const struct example_columns *columns, int64_t most, const char *where, struct error *err)
{
    struct reading r = {.e = e, .t = t, .classes = classes, .has_pair = columns->pair != NULL, .most = most};
    const char *names[3] = {columns->text, columns->pair ? columns->pair : columns->label, columns->label};
    int status = 0;
    TRY(reading_begin(&r, where, err));
    for (size_t i = 0; i < n_paths && status == 0; i++)
        status = table_read(paths[i], names, r.has_pair ? 3 : 2, take, &r, err);
    return reading_end(&r, status, paths, n_paths, where, err);
}

static int is_table(const char *path)
{
    return path_ends_with(path, ".tsv") || path_ends_with(path, ".csv") || path_ends_with(path, ".tsv.gz") || path_ends_with(path, ".csv.gz");
}

int examples_read_unlabelled(struct examples *e, const struct tokenizer *t, const char *const *paths, size_t n_paths, const char *text, int64_t most,
                             const char *where, struct error *err)
{
    struct reading r = {.e = e, .t = t, .most = most};
    int status = 0;
    TRY(reading_begin(&r, where, err));
    if (e->mask < 0)
        return error_set(err, "%s: %s has no token that hides a word; expected [MASK] or <mask> in its vocabulary", where, tokenizer_source(t));
    for (size_t i = 0; i < n_paths && status == 0; i++)
        status = is_table(paths[i]) ? table_read(paths[i], &text, 1, take_unlabelled, &r, err)
                                    : dataset_documents(&paths[i], 1, where, take_whole, &r, err);
    return reading_end(&r, status, paths, n_paths, where, err);
}

// The examples of these numbers.
static void take_some(struct examples *to, const struct examples *from, const int64_t *number, int64_t n)
{
    int64_t tokens = 0;
    *to = (struct examples){.n = n, .mask = from->mask, .vocab = from->vocab};
    if (from->span)
        to->span = xmalloc((size_t)(2 * n + 1) * sizeof *to->span, "examples");
    for (int64_t i = 0; i < n; i++)
        tokens += from->start[number[i] + 1] - from->start[number[i]];
    to->token = xmalloc((size_t)(tokens + 1) * sizeof *to->token, "examples");
    to->start = xmalloc((size_t)(n + 1) * sizeof *to->start, "examples");
    to->pair = xmalloc((size_t)(n + 1) * sizeof *to->pair, "examples");
    to->label = xmalloc((size_t)(n + 1) * sizeof *to->label, "examples");
    to->start[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = from->start[number[i]], length = from->start[number[i] + 1] - at;
        memcpy(to->token + to->start[i], from->token + at, (size_t)length * sizeof *to->token);
        to->start[i + 1] = to->start[i] + length;
        to->pair[i] = from->pair[number[i]];
        to->label[i] = from->label[number[i]];
        if (from->span)
            memcpy(to->span + 2 * i, from->span + 2 * number[i], 2 * sizeof *to->span);
        to->longest = length > to->longest ? length : to->longest;
    }
    hash(to);
}

// What is drawn together: an example, or the windows of a question. Takes the n that come first in an order.
static void take_drawn(struct examples *to, const struct examples *from, const int64_t *order, int64_t n)
{
    int64_t *number = xmalloc((size_t)(from->n + 1) * sizeof *number, "examples"), count = 0;
    int64_t *question = from->question ? xmalloc((size_t)(n + 1) * sizeof *question, "questions") : NULL;
    for (int64_t i = 0; i < n; i++) {
        const int64_t first = from->question ? from->question[order[i]] : order[i], end = from->question ? from->question[order[i] + 1] : first + 1;
        if (question)
            question[i] = count;
        for (int64_t k = first; k < end; k++)
            number[count++] = k;
    }
    if (question)
        question[n] = count;
    take_some(to, from, number, count);
    to->question = question;
    to->n_question = from->question ? n : 0;
    free(number);
}

int examples_set_aside(struct examples *to, struct examples *from, int64_t n, uint64_t seed, const char *where, struct error *err)
{
    const int64_t all = from->question ? from->n_question : from->n;
    if (n >= all)
        return error_set(err, "%s: %lld %s, of which %lld are wanted for validation; expected fewer (data.validation)", where, (long long)all,
                         from->question ? "questions" : "examples", (long long)n);
    int64_t *order = xmalloc((size_t)all * sizeof *order, "examples");
    struct examples rest;
    for (int64_t i = 0; i < all; i++)
        order[i] = random_shuffled(seed, "validation examples", all, i);
    take_drawn(to, from, order, n);
    take_drawn(&rest, from, order + n, all - n);
    rest.n_cut = from->n_cut;
    examples_release(from);
    *from = rest;
    free(order);
    return 0;
}

void examples_release(struct examples *e)
{
    free(e->token);
    free(e->start);
    free(e->pair);
    free(e->label);
    free(e->span);
    free(e->question);
    *e = (struct examples){0};
}

void example_batch_init(struct example_batch *b, int64_t B, int64_t T)
{
    *b = (struct example_batch){0};
    b->ids = xmalloc((size_t)(B * T) * sizeof *b->ids, "a batch of examples");
    b->types = xmalloc((size_t)(B * T) * sizeof *b->types, "a batch of examples");
    b->length = xmalloc((size_t)B * sizeof *b->length, "a batch of examples");
    b->label = xmalloc((size_t)B * sizeof *b->label, "a batch of examples");
    b->span = xmalloc((size_t)(2 * B) * sizeof *b->span, "a batch of examples");
    b->hidden = xmalloc((size_t)(B * T) * sizeof *b->hidden, "a batch of examples");
    b->word = xmalloc((size_t)(B * T) * sizeof *b->word, "a batch of examples");
}

void example_batch_release(struct example_batch *b)
{
    free(b->ids);
    free(b->types);
    free(b->length);
    free(b->label);
    free(b->span);
    free(b->hidden);
    free(b->word);
    *b = (struct example_batch){0};
}

void examples_pick(const struct examples *e, const int64_t *number, int64_t B, struct example_batch *b)
{
    b->B = B;
    b->T = 1;
    b->n_hidden = 0;
    for (int64_t i = 0; i < B; i++) {
        b->length[i] = (int32_t)(e->start[number[i] + 1] - e->start[number[i]]);
        b->label[i] = e->label[number[i]];
        for (int k = 0; k < 2 && e->span; k++)
            b->span[2 * i + k] = e->span[2 * number[i] + k];
        b->T = b->length[i] > b->T ? b->length[i] : b->T;
    }
    for (int64_t i = 0; i < B; i++)
        for (int64_t t = 0; t < b->T; t++) {
            b->ids[i * b->T + t] = t < b->length[i] ? e->token[e->start[number[i]] + t] : 0;
            b->types[i * b->T + t] = t >= e->pair[number[i]] && t < b->length[i];
        }
}

struct sized {
    int64_t length, number;
};

static int shorter(const void *a, const void *b)
{
    const struct sized *x = a, *y = b;
    if (x->length != y->length)
        return x->length < y->length ? -1 : 1;
    return (x->number > y->number) - (x->number < y->number);
}

#define SORTED 32 // batches

void examples_batch(const struct examples *e, uint64_t seed, int64_t index, int64_t B, struct example_batch *b)
{
    const int64_t n = SORTED * B, first = index / SORTED * n;
    struct sized *all = xmalloc((size_t)n * sizeof *all, "examples");
    int64_t *number = xmalloc((size_t)B * sizeof *number, "examples");
    for (int64_t i = 0; i < n; i++) {
        const int64_t k = random_shuffled(seed, "order of the data", e->n, first + i);
        all[i] = (struct sized){e->start[k + 1] - e->start[k], k};
    }
    qsort(all, (size_t)n, sizeof *all, shorter);
    const int64_t at = random_shuffled(seed, "order of sorted batches", SORTED, index) * B;
    for (int64_t i = 0; i < B; i++)
        number[i] = all[at + i].number;
    examples_pick(e, number, B, b);
    free(number);
    free(all);
}

#define SHARE_MASKED 0.8 // of those that are hidden
#define SHARE_RANDOM 0.1

void examples_mask(const struct examples *e, double share, uint64_t seed, uint64_t index, struct example_batch *b)
{
    struct random r;
    random_init(&r, seed, "masked words", index);
    b->n_hidden = 0;
    while (b->n_hidden == 0)
        for (int64_t i = 0; i < b->B; i++)
            for (int64_t t = 1; t + 1 < b->length[i]; t++) {
                const int64_t at = i * b->T + t;
                const double how = random_uniform(&r) / share;
                const int32_t other = (int32_t)random_below(&r, e->vocab);
                if (how >= 1)
                    continue;
                b->hidden[b->n_hidden] = (int32_t)at;
                b->word[b->n_hidden++] = b->ids[at];
                b->ids[at] = how < SHARE_MASKED ? e->mask : how < SHARE_MASKED + SHARE_RANDOM ? other : b->ids[at];
            }
}

int64_t *examples_by_length(const struct examples *e)
{
    struct sized *all = xmalloc((size_t)(e->n + 1) * sizeof *all, "examples");
    int64_t *order = xmalloc((size_t)(e->n + 1) * sizeof *order, "examples");
    for (int64_t i = 0; i < e->n; i++)
        all[i] = (struct sized){e->start[i + 1] - e->start[i], i};
    qsort(all, (size_t)e->n, sizeof *all, shorter);
    for (int64_t i = 0; i < e->n; i++)
        order[i] = all[i].number;
    free(all);
    return order;
}

#define TOKENS_AT_ONCE 2048

int64_t examples_at_once(const struct examples *e, const int64_t *order, int64_t at)
{
    int64_t B = 1;
    for (; B < EXAMPLES_AT_ONCE && at + B < e->n; B++) { // sorted: the last is the longest
        const int64_t last = order[at + B];
        if ((B + 1) * (e->start[last + 1] - e->start[last]) > TOKENS_AT_ONCE)
            break;
    }
    return B;
}
