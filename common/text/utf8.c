// utf8.c: see utf8.h.
#include "common/text/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "common/base/error.h"

void text_append(struct text *s, const void *bytes, size_t n) {
    if (n > s->capacity - s->len || s->capacity == 0) {
        size_t capacity = s->capacity ? s->capacity : 64;
        while (capacity - s->len < n)
            capacity *= 2;
        s->data = xrealloc(s->data, capacity, "text being tokenized");
        s->capacity = capacity;
    }
    if (n)
        memcpy(s->data + s->len, bytes, n);
    s->len += n;
}

void text_append_code(struct text *s, uint32_t code) {
    char bytes[4];
    text_append(s, bytes, utf8_put(bytes, code));
}

void text_clear(struct text *s) { s->len = 0; }

void text_release(struct text *s) {
    free(s->data);
    memset(s, 0, sizeof *s);
}

static int is_continuation(char c) { return ((unsigned char)c & 0xC0) == 0x80; }

size_t utf8_decode(const char *s, size_t n, uint32_t *code) {
    const unsigned char *p = (const unsigned char *)s;
    if (p[0] < 0x80) {
        *code = p[0];
        return 1;
    }
    size_t need = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
    if (p[0] < 0xC2 || p[0] > 0xF4 || n < need)
        return 0;
    uint32_t c = p[0] & (0xFFu >> (need + 1));
    for (size_t i = 1; i < need; i++) {
        if (!is_continuation(s[i]))
            return 0;
        c = c << 6 | (p[i] & 0x3Fu);
    }
    // Overlong forms, surrogates and codes past the last plane are not UTF-8.
    if ((need == 3 && c < 0x800) || (need == 4 && (c < 0x10000 || c > 0x10FFFF)) || (c >= 0xD800 && c < 0xE000))
        return 0;
    *code = c;
    return need;
}

void text_append_valid(struct text *out, const char *s, size_t n)
{
    for (size_t at = 0; at < n;) {
        uint32_t code = 0;
        const size_t length = utf8_decode(s + at, n - at, &code);
        text_append_code(out, length && code ? code : 0xFFFD);
        at += length ? length : 1;
    }
    text_append(out, "", 1);
    out->len--;
}

int utf8_valid(const char *s, size_t n) {
    uint32_t code;
    for (size_t i = 0, step; i < n; i += step) {
        step = utf8_decode(s + i, n - i, &code);
        if (step == 0)
            return 0;
    }
    return 1;
}

size_t utf8_next(const char *s, size_t n, uint32_t *code) {
    if ((unsigned char)s[0] < 0x80) {
        *code = (unsigned char)s[0];
        return 1;
    }
    size_t step = utf8_decode(s, n, code);
    if (step == 0)
        BUG("utf8_next: byte 0x%02x is not UTF-8", (unsigned char)s[0]);
    return step;
}

size_t utf8_put(char out[4], uint32_t c) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

int utf8_escaped_byte(uint32_t code) {
    return code >= ESCAPE_BASE && code <= ESCAPE_BASE + 0xFF ? (int)(code - ESCAPE_BASE) : -1;
}

size_t utf8_escape(const char *s, size_t n, struct text *out, int *changed) {
    size_t invalid = 0, clean = 0; // clean: where the run that needs no escape began
    *changed = 0;
    for (size_t i = 0; i < n;) {
        uint32_t code = 0;
        size_t step = utf8_decode(s + i, n - i, &code);
        if (step && utf8_escaped_byte(code) < 0) {
            i += step;
            continue;
        }
        text_append(out, s + clean, i - clean);
        invalid += step == 0;
        for (size_t end = i + (step ? step : 1); i < end; i++)
            text_append_code(out, ESCAPE_BASE + (unsigned char)s[i]);
        clean = i;
        *changed = 1;
    }
    if (*changed)
        text_append(out, s + clean, n - clean);
    return invalid;
}

int code_is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

int code_is_punctuation(uint32_t c) {
    if (c < 128)
        return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
    const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

int code_is_word(uint32_t c) {
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return 1;
    default: return c == 0x200C || c == 0x200D;
    }
}

int code_is_alphanumeric(uint32_t c) {
    const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) || (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO);
}

int code_is_cased(uint32_t c) {
    const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LT;
}

int code_is_case_ignorable(uint32_t c) {
    const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_ME || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_LM ||
           k == UTF8PROC_CATEGORY_SK || c == '\'' || c == '.' || c == ':' || c == 0xB7 || c == 0x2018 || c == 0x2019;
}

uint32_t code_lower(uint32_t c) { return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c); }
