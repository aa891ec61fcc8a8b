// charsmap.c: see charsmap.h. Every index is checked: the blob comes from a file.
#include "common/text/charsmap.h"

#include <stdlib.h>
#include <string.h>

#include "common/text/utf8.h"

static int is_inside(char c) { return ((unsigned char)c & 0xC0) == 0x80; }

static uint32_t read_u32(const unsigned char *p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

struct charsmap *charsmap_new(const void *blob, size_t bytes, const char *where, struct error *err) {
    const unsigned char *p = blob;
    const char *why = NULL;
    size_t trie = bytes >= 4 ? read_u32(p) : 0;
    if (bytes < 4 || trie > bytes - 4 || trie % 4 != 0 || trie < 4)
        why = "its trie does not fit into it";
    else if (!utf8_valid((const char *)p + 4 + trie, bytes - 4 - trie))
        why = "its replacements are not UTF-8";
    if (why) {
        error_set(err, "%s: the precompiled_charsmap of %zu bytes is damaged: %s; copy the file again", where, bytes,
                  why);
        return NULL;
    }
    struct charsmap *m = xcalloc(1, sizeof *m, "normalizer");
    m->n_units = trie / 4;
    m->unit = xmalloc(trie, "normalizer");
    for (size_t i = 0; i < m->n_units; i++)
        m->unit[i] = read_u32(p + 4 + 4 * i);
    m->strings_len = bytes - 4 - trie;
    m->strings = xmalloc(m->strings_len + 1, "normalizer");
    memcpy(m->strings, p + 4 + trie, m->strings_len);
    m->strings[m->strings_len] = 0;
    return m;
}

void charsmap_free(struct charsmap *m) {
    if (!m)
        return;
    free(m->unit);
    free(m->strings);
    free(m);
}

// A unit of the double array: bit 31 marks a value, bits 10..30 the offset (shifted by 8 when bit 9 is set), bit 8
// whether a value hangs below it, bits 0..7 its label.
static size_t unit_offset(uint32_t unit) { return (size_t)(unit >> 10) << ((unit & (1u << 9)) >> 6); }

size_t charsmap_longest(const struct charsmap *m, const char *text, size_t len, const char **replacement) {
    size_t longest = 0, node = unit_offset(m->unit[0]);
    for (size_t i = 0; i < len; i++) {
        unsigned char byte = (unsigned char)text[i];
        node ^= byte;
        if (node >= m->n_units || (m->unit[node] & (1u << 31 | 0xFF)) != byte)
            break;
        uint32_t unit = m->unit[node];
        node ^= unit_offset(unit);
        if (unit & 1u << 8) {
            if (node >= m->n_units)
                break;
            size_t at = m->unit[node] & 0x7FFFFFFF;
            if (at > m->strings_len || is_inside(m->strings[at]) || (i + 1 < len && is_inside(text[i + 1])))
                continue; // only a damaged file cuts a character in two
            *replacement = m->strings + at;
            longest = i + 1;
        }
    }
    return longest;
}
