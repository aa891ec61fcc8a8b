// utf8.h: UTF-8 by hand, and how bytes that are not UTF-8 travel.
//
// Normalizers and regular expressions need valid text. A byte b that is no UTF-8 is carried as the private-use code
// point ESCAPE_BASE + b until the model turns it into its byte token. A text that holds such a code point of its own
// has it escaped byte by byte too, which gives the same byte tokens.
#ifndef PDQ_UTF8_H
#define PDQ_UTF8_H

#include <stddef.h>
#include <stdint.h>

#define ESCAPE_BASE 0x10FE00u

// A growing string of bytes.
struct text {
    char *data;
    size_t len, capacity;
};
void text_append(struct text *s, const void *bytes, size_t n);
void text_append_code(struct text *s, uint32_t code);
void text_clear(struct text *s); // keeps the memory
void text_release(struct text *s);

// Length of the valid sequence at s (1 to 4), or 0; *code is set when it is valid. n > 0.
size_t utf8_decode(const char *s, size_t n, uint32_t *code);
int utf8_valid(const char *s, size_t n);
// Appends s as valid text without NUL bytes (and, not counted, one at its end), as JSON wants it: what is none becomes U+FFFD.
void text_append_valid(struct text *out, const char *s, size_t n);
// utf8_decode for text known to be valid.
size_t utf8_next(const char *s, size_t n, uint32_t *code);
size_t utf8_put(char out[4], uint32_t code); // bytes written
// The byte that an escape code point carries, or -1.
int utf8_escaped_byte(uint32_t code);
// Appends valid text with escapes; returns the number of bytes that were not UTF-8. *changed: whether out differs.
size_t utf8_escape(const char *s, size_t n, struct text *out, int *changed);

int code_is_space(uint32_t code); // Unicode White_Space
int code_is_punctuation(uint32_t code); // of Unicode's categories P, or one of ASCII's symbols
int code_is_alphanumeric(uint32_t code); // letters and numbers, no marks
int code_is_cased(uint32_t code);        // a letter of upper, lower or title case
int code_is_case_ignorable(uint32_t code); // marks and signs that stand inside words (Unicode's Case_Ignorable, but for a few signs)
uint32_t code_lower(uint32_t code);
int code_is_word(uint32_t code);  // \w: letters, marks, digits, connectors

#endif
