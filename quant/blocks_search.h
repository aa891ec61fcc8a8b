// blocks_search.h: the search for scales that the encoders of the block formats share.
//
// Minimised is the squared error, each value weighted by its importance. Sub-blocks (the 16 or 32 values that have one
// scale) lie side by side, one in each lane of the registers, so that all of them are searched at once and no sum
// crosses lanes: the result depends on nothing but the values.
#ifndef PDQ_BLOCKS_SEARCH_H
#define PDQ_BLOCKS_SEARCH_H

#include <stdint.h>

#define BATCH 16      // sub-blocks in a batch
#define MAX_SUB 32    // values of a sub-block, at most

struct search_batch {
    int values, lanes;         // of a sub-block; sub-blocks that are used, the others are zero
    int weighted;              // 0: w is not looked at
    float x[MAX_SUB][BATCH];   // value i of sub-block l: x[i][l]
    float w[MAX_SUB][BATCH];
};

// value = scale * q - min, q from 0 to top. Of super-blocks scale = d * code, min = d_min * code.
struct affine_grid {
    int top;
    int scale_top, min_top; // largest codes; 0: every sub-block has a d and a d_min of its own, of any sign
    float narrow, step;     // tried widths: the range of the values is `narrow`, `narrow + step`, .. steps of the grid
    int widths;
};

// value = scale * level, levels from low to high, or the sixteen of IQ4.
struct level_grid {
    float low, high;
    int iq4;
    int code_low, code_high; // of super-blocks: scale = d * code; 0: every sub-block has a d of its own
    float narrow, step;      // tried widths: the largest value lies at `narrow` * low, (narrow + step) * low, ..
    int widths, sides; // sides: 2 tries the largest value at the high end, too
};

struct search_result {
    float d[BATCH], d_min[BATCH];   // f16 values; those of a super-block are equal
    float code[BATCH], min_code[BATCH];
    uint8_t q[MAX_SUB][BATCH];      // q, of levels its distance from the lowest (IQ4: the index)
};

struct iq4_tables {
    float nearest[512]; // of cell c, the values from c / 2 - 128 to half above: the nearest level
    uint8_t index[256]; // of level v: index[v + 128]
};
extern const int8_t iq4_level[16];
const struct iq4_tables *iq4_tables(void); // process lifetime

void search_affine_avx2(const struct search_batch *b, const struct affine_grid *g, struct search_result *r);
void search_levels_avx2(const struct search_batch *b, const struct level_grid *g, struct search_result *r);
void search_affine_avx512(const struct search_batch *b, const struct affine_grid *g, struct search_result *r);
void search_levels_avx512(const struct search_batch *b, const struct level_grid *g, struct search_result *r);

#endif
