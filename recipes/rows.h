// rows.h: one row of the report: what a model costs and what it is worth, measured on the run's held-out text.
#ifndef PDQ_ROWS_H
#define PDQ_ROWS_H

#include "recipes/stage.h"

// Tokens of the speed measurement, where the model's context has room for them.
#define SPEED_PREFILL 256
#define SPEED_DECODE 64

struct row_source {
    const char *name;   // "pruned", "Q4_K"
    const char *path;   // the model
    const char *shown;  // its path in the report
    const char *folder; // where measurements are kept between runs
    const char *hash;   // of all that the model came from
    const char *from;   // the model whose weights it holds in another type; NULL: none, or other weights
    int is_quantized;   // of a quantize stage
};

// facts: size, loss, perplexity, KLD, top-1 (reproducible bit for bit); measured: tokens/s (NULL: not wanted). Both are
// kept in source->folder and taken from there when nothing changed. The objects then belong to the caller.
int row_make(struct run *run, const struct recipe *r, const struct row_source *source, struct json **facts,
             struct json **measured, struct error *err);
// The per-token losses that row_make left: [*n] doubles in nats; the caller frees.
int row_losses(const struct row_source *source, double **losses, int64_t *n, struct error *err);

#endif
