// charsmap.h: SentencePiece's precompiled normalizer: the longest rule at each place, from a double-array trie.
//
// Layout: u32 size of the trie in bytes, the trie (u32 units of the darts-clone library), then the replacement
// strings, each ended by a NUL. All little-endian.
#ifndef PDQ_CHARSMAP_H
#define PDQ_CHARSMAP_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"

struct charsmap {
    uint32_t *unit;
    size_t n_units;
    char *strings; // with a NUL past the end
    size_t strings_len;
};

struct charsmap *charsmap_new(const void *blob, size_t bytes, const char *where, struct error *err);
void charsmap_free(struct charsmap *m);
// Length of the longest rule that the text begins with (0: none); *replacement is NUL-terminated.
size_t charsmap_longest(const struct charsmap *m, const char *text, size_t len, const char **replacement);

#endif
