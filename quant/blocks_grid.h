// blocks_grid.h: values that lie on the grid of one scale already, as a decoded block's or a trained grid's do.
#ifndef PDQ_BLOCKS_GRID_H
#define PDQ_BLOCKS_GRID_H

#include <stdint.h>

#include "quant/blocks.h"
#include "quant/blocks_rows.h"

#define GRID_ELEMENTS 32

struct grid_format { // blocks of 32 with one f16 scale, at their beginning, and codes low .. high of it
    const char *name;
    int low, high;
};

const struct grid_format *grid_format_find(const char *name); // of a storage type; NULL: it has other scales
// After rounding a row of n values to blocks `to`: blocks whose values all are whole multiples of one f16 number, in range, become exactly
// these. Goes on to the first block that is not so: a row of other values costs one look. So decoded rows, and those of learned scales,
// encode to themselves.
void blocks_keep_grid(const char *format, block_decoder *decode, int64_t bytes, const float *from, int64_t n, uint8_t *to);

#endif
