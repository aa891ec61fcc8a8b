// places.c: where in a text the tokens stand that it is cut into, for those who want the text of some tokens as it was written.
//
// WordPiece: a word of the normalized text is handed to the model as a piece of memory, so its place there is known; each byte of the
// normalized text is traced to the character that it came from. BERT's normalizer works character by character; what it does to several at
// once (marks that change their order) happens inside a word, and then the whole word is the place of all its bytes.
// Byte-level BPE: the pieces are the text's bytes, one after the other.
#include <stdlib.h>
#include <string.h>

#include "common/text/tokenizer_parts.h"

static struct token_place *make_room(struct placing *p, size_t n)
{
    while (p->count + n > p->capacity) {
        p->capacity = p->capacity ? 2 * p->capacity : 256;
        p->token = xrealloc(p->token, p->capacity * sizeof *p->token, "places of tokens");
    }
    return p->token + p->count;
}

void placing_add(struct placing *p, const struct tokenizer *t, const struct token_list *ids, const char *text, size_t len)
{
    size_t n = ids->count - p->count, at = (size_t)(text - p->normalized);
    struct token_place *token = make_room(p, n);
    const size_t end = at + len, prefix = strlen(t->wordpiece.prefix);
    for (size_t i = 0; i < n; i++) {
        const size_t piece = (size_t)t->pieces.len[ids->id[p->count + i]], bytes = n == 1 ? len : i ? piece - prefix : piece; // one: perhaps [UNK]
        if (at + bytes > end)
            BUG("tokenizer_encode_places: the pieces of a word of %zu bytes are longer than it", len);
        token[i] = (struct token_place){p->byte[at].start, p->byte[at + bytes - 1].end};
        at += bytes;
    }
    p->count = ids->count;
}

void placing_add_named(struct placing *p, const struct token_list *ids, struct token_place place)
{
    *make_room(p, 1) = place;
    p->count = ids->count;
}

// The bytes that in[0..len) becomes.
static size_t normalized_length(const struct steps *s, struct pattern_match *m, const char *in, size_t len)
{
    struct text out = {0};
    normalize_text(s, m, in, len, &out);
    const size_t n = out.len;
    text_release(&out);
    return n;
}

static void put_bytes(struct placing *p, size_t *n, size_t count, int64_t start, int64_t end, size_t most)
{
    for (size_t i = 0; i < count; i++, (*n)++)
        if (*n < most)
            p->byte[*n] = (struct token_place){start, end};
}

// One word, or white space.
static void trace_run(struct placing *p, const struct steps *s, struct pattern_match *m, const char *run, size_t len, size_t *n, size_t most)
{
    const size_t before = *n;
    const int64_t first = run - p->text;
    uint32_t code;
    int is_plain = 1;
    for (size_t i = 0, step; i < len; i += step) {
        step = utf8_next(run + i, len - i, &code);
        is_plain &= code < 128;
        if (code >= 128 || p->ascii[code] < 0) {
            const size_t bytes = normalized_length(s, m, run + i, step);
            put_bytes(p, n, bytes, first + (int64_t)i, first + (int64_t)(i + step), most);
            if (code < 128)
                p->ascii[code] = (int)bytes;
        } else {
            put_bytes(p, n, (size_t)p->ascii[code], first + (int64_t)i, first + (int64_t)(i + step), most);
        }
    }
    const size_t whole = is_plain ? *n - before : normalized_length(s, m, run, len);
    if (whole == *n - before)
        return;
    *n = before;
    put_bytes(p, n, whole, first, first + (int64_t)len, most);
}

void placing_trace(struct placing *p, const struct tokenizer *t, struct pattern_match *m, const char *text, size_t len, const struct text *normalized)
{
    size_t n = 0;
    uint32_t code;
    p->normalized = normalized->data;
    p->byte = xrealloc(p->byte, (normalized->len + 1) * sizeof *p->byte, "places of tokens");
    for (size_t i = 0, end, step; i < len; i = end) {
        for (end = i; end < len; end += step) {
            step = utf8_next(text + end, len - end, &code);
            if (code_is_space(code))
                break;
        }
        end = end > i ? end : i + step; // a space is a run of its own
        trace_run(p, &t->normalizer, m, text + i, end - i, &n, normalized->len);
    }
    p->failed |= n != normalized->len;
}

// Bytes of a piece in the byte-level alphabet: one character each.
static size_t piece_bytes(const struct tokenizer *t, int32_t id)
{
    size_t n = 0;
    for (int i = 0; i < t->pieces.len[id]; i++)
        n += ((unsigned char)t->pieces.text[id][i] & 0xC0) != 0x80;
    return n;
}

static int place_bytes(struct placing *p, const struct tokenizer *t, const struct token_list *ids, size_t len)
{
    size_t sum = 0;
    for (size_t i = 0; i < ids->count; i++)
        sum += piece_bytes(t, ids->id[i]);
    if (sum != len && sum != len + 1) // one more: a space that is put before a text
        return -1;
    struct token_place *token = make_room(p, ids->count);
    int64_t at = (int64_t)len - (int64_t)sum;
    for (size_t i = 0; i < ids->count; i++) {
        const int64_t start = at;
        at += (int64_t)piece_bytes(t, ids->id[i]);
        token[i] = (struct token_place){start < 0 ? 0 : start, at};
    }
    return 0;
}

int tokenizer_encode_places(const struct tokenizer *t, const char *text, size_t len, struct token_list *out, struct token_place **place,
                            const char *where, struct error *err)
{
    struct placing p = {.text = text};
    struct token_list ids = {0};
    const int by_bytes = t->byte_level && t->normalizer.count == 0;
    *place = NULL;
    if (!by_bytes && !t->wordpiece.prefix)
        return error_set(err, "%s: %s: where in a text its tokens stand is known of WordPiece (BERT) and of byte-level BPE without a normalizer only; "
                         "take a model with such a tokenizer", where, t->source);
    if (!utf8_valid(text, len))
        return error_set(err, "%s: the text is not UTF-8; write it again as UTF-8", where);
    memset(p.ascii, -1, sizeof p.ascii);
    tokenizer_encode_placing(t, text, len, TOKENIZE_LITERAL, &ids, NULL, by_bytes ? NULL : &p);
    int status = by_bytes ? place_bytes(&p, t, &ids, len) : p.failed ? -1 : 0;
    free(p.byte);
    if (status < 0) {
        free(p.token);
        token_list_free(&ids);
        return error_set(err, "%s: where the text's tokens stand cannot be told with %s (characters that it changes as a whole)", where, t->source);
    }
    for (size_t i = 0; i < ids.count; i++)
        token_list_push(out, ids.id[i]);
    token_list_free(&ids);
    *place = p.token ? p.token : xmalloc(sizeof *p.token, "places of tokens");
    return 0;
}
