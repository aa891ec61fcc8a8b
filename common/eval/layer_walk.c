// layer_walk.c: see layer_walk.h.
#include "common/eval/layer_walk.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/base/threads.h"
#include "common/tensor/gemm.h"

enum layer_input layer_input_of(const struct parameter *p)
{
    if (p->spec->columns == AXIS_HEADS)
        return INPUT_HEADS;
    if (p->spec->columns == AXIS_FF)
        return INPUT_CHANNELS;
    return p->spec->rows == AXIS_FF ? INPUT_FF : INPUT_ATTENTION;
}

static int64_t walk_text_batches(const struct walk_text *t)
{
    const int64_t n = t->tokens / (t->batch * t->seq_len);
    return n > 1 ? n : 1;
}

int64_t walk_text_tokens(const struct walk_text *t) { return walk_text_batches(t) * t->batch * t->seq_len; }

// The hidden states before the first layer: what the model shows on its way through that layer, so that its positions, types and factors are
// in them.
static const float *embed(struct layer_walk *w, const int32_t *ids)
{
    struct model *m = w->m;
    struct tensor **seen = arena_zalloc(&w->tape.arena, (size_t)(m->config.n_layer + 1) * sizeof *seen);
    struct taps taps = {.want = TAP_HIDDEN, .hidden = seen};
    const struct forward f = {.ids = ids, .B = w->text.batch, .T = w->text.seq_len, .last = 1, .taps = &taps};
    model_forward(m, &w->tape, &f);
    return seen[0]->data;
}

void layer_walk_begin(struct layer_walk *w, struct model *m, const struct walk_text *text)
{
    const int64_t rows = text->batch * text->seq_len, D = m->config.hidden;
    *w = (struct layer_walk){.m = m, .text = *text, .batches = walk_text_batches(text), .rows = rows};
    w->x = xmalloc((size_t)(w->batches * rows * D) * sizeof *w->x, "hidden states of the calibration text");
    int32_t *ids = xmalloc((size_t)(2 * rows) * sizeof *ids, "calibration");
    tape_init(&w->tape, text->precision);
    for (int64_t b = 0; b < w->batches && (b == 0 || !interrupted()); b++) {
        dataset_batch(text->data, text->seq_len, text->seed, b * text->batch, text->batch, ids, ids + rows);
        memcpy(w->x + b * rows * D, embed(w, ids), (size_t)(rows * D) * sizeof *w->x);
        tape_reset(&w->tape);
    }
    free(ids);
}

static const struct tensor *run_batch(struct layer_walk *w, int64_t layer, int64_t batch, struct taps *taps)
{
    const int64_t D = w->m->config.hidden, T = w->text.seq_len;
    struct tensor in = {.name = "hidden states", .n_dim = 2, .dim = {w->rows, D, 1}, .data = w->x + batch * w->rows * D};
    const struct forward f = {.B = w->rows / T, .T = T, .x = &in, .first = layer, .last = layer + 1, .taps = taps};
    return model_forward(w->m, &w->tape, &f);
}

void layer_walk_look(struct layer_walk *w, int64_t layer, unsigned wanted, layer_look *see, void *context)
{
    static const unsigned tap[LAYER_INPUTS] = {TAP_INPUTS, TAP_HEADS, TAP_INPUTS, TAP_FF};
    const int64_t L = w->m->config.n_layer;
    struct tensor **seen = xcalloc((size_t)(LAYER_INPUTS * L), sizeof *seen, "taps");
    struct taps taps = {.attention_in = seen, .heads = seen + L, .ff_in = seen + 2 * L, .ff = seen + 3 * L};
    for (int kind = 0; kind < LAYER_INPUTS; kind++)
        taps.want |= wanted & 1U << kind ? tap[kind] : 0;
    for (int64_t b = 0; b < w->batches && (b == 0 || !interrupted()); b++) {
        run_batch(w, layer, b, &taps);
        for (int kind = 0; kind < LAYER_INPUTS; kind++)
            if (wanted & 1U << kind && seen[kind * L + layer])
                see(context, (enum layer_input)kind, seen[kind * L + layer]);
        tape_reset(&w->tape);
    }
    free(seen);
}

void layer_walk_advance(struct layer_walk *w, int64_t layer)
{
    const int64_t n = w->rows * w->m->config.hidden;
    for (int64_t b = 0; b < w->batches && (b == 0 || !interrupted()); b++) {
        memcpy(w->x + b * n, run_batch(w, layer, b, NULL)->data, (size_t)n * sizeof *w->x);
        tape_reset(&w->tape);
    }
}

void layer_walk_end(struct layer_walk *w)
{
    tape_release(&w->tape);
    free(w->x);
    *w = (struct layer_walk){0};
}

void moments_init(struct moments *s, int64_t C, int with_gram)
{
    *s = (struct moments){.C = C};
    s->square = xcalloc((size_t)C, sizeof *s->square, "moments of inputs");
    s->gram = with_gram ? xcalloc((size_t)(C * C), sizeof *s->gram, "moments of inputs") : NULL;
}

// The product of a batch is f32, as its rows are; the sum over batches is double.
static void add_gram(struct moments *s, const struct tensor *x)
{
    const int64_t N = tensor_rows(x), C = s->C;
    float *one = xmalloc((size_t)(C * C) * sizeof *one, "moments of a batch");
    gemm(PRECISION_F32, TRANSPOSED, PLAIN, C, C, N, x->data, C, x->data, C, 0, one, C);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < C * C; i++)
        s->gram[i] += (double)one[i];
    free(one);
}

void moments_add(struct moments *s, const struct tensor *x)
{
    const int64_t N = tensor_rows(x), C = s->C;
    s->rows += N;
    if (s->gram)
        add_gram(s, x);
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < C; j++)
        for (int64_t n = 0; n < N; n++)
            s->square[j] += (double)x->data[n * C + j] * (double)x->data[n * C + j];
}

void moments_release(struct moments *s)
{
    free(s->square);
    free(s->gram);
    *s = (struct moments){0};
}
