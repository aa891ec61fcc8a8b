// arena.h: a bump allocator over one reserved range of addresses, with mark and reset.
//
// The range is reserved without being backed (pages come on first touch), so it never moves and pointers
// stay valid. Blocks are aligned to 64 bytes and not initialised unless zalloc is used.
#ifndef PDQ_ARENA_H
#define PDQ_ARENA_H

#include <stddef.h>

struct arena {
    const char *name; // for messages
    char *base;
    size_t used, peak, reserved; // bytes
};

#define ARENA_DEFAULT ((size_t)64 << 30) // addresses, not memory

void arena_init(struct arena *a, const char *name, size_t reserve);
void arena_release(struct arena *a);
void *arena_alloc(struct arena *a, size_t bytes);
void *arena_zalloc(struct arena *a, size_t bytes);
static inline size_t arena_mark(const struct arena *a) { return a->used; }
static inline void arena_reset(struct arena *a, size_t mark) { a->used = mark; }

#endif
