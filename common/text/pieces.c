// pieces.c: see pieces.h.
#include "common/text/pieces.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

// FNV-1a: pieces are a few bytes long, so a hash without set-up wins.
static uint64_t hash_piece(const char *text, size_t len) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)text[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

static size_t pieces_slot(const struct pieces *p, const char *text, size_t len) {
    size_t i = hash_piece(text, len) & (p->n_slots - 1);
    while (p->slot[i]) {
        int32_t id = p->slot[i] - 1;
        if ((size_t)p->len[id] == len && memcmp(p->text[id], text, len) == 0)
            break;
        i = (i + 1) & (p->n_slots - 1);
    }
    return i;
}

static void pieces_grow_slots(struct pieces *p) {
    free(p->slot);
    p->n_slots = p->n_slots ? p->n_slots * 2 : 1024;
    p->slot = xcalloc(p->n_slots, sizeof *p->slot, "vocabulary");
    p->used = 0;
    for (int32_t id = 0; id < p->count; id++) {
        size_t i = p->text[id] ? pieces_slot(p, p->text[id], (size_t)p->len[id]) : 0;
        if (p->text[id] && !p->slot[i]) {
            p->slot[i] = id + 1;
            p->used++;
        }
    }
}

void pieces_put(struct pieces *p, int32_t id, const char *text, size_t len) {
    if (id < 0 || id >= PIECES_MAX || (id < p->count && p->text[id]))
        BUG("pieces_put: id %d is out of range or taken", id);
    if (id >= p->capacity) {
        int32_t capacity = p->capacity ? p->capacity : 1024;
        while (capacity <= id)
            capacity *= 2;
        p->text = xrealloc(p->text, (size_t)capacity * sizeof *p->text, "vocabulary");
        p->len = xrealloc(p->len, (size_t)capacity * sizeof *p->len, "vocabulary");
        p->capacity = capacity;
    }
    for (; p->count <= id; p->count++) {
        p->text[p->count] = NULL;
        p->len[p->count] = 0;
    }
    p->text[id] = xmalloc(len + 1, "vocabulary");
    memcpy(p->text[id], text, len);
    p->text[id][len] = 0;
    p->len[id] = (int32_t)len;
    if (2 * (p->used + 1) > p->n_slots) {
        pieces_grow_slots(p);
        return; // growing has entered the new piece too
    }
    size_t i = pieces_slot(p, text, len);
    if (!p->slot[i]) {
        p->slot[i] = id + 1;
        p->used++;
    }
}

int32_t pieces_find(const struct pieces *p, const char *text, size_t len) {
    return p->n_slots ? p->slot[pieces_slot(p, text, len)] - 1 : -1;
}

void pieces_release(struct pieces *p) {
    for (int32_t id = 0; id < p->count; id++)
        free(p->text[id]);
    free(p->text);
    free(p->len);
    free(p->slot);
    memset(p, 0, sizeof *p);
}

static uint64_t merge_key(int32_t left, int32_t right) { return (uint64_t)(left + 1) << 32 | (uint32_t)(right + 1); }

static size_t merge_slot(const struct merge_table *t, uint64_t key) {
    uint64_t h = key * 0x9E3779B97F4A7C15u;
    size_t i = (h ^ h >> 32) & (t->n_slots - 1);
    while (t->slot[i].key && t->slot[i].key != key)
        i = (i + 1) & (t->n_slots - 1);
    return i;
}

void merge_put(struct merge_table *t, int32_t left, int32_t right, int32_t rank, int32_t result) {
    if (2 * (t->used + 1) > t->n_slots) {
        struct merge_table bigger = {.n_slots = t->n_slots ? t->n_slots * 2 : 1024, .used = t->used};
        bigger.slot = xcalloc(bigger.n_slots, sizeof *bigger.slot, "merges");
        for (size_t i = 0; i < t->n_slots; i++) {
            if (t->slot[i].key)
                bigger.slot[merge_slot(&bigger, t->slot[i].key)] = t->slot[i];
        }
        free(t->slot);
        *t = bigger;
    }
    uint64_t key = merge_key(left, right);
    struct merge *m = &t->slot[merge_slot(t, key)];
    t->used += m->key == 0;
    *m = (struct merge){key, rank, result};
}

const struct merge *merge_find(const struct merge_table *t, int32_t left, int32_t right) {
    if (!t->n_slots)
        return NULL;
    const struct merge *m = &t->slot[merge_slot(t, merge_key(left, right))];
    return m->key ? m : NULL;
}

void merge_table_release(struct merge_table *t) {
    free(t->slot);
    memset(t, 0, sizeof *t);
}
