// block_codes.c: where the bits of a code lie in a block, one row for each format.
//
// To add a format: its function of places and a row in `layouts`.
#include "quant/block_codes.h"

#include <math.h>
#include <string.h>

// Groups of `span` values in span / per_byte bytes from `at` on: value k of a group in byte k % (span / per_byte), at a shift that
// grows with k / (span / per_byte).
static void pack_low(struct code_place *p, int column, int at, int span, int bits)
{
    const int bytes = span * bits / 8;
    p->byte = (short)(at + column / span * bytes + column % span % bytes);
    p->shift = (short)(column % span / bytes * bits);
    p->bits = (short)bits;
}

static void pack_high(struct code_place *p, int column, int at, int span, int bits)
{
    struct code_place high;
    pack_low(&high, column, at, span, bits);
    p->high_byte = high.byte;
    p->high_shift = high.shift;
    p->high_bits = (short)bits;
}

// The fifth bits of Q5_0 and Q5_1: value j's at bit j of four bytes.
static void pack_fifth(struct code_place *p, int column, int at)
{
    p->high_byte = (short)(at + column / 8);
    p->high_shift = (short)(column % 8);
    p->high_bits = 1;
}

static void q8_0_place(int column, struct code_place *p) { pack_low(p, column, 2, 32, 8); }
static void q4_0_place(int column, struct code_place *p) { pack_low(p, column, 2, 32, 4); }
static void q4_1_place(int column, struct code_place *p) { pack_low(p, column, 4, 32, 4); }

static void q5_0_place(int column, struct code_place *p)
{
    pack_low(p, column, 6, 32, 4);
    pack_fifth(p, column, 2);
}

static void q5_1_place(int column, struct code_place *p)
{
    pack_low(p, column, 8, 32, 4);
    pack_fifth(p, column, 4);
}

static void q2_k_place(int column, struct code_place *p) { pack_low(p, column, 16, 128, 2); }

static void q3_k_place(int column, struct code_place *p)
{
    pack_low(p, column, 32, 128, 2);
    pack_high(p, column, 0, 256, 1);
}

static void q4_k_place(int column, struct code_place *p) { pack_low(p, column, 16, 64, 4); }

static void q5_k_place(int column, struct code_place *p)
{
    pack_low(p, column, 48, 64, 4);
    pack_high(p, column, 16, 256, 1);
}

static void q6_k_place(int column, struct code_place *p)
{
    pack_low(p, column, 0, 128, 4);
    pack_high(p, column, 128, 128, 2);
}

static void iq4_xs_place(int column, struct code_place *p) { pack_low(p, column, 8, 32, 4); }

static void int_place(int column, struct code_place *p) // int_matrix.c: a byte each behind scale and zero
{
    p->byte = (short)(8 + column);
    p->bits = 8;
}

static const struct layout {
    const char *name;
    int bits, flip;
    void (*place)(int column, struct code_place *p);
} layouts[] = {
    {"Q8_0", 8, 128, q8_0_place}, {"Q4_0", 4, 0, q4_0_place}, {"Q4_1", 4, 0, q4_1_place}, {"Q5_0", 5, 0, q5_0_place},
    {"Q5_1", 5, 0, q5_1_place},   {"Q2_K", 2, 0, q2_k_place}, {"Q3_K", 3, 0, q3_k_place}, {"Q4_K", 4, 0, q4_k_place},
    {"Q5_K", 5, 0, q5_k_place},   {"Q6_K", 6, 0, q6_k_place}, {"IQ4_NL", 4, 0, q4_0_place}, {"IQ4_XS", 4, 0, iq4_xs_place},
    {"INT4", 4, 0, int_place},    {"INT8", 8, 0, int_place},
};

int block_coder_init(struct block_coder *c, const struct block_format *f)
{
    *c = (struct block_coder){.format = f};
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        if (strcmp(layouts[i].name, f->name) != 0)
            continue;
        c->bits = layouts[i].bits;
        c->flip = layouts[i].flip;
        for (int j = 0; j < (int)f->elements; j++)
            layouts[i].place(j, &c->place[j]);
        return 0;
    }
    return -1;
}

static void put_bits(uint8_t *byte, int shift, int bits, int value)
{
    const int mask = (1 << bits) - 1;
    *byte = (uint8_t)((*byte & ~(mask << shift)) | (value & mask) << shift);
}

void block_put_codes(const struct block_coder *c, void *block, const uint8_t *code)
{
    uint8_t *b = block;
    for (int j = 0; j < (int)c->format->elements; j++) {
        const struct code_place *p = &c->place[j];
        const int stored = code[j] ^ c->flip;
        put_bits(b + p->byte, p->shift, p->bits, stored);
        if (p->high_bits)
            put_bits(b + p->high_byte, p->high_shift, p->high_bits, stored >> p->bits);
    }
}

void block_levels(const struct block_coder *c, const void *block, float *value, float *decoded)
{
    const struct block_format *f = c->format;
    const int n = (int)f->elements;
    uint8_t *b = (uint8_t *)(decoded + n), code[CODE_ELEMENTS_MAX];
    memcpy(b, block, (size_t)f->bytes);
    for (int q = 0; q < 1 << c->bits; q++) {
        memset(code, q, (size_t)n);
        block_put_codes(c, b, code);
        f->decode(b, decoded, n);
        for (int j = 0; j < n; j++)
            value[(j << c->bits) + q] = decoded[j];
    }
}

int block_level_below(const float *value, int n, float x)
{
    const int up = value[n - 1] >= value[0];
    int low = 0, high = n - 1;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if ((value[middle] <= x) == up)
            low = middle;
        else
            high = middle;
    }
    return low;
}

int block_level_nearest(const float *value, int n, float x)
{
    const int low = block_level_below(value, n, x);
    return fabsf(value[low + 1] - x) < fabsf(value[low] - x) ? low + 1 : low;
}
