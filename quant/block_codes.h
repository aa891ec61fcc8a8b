// block_codes.h: the integers in a block, apart from its scales and minima, for methods that choose them one by one.
//
// Every value of a block is one of 2^bits levels, which the block's scales and minima spread out; code 0 and the last code are its
// ends. What a code stands for is asked of the format's own decoder, so that there is one meaning of a block.
#ifndef PDQ_BLOCK_CODES_H
#define PDQ_BLOCK_CODES_H

#include <stdint.h>

#include "quant/blocks.h"

#define CODE_BITS_MAX 8
#define CODE_ELEMENTS_MAX 256

struct code_place { // of one value's code: low bits, and the high ones, which may lie apart
    short byte, shift, bits;
    short high_byte, high_shift, high_bits; // high_bits 0: there are no others
};

struct block_coder { // of one format; lifetime: the caller's
    const struct block_format *format;
    int bits, flip; // flip: what is stored is code ^ flip (signed bytes)
    struct code_place place[CODE_ELEMENTS_MAX];
};

// 0, or -1: the format's values are floating-point numbers, each by itself.
int block_coder_init(struct block_coder *c, const struct block_format *f);
// Puts codes [elements] into one block; scales and minima stay.
void block_put_codes(const struct block_coder *c, void *block, const uint8_t *code);
// Values of every code under the block's scales and minima, value[column << bits | code]: each column ascending or descending.
// decoded: scratch for `elements` floats and a block.
void block_levels(const struct block_coder *c, const void *block, float *value, float *decoded);
// Of n values, ascending or descending: the first of the two neighbours around x, at the ends those nearest to it; and the nearest of all.
int block_level_below(const float *value, int n, float x);
int block_level_nearest(const float *value, int n, float x);

#endif
