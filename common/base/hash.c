// hash.c: see hash.h. XXH3 is compiled in, so that it uses the instructions that the rest of the program does.
#include "common/base/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"

struct hasher {
    XXH3_state_t *state;
};

struct hasher *hasher_new(void) {
    struct hasher *h = xcalloc(1, sizeof *h, "a hasher");
    h->state = XXH3_createState();
    if (!h->state) {
        fprintf(stderr, "pdq: out of memory: a hasher\n");
        exit(1);
    }
    XXH3_128bits_reset(h->state);
    return h;
}

void hasher_add(struct hasher *h, const void *data, size_t bytes) {
    if (bytes)
        XXH3_128bits_update(h->state, data, bytes);
}

#define MAP_PIECE ((size_t)64 << 20)

void hasher_add_map(struct hasher *h, const void *data, size_t bytes) {
    const unsigned char *at = data;
    for (size_t n; bytes > 0; at += n, bytes -= n) {
        n = bytes < MAP_PIECE ? bytes : MAP_PIECE;
        hasher_add(h, at, n);
        file_map_drop(at, n);
    }
}

void hasher_add_text(struct hasher *h, const char *s) { hasher_add(h, s, strlen(s) + 1); }

static void digest_text(XXH128_hash_t digest, char out[HASH_TEXT]) {
    snprintf(out, HASH_TEXT, "%016llx%016llx", (unsigned long long)digest.high64, (unsigned long long)digest.low64);
}

void hasher_end(struct hasher *h, char out[HASH_TEXT]) {
    digest_text(XXH3_128bits_digest(h->state), out);
    XXH3_freeState(h->state);
    free(h);
}

uint64_t hash_bytes(const void *data, size_t bytes, uint64_t seed) { return XXH3_64bits_withSeed(data, bytes, seed); }

void hash_text(const char *s, char out[HASH_TEXT]) { digest_text(XXH3_128bits(s, strlen(s)), out); }

int hash_file(const char *path, char out[HASH_TEXT], struct error *err) {
    struct file_map map;
    TRY(file_map(&map, path, err));
    struct hasher *h = hasher_new();
    hasher_add_map(h, map.data, map.size);
    hasher_end(h, out);
    file_unmap(&map);
    return 0;
}
