// hash.h: XXH3 128-bit digests as 32 hex digits, for provenance and for "is this the same input". Not cryptographic.
#ifndef PDQ_HASH_H
#define PDQ_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"

#define HASH_TEXT 33 // 32 hex digits and a NUL

struct hasher; // opaque
struct hasher *hasher_new(void);
void hasher_add(struct hasher *h, const void *data, size_t bytes);
void hasher_add_text(struct hasher *h, const char *s); // with its NUL, so that "a","b" is not "ab",""
void hasher_end(struct hasher *h, char out[HASH_TEXT]); // and frees it

uint64_t hash_bytes(const void *data, size_t bytes, uint64_t seed);
void hash_text(const char *s, char out[HASH_TEXT]);
void hasher_add_map(struct hasher *h, const void *data, size_t bytes); // of a file's map, whose memory it gives back
int hash_file(const char *path, char out[HASH_TEXT], struct error *err);

#endif
