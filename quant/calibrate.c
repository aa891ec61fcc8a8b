// calibrate.c: see calibrate.h.
#include "quant/calibrate.h"

#include <inttypes.h>
#include <stdlib.h>

#include "common/base/progress.h"
#include "common/tensor/vecmath.h"

int calibrate_check(const struct walk_text *text, const char *option, struct error *err)
{
    if (walk_text_tokens(text) <= text->data->n_token && text->tokens <= text->data->n_token)
        return 0;
    return error_set(err, "%s: %" PRId64 " tokens are asked for, the calibration text has %" PRId64 "; give more text, or ask for fewer",
                     option, max_i64(text->tokens, walk_text_tokens(text)), text->data->n_token);
}

struct pass {
    struct moments (*layer)[LAYER_INPUTS]; // [n_layer]
    struct moments head;
    struct tensor **seen; // [LAYER_INPUTS * n_layer]
    int64_t n_layer;
};

static void run_batch(struct pass *p, struct model *m, struct tape *tape, const struct walk_text *text, const int32_t *ids)
{
    const int64_t L = p->n_layer;
    struct taps taps = {.want = TAP_INPUTS | TAP_HEADS | TAP_FF, .attention_in = p->seen, .heads = p->seen + L, .ff_in = p->seen + 2 * L,
                        .ff = p->seen + 3 * L};
    const struct forward f = {.ids = ids, .B = text->batch, .T = text->seq_len, .taps = &taps};
    moments_add(&p->head, model_forward(m, tape, &f));
    for (int64_t l = 0; l < L; l++)
        for (int kind = 0; kind < LAYER_INPUTS; kind++)
            if (p->layer[l][kind].C && p->seen[kind * L + l])
                moments_add(&p->layer[l][kind], p->seen[kind * L + l]);
    tape_reset(tape);
}

static void take_entries(struct importance *to, const struct pass *p, const struct model *m)
{
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *q = &m->parameter[i];
        struct gguf_name name;
        if (q->layer < 0 || q->t.n_dim != 2 || !gguf_parameter_name(&m->config, q, &name))
            continue;
        const struct moments *s = &p->layer[q->layer][layer_input_of(q)];
        if (s->rows)
            importance_add(to, name.text, s->square, s->C, s->rows);
    }
    importance_add(to, "output.weight", p->head.square, p->head.C, p->head.rows);
}

void calibrate(struct importance *to, struct model *m, const struct walk_text *text)
{
    const int64_t L = m->config.n_layer, rows = text->batch * text->seq_len, batches = walk_text_tokens(text) / rows;
    struct pass p = {.n_layer = L};
    struct tape tape;
    struct progress progress;
    p.layer = xcalloc((size_t)L, sizeof *p.layer, "moments of inputs");
    p.seen = xcalloc((size_t)(LAYER_INPUTS * L), sizeof *p.seen, "taps");
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *q = &m->parameter[i];
        struct moments *s = q->layer >= 0 && q->t.n_dim == 2 ? &p.layer[q->layer][layer_input_of(q)] : NULL;
        if (s && !s->C)
            moments_init(s, tensor_columns(&q->t), 0);
    }
    moments_init(&p.head, m->config.hidden, 0);
    int32_t *ids = xmalloc((size_t)(2 * rows) * sizeof *ids, "calibration");
    tape_init(&tape, text->precision);
    progress_begin(&progress, "calibrate", "tokens", batches * rows, 0);
    for (int64_t b = 0; b < batches; b++) {
        dataset_batch(text->data, text->seq_len, text->seed, b * text->batch, text->batch, ids, ids + rows);
        run_batch(&p, m, &tape, text, ids);
        progress_update(&progress, (b + 1) * rows, "mean squares");
    }
    progress_end(&progress, "mean squares");
    take_entries(to, &p, m);
    to->chunks = batches * text->batch;
    for (int64_t l = 0; l < L; l++)
        for (int kind = 0; kind < LAYER_INPUTS; kind++)
            moments_release(&p.layer[l][kind]);
    moments_release(&p.head);
    free(p.layer);
    free(p.seen);
    free(ids);
    tape_release(&tape);
}

void importance_of_ones(struct importance *to, const struct model *m)
{
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *q = &m->parameter[i];
        struct gguf_name name;
        if (q->t.n_dim != 2 || !gguf_parameter_name(&m->config, q, &name))
            continue;
        double *ones = xmalloc((size_t)tensor_columns(&q->t) * sizeof *ones, "importance");
        for (int64_t c = 0; c < tensor_columns(&q->t); c++)
            ones[c] = 1;
        importance_add(to, name.text, ones, tensor_columns(&q->t), 1);
        free(ones);
    }
}
