// byte_level.c: see byte_level.h.
#include "common/text/byte_level.h"

// Bytes that print as themselves in Latin-1 keep their number; the 68 others follow from U+0100 on, in order.
static int byte_prints(unsigned int byte) { return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD); }

uint32_t byte_level_code(unsigned char byte) {
    if (byte_prints(byte))
        return byte;
    if (byte <= 0x20)
        return 0x100u + byte;
    return byte == 0xAD ? 0x143 : 0x100u + 0x21 + (byte - 0x7Fu);
}

static int byte_of_code(uint32_t code) {
    if (code < 0x100)
        return byte_prints(code) ? (int)code : -1;
    if (code <= 0x120)
        return (int)(code - 0x100);
    if (code <= 0x142)
        return (int)(code - 0x121 + 0x7F);
    return code == 0x143 ? 0xAD : -1;
}

void byte_level_encode(const char *text, size_t len, struct text *out) {
    uint32_t code;
    for (size_t i = 0, step; i < len; i += step) {
        step = utf8_next(text + i, len - i, &code);
        int raw = utf8_escaped_byte(code);
        if (raw >= 0) {
            text_append_code(out, byte_level_code((unsigned char)raw));
            continue;
        }
        for (size_t k = 0; k < step; k++)
            text_append_code(out, byte_level_code((unsigned char)text[i + k]));
    }
}

int byte_level_decode(const char *text, size_t len, struct text *out) {
    size_t before = out->len;
    uint32_t code;
    for (size_t i = 0, step; i < len; i += step) {
        step = utf8_decode(text + i, len - i, &code);
        int byte = step ? byte_of_code(code) : -1;
        if (byte < 0) {
            out->len = before;
            return 0;
        }
        char c = (char)byte;
        text_append(out, &c, 1);
    }
    return 1;
}
