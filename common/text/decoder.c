// decoder.c: from pieces back to text (steps.h). Bytes come out as they are, also where they are not UTF-8.
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/text/byte_level.h"
#include "common/text/steps.h"

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void decode_byte(const struct text *in, struct text *out) {
    const char *p = in->data;
    int high = in->len == 6 && memcmp(p, "<0x", 3) == 0 && p[5] == '>' ? hex_digit(p[3]) : -1;
    int low = high >= 0 ? hex_digit(p[4]) : -1;
    char byte = (char)(high * 16 + low);
    if (low >= 0)
        text_append(out, &byte, 1);
    else
        text_append(out, in->data, in->len);
}

static void decode_strip(const struct step *s, const struct text *in, struct text *out) {
    size_t n = strlen(s->from), start = 0, end = in->len;
    for (int i = 0; i < s->left && n && end - start >= n && memcmp(in->data + start, s->from, n) == 0; i++)
        start += n;
    for (int i = 0; i < s->right && n && end - start >= n && memcmp(in->data + end - n, s->from, n) == 0; i++)
        end -= n;
    text_append(out, in->data + start, end - start);
}

// Every occurrence of `from` by `to`.
static void substitute(const struct text *in, const char *from, const char *to, struct text *out) {
    size_t n = strlen(from);
    for (size_t i = 0; i < in->len;) {
        if (n && in->len - i >= n && memcmp(in->data + i, from, n) == 0) {
            text_append(out, to, strlen(to));
            i += n;
        } else {
            text_append(out, in->data + i++, 1);
        }
    }
}

// As Hugging Face's: a space before every word but the first, and, with `clean`, none before punctuation and in contractions.
static void decode_wordpiece(const struct step *s, const struct text *in, int first, struct text *out) {
    static const char *const rules[][2] = {{" .", "."},   {" ?", "?"},     {" !", "!"},     {" ,", ","},     {" ' ", "'"},  {" n't", "n't"},
                                           {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    const size_t n = strlen(s->from);
    struct text now = {0};
    if (first)
        text_append(&now, in->data, in->len);
    else if (in->len >= n && memcmp(in->data, s->from, n) == 0)
        text_append(&now, in->data + n, in->len - n);
    else {
        text_append(&now, " ", 1);
        text_append(&now, in->data, in->len);
    }
    for (size_t i = 0; s->clean && i < sizeof rules / sizeof *rules; i++) {
        struct text next = {0};
        text_append(&next, "", 0);
        substitute(&now, rules[i][0], rules[i][1], &next);
        text_release(&now);
        now = next;
    }
    text_append(out, now.data ? now.data : "", now.len);
    text_release(&now);
}

static void decode_step(const struct step *s, const struct text *in, int first, int inner, struct text *out) {
    switch (s->kind) {
    case STEP_REPLACE: substitute(in, s->from, s->to, out); break;
    case STEP_METASPACE: substitute(in, s->to, first && !inner && s->scheme != PREPEND_NEVER ? "" : " ", out); break;
    case STEP_BYTE_FALLBACK: decode_byte(in, out); break;
    case STEP_BYTES:
        if (!byte_level_decode(in->data, in->len, out))
            text_append(out, in->data, in->len);
        break;
    case STEP_STRIP:
        if (inner)
            text_append(out, in->data, in->len);
        else
            decode_strip(s, in, out);
        break;
    case STEP_WORDPIECE: decode_wordpiece(s, in, first && !inner, out); break;
    default: BUG("decoder: step %d is no decoder", (int)s->kind);
    }
}

void decode_pieces(const struct steps *s, struct text *piece, size_t n, int inner, struct text *out) {
    for (int k = 0; k < s->count; k++) {
        const struct step *step = &s->item[k];
        if (step->kind == STEP_FUSE) {
            for (size_t i = 1; i < n; i++) {
                text_append(&piece[0], piece[i].data, piece[i].len);
                text_release(&piece[i]);
            }
            n = n > 0;
            continue;
        }
        for (size_t i = 0; i < n; i++) {
            struct text next = {0};
            text_append(&next, "", 0); // a piece may become empty, never NULL
            decode_step(step, &piece[i], i == 0, inner, &next);
            text_release(&piece[i]);
            piece[i] = next;
        }
    }
    for (size_t i = 0; i < n; i++) {
        text_append(out, piece[i].data, piece[i].len);
        text_release(&piece[i]);
    }
}
