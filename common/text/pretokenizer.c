// pretokenizer.c: cuts a normalized text into what the model sees one by one (steps.h).
//
// Each step turns one text into a list of spans and the next step runs on each, so nothing is ever stored twice.
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/text/byte_level.h"
#include "common/text/steps.h"

struct span {
    size_t start, end;
    int match;
};
struct span_list {
    struct span *item;
    size_t count, capacity;
};

static void span_push(struct span_list *l, size_t start, size_t end, int match) {
    if (l->count == l->capacity) {
        l->capacity = l->capacity ? l->capacity * 2 : 64;
        l->item = xrealloc(l->item, l->capacity * sizeof *l->item, "pre-tokenizer");
    }
    l->item[l->count++] = (struct span){start, end, match};
}

// The text as matches and what lies between them.
static void find_spans(const struct step *s, struct pattern_match *m, const char *text, size_t len,
                       const char *literal, struct span_list *out) {
    size_t from = 0, start = 0, end = 0, n = literal ? strlen(literal) : 0;
    while (from < len) {
        if (literal) {
            const char *hit = n ? memmem(text + from, len - from, literal, n) : NULL;
            if (!hit)
                break;
            start = (size_t)(hit - text);
            end = start + n;
        } else if (!pattern_next(s->pattern, m, text, len, from, &start, &end)) {
            break;
        }
        if (start > from)
            span_push(out, from, start, s->invert);
        span_push(out, start, end, !s->invert);
        from = end;
    }
    if (from < len)
        span_push(out, from, len, s->invert);
}

// Joins neighbours as the behaviour says, in place; spans lie end to end before and after, except REMOVED.
static void join_spans(enum split_behavior behavior, struct span_list *l) {
    size_t n = 0;
    int previous = 0; // was the span before this one a match
    for (size_t i = 0; i < l->count; i++) {
        struct span s = l->item[i];
        int join = (behavior == SPLIT_CONTIGUOUS && s.match == previous) ||
                   (behavior == SPLIT_PREVIOUS && s.match && !previous) ||
                   (behavior == SPLIT_NEXT && !s.match && previous);
        previous = s.match;
        if (behavior == SPLIT_REMOVED && s.match)
            continue;
        if (join && n > 0)
            l->item[n - 1].end = s.end;
        else
            l->item[n++] = s;
    }
    l->count = n;
}

struct run {
    const struct steps *steps;
    struct pattern_match *match;
    piece_sink *sink;
    void *context;
};

static void run_steps(const struct run *r, int step, const char *text, size_t len, int first);

static void run_spans(const struct run *r, int step, const char *text, struct span_list *l, int first) {
    for (size_t i = 0; i < l->count; i++) {
        struct span s = l->item[i];
        run_steps(r, step + 1, text + s.start, s.end - s.start, first && s.start == 0);
    }
    free(l->item);
}

// White space goes; each punctuation mark, and each of ASCII's symbols, is a word of its own.
static void find_words(const char *text, size_t len, struct span_list *l) {
    uint32_t code;
    size_t start = 0;
    for (size_t i = 0, step; i < len; i += step) {
        step = utf8_next(text + i, len - i, &code);
        const int is_space = code_is_space(code), is_mark = code_is_punctuation(code);
        if (!is_space && !is_mark)
            continue;
        if (i > start)
            span_push(l, start, i, 0);
        if (is_mark)
            span_push(l, i, i + step, 0);
        start = i + step;
    }
    if (len > start)
        span_push(l, start, len, 0);
}

static void run_metaspace(const struct run *r, int step, const char *text, size_t len, int first) {
    const struct step *s = &r->steps->item[step];
    size_t n_to = strlen(s->to);
    struct text out = {0};
    int prefixed = (len > 0 && text[0] == ' ') || (len >= n_to && memcmp(text, s->to, n_to) == 0);
    if (!prefixed && (s->scheme == PREPEND_ALWAYS || (s->scheme == PREPEND_FIRST && first)))
        text_append(&out, s->to, n_to);
    for (size_t i = 0; i < len; i++) {
        if (text[i] == ' ')
            text_append(&out, s->to, n_to);
        else
            text_append(&out, text + i, 1);
    }
    struct span_list l = {0};
    if (s->split) {
        find_spans(s, NULL, out.data, out.len, s->to, &l);
        join_spans(SPLIT_NEXT, &l);
    } else {
        span_push(&l, 0, out.len, 0);
    }
    run_spans(r, step, out.data, &l, first);
    text_release(&out);
}

static void run_steps(const struct run *r, int step, const char *text, size_t len, int first) {
    if (len == 0)
        return;
    if (step == r->steps->count) {
        r->sink(r->context, text, len);
        return;
    }
    const struct step *s = &r->steps->item[step];
    struct text out = {0};
    struct span_list l = {0};
    switch (s->kind) {
    case STEP_PREFIX_SPACE:
        if (text[0] != ' ')
            text_append(&out, " ", 1);
        text_append(&out, text, len);
        run_steps(r, step + 1, out.data, out.len, first);
        break;
    case STEP_BYTES:
        byte_level_encode(text, len, &out);
        run_steps(r, step + 1, out.data, out.len, first);
        break;
    case STEP_SPLIT:
        find_spans(s, r->match, text, len, s->pattern ? NULL : s->from, &l);
        join_spans(s->behavior, &l);
        run_spans(r, step, text, &l, first);
        break;
    case STEP_BERT_SPLIT:
        find_words(text, len, &l);
        run_spans(r, step, text, &l, first);
        break;
    case STEP_METASPACE: run_metaspace(r, step, text, len, first); break;
    default: BUG("pre-tokenizer: step %d is no pre-tokenizer", (int)s->kind);
    }
    text_release(&out);
}

void pretokenize_text(const struct steps *s, struct pattern_match *m, const char *text, size_t len, int first,
                      piece_sink *sink, void *context) {
    run_steps(&(struct run){s, m, sink, context}, 0, text, len, first);
}
