// spans.c: see spans.h.
#include "common/data/spans.h"

#include <stdlib.h>
#include <string.h>

#include "common/data/reading.h"
#include "common/data/squad.h"

#define STRIDE 128 // as in BERT's code

struct spans {
    struct reading r;
    struct span_texts *texts; // NULL: not wanted
    int64_t stride, question_room;
    char *context; // of the question before, cut into tokens: SQuAD asks several about each
    struct token_list tokens;
    struct token_place *place;
};

static int cut_context(struct spans *s, const char *context, const char *where, struct error *err)
{
    if (s->context && strcmp(s->context, context) == 0)
        return 0;
    free(s->context);
    free(s->place);
    s->context = NULL;
    s->place = NULL;
    s->tokens.count = 0;
    TRY(tokenizer_encode_places(s->r.t, context, strlen(context), &s->tokens, &s->place, where, err));
    if (!s->tokens.count)
        return error_set(err, "%s: its context is empty, or holds nothing that %s keeps", where, tokenizer_source(s->r.t));
    s->context = xstrdup(context);
    return 0;
}

// The tokens that hold bytes from `start` to before `end` of the context.
static int find_tokens(const struct spans *s, int64_t start, int64_t end, int64_t *first, int64_t *last, const char *where, struct error *err)
{
    *first = *last = -1;
    for (int64_t i = 0; i < (int64_t)s->tokens.count; i++)
        if (s->place[i].end > start && s->place[i].start < end) {
            *first = *first < 0 ? i : *first;
            *last = i;
        }
    return *first >= 0 ? 0 : error_set(err, "%s: its first answer holds nothing that %s keeps", where, tokenizer_source(s->r.t));
}

static void add_question(struct spans *s)
{
    struct examples *e = s->r.e;
    if (e->n_question == s->question_room) {
        s->question_room = s->question_room ? 2 * s->question_room : 1024;
        e->question = xrealloc(e->question, (size_t)(s->question_room + 1) * sizeof *e->question, "questions");
    }
    e->question[e->n_question++] = e->n;
}

static void keep_texts(struct span_texts *t, const struct squad_question *q)
{
    if (t->n == t->room) {
        t->room = t->room ? 2 * t->room : 1024;
        t->question = xrealloc(t->question, (size_t)t->room * sizeof *t->question, "questions");
    }
    struct span_question *to = &t->question[t->n++];
    *to = (struct span_question){.id = q->id ? xstrdup(q->id) : NULL, .context = xstrdup(q->context), .n_answer = q->n_answer};
    to->answer = xmalloc((size_t)(q->n_answer + 1) * sizeof *to->answer, "answers");
    for (int64_t k = 0; k < q->n_answer; k++)
        to->answer[k] = xstrdup(q->answer[k]);
    t->n_without += q->n_answer == 0;
}

// Places of the tokens of the sequence that was just added: n of the context's from number `from` on stand at position `at`.
static void keep_places(struct spans *s, int64_t from, int64_t n, int64_t at)
{
    struct span_texts *t = s->texts;
    const struct examples *e = s->r.e;
    const int64_t count = e->start[e->n];
    if (count > t->place_room) {
        t->place_room = 2 * count;
        t->place = xrealloc(t->place, (size_t)t->place_room * sizeof *t->place, "places of tokens");
    }
    for (; t->n_place < count; t->n_place++) {
        const int64_t i = t->n_place - e->start[e->n - 1] - at;
        t->place[t->n_place] = i >= 0 && i < n ? s->place[from + i] : (struct token_place){-1, -1};
    }
}

static int take(void *context, const struct squad_question *q, const char *where, struct error *err)
{
    struct spans *s = context;
    struct examples *e = s->r.e;
    struct token_list question = {0};
    int64_t first = -1, last = -1;
    TRY(cut_context(s, q->context, where, err));
    if (q->n_answer)
        TRY(find_tokens(s, q->start[0], q->end[0], &first, &last, where, err));
    tokenizer_encode(s->r.t, q->question, strlen(q->question), TOKENIZE_LITERAL, &question, NULL);
    const int64_t n = (int64_t)s->tokens.count, asked = (int64_t)question.count, room = s->r.most - reading_ends(&s->r, 1) - asked;
    if (room < 2) {
        token_list_free(&question);
        return error_set(err, "%s: its question has %lld tokens, and sequences of %lld leave no room for its context; give longer ones (seq_len)", where,
                         (long long)asked, (long long)s->r.most);
    }
    const int64_t stride = s->stride ? s->stride < room ? s->stride : room : room / 2 < STRIDE ? room / 2 : STRIDE;
    add_question(s);
    if (s->texts)
        keep_texts(s->texts, q);
    for (int64_t from = 0, count; from < n; from = from + count == n ? n : from + stride) {
        count = n - from < room ? n - from : room;
        const struct token_list part = {.id = s->tokens.id + from, .count = (size_t)count};
        const int64_t at = reading_put(&s->r, &question, &part, 0);
        const int is_there = first >= from && last < from + count;
        int32_t *span = e->span + 2 * (e->n - 1);
        span[0] = is_there ? (int32_t)(at + first - from) : 0;
        span[1] = is_there ? (int32_t)(at + last - from) : 0;
        if (s->texts)
            keep_places(s, from, count, at);
    }
    token_list_free(&question);
    return 0;
}

// What is right is an input of an evaluation, too.
static void hash_answers(struct examples *e, const struct span_texts *t)
{
    struct hasher *h = hasher_new();
    hasher_add_text(h, e->hash);
    for (int64_t i = 0; i < t->n; i++)
        for (int64_t k = 0; k < t->question[i].n_answer; k++)
            hasher_add_text(h, t->question[i].answer[k]);
    hasher_end(h, e->hash);
}

int spans_read(struct examples *e, struct span_texts *texts, const struct tokenizer *t, const char *const *paths, size_t n_paths, int64_t most,
               int64_t stride, const char *where, struct error *err)
{
    struct spans s = {.r = {.e = e, .t = t, .has_pair = 1, .has_spans = 1, .most = most}, .texts = texts, .stride = stride};
    int status = reading_begin(&s.r, where, err);
    if (texts)
        *texts = (struct span_texts){0};
    TRY(status);
    for (size_t i = 0; i < n_paths && status == 0; i++)
        status = squad_read(paths[i], take, &s, err);
    free(s.context);
    free(s.place);
    token_list_free(&s.tokens);
    if (status == 0 && e->n_question)
        e->question[e->n_question] = e->n;
    if (reading_end(&s.r, status, paths, n_paths, where, err) < 0) {
        if (texts)
            span_texts_release(texts);
        return -1;
    }
    if (texts)
        hash_answers(e, texts);
    return 0;
}

void span_texts_release(struct span_texts *t)
{
    for (int64_t i = 0; i < t->n; i++) {
        for (int64_t k = 0; k < t->question[i].n_answer; k++)
            free(t->question[i].answer[k]);
        free(t->question[i].answer);
        free(t->question[i].context);
        free(t->question[i].id);
    }
    free(t->question);
    free(t->place);
    *t = (struct span_texts){0};
}
