// matcher.c: see matcher.h.
#include "common/text/matcher.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

void matcher_add(struct matcher *m, const char *text, size_t len, int32_t value) {
    if (len == 0)
        return;
    if (m->count == m->capacity) {
        m->capacity = m->capacity ? m->capacity * 2 : 16;
        m->item = xrealloc(m->item, (size_t)m->capacity * sizeof *m->item, "added tokens");
    }
    char *copy = xmalloc(len + 1, "added tokens");
    memcpy(copy, text, len);
    copy[len] = 0;
    m->item[m->count++] = (struct matcher_item){copy, len, value};
}

static int compare_items(const void *a, const void *b) {
    const struct matcher_item *x = a, *y = b;
    if (x->text[0] != y->text[0])
        return (unsigned char)x->text[0] < (unsigned char)y->text[0] ? -1 : 1;
    if (x->len != y->len)
        return x->len > y->len ? -1 : 1;
    return (x->value > y->value) - (x->value < y->value);
}

void matcher_finish(struct matcher *m) {
    if (m->count)
        qsort(m->item, (size_t)m->count, sizeof *m->item, compare_items);
    int32_t i = 0;
    for (int byte = 0; byte < 257; byte++) {
        while (i < m->count && (unsigned char)m->item[i].text[0] < byte)
            i++;
        m->first[byte] = i;
    }
}

const struct matcher_item *matcher_at(const struct matcher *m, const char *text, size_t len) {
    unsigned char byte = (unsigned char)text[0];
    for (int32_t i = m->first[byte]; i < m->first[byte + 1]; i++) {
        if (m->item[i].len <= len && memcmp(m->item[i].text, text, m->item[i].len) == 0)
            return &m->item[i];
    }
    return NULL;
}

void matcher_release(struct matcher *m) {
    for (int32_t i = 0; i < m->count; i++)
        free(m->item[i].text);
    free(m->item);
    memset(m, 0, sizeof *m);
}
