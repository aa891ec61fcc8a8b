// gptq.c: see gptq.h.
//
// A block's scales and minima are chosen when its first column comes up, by the format's own encoder, from the weights as they are by
// then, each error weighted by 1 / U_jj^2: what it costs the outputs once the columns after it have made up for what they can. Then
// its columns are rounded one after the other under these scales. As the later ones have moved by their turns, the scales are chosen
// again from the values that were there at the turns, and the block is rounded again; the one with the smaller cost is kept.
//
// Errors reach the other columns of a panel at once, and those behind it by one product (the paper's lazy updates, section 3.3).
// Rows are independent, so results do not depend on the number of threads.
#include "quant/gptq.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/tensor/cholesky.h"
#include "common/tensor/gemm.h"
#include "quant/block_codes.h"

#define PANEL 256 // columns between two products

struct ranked {
    double score;
    int64_t index;
};

static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

// Blocks by the sums of their inputs' squares, columns of a block by their own.
static void choose_order(struct gptq_factor *g, const double *H, int act_order)
{
    const int64_t C = g->C, n = C / g->elements;
    struct ranked *block = xcalloc((size_t)n, sizeof *block, "order of blocks");
    struct ranked *column = xmalloc((size_t)g->elements * sizeof *column, "order of columns");
    for (int64_t j = 0; j < C; j++) {
        block[j / g->elements].index = j / g->elements;
        block[j / g->elements].score += act_order ? H[j * C + j] : 0;
    }
    qsort(block, (size_t)n, sizeof *block, by_score);
    for (int64_t b = 0; b < n; b++) {
        const int64_t first = block[b].index * g->elements;
        for (int64_t i = 0; i < g->elements; i++)
            column[i] = (struct ranked){act_order ? H[(first + i) * C + first + i] : 0, first + i};
        qsort(column, (size_t)g->elements, sizeof *column, by_score);
        for (int64_t i = 0; i < g->elements; i++)
            g->order[b * g->elements + i] = column[i].index;
    }
    free(block);
    free(column);
}

int gptq_factor_make(struct gptq_factor *g, const double *H, int64_t C, int64_t elements, const struct gptq_options *o, const char *what,
                     struct error *err)
{
    *g = (struct gptq_factor){.C = C, .elements = elements};
    g->order = xmalloc((size_t)C * sizeof *g->order, "order of columns");
    choose_order(g, H, o->act_order);
    double *A = xmalloc((size_t)(C * C) * sizeof *A, "second moments"), mean = 0;
    for (int64_t j = 0; j < C; j++)
        mean += H[j * C + j] / (double)C;
    for (int64_t i = 0; i < C; i++)
        for (int64_t k = 0; k < C; k++)
            A[i * C + k] = H[g->order[i] * C + g->order[k]] + (i == k ? o->damping * mean : 0);
    const int rc = mean > 0 && isfinite(mean) ? cholesky_of_inverse(A, C) : -1;
    if (rc == 0) {
        g->U = xmalloc((size_t)(C * C) * sizeof *g->U, "a factor");
        g->weight = xmalloc((size_t)C * sizeof *g->weight, "importance of columns");
        for (int64_t i = 0; i < C * C; i++)
            g->U[i] = (float)A[i];
        for (int64_t j = 0; j < C; j++)
            g->weight[g->order[j]] = (float)(1 / (A[j * C + j] * A[j * C + j]));
    } else {
        gptq_factor_release(g);
        error_set(err, "gptq: the inputs of %s say nothing (all zero, not finite, or dependent) on the calibration text; give other text, "
                  "or more damping", what);
    }
    free(A);
    return rc;
}

void gptq_factor_release(struct gptq_factor *g)
{
    free(g->order);
    free(g->U);
    free(g->weight);
    *g = (struct gptq_factor){0};
}

struct scratch { // of one thread
    float *level;   // [elements << bits]
    float *decoded; // elements floats and a block
    float *natural; // [elements]: values in the block's own order
    float *turn;    // [elements]: in its own order, each as it was when its turn came
    float *start;   // [PANEL]: the panel's values before the block at hand
    float *tried;   // [PANEL]: after the better try
    float *error;   // [elements]: of the better try
    uint8_t *block; // the better try
};

static struct scratch scratch_make(const struct block_coder *c)
{
    const size_t n = (size_t)c->format->elements, bytes = (size_t)c->format->bytes;
    struct scratch s;
    s.level = xmalloc(((n << c->bits) + 4 * n + 2 * PANEL) * sizeof *s.level + 2 * bytes, "a block being rounded");
    s.natural = s.level + (n << c->bits);
    s.turn = s.natural + n;
    s.error = s.turn + n;
    s.start = s.error + n;
    s.tried = s.start + PANEL;
    s.decoded = s.tried + PANEL;
    s.block = (uint8_t *)(s.decoded + n) + bytes;
    return s;
}

