// wordpiece.c: WordPiece (Schuster and Nakajima 2012, as BERT has it): a word is cut from the left into the longest pieces that are in the
// vocabulary; all but the first carry a prefix, "##".
#include <string.h>

#include "common/text/tokenizer_parts.h"
#include "common/text/utf8.h"

// The longest piece at text[0..len); its bytes, 0: none.
static size_t longest(const struct tokenizer *t, const char *text, size_t len, int is_first, struct text *buffer, int32_t *id)
{
    const char *prefix = is_first ? "" : t->wordpiece.prefix;
    for (size_t n = len; n > 0; n--) {
        if (n < len && ((unsigned char)text[n] & 0xC0) == 0x80)
            continue; // inside a character
        text_clear(buffer);
        text_append(buffer, prefix, strlen(prefix));
        text_append(buffer, text, n);
        *id = pieces_find(&t->pieces, buffer->data, buffer->len);
        if (*id >= 0 && *id < t->size)
            return n;
    }
    return 0;
}

void wordpiece_set(struct tokenizer *t, int32_t unk, int lower)
{
    t->wordpiece.prefix = xstrdup("##");
    t->wordpiece.most_characters = 100;
    t->wordpiece.unk = unk;
    struct step *s = steps_add(&t->normalizer, STEP_BERT);
    s->clean = s->cjk = 1;
    s->lower = s->accents = lower;
    steps_add(&t->pretokenizer, STEP_BERT_SPLIT);
    s = steps_add(&t->decoder, STEP_WORDPIECE);
    s->from = xstrdup("##");
    s->clean = 1;
}

void wordpiece_encode(const struct tokenizer *t, const char *text, size_t len, struct token_list *out)
{
    struct text buffer = {0};
    const size_t before = out->count;
    int64_t characters = 0;
    for (size_t i = 0; i < len; i++)
        characters += ((unsigned char)text[i] & 0xC0) != 0x80;
    int known = characters <= t->wordpiece.most_characters;
    for (size_t at = 0; at < len && known;) {
        int32_t id;
        const size_t n = longest(t, text + at, len - at, at == 0, &buffer, &id);
        known = n > 0;
        if (known)
            token_list_push(out, id);
        at += n;
    }
    if (!known) { // a word with a part that is in no piece is unknown as a whole
        out->count = before;
        token_list_push(out, t->wordpiece.unk);
    }
    text_release(&buffer);
}
