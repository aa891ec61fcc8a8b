// matcher.h: finds fixed strings in a text, the longest at each place.
#ifndef PDQ_MATCHER_H
#define PDQ_MATCHER_H

#include <stddef.h>
#include <stdint.h>

struct matcher_item {
    char *text;
    size_t len;
    int32_t value;
};
struct matcher {
    struct matcher_item *item; // sorted by first byte, then longest first
    int32_t count, capacity;
    int32_t first[257]; // by first byte, set by matcher_finish
};

void matcher_add(struct matcher *m, const char *text, size_t len, int32_t value); // empty strings are left out
void matcher_finish(struct matcher *m);
// The longest string that the text begins with, or NULL.
const struct matcher_item *matcher_at(const struct matcher *m, const char *text, size_t len);
void matcher_release(struct matcher *m);

#endif
