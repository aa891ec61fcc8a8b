// normalizer.c: the steps on a text before it is cut (steps.h). Input is valid UTF-8, so is output.
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "common/base/error.h"
#include "common/text/steps.h"

struct step *steps_add(struct steps *s, enum step_kind kind) {
    s->item = xrealloc(s->item, (size_t)(s->count + 1) * sizeof *s->item, "tokenizer");
    struct step *step = &s->item[s->count++];
    memset(step, 0, sizeof *step);
    step->kind = kind;
    return step;
}

void steps_release(struct steps *s) {
    for (int i = 0; i < s->count; i++) {
        free(s->item[i].from);
        free(s->item[i].to);
        pattern_free(s->item[i].pattern);
        charsmap_free(s->item[i].map);
    }
    free(s->item);
    memset(s, 0, sizeof *s);
}

static void replace_all(const struct step *s, struct pattern_match *m, const char *in, size_t len, struct text *out) {
    size_t from = 0, start = 0, end = 0, n_from = strlen(s->from), n_to = strlen(s->to);
    while (from < len) {
        if (s->pattern) {
            if (!pattern_next(s->pattern, m, in, len, from, &start, &end))
                break;
        } else {
            const char *hit = n_from ? memmem(in + from, len - from, s->from, n_from) : NULL;
            if (!hit)
                break;
            start = (size_t)(hit - in);
            end = start + n_from;
        }
        text_append(out, in + from, start - from);
        text_append(out, s->to, n_to);
        from = end;
    }
    text_append(out, in + from, len - from);
}

static void trim_text(const struct step *s, const char *in, size_t len, struct text *out) {
    size_t start = 0, end = 0;
    uint32_t code;
    if (s->left) {
        for (size_t step; start < len; start += step) {
            step = utf8_next(in + start, len - start, &code);
            if (!code_is_space(code))
                break;
        }
    }
    end = start; // past the last character that is no space
    for (size_t i = start, step; i < len; i += step) {
        step = utf8_next(in + i, len - i, &code);
        if (!s->right || !code_is_space(code))
            end = i + step;
    }
    text_append(out, in + start, end - start);
}

static int is_ascii(const char *in, size_t len) {
    unsigned char any = 0;
    for (size_t i = 0; i < len; i++)
        any |= (unsigned char)in[i];
    return any < 0x80;
}

static void unicode_form(enum step_kind kind, const char *in, size_t len, struct text *out) {
    static const utf8proc_option_t options[] = {
        [STEP_NFC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
        [STEP_NFD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
        [STEP_NFKC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
        [STEP_NFKD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
    };
    if (is_ascii(in, len)) { // every form leaves ASCII as it is
        text_append(out, in, len);
        return;
    }
    utf8proc_uint8_t *mapped = NULL;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)in, (utf8proc_ssize_t)len, &mapped, options[kind]);
    if (n < 0)
        BUG("utf8proc_map: %s on %zu bytes of valid UTF-8", utf8proc_errmsg(n), len);
    text_append(out, mapped, (size_t)n);
    free(mapped);
}

static void lowercase(const char *in, size_t len, struct text *out) {
    uint32_t code;
    for (size_t i = 0, step; i < len; i += step) {
        step = utf8_next(in + i, len - i, &code);
        if (code == 0x130) // the one capital whose small form is two characters
            text_append(out, "i\xCC\x87", 3);
        else
            text_append_code(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)code));
    }
}

static int is_cjk(uint32_t c) {
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF) ||
           (c >= 0x2F800 && c <= 0x2FA1F);
}

// Control, format, private and unassigned characters.
static int is_other(uint32_t c) {
    const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CS || k == UTF8PROC_CATEGORY_CO ||
           k == UTF8PROC_CATEGORY_CN;
}

static void clean(const char *in, size_t len, struct text *out) {
    uint32_t code;
    for (size_t i = 0, step; i < len; i += step) {
        step = utf8_next(in + i, len - i, &code);
        if (code == '\t' || code == '\n' || code == '\r') // the control characters that are kept, as spaces
            text_append(out, " ", 1);
        else if (code && code != 0xFFFD && !is_other(code))
            text_append(out, code_is_space(code) ? " " : in + i, code_is_space(code) ? 1 : step);
    }
}

static void space_cjk(const char *in, size_t len, struct text *out) {
    uint32_t code;
    for (size_t i = 0, step; i < len; i += step) {
        step = utf8_next(in + i, len - i, &code);
        if (is_cjk(code))
            text_append(out, " ", 1);
        text_append(out, in + i, step);
        if (is_cjk(code))
            text_append(out, " ", 1);
    }
}

