// bench.h: what the benchmarks share: the command line, tables that are also CSV files, and timing.
//
// To add a benchmark: a file bench_<name>.c, its prototype below, one row in the table of bench.c and its name in
// bench/run.
#ifndef PDQ_BENCH_H
#define PDQ_BENCH_H

#include <stdint.h>
#include <stdio.h>

#include "common/model/model.h"
#include "common/tensor/gemm.h"

struct bench_options {
    int64_t threads; // 0: OMP_NUM_THREADS, else the cores
    int shape;       // index into bench_shapes; their number: all
    int precision;   // enum precision; BENCH_BOTH
    char *csv;       // folder for CSV files; NULL: none
};
#define BENCH_BOTH 2

// A distillation case: teacher, and student with fewer channels or heads.
struct bench_shape {
    const char *name;
    int64_t hidden, layers, heads, ff, vocab, seq_len, batch, student_ff, student_heads;
};
#define BENCH_SHAPES 2
extern const struct bench_shape bench_shapes[BENCH_SHAPES];

void bench_gemm(const struct bench_options *o);
void bench_ops(const struct bench_options *o);
void bench_losses(const struct bench_options *o);
void bench_step(const struct bench_options *o);
void bench_cache(const struct bench_options *o);
void bench_quant(const struct bench_options *o);
void bench_lenet(const struct bench_options *o);

// A table on stdout and in CSV. Cells are given in order; a row ends with its last column.
struct table {
    const char *columns; // "product:24|M:7|...": names and widths; negative widths align left
    const char *at;      // next cell
    FILE *csv;
};
// Appends to folder/<name>.csv; a new file gets the names of the columns.
void table_open(struct table *t, const char *folder, const char *name, const char *title, const char *columns);
void table_close(struct table *t);
void table_text(struct table *t, const char *text);
void table_number(struct table *t, double value, int decimals); // NaN: an empty cell
void table_integer(struct table *t, int64_t value);

// Seconds of one run: the median of tries that together take about `budget` seconds, at least three.
double bench_time(void (*run)(void *context), void *context, double budget);
int bench_wants(const struct bench_options *o, enum precision precision); // asked for, and real on this machine
int bench_wants_shape(const struct bench_options *o, int shape);
struct model *bench_model(const struct bench_shape *s, int64_t heads, int64_t ff, uint64_t seed); // random weights; the caller frees
float *bench_floats(int64_t n, double scale); // normal numbers; the caller frees
double bench_bandwidth(void);                 // bytes a second of a triad with all threads, measured once

#endif
