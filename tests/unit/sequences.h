// sequences.h: a model that reads padded sequences in both directions against PyTorch: a folder tests/golden/model-*/ with config.json,
// model.safetensors and loss-*.txt (ids, types, length, targets, logits, loss, every gradient).
#ifndef PDQ_SEQUENCES_H
#define PDQ_SEQUENCES_H

#include "common/base/threads.h"
#include "common/model/load.h"
#include "tests/unit/golden.h"
#include "tests/unit/tolerance.h"

// PyTorch computed in float64; a few layers in f32 leave some 1e-6 of the largest value.
#define LOGITS_TOLERANCE 1e-5
#define LOSS_TOLERANCE 2e-6
#define GRADIENT_TOLERANCE 4e-5 // post-norm: each gradient goes through every norm above it

struct sequences {
    struct golden golden;
    struct model *model;
    int32_t *ids, *types, *length, *targets;
    int64_t B, T;
};

static inline void sequences_open(struct sequences *s, const char *name, const char *loss) {
    char path[512];
    struct error err;
    snprintf(path, sizeof path, "%s/tests/golden/model-%s", PDQ_SOURCE_DIR, name);
    gemm_init();
    s->model = model_load(path, &err);
    cr_assert(s->model, "%s", err.text);
    char relative[128];
    snprintf(relative, sizeof relative, "model-%s/loss-%s.txt", name, loss);
    s->golden = golden_open(relative);
    s->ids = golden_ids(&s->golden, NULL, "ids");
    s->types = golden_ids(&s->golden, NULL, "types");
    s->length = golden_ids(&s->golden, NULL, "length");
    s->targets = golden_ids(&s->golden, NULL, "targets");
    s->B = golden_get(&s->golden, NULL, "ids")->dim[0];
    s->T = golden_get(&s->golden, NULL, "ids")->dim[1];
}

static inline void sequences_close(struct sequences *s) {
    free(s->ids);
    free(s->types);
    free(s->length);
    free(s->targets);
    model_free(s->model);
    golden_close(&s->golden);
}

// Logits of all rows; those behind a sequence's end as zeros, as the file has them.
static inline float *logits_of(struct sequences *s, struct tape *tape, struct tensor *x) {
    struct tensor hidden = *x;
    hidden.needs_grad = 0;
    struct tensor *z = op_linear(tape, &hidden, model_head(s->model), model_head_bias(s->model));
    const int64_t rows = tensor_rows(z), V = tensor_columns(z);
    for (int64_t n = 0; rows == s->B * s->T && n < rows; n++)
        if (n % s->T >= s->length[n / s->T])
            memset(z->data + n * V, 0, (size_t)V * sizeof(float));
    return z->data;
}

static inline void sequences_expect_gradients(const struct sequences *s) {
    for (int i = 0; i < s->model->n_parameter; i++) {
        const struct parameter *p = &s->model->parameter[i];
        const struct golden_tensor *g = golden_get(&s->golden, NULL, p->name);
        cr_assert_eq(tensor_count(&p->t), g->count, "%s", p->name);
        double largest = 0;
        for (int64_t k = 0; k < g->count; k++)
            largest = fmax(largest, fabs(g->value[k]));
        if (largest > DOUBLE_SUM)
            golden_expect(g, p->t.grad, GRADIENT_TOLERANCE, s->golden.path);
        for (int64_t k = 0; k < g->count && largest <= DOUBLE_SUM; k++) // zero: keys' biases, an unused pooler
            cr_expect(fabs((double)p->t.grad[k]) < FLOAT_FEW, "%s[%ld] is %g", p->name, (long)k, (double)p->t.grad[k]);
    }
}

// picks: the head is given only the positions that have a target, as a training on masked words does; loss and gradients are the same.
static inline void sequences_check(const char *name, int threads, int checkpoint, int picks) {
    struct sequences s;
    struct tape tape;
    struct head_result result;
    sequences_open(&s, name, "ce");
    threads_set(threads);
    model_want_gradients(s.model);
    tape_init(&tape, PRECISION_F32);
    tape.recording = 1;
    struct forward f = {.ids = s.ids, .B = s.B, .T = s.T, .types = s.types, .length = s.length, .checkpoint = checkpoint};
    int32_t *row = xmalloc((size_t)(s.B * s.T) * sizeof *row, "rows");
    for (int64_t i = 0; picks && i < s.B * s.T; i++)
        if (s.targets[i] >= 0) {
            s.targets[f.n_rows] = s.targets[i];
            row[f.n_rows++] = (int32_t)i;
        }
    f.rows = picks ? row : NULL;
    struct tensor *x = model_forward(s.model, &tape, &f);
    if (!picks)
        golden_expect(golden_get(&s.golden, NULL, "logits"), logits_of(&s, &tape, x), LOGITS_TOLERANCE, s.golden.path);
    const struct head_spec spec = {.targets = s.targets, .temperature = 1, .weight = 1, .bias = model_head_bias(s.model)};
    struct tensor *loss = op_head_loss(&tape, x, model_head(s.model), &spec, &result);
    const double wanted = golden_number(&s.golden, NULL, "loss");
    cr_expect(fabs(result.loss / wanted - 1) < LOSS_TOLERANCE, "%s: loss %.9g, PyTorch %.9g", name, result.loss, wanted);
    tape_backward(&tape, loss);
    sequences_expect_gradients(&s);
    tape_release(&tape);
    free(row);
    sequences_close(&s);
}

// What padding holds changes nothing in what the head reads.
static inline void sequences_check_padding(const char *name) {
    struct sequences s;
    sequences_open(&s, name, "ce");
    float *first = NULL;
    for (int turn = 0; turn < 2; turn++) {
        struct tape tape;
        tape_init(&tape, PRECISION_F32);
        for (int64_t i = 0; turn && i < s.B * s.T; i++)
            if (i % s.T >= s.length[i / s.T])
                s.ids[i] = (s.ids[i] + 5) % (int32_t)s.model->config.vocab;
        const struct forward f = {.ids = s.ids, .B = s.B, .T = s.T, .types = s.types, .length = s.length};
        struct tensor *x = model_forward(s.model, &tape, &f);
        const size_t bytes = (size_t)tensor_count(x) * sizeof(float);
        if (!turn) {
            first = xmalloc(bytes, "what the head reads");
            memcpy(first, x->data, bytes);
        }
        cr_expect(memcmp(first, x->data, bytes) == 0);
        tape_release(&tape);
    }
    free(first);
    sequences_close(&s);
}

#endif
