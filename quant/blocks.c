// blocks.c: the table of storage types.
#include "quant/blocks.h"

#include <string.h>
#include <strings.h>

#include "common/tensor/cpu.h"
#include "quant/blocks_rows.h"

// `largest`: 65504, the largest f16, times the largest factor of the scale that every block can reach.
#define ROW(name, type, elements, bytes, largest, f, order, centre)                                                     \
    {name, type, elements, bytes, largest, f##_encode, f##_decode, f##_dot, order, centre}
static const struct block_format format_table[] = {
    ROW("F32", 0, 1, 4, 3.4028235e38f, f32, X_IN_FLOATS, 0),
    ROW("F16", 1, 1, 2, 65504.0f, f16, X_IN_FLOATS, 0),
    ROW("BF16", 30, 1, 2, 3.3895314e38f, bf16, X_IN_FLOATS, 0),
    ROW("Q8_0", 8, 32, Q8_0_BYTES, 65504.0f * 127, q8_0, X_IN_BYTES, 128),
    ROW("Q4_0", 2, 32, Q4_0_BYTES, 65504.0f * 8, q4_0, X_IN_BYTE_PAIRS, 8),
    ROW("Q4_1", 3, 32, Q4_1_BYTES, 65504.0f, q4_1, X_IN_BYTE_PAIRS, 0), // its minimum stands as it is
    ROW("Q5_0", 6, 32, Q5_0_BYTES, 65504.0f * 16, q5_0, X_IN_BYTE_PAIRS, 16),
    ROW("Q5_1", 7, 32, Q5_1_BYTES, 65504.0f, q5_1, X_IN_BYTE_PAIRS, 0),
    ROW("Q2_K", 10, SUPER_BLOCK, Q2_K_BYTES, 65504.0f * 15, q2_k, X_IN_BYTES, 0),
    ROW("Q3_K", 11, SUPER_BLOCK, Q3_K_BYTES, 65504.0f * 32 * 3, q3_k, X_IN_BYTES, 4),
    ROW("Q4_K", 12, SUPER_BLOCK, Q4_K_BYTES, 65504.0f * 63, q4_k, X_IN_BYTES, 0),
    ROW("Q5_K", 13, SUPER_BLOCK, Q5_K_BYTES, 65504.0f * 63, q5_k, X_IN_BYTES, 0),
    ROW("Q6_K", 14, SUPER_BLOCK, Q6_K_BYTES, 65504.0f * 128, q6_k, X_IN_BYTES, 32),
    ROW("IQ4_NL", 20, 32, IQ4_NL_BYTES, 65504.0f * 113, iq4_nl, X_IN_BYTE_PAIRS, 128),
    ROW("IQ4_XS", 23, SUPER_BLOCK, IQ4_XS_BYTES, 65504.0f * 31 * 113, iq4_xs, X_IN_BYTES, 128),
};
#undef ROW
#define N_FORMATS (sizeof format_table / sizeof *format_table)

// Types that exist but have no row, so that a refusal can name them.
static const char *const other_types[] = {
    [9] = "Q8_1",     
    [15] = "Q8_K",   [16] = "IQ2_XXS", [17] = "IQ2_XS",
    [18] = "IQ3_XXS", [19] = "IQ1_S", [21] = "IQ3_S",   [22] = "IQ2_S",
    [24] = "I8",    [25] = "I16",    [26] = "I32",     [27] = "I64",
    [28] = "F64",     [29] = "IQ1_M", [34] = "TQ1_0",  [35] = "TQ2_0",   [39] = "MXFP4",
};

const struct block_format *block_format_find(const char *name)
{
    for (size_t i = 0; i < N_FORMATS; i++)
        if (strcasecmp(format_table[i].name, name) == 0)
            return &format_table[i];
    return NULL;
}

const struct block_format *block_format_by_type(uint32_t type)
{
    for (size_t i = 0; i < N_FORMATS; i++)
        if (format_table[i].type == type)
            return &format_table[i];
    return NULL;
}

const char *block_type_name(uint32_t type)
{
    const struct block_format *f = block_format_by_type(type);
    if (f)
        return f->name;
    if (type < sizeof other_types / sizeof *other_types && other_types[type])
        return other_types[type];
    return "unknown";
}

int64_t block_row_bytes(const struct block_format *f, int64_t n)
{
    return n % f->elements ? -1 : n / f->elements * f->bytes;
}

static int arranges(const struct block_format *f) { return f->order && cpu_get()->avx512_vnni; }

int64_t block_arranged_bytes(const struct block_format *f, int64_t n)
{
    return arranges(f) ? arranged_bytes_vnni(n) : (n * (int64_t)sizeof(float) + 63) / 64 * 64;
}

void block_arrange(const struct block_format *f, const float *x, int64_t n, void *to)
{
    if (arranges(f))
        arrange_vnni(x, n, f->order, f->centre, to);
    else
        memcpy(to, x, (size_t)n * sizeof *x);
}
