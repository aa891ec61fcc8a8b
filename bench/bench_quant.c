// bench_quant.c: block formats. Encoding and decoding count the f32 side, dot counts the blocks that it reads.

#include <stdlib.h>

#include "bench/bench.h"
#include "common/base/error.h"
#include "common/base/threads.h"
#include "quant/blocks.h"

#define SECONDS_EACH 0.2
#define ROWS 2048
#define COLUMNS 1024

struct matrix {
    const struct block_format *format;
    float *values, *dots;
    void *arranged;
    unsigned char *blocks;
    int64_t row_bytes;
};

static void encode(void *context) {
    const struct matrix *m = context;
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t r = 0; r < ROWS; r++)
        m->format->encode(m->values + r * COLUMNS, NULL, COLUMNS, m->blocks + r * m->row_bytes);
}

static void decode(void *context) {
    const struct matrix *m = context;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < ROWS; r++)
        m->format->decode(m->blocks + r * m->row_bytes, m->values + r * COLUMNS, COLUMNS);
}

static void dot(void *context) {
    const struct matrix *m = context;
    block_arrange(m->format, m->values, COLUMNS, m->arranged);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < ROWS; r++)
        m->dots[r] = m->format->dot(m->blocks + r * m->row_bytes, m->arranged, COLUMNS);
}

void bench_quant(const struct bench_options *o) {
    static const char *const names[] = {"F16",  "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0",   "Q5_1",
                                        "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"};
    const double floats = 4e-6 * ROWS * COLUMNS;
    struct table t;

    table_open(&t, o->csv, "quantize", "Block formats, MB/s (encode and decode: of f32; dot: of blocks)",
               "type:-6|threads:7|encode:8|decode:8|dot:8");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct matrix m = {.format = block_format_find(names[i]), .values = bench_floats(ROWS * COLUMNS, 0.02)};
        if (!m.format)
            BUG("bench: no block format %s", names[i]);
        m.row_bytes = block_row_bytes(m.format, COLUMNS);
        m.blocks = xmalloc((size_t)(ROWS * m.row_bytes), "blocks");
        m.dots = xmalloc(ROWS * sizeof *m.dots, "dots");
        m.arranged = xmalloc_aligned((size_t)block_arranged_bytes(m.format, COLUMNS), "an input in order");
        table_text(&t, names[i]);
        table_integer(&t, threads_count());
        table_number(&t, floats / bench_time(encode, &m, SECONDS_EACH), 0);
        table_number(&t, floats / bench_time(decode, &m, SECONDS_EACH), 0);
        table_number(&t, 1e-6 * (double)(ROWS * m.row_bytes) / bench_time(dot, &m, SECONDS_EACH), 0);
        free(m.values);
        free(m.blocks);
        free(m.dots);
        free(m.arranged);
    }
    table_close(&t);
}
