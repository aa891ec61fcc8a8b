// sample.c: see sample.h.
#include "common/eval/sample.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/base/threads.h"

// How each document begins; returns the number of tokens, the same for all. Those of a short last batch stand for nothing.
static int64_t begin(const struct model *m, const struct sample_plan *p, int64_t first, struct random *random, int32_t *out) {
    const int has_bos = p->bos >= 0, draws = !has_bos || p->start == SAMPLE_TOKEN;
    for (int64_t b = 0; b < p->batch; b++) {
        random_init(&random[b], p->seed, "sampled document", (uint64_t)(first + b));
        int32_t *to = out + b * p->length;
        if (has_bos)
            *to++ = p->bos;
        if (draws && (!has_bos || p->length > 1))
            *to = (int32_t)random_below(&random[b], m->config.vocab);
    }
    return has_bos && draws && p->length > 1 ? 2 : 1;
}

struct sampling { // lifetime: one batch
    struct model *model;
    const struct sample_plan *plan;
    struct tape tape;
    struct kv_cache cache;
    struct random *random; // [batch]
    int32_t *order;        // [threads, V]
    int32_t *ids;          // [batch * T] at most two positions
};

// Takes in T tokens of each document from position `at` on and draws the one after them.
static void step(struct sampling *s, int32_t *out, int64_t at, int64_t T) {
    const struct sample_plan *p = s->plan;
    const int64_t B = p->batch, V = s->model->config.vocab;
    for (int64_t b = 0; b < B; b++)
        memcpy(s->ids + b * T, out + b * p->length + at, (size_t)T * sizeof *s->ids);
    tape_reset(&s->tape);
    const struct forward f = {.ids = s->ids, .B = B, .T = T, .cache = &s->cache, .checkpoint = 1};
    struct tensor *x = model_forward(s->model, &s->tape, &f);
    int32_t *row = arena_alloc(&s->tape.arena, (size_t)B * sizeof *row);
    for (int64_t b = 0; b < B; b++)
        row[b] = (int32_t)(b * T + T - 1);
    const float *logits = op_linear(&s->tape, op_rows(&s->tape, x, row, B), model_head(s->model), model_head_bias(s->model))->data;
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t b = 0; b < B; b++) {
        const int32_t last = s->ids[b * T + T - 1];
        int32_t *next = out + b * p->length + at + T;
        *next = p->eos >= 0 && last == p->eos && p->bos >= 0 && p->bos != p->eos
                    ? p->bos
                    : draw_token(logits + b * V, V, &p->draw, &s->random[b], s->order + thread_number() * V);
    }
}

void sample_batch(struct model *m, const struct sample_plan *p, int64_t first, int64_t n, int32_t *out) {
    const size_t tokens = (size_t)(p->batch * p->length);
    if (first % p->batch || n > p->batch || p->length < 1)
        BUG("sample_batch: documents %ld to %ld in batches of %ld", (long)first, (long)(first + n), (long)p->batch);
    struct sampling s = {.model = m, .plan = p};
    int32_t *all = xcalloc(tokens, sizeof *all, "sampled tokens");
    s.random = xcalloc((size_t)p->batch, sizeof *s.random, "sampled tokens");
    s.ids = xcalloc(2 * (size_t)p->batch, sizeof *s.ids, "sampled tokens");
    s.order = xcalloc((size_t)(threads_count() * m->config.vocab), sizeof *s.order, "sampled tokens");
    tape_init(&s.tape, PRECISION_F32);
    kv_cache_init_batch(&s.cache, m, p->batch, p->length);
    int64_t at = 0;
    for (int64_t T = begin(m, p, first, s.random, all); at + T < p->length && !interrupted(); at += T, T = 1)
        step(&s, all, at, T);
    memcpy(out, all, (size_t)(n * p->length) * sizeof *out);
    kv_cache_release(&s.cache);
    tape_release(&s.tape);
    free(all);
    free(s.random);
    free(s.ids);
    free(s.order);
}
