// added_tokens.c: cuts tokens that stand in the text by name out of it, as Hugging Face's added vocabulary does.
#include "common/text/added_tokens.h"

// The text without white space at its end.
static size_t trim_end(const char *text, size_t len) {
    size_t end = 0;
    uint32_t code;
    for (size_t i = 0, step; i < len; i += step) {
        step = utf8_next(text + i, len - i, &code);
        if (!code_is_space(code))
            end = i + step;
    }
    return end;
}

static size_t leading_space(const char *text, size_t len) {
    uint32_t code;
    for (size_t i = 0, step; i < len; i += step) {
        step = utf8_next(text + i, len - i, &code);
        if (!code_is_space(code))
            return i;
    }
    return len;
}

static int ends_with_word(const char *text, size_t len) {
    size_t i = len;
    uint32_t code = 0;
    while (i > 0 && ((unsigned char)text[--i] & 0xC0) == 0x80)
        ;
    if (len)
        utf8_next(text + i, len - i, &code);
    return len && code_is_word(code);
}

static int starts_with_word(const char *text, size_t len) {
    uint32_t code = 0;
    if (len)
        utf8_next(text, len, &code);
    return len && code_is_word(code);
}

void split_added_tokens(const struct tokenizer *t, const struct matcher *m, const char *text, size_t len, int flags,
                        added_token_sink *sink, void *context) {
    size_t done = 0; // handed out so far
    for (size_t i = 0; m->count && i < len;) {
        const struct matcher_item *item = matcher_at(m, text + i, len - i);
        if (!item) {
            i++;
            continue;
        }
        const struct added_token *a = &t->added[item->value];
        size_t start = i, stop = i + item->len;
        i = stop;
        if ((a->special && (flags & TOKENIZE_LITERAL)) || start < done ||
            (a->single_word && (ends_with_word(text, start) || starts_with_word(text + stop, len - stop))))
            continue;
        if (a->lstrip)
            start = done + trim_end(text + done, start - done);
        if (a->rstrip)
            stop += leading_space(text + stop, len - stop);
        if (start > done)
            sink(context, NULL, text + done, start - done, done == 0);
        sink(context, a, text + start, stop - start, done == 0);
        done = stop;
    }
    if (done < len)
        sink(context, NULL, text + done, len - done, done == 0);
}