// The columns of one block, the n-th ones from `first` on, under the scales in `block`; w [C] moves up to `last`. Returns the cost:
// what the squared error of the outputs grows by. error [elements]: what the columns behind the panel have yet to make up for.
static double round_block(const struct gptq_factor *g, const struct block_coder *c, float *w, int64_t first, int64_t last, uint8_t *block,
                          float *error, struct scratch *s)
{
    const int64_t C = g->C, n = g->elements;
    const int levels = 1 << c->bits;
    uint8_t code[CODE_ELEMENTS_MAX];
    double cost = 0;
    block_levels(c, block, s->level, s->decoded);
    for (int64_t j = first; j < first + n; j++) {
        const int64_t column = g->order[j] % n;
        const float *U = g->U + j * C, *level = s->level + (column << c->bits);
        code[column] = (uint8_t)block_level_nearest(level, levels, w[j]);
        const float e = (w[j] - level[code[column]]) / U[j];
        s->turn[column] = w[j];
        error[j - first] = -e;
        cost += (double)e * (double)e;
        for (int64_t k = j + 1; k < last; k++)
            w[k] -= e * U[k];
    }
    block_put_codes(c, block, code);
    return cost;
}

static void choose_scales(const struct block_coder *c, const struct gptq_options *o, const float *x, const float *weight, void *block)
{
    if (o->encode)
        o->encode(o->encode_context, x, weight, c->format->elements, block);
    else
        c->format->encode(x, weight, c->format->elements, block);
}

// One block of one row, with its scales; to: where it goes in the row's blocks; given: NULL, or the block with its scales.
static void round_with_scales(const struct gptq_factor *g, const struct block_coder *c, const struct gptq_options *o, float *w, int64_t first,
                              int64_t last, uint8_t *to, const uint8_t *given, float *error, struct scratch *s)
{
    const int refits = given ? 0 : o->refits;
    const int64_t n = g->elements, natural = g->order[first] / n * n;
    const size_t rest = (size_t)(last - first) * sizeof *w;
    double best = DBL_MAX;
    memcpy(s->start, w + first, rest);
    for (int64_t j = first; j < first + n; j++)
        s->turn[g->order[j] % n] = w[j];
    for (int round = 0; round <= refits; round++) {
        memcpy(w + first, s->start, rest);
        memcpy(s->natural, s->turn, (size_t)n * sizeof *s->natural);
        if (given)
            memcpy(s->block, given, (size_t)c->format->bytes);
        else
            choose_scales(c, o, s->natural, g->weight + natural, s->block);
        const double cost = round_block(g, c, w, first, last, s->block, s->error, s);
        if (round == 0 || cost < best) {
            best = cost;
            memcpy(to, s->block, (size_t)c->format->bytes);
            memcpy(error, s->error, (size_t)n * sizeof *error);
            memcpy(s->tried, w + first, rest);
        }
    }
    memcpy(w + first, s->tried, rest);
}

static void to_order(const struct gptq_factor *g, float *w, float *row)
{
    memcpy(row, w, (size_t)g->C * sizeof *row);
    for (int64_t j = 0; j < g->C; j++)
        w[j] = row[g->order[j]];
}

static void from_order(const struct gptq_factor *g, float *w, float *row)
{
    memcpy(row, w, (size_t)g->C * sizeof *row);
    for (int64_t j = 0; j < g->C; j++)
        w[g->order[j]] = row[j];
}

static void each_row(const struct gptq_factor *g, float *W, int64_t D, void (*move)(const struct gptq_factor *, float *, float *))
{
#pragma omp parallel
    {
        float *row = xmalloc((size_t)g->C * sizeof *row, "row");
#pragma omp for schedule(static)
        for (int64_t d = 0; d < D; d++)
            move(g, W + d * g->C, row);
        free(row);
    }
}

static void round_panel(const struct gptq_factor *g, const struct block_coder *c, const struct gptq_options *o, float *W, int64_t D,
                        int64_t first, int64_t last, float *E, unsigned char *blocks)
{
    const int64_t C = g->C, n = g->elements, row_bytes = C / n * c->format->bytes;
#pragma omp parallel
    {
        struct scratch s = scratch_make(c);
#pragma omp for schedule(static)
        for (int64_t d = 0; d < D; d++)
            for (int64_t j = first; j < last; j += n) {
                const int64_t at = d * row_bytes + g->order[j] / n * c->format->bytes;
                round_with_scales(g, c, o, W + d * C, j, last, blocks + at, o->given ? o->given + at : NULL, E + d * (last - first) + j - first, &s);
            }
        free(s.level);
    }
}

void gptq_round(const struct gptq_factor *g, const struct block_format *f, const struct gptq_options *o, float *W, int64_t D,
                unsigned char *blocks)
{
    const int64_t C = g->C;
    struct block_coder coder;
    if (block_coder_init(&coder, f) < 0 || f->elements != g->elements)
        BUG("gptq_round: %s with blocks of %ld", f->name, (long)g->elements);
    float *E = xmalloc((size_t)(D * PANEL) * sizeof *E, "errors of a panel");
    each_row(g, W, D, to_order);
    for (int64_t first = 0; first < C; first += PANEL) {
        const int64_t last = first + PANEL < C ? first + PANEL : C, width = last - first;
        round_panel(g, &coder, o, W, D, first, last, E, blocks);
        if (last < C)
            gemm(PRECISION_F32, PLAIN, PLAIN, D, C - last, width, E, width, g->U + first * C + last, C, 1, W + last, C);
    }
    each_row(g, W, D, from_order);
    free(E);
}
