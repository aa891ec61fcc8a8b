// blocks_grid.c: see blocks_grid.h.
#include "quant/blocks_grid.h"

#include <math.h>
#include <string.h>

#include "quant/block_codes.h"
#include "quant/blocks_simd.h"

static const struct grid_format grid_formats[] = {{"Q8_0", -128, 127}, {"Q4_0", -8, 7}, {"Q5_0", -16, 15}};

const struct grid_format *grid_format_find(const char *name)
{
    for (size_t i = 0; i < sizeof grid_formats / sizeof *grid_formats; i++)
        if (strcmp(grid_formats[i].name, name) == 0)
            return &grid_formats[i];
    return NULL;
}

// The same floats, the sign of zeros included: they tell the sign of a scale.
static int same_bits(const float *a, const float *b, int64_t n) { return memcmp(a, b, (size_t)n * sizeof *a) == 0; }

// Are all values code * d, in bits, with codes in range?
static int lies_on(const struct grid_format *g, const float *x, float d, uint8_t *code)
{
    float back[GRID_ELEMENTS];
    for (int i = 0; i < GRID_ELEMENTS; i++) {
        const float q = rintf(x[i] / d) + 0.0f; // no code is -0
        if (!(q >= (float)g->low && q <= (float)g->high))
            return 0;
        code[i] = (uint8_t)((int)q - g->low);
        back[i] = q * d;
    }
    return same_bits(back, x, GRID_ELEMENTS);
}

// The least magnitude but 0 is 1 to `-low` times the scale. 0: there is none, and then the block is left as it is.
static float find_scale(const struct grid_format *g, const float *x, uint8_t *code)
{
    float least = 0;
    for (int i = 0; i < GRID_ELEMENTS; i++)
        least = x[i] != 0 && (least == 0 || fabsf(x[i]) < least) ? fabsf(x[i]) : least;
    for (int k = 1; k <= -g->low && least > 0; k++) {
        const float d = round_f16(least / (float)k);
        if ((float)k * d != least)
            continue;
        if (lies_on(g, x, d, code))
            return d;
        if (lies_on(g, x, -d, code))
            return -d;
    }
    return 0;
}

void blocks_keep_grid(const char *format, block_decoder *decode, int64_t bytes, const float *from, int64_t n, uint8_t *to)
{
    const struct grid_format *g = NULL;
    float decoded[GRID_ELEMENTS];
    uint8_t code[GRID_ELEMENTS];
    struct block_coder coder = {.format = NULL};
    for (int64_t i = 0; i < n; i += GRID_ELEMENTS, to += bytes) {
        decode(to, decoded, GRID_ELEMENTS);
        if (same_bits(decoded, from + i, GRID_ELEMENTS))
            continue;
        g = g ? g : grid_format_find(format);
        int zeros = 0;
        for (int k = 0; k < GRID_ELEMENTS; k++)
            zeros += from[i + k] == 0;
        if (zeros == GRID_ELEMENTS) // whatever sign they have
            continue;
        const float d = find_scale(g, from + i, code);
        if (d == 0)
            return;
        if (!coder.format)
            block_coder_init(&coder, block_format_find(format));
        store_f16(to, d);
        block_put_codes(&coder, to, code);
    }
}
