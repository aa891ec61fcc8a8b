// bpe.c: see bpe.h.
#include "common/text/bpe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/text/utf8.h"

#define STRETCH_MAX (1 << 28) // symbols merged together; only a text without a single cut is ever longer

struct symbol {
    int32_t id, prev, next; // id -1: merged into the one on its left
};

struct candidate {
    uint64_t order; // rank, then place
    int32_t result;
};

struct bpe_scratch {
    struct symbol *symbol;
    struct candidate *heap;
    size_t n_symbols, symbol_capacity, n_heap, heap_capacity;
    struct merge_table unused; // (result, 0) -> rank and result hold the left and the right half
};

struct bpe_scratch *bpe_scratch_new(void) {
    return xcalloc(1, sizeof(struct bpe_scratch), "tokenizer");
}

void bpe_scratch_free(struct bpe_scratch *s) {
    if (!s)
        return;
    free(s->symbol);
    free(s->heap);
    merge_table_release(&s->unused);
    free(s);
}

void token_list_push(struct token_list *list, int32_t id) {
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? list->capacity * 2 : 256;
        list->id = xrealloc(list->id, list->capacity * sizeof *list->id, "token ids");
    }
    list->id[list->count++] = id;
}

// --- building the tables

static void bpe_index_symbols(struct bpe *b) {
    for (int byte = 0; byte < 256; byte++) {
        char name[8];
        int n = snprintf(name, sizeof name, "<0x%02X>", byte);
        int32_t id = pieces_find(b->symbols, name, (size_t)n);
        b->byte_id[byte] = id < b->size ? id : -1;
    }
    for (uint32_t code = 0; code < CODES_FAST; code++) {
        char bytes[4];
        b->fast[code] = pieces_find(b->symbols, bytes, utf8_put(bytes, code));
    }
}

// The symbols that a symbol's text can begin and end with: its first and last character, and, when it is a byte
// token, itself. -1 fills up.
static void symbol_edges(const struct bpe *b, int32_t id, int last, int32_t edge[2]) {
    const char *text = b->symbols->text[id];
    size_t len = (size_t)b->symbols->len[id], from = last ? len - 1 : 0;
    while (from > 0 && last && ((unsigned char)text[from] & 0xC0) == 0x80)
        from--;
    size_t end = last ? len : 1;
    while (!last && end < len && ((unsigned char)text[end] & 0xC0) == 0x80)
        end++;
    edge[0] = pieces_find(b->symbols, text + from, end - from);
    edge[1] = id < b->size && len == 6 && memcmp(text, "<0x", 3) == 0 ? id : -1;
}

static void bpe_add_joint(struct bpe *b, int32_t left, int32_t right) {
    int32_t ends[2], begins[2];
    symbol_edges(b, left, 1, ends);
    symbol_edges(b, right, 0, begins);
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 2; j++) {
            if (ends[i] >= 0 && begins[j] >= 0 && !merge_find(&b->joint, ends[i], begins[j]))
                merge_put(&b->joint, ends[i], begins[j], 0, 0);
        }
    }
}

void bpe_finish_ranks(struct bpe *b, const struct merge_rule *rule, size_t n) {
    bpe_index_symbols(b);
    for (size_t i = 0; i < n; i++) {
        merge_put(&b->rules, rule[i].left, rule[i].right, (int32_t)i, rule[i].result);
        bpe_add_joint(b, rule[i].left, rule[i].right);
    }
}

struct scored {
    float score;
    int32_t id;
};

