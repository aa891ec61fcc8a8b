// teacher_block.c: see teacher_block.h.
#include "distill/teacher_block.h"

#include <math.h>
#include <stdlib.h>

#include "common/base/error.h"
#include "common/base/file.h"

#define STEPS 32.0 // a nat
#define NOTHING 65535
#define HEAD_BYTES 16
#define ID_BYTES 5 // at most
#define LEVEL 6    // of deflate

static void put(unsigned char *to, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        to[i] = (unsigned char)(v >> 8 * i);
}

static uint64_t take(const unsigned char *from, int bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint64_t)from[i] << 8 * i;
    return v;
}

static size_t most_bytes(const struct block_shape *s)
{
    const size_t k = (size_t)s->k, m = (size_t)s->m;
    return HEAD_BYTES + (size_t)s->seq_len * (2 + k * (2 + ID_BYTES) + (m ? 2 + (m + 1) * ID_BYTES : 0));
}

static unsigned code(float log_p)
{
    const double steps = rint(-(double)log_p * STEPS);
    return steps < 0 ? 0 : steps < NOTHING ? (unsigned)steps : isinf(log_p) ? NOTHING : NOTHING - 1;
}

static unsigned char *put_codes(unsigned char *to, const float *log_p, double sign, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const unsigned c = code((float)sign * log_p[i]);
        to[i] = (unsigned char)c;
        to[n + i] = (unsigned char)(c >> 8);
    }
    return to + 2 * n;
}

static unsigned char *put_count(unsigned char *at, uint32_t v)
{
    for (; v >= 128; v >>= 7)
        *at++ = (unsigned char)(v | 128);
    *at++ = (unsigned char)v;
    return at;
}

// Ids that rise by at least `least`.
static unsigned char *put_ids(unsigned char *at, const int32_t *id, int64_t n, int least)
{
    int64_t next = 0;
    for (int64_t i = 0; i < n; i++) {
        at = put_count(at, (uint32_t)(id[i] - next));
        next = id[i] + least;
    }
    return at;
}

void *block_pack(const struct block_shape *s, const struct block_head *head, const struct head_top *from, size_t *packed)
{
    unsigned char *data = xmalloc(most_bytes(s), "a block of a teacher cache"), *at = data + HEAD_BYTES;
    const int64_t k = s->k, m = s->m, first = head->first, end = first + head->n;
    put(data, (uint64_t)head->window, 8);
    put(data + 8, (uint64_t)first, 4);
    put(data + 12, (uint64_t)head->n, 4);
    at = put_codes(at, from->log_tail + first, 1, head->n);
    if (m)
        at = put_codes(at, from->entropy + first, -1, head->n);
    at = put_codes(at, from->log_p + first * k, 1, head->n * k);
    for (int64_t r = first; r < end; r++)
        at = put_ids(at, from->id + r * k, k, 1);
    for (int64_t r = first; m && r < end; r++) {
        at = put_count(at, (uint32_t)from->draws[r]);
        at = put_ids(at, from->drawn + r * m, from->draws[r], 0);
    }
    void *out = gzip_pack(data, (size_t)(at - data), LEVEL, packed);
    free(data);
    return out;
}

// -1: there is no number below 2^35.
static int64_t take_count(const unsigned char **at, const unsigned char *end)
{
    uint64_t v = 0;
    int shift = 0;
    do {
        if (*at == end || shift > 28)
            return -1;
        v |= (uint64_t)(**at & 127) << shift;
        shift += 7;
    } while (*(*at)++ & 128);
    return (int64_t)v;
}

// n ids that rise by at least `least`, from *at on; -1: they are none.
static int take_ids(const unsigned char **at, const unsigned char *end, int64_t vocab, int32_t *id, int64_t n, int least)
{
    int64_t next = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t gap = take_count(at, end);
        if (gap < 0 || next + gap >= vocab)
            return -1;
        id[i] = (int32_t)(next + gap);
        next = id[i] + least;
    }
    return 0;
}

static double mass(unsigned c) { return c == NOTHING ? 0 : exp(-(double)c / STEPS); }

static unsigned take_code(const unsigned char *low, int64_t plane, int64_t i) { return low[i] | (unsigned)low[plane + i] << 8; }

// Log-probabilities from codes, so shifted that their masses sum to 1. p: low bytes; the high ones lie `plane` behind.
static void take_row(const unsigned char *p, int64_t plane, unsigned tail, int64_t k, float *log_p, float *log_tail)
{
    double sum = mass(tail);
    for (int64_t i = 0; i < k; i++)
        sum += mass(take_code(p, plane, i));
    const double shift = log(sum);
    for (int64_t i = 0; i < k; i++)
        log_p[i] = (float)(-(double)take_code(p, plane, i) / STEPS - shift);
    *log_tail = tail == NOTHING ? -INFINITY : (float)(-(double)tail / STEPS - shift);
}

// A tail has draws, and only a tail.
static int take_draws(const unsigned char **at, const unsigned char *end, const struct block_shape *s, int has_tail, int64_t row,
                      const struct head_top *to)
{
    const int64_t draws = take_count(at, end);
    if (draws < 0 || draws > s->m || (draws > 0) != has_tail)
        return -1;
    to->draws[row] = (int32_t)draws;
    return take_ids(at, end, s->vocab, to->drawn + row * s->m, draws, 0);
}

static int read_head(const struct block_shape *s, const unsigned char *data, size_t bytes, struct block_head *head)
{
    const uint64_t k = (uint64_t)s->k;
    if (bytes < HEAD_BYTES)
        return -1;
    const uint64_t first = take(data + 8, 4), rows = take(data + 12, 4);
    if (first > (uint64_t)s->seq_len || rows > (uint64_t)s->seq_len - first || bytes < HEAD_BYTES + rows * (2 + (s->m ? 2 : 0) + 2 * k))
        return -1;
    *head = (struct block_head){(int64_t)take(data, 8), (int64_t)first, (int64_t)rows};
    return 0;
}

static int read_block(const struct block_shape *s, const unsigned char *data, size_t bytes, struct block_head *head, const struct head_top *to)
{
    TRY(read_head(s, data, bytes, head));
    const int64_t k = s->k, n = head->n;
    const unsigned char *tail = data + HEAD_BYTES, *entropy = tail + 2 * n, *p = entropy + (s->m ? 2 * n : 0), *at = p + 2 * n * k;
    const unsigned char *end = data + bytes;
    for (int64_t r = 0; r < n; r++) {
        const int64_t row = head->first + r;
        take_row(p + r * k, n * k, take_code(tail, n, r), k, to->log_p + row * k, to->log_tail + row);
        if (s->m)
            to->entropy[row] = (float)((double)take_code(entropy, n, r) / STEPS);
        if (take_ids(&at, end, s->vocab, to->id + row * k, k, 1) < 0 || !isfinite(to->log_p[row * k]))
            return -1;
    }
    for (int64_t r = 0; s->m && r < n; r++)
        TRY(take_draws(&at, end, s, take_code(tail, n, r) != NOTHING, head->first + r, to));
    return at == end ? 0 : -1;
}

int block_unpack(const struct block_shape *s, const void *packed, size_t n, struct block_head *head, const struct head_top *to, size_t *used)
{
    const size_t room = most_bytes(s);
    size_t bytes;
    unsigned char *data = xmalloc(room, "a block of a teacher cache");
    int status = gzip_unpack(packed, n, data, room, &bytes, used);
    if (status == 0)
        status = read_block(s, data, bytes, head, to);
    free(data);
    return status;
}
