// byte_level.h: the byte-level alphabet of GPT-2: a printable character for each of the 256 bytes.
#ifndef PDQ_BYTE_LEVEL_H
#define PDQ_BYTE_LEVEL_H

#include <stddef.h>
#include <stdint.h>

#include "common/text/utf8.h"

uint32_t byte_level_code(unsigned char byte);
// Bytes (with escapes as utf8.h says) to the alphabet.
void byte_level_encode(const char *text, size_t len, struct text *out);
// The alphabet to bytes. 0 and nothing appended when a character is not of the alphabet.
int byte_level_decode(const char *text, size_t len, struct text *out);

#endif
