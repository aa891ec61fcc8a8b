// arena.c: see arena.h. Addresses are reserved with MAP_NORESERVE; where even that is limited (ulimit -v, strict
// overcommit), a smaller range is taken and running out of it is an ordinary out-of-memory death.
#include "common/base/arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/base/error.h"

#define ARENA_ALIGN ((size_t)64)
#define ARENA_SMALLEST ((size_t)1 << 20)

void arena_init(struct arena *a, const char *name, size_t reserve) {
    void *base = MAP_FAILED;
    size_t size = reserve < ARENA_SMALLEST ? ARENA_SMALLEST : (reserve + 4095) & ~(size_t)4095;
    for (;;) {
        base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base != MAP_FAILED || size / 2 < ARENA_SMALLEST)
            break;
        size = size / 2 & ~(size_t)4095;
    }
    if (base == MAP_FAILED) {
        fprintf(stderr, "pdq: out of memory: cannot reserve %zu bytes of addresses for arena %s\n", reserve, name);
        exit(1);
    }
    madvise(base, size, MADV_HUGEPAGE); // fewer faults on first touch; a refusal costs only speed
    *a = (struct arena){.name = name, .base = base, .reserved = size};
}

void arena_release(struct arena *a) {
    if (a->base)
        munmap(a->base, a->reserved);
    *a = (struct arena){0};
}

void *arena_alloc(struct arena *a, size_t bytes) {
    if (!a->base)
        BUG("arena_alloc: %zu bytes from an arena that is not open", bytes);
    size_t start = (a->used + ARENA_ALIGN - 1) & ~(ARENA_ALIGN - 1);
    if (start > a->reserved || bytes > a->reserved - start) {
        fprintf(stderr, "pdq: out of memory: arena %s holds %zu of %zu bytes and %zu more are asked for\n", a->name,
                a->used, a->reserved, bytes);
        exit(1);
    }
    a->used = start + bytes;
    if (a->used > a->peak)
        a->peak = a->used;
    return a->base + start;
}

void *arena_zalloc(struct arena *a, size_t bytes) { return memset(arena_alloc(a, bytes), 0, bytes); }