static void strip_accents(const char *in, size_t len, struct text *out) {
    struct text apart = {0};
    uint32_t code;
    unicode_form(STEP_NFD, in, len, &apart);
    for (size_t i = 0, step; i < apart.len; i += step) {
        step = utf8_next(apart.data + i, apart.len - i, &code);
        if (utf8proc_category((utf8proc_int32_t)code) != UTF8PROC_CATEGORY_MN)
            text_append(out, apart.data + i, step);
    }
    text_release(&apart);
}

static void bert_normalize(const struct step *s, const char *in, size_t len, struct text *out) {
    void (*const stage[])(const char *, size_t, struct text *) = {clean, space_cjk, strip_accents, lowercase};
    const int wanted[] = {s->clean, s->cjk, s->accents, s->lower};
    struct text now = {0};
    text_append(&now, in, len);
    for (int i = 0; i < 4; i++) {
        struct text next = {0};
        if (!wanted[i])
            continue;
        stage[i](now.data, now.len, &next);
        text_append(&next, "", 0); // a text may become empty, never NULL
        text_release(&now);
        now = next;
    }
    text_append(out, now.data, now.len);
    text_release(&now);
}

// One unit of SentencePiece's normalizer: bytes taken; *to is what they become.
static size_t sentencepiece_unit(const struct step *s, const char *in, size_t len, const char **to, size_t *n_to) {
    const struct matcher_item *kept = s->untouched ? matcher_at(s->untouched, in, len) : NULL;
    uint32_t code;
    size_t n = kept ? kept->len : s->map ? charsmap_longest(s->map, in, len, to) : 0;
    if (n && !kept) {
        *n_to = strlen(*to);
        return n;
    }
    *to = in;
    *n_to = n ? n : utf8_next(in, len, &code);
    return *n_to;
}

static int ends_with(const struct text *t, const char *what) {
    size_t n = strlen(what);
    return t->len >= n && memcmp(t->data + t->len - n, what, n) == 0;
}

// As sentencepiece 0.1.97 does it: leading spaces go, runs become one, trailing ones go (all only with `squeeze`).
static void sentencepiece_normalize(const struct step *s, const char *in, size_t len, struct text *out) {
    const char *to = NULL, *space = s->escape ? META : " ";
    size_t n_to = 0, i = 0, n;
    for (; s->squeeze && i < len; i += n) {
        n = sentencepiece_unit(s, in + i, len - i, &to, &n_to);
        if (n_to != 1 || to[0] != ' ')
            break;
    }
    if (i == len)
        return;
    if (s->dummy_prefix)
        text_append(out, space, strlen(space));
    int after_space = s->squeeze;
    for (; i < len; i += n) {
        n = sentencepiece_unit(s, in + i, len - i, &to, &n_to);
        while (after_space && n_to && to[0] == ' ') {
            to++;
            n_to--;
        }
        for (size_t k = 0; k < n_to; k++) {
            if (to[k] == ' ')
                text_append(out, space, strlen(space));
            else
                text_append(out, to + k, 1);
        }
        if (n_to)
            after_space = s->squeeze && to[n_to - 1] == ' ';
    }
    while (s->squeeze && ends_with(out, space))
        out->len -= strlen(space);
}

static void normalize_step(const struct step *s, struct pattern_match *m, const char *in, size_t len,
                           struct text *out) {
    switch (s->kind) {
    case STEP_PREPEND:
        if (len)
            text_append(out, s->to, strlen(s->to));
        text_append(out, in, len);
        break;
    case STEP_REPLACE: replace_all(s, m, in, len, out); break;
    case STEP_TRIM: trim_text(s, in, len, out); break;
    case STEP_NFC:
    case STEP_NFD:
    case STEP_NFKC:
    case STEP_NFKD: unicode_form(s->kind, in, len, out); break;
    case STEP_LOWERCASE: lowercase(in, len, out); break;
    case STEP_BERT: bert_normalize(s, in, len, out); break;
    case STEP_SENTENCEPIECE: sentencepiece_normalize(s, in, len, out); break;
    default: BUG("normalizer: step %d is no normalizer", (int)s->kind);
    }
}

void normalize_text(const struct steps *s, struct pattern_match *m, const char *in, size_t len, struct text *out) {
    struct text other = {0};
    text_clear(out);
    text_append(out, in, len);
    for (int i = 0; i < s->count; i++) {
        struct text swap = other;
        other = *out;
        *out = swap;
        text_clear(out);
        normalize_step(&s->item[i], m, other.data ? other.data : "", other.len, out);
    }
    text_release(&other);
}
