// blocks.h: the storage types of GGUF tensors, one table row each.
//
// A row of a matrix is cut into blocks of `elements` values, each stored in `bytes` bytes, little endian. Rows never
// share a block, so a row's length must be a multiple of `elements`. Everything here works on one row; callers go
// parallel over rows, which is why results do not depend on the number of threads.
//
// README.md says how to add a type.
#ifndef PDQ_BLOCKS_H
#define PDQ_BLOCKS_H

#include <stdint.h>

#define BLOCK_TYPES "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K, IQ4_NL or IQ4_XS"

// x in a product: floats as they lie; bytes, 64 by 64 as they lie; bytes of 128, first those of the first sixteen of each 32, then
// those of the last sixteen.
enum block_order { X_IN_FLOATS, X_IN_BYTES, X_IN_BYTE_PAIRS };

struct block_format {
    const char *name;        // as GGUF tools spell it
    uint32_t type;           // number in the file
    int64_t elements, bytes; // of one block
    float largest;           // magnitudes above it overflow the block's scale (or value)
    // n: a multiple of elements; finite values. importance: [n] weights >= 0 of the squared errors, NULL: all alike.
    void (*encode)(const float *from, const float *importance, int64_t n, void *to);
    void (*decode)(const void *from, float *to, int64_t n);
    float (*dot)(const void *row, const void *arranged, int64_t n); // decode(row) . x of what block_arrange wrote
    enum block_order order; // of x, where the CPU has AVX512-VNNI
    int centre;             // there a weight is scale * (byte - centre), or scale * byte - minimum
};

const struct block_format *block_format_find(const char *name);   // any case; NULL: none
const struct block_format *block_format_by_type(uint32_t type);   // NULL: none
const char *block_type_name(uint32_t type);                       // also of types that pdq does not read; "unknown"
int64_t block_row_bytes(const struct block_format *f, int64_t n); // -1: n is not a multiple of the block
// x [n] as dot wants it, once for many rows; to: [block_arranged_bytes(f, n)], on a cache line's beginning.
int64_t block_arranged_bytes(const struct block_format *f, int64_t n);
void block_arrange(const struct block_format *f, const float *x, int64_t n, void *to);

#endif