static int compare_scored(const void *a, const void *b) {
    const struct scored *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

// Gives every character inside a piece a symbol, so that a rule can name it.
static void bpe_add_characters(struct bpe *b, const uint8_t *takes_part) {
    for (int32_t id = 0; id < b->size; id++) {
        if (!takes_part[id] || !b->symbols->text[id])
            continue;
        const char *text = b->symbols->text[id];
        size_t len = (size_t)b->symbols->len[id];
        uint32_t code;
        for (size_t i = 0, step; i < len; i += step) {
            step = utf8_next(text + i, len - i, &code);
            if (pieces_find(b->symbols, text + i, step) < 0)
                pieces_put(b->symbols, b->symbols->count, text + i, step);
        }
    }
}

void bpe_finish_scores(struct bpe *b, const float *score, const uint8_t *takes_part) {
    bpe_add_characters(b, takes_part);
    bpe_index_symbols(b);
    struct scored *order = xmalloc((size_t)b->size * sizeof *order + 1, "merges");
    int32_t n = 0, rank = 0;
    for (int32_t id = 0; id < b->size; id++) {
        // Of two pieces with one text only the first is ever found.
        if (takes_part[id] && b->symbols->text[id] &&
            pieces_find(b->symbols, b->symbols->text[id], (size_t)b->symbols->len[id]) == id)
            order[n++] = (struct scored){score[id], id};
    }
    qsort(order, (size_t)n, sizeof *order, compare_scored);
    for (int32_t k = 0; k < n; k++) {
        int32_t id = order[k].id;
        const char *text = b->symbols->text[id];
        size_t len = (size_t)b->symbols->len[id];
        if (k > 0 && order[k].score != order[k - 1].score)
            rank = k;
        for (size_t cut = 1; cut < len; cut++) {
            if (((unsigned char)text[cut] & 0xC0) == 0x80)
                continue;
            int32_t left = pieces_find(b->symbols, text, cut), right = pieces_find(b->symbols, text + cut, len - cut);
            if (left < 0 || right < 0 || (left < b->size && !takes_part[left]) ||
                (right < b->size && !takes_part[right]))
                continue;
            merge_put(&b->rules, left, right, rank, id);
            bpe_add_joint(b, left, right);
        }
    }
    free(order);
}

void bpe_release(struct bpe *b) {
    merge_table_release(&b->rules);
    merge_table_release(&b->joint);
}

// --- merging

static int candidate_before(struct candidate a, struct candidate b) { return a.order < b.order; }

static void heap_push(struct bpe_scratch *s, struct candidate c) {
    if (s->n_heap == s->heap_capacity) {
        s->heap_capacity = s->heap_capacity ? s->heap_capacity * 2 : 256;
        s->heap = xrealloc(s->heap, s->heap_capacity * sizeof *s->heap, "tokenizer");
    }
    size_t i = s->n_heap++;
    while (i > 0 && candidate_before(c, s->heap[(i - 1) / 2])) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = c;
}

static struct candidate heap_pop(struct bpe_scratch *s) {
    struct candidate top = s->heap[0], last = s->heap[--s->n_heap];
    size_t i = 0;
    for (size_t child = 1; child < s->n_heap; child = 2 * i + 1) {
        if (child + 1 < s->n_heap && candidate_before(s->heap[child + 1], s->heap[child]))
            child++;
        if (!candidate_before(s->heap[child], last))
            break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    if (s->n_heap)
        s->heap[i] = last;
    return top;
}

static void propose(const struct bpe *b, struct bpe_scratch *s, int32_t left, int32_t right) {
    if (left < 0 || right < 0)
        return;
    int32_t x = s->symbol[left].id, y = s->symbol[right].id;
    const struct merge *m = merge_find(&b->rules, x, y);
    if (!m)
        return;
    heap_push(s, (struct candidate){(uint64_t)(uint32_t)m->rank << 32 | (uint32_t)left, m->result});
    if (b->resegment_unused && b->type[m->result] == TOKEN_UNUSED)
        merge_put(&s->unused, m->result, 0, x, y);
}

static void merge_stretch(const struct bpe *b, struct bpe_scratch *s) {
    struct symbol *sym = s->symbol;
    int32_t n = (int32_t)s->n_symbols;
    s->n_heap = 0;
    for (int32_t i = 0; i < n; i++) {
        sym[i].prev = i - 1;
        sym[i].next = i + 1 < n ? i + 1 : -1;
    }
    for (int32_t i = 0; i + 1 < n; i++)
        propose(b, s, i, i + 1);
    while (s->n_heap) {
        struct candidate c = heap_pop(s);
        int32_t left = (int32_t)(uint32_t)c.order;
        int32_t right = sym[left].id < 0 ? -1 : sym[left].next;
        if (right < 0)
            continue;
        // The pair may have changed since it was proposed; it still counts when it makes the same piece.
        const struct merge *m = merge_find(&b->rules, sym[left].id, sym[right].id);
        if (!m || m->result != c.result)
            continue;
        sym[left].id = c.result;
        sym[left].next = sym[right].next;
        sym[right].id = -1;
        if (sym[left].next >= 0)
            sym[sym[left].next].prev = left;
        propose(b, s, sym[left].prev, left);
        propose(b, s, left, sym[left].next);
    }
}

// --- symbols in, ids out

static int has_byte_tokens(const struct bpe *b, const char *text, size_t len) {
    int all = b->byte_fallback;
    for (size_t i = 0; all && i < len; i++)
        all = b->byte_id[(unsigned char)text[i]] >= 0;
    return all;
}

static void emit_unknown(const struct bpe *b, const char *text, size_t len, struct token_list *out, size_t first) {
    if (has_byte_tokens(b, text, len)) {
        for (size_t i = 0; i < len; i++)
            token_list_push(out, b->byte_id[(unsigned char)text[i]]);
    } else if (b->unk >= 0 && !(b->fuse_unk && out->count > first && out->id[out->count - 1] == b->unk)) {
        token_list_push(out, b->unk);
    }
}

static void emit_symbol(const struct bpe *b, const struct bpe_scratch *s, int32_t id, struct token_list *out,
                        size_t first, int depth) {
    if (id >= b->size) {
        emit_unknown(b, b->symbols->text[id], (size_t)b->symbols->len[id], out, first);
        return;
    }
    if (b->resegment_unused && b->type[id] == TOKEN_UNUSED && depth < 64) {
        const struct merge *m = merge_find(&s->unused, id, 0);
        if (m) {
            emit_symbol(b, s, m->rank, out, first, depth + 1);
            emit_symbol(b, s, m->result, out, first, depth + 1);
            return;
        }
    }
    token_list_push(out, id);
}

static void flush_stretch(const struct bpe *b, struct bpe_scratch *s, struct token_list *out, size_t first) {
    if (s->n_symbols > 1) {
        merge_stretch(b, s);
        for (int32_t i = 0; i >= 0; i = s->symbol[i].next)
            emit_symbol(b, s, s->symbol[i].id, out, first, 0);
    } else if (s->n_symbols == 1) {
        emit_symbol(b, s, s->symbol[0].id, out, first, 0);
    }
    s->n_symbols = 0;
}

static void push_symbol(const struct bpe *b, struct bpe_scratch *s, int32_t id, struct token_list *out,
                        size_t first) {
    if (s->n_symbols && (s->n_symbols >= STRETCH_MAX || !merge_find(&b->joint, s->symbol[s->n_symbols - 1].id, id)))
        flush_stretch(b, s, out, first);
    if (s->n_symbols == s->symbol_capacity) {
        s->symbol_capacity = s->symbol_capacity ? s->symbol_capacity * 2 : 256;
        s->symbol = xrealloc(s->symbol, s->symbol_capacity * sizeof *s->symbol, "tokenizer");
    }
    s->symbol[s->n_symbols++].id = id;
}

// A character that is no symbol: its byte tokens take part in merging as Hugging Face's do; else it is unknown.
static void push_unknown(const struct bpe *b, struct bpe_scratch *s, const char *text, size_t len,
                         struct token_list *out, size_t first) {
    if (!has_byte_tokens(b, text, len)) {
        flush_stretch(b, s, out, first);
        emit_unknown(b, text, len, out, first);
        return;
    }
    for (size_t i = 0; i < len; i++)
        push_symbol(b, s, b->byte_id[(unsigned char)text[i]], out, first);
}

void bpe_encode(const struct bpe *b, struct bpe_scratch *s, const char *text, size_t len, struct token_list *out) {
    if (len == 0)
        return;
    if (b->ignore_merges) {
        int32_t whole = pieces_find(b->symbols, text, len);
        if (whole >= 0) {
            token_list_push(out, whole);
            return;
        }
    }
    size_t first = out->count; // unknown tokens are fused within this call only
    s->n_symbols = 0;
    for (size_t i = 0, step; i < len; i += step) {
        const struct matcher_item *item = b->frozen ? matcher_at(b->frozen, text + i, len - i) : NULL;
        if (item) {
            flush_stretch(b, s, out, first);
            token_list_push(out, item->value);
            step = item->len;
            continue;
        }
        uint32_t code;
        step = utf8_next(text + i, len - i, &code);
        int byte = utf8_escaped_byte(code);
        int32_t id = code < CODES_FAST ? b->fast[code] : byte >= 0 ? -1 : pieces_find(b->symbols, text + i, step);
        if (id >= 0) {
            push_symbol(b, s, id, out, first);
        } else if (byte >= 0) {
            char raw = (char)byte;
            push_unknown(b, s, &raw, 1, out, first);
        } else {
            push_unknown(b, s, text + i, step, out, first);
        }
    }
    flush_stretch(b, s, out, first);
}
