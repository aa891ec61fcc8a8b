// teacher_block.c: see teacher_block.h.
#include "distill/teacher_block.h"

#include <math.h>
#include <stdlib.h>

#include "common/base/error.h"
#include "common/base/file.h"

#define STEPS 128.0 // a nat
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
    return HEAD_BYTES + (size_t)s->seq_len * (2 + (size_t)s->k * (2 + ID_BYTES));
}

static unsigned code(float log_p)
{
    const double steps = rint(-(double)log_p * STEPS);
    return steps < 0 ? 0 : steps < NOTHING ? (unsigned)steps : isinf(log_p) ? NOTHING : NOTHING - 1;
}

static void put_codes(unsigned char *to, const float *log_p, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const unsigned c = code(log_p[i]);
        to[i] = (unsigned char)c;
        to[n + i] = (unsigned char)(c >> 8);
    }
}

void *block_pack(const struct block_shape *s, int64_t window, int64_t first, int64_t n, const struct head_top *from, size_t *packed)
{
    unsigned char *data = xmalloc(most_bytes(s), "a block of a teacher cache"), *at = data + HEAD_BYTES;
    const int64_t k = s->k;
    put(data, (uint64_t)window, 8);
    put(data + 8, (uint64_t)first, 4);
    put(data + 12, (uint64_t)n, 4);
    put_codes(at, from->log_tail + first, n);
    at += 2 * n;
    put_codes(at, from->log_p + first * k, n * k);
    at += 2 * n * k;
    for (int64_t r = first; r < first + n; r++) {
        int64_t last = -1;
        for (int64_t i = 0; i < k; i++) {
            const int32_t id = from->id[r * k + i];
            uint32_t gap = (uint32_t)(id - last - 1);
            for (; gap >= 128; gap >>= 7)
                *at++ = (unsigned char)(gap | 128);
            *at++ = (unsigned char)gap;
            last = id;
        }
    }
    void *out = gzip_pack(data, (size_t)(at - data), LEVEL, packed);
    free(data);
    return out;
}

// The ids of a row from *at on; -1: they are none.
static int take_ids(const unsigned char **at, const unsigned char *end, int64_t vocab, int32_t *id, int64_t k)
{
    int64_t last = -1;
    for (int64_t i = 0; i < k; i++) {
        uint64_t gap = 0;
        int shift = 0;
        do {
            if (*at == end || shift > 28)
                return -1;
            gap |= (uint64_t)(**at & 127) << shift;
            shift += 7;
        } while (*(*at)++ & 128);
        last += 1 + (int64_t)gap;
        if (last >= vocab)
            return -1;
        id[i] = (int32_t)last;
    }
    return 0;
}

static double mass(unsigned c) { return c == NOTHING ? 0 : exp(-(double)c / STEPS); }

// Log-probabilities from codes, so shifted that their masses sum to 1. p, tail: low bytes; the high ones lie `p_plane`, `tail_plane` behind.
static void take_row(const unsigned char *p, int64_t p_plane, const unsigned char *tail, int64_t tail_plane, int64_t k, float *log_p,
                     float *log_tail)
{
    const unsigned tail_code = tail[0] | (unsigned)tail[tail_plane] << 8;
    double sum = mass(tail_code);
    for (int64_t i = 0; i < k; i++)
        sum += mass(p[i] | (unsigned)p[p_plane + i] << 8);
    const double shift = log(sum);
    for (int64_t i = 0; i < k; i++)
        log_p[i] = (float)(-(double)(p[i] | (unsigned)p[p_plane + i] << 8) / STEPS - shift);
    *log_tail = tail_code == NOTHING ? -INFINITY : (float)(-(double)tail_code / STEPS - shift);
}

static int read_block(const struct block_shape *s, const unsigned char *data, size_t bytes, int64_t *window, const struct head_top *to)
{
    const int64_t k = s->k;
    if (bytes < HEAD_BYTES)
        return -1;
    const uint64_t first = take(data + 8, 4), rows = take(data + 12, 4);
    if (first > (uint64_t)s->seq_len || rows > (uint64_t)s->seq_len - first || bytes < HEAD_BYTES + rows * (2 + 2 * (uint64_t)k))
        return -1;
    const int64_t n = (int64_t)rows;
    const unsigned char *tail = data + HEAD_BYTES, *p = tail + 2 * n, *at = p + 2 * n * k, *end = data + bytes;
    *window = (int64_t)take(data, 8);
    for (int64_t r = 0; r < n; r++) {
        const int64_t row = (int64_t)first + r;
        take_row(p + r * k, n * k, tail + r, n, k, to->log_p + row * k, to->log_tail + row);
        if (take_ids(&at, end, s->vocab, to->id + row * k, k) < 0 || !isfinite(to->log_p[row * k]))
            return -1;
    }
    return at == end ? 0 : -1;
}

int block_unpack(const struct block_shape *s, const void *packed, size_t n, int64_t *window, const struct head_top *to, size_t *used)
{
    const size_t room = most_bytes(s);
    size_t bytes;
    unsigned char *data = xmalloc(room, "a block of a teacher cache");
    int status = gzip_unpack(packed, n, data, room, &bytes, used);
    if (status == 0)
        status = read_block(s, data, bytes, window, to);
    free(data);
    return status;
}
