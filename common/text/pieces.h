// pieces.h: the vocabulary's two tables, text -> id and (left id, right id) -> merge, as open-addressed hashes.
#ifndef PDQ_PIECES_H
#define PDQ_PIECES_H

#include <stddef.h>
#include <stdint.h>

// Texts by id. Ids may have gaps (text NULL). The first id given to a text is the one that a lookup finds.
struct pieces {
    char **text; // NUL-terminated
    int32_t *len;
    int32_t count, capacity; // count: the largest id + 1
    int32_t *slot;           // id + 1; 0: free
    size_t n_slots, used;    // n_slots: a power of two
};
#define PIECES_MAX (1 << 24) // no vocabulary is near it; a wild id in a file must not eat the memory

void pieces_put(struct pieces *p, int32_t id, const char *text, size_t len); // replaces nothing: id must be free
int32_t pieces_find(const struct pieces *p, const char *text, size_t len);   // -1: none
void pieces_release(struct pieces *p);

struct merge {
    uint64_t key; // (left + 1) << 32 | (right + 1); 0: free
    int32_t rank, result;
};
struct merge_table {
    struct merge *slot;
    size_t n_slots, used;
};
void merge_put(struct merge_table *t, int32_t left, int32_t right, int32_t rank, int32_t result); // replaces
const struct merge *merge_find(const struct merge_table *t, int32_t left, int32_t right);         // NULL: none
void merge_table_release(struct merge_table *t);

#endif
