// bench_losses.c: every loss of distillation alone, on one pair of layers of the two cases, loss and gradient together: its time, the FLOPs
// of its products. Losses on answers are the whole fused head's.
#include <math.h>
#include <stdlib.h>

#include "bench/bench.h"
#include "common/base/threads.h"
#include "distill/feature.h"

#define SECONDS_EACH 0.3
#define TENSORS 4

struct loss_case {
    const struct bench_shape *shape;
    struct tape tape;
    struct tensor tensor[TENSORS]; // of the student, of the teacher
    struct feature_input in;
    const struct feature_loss *loss;
    double divergence[DIVERGENCES];
    struct tensor head, teacher_head;
    int32_t *targets;
    int64_t *start, *row;
};

static int64_t rows(const struct bench_shape *s) { return s->batch * s->seq_len; }

static struct tensor make(int64_t n, int64_t columns, int needs_grad) {
    return (struct tensor){.name = "x", .n_dim = 2, .dim = {n, columns, 1}, .data = bench_floats(n * columns, 0.1), .needs_grad = needs_grad};
}

static void run_feature(void *context) {
    struct loss_case *c = context;
    double value;
    tape_reset(&c->tape);
    feature_record(&c->tape, c->loss, &c->in, 1, &value);
}

static void run_head(void *context) {
    struct loss_case *c = context;
    const struct head_spec spec = {.targets = c->targets, .teacher_x = c->tensor[2].data, .teacher_w = &c->teacher_head, .alpha = 0.7, .temperature = 2,
                                   .weight = 1, .divergence = c->divergence, .beta = 0.5};
    tape_reset(&c->tape);
    op_head_loss(&c->tape, &c->tensor[0], &c->head, &spec, NULL);
}

static void measure(struct table *t, struct loss_case *c, const char *name, void (*run)(void *context)) {
    gemm_count_reset();
    run(c);
    const double flops = gemm_counted().flops, seconds = bench_time(run, c, SECONDS_EACH);
    table_text(t, c->shape->name);
    table_text(t, name);
    table_integer(t, threads_count());
    table_number(t, 1e3 * seconds, 2);
    table_number(t, 1e-9 * flops, 3);
    table_number(t, flops > 0 ? 1e-9 * flops / seconds : (double)NAN, 1);
}

// The samples of every sequence, as many as the loss takes by default.
static void take_samples(struct loss_case *c) {
    const struct bench_shape *s = c->shape;
    const int64_t count = c->loss->samples && c->loss->samples < s->seq_len ? c->loss->samples : s->seq_len;
    for (int64_t b = 0; b <= s->batch; b++)
        c->start[b] = b * count;
    for (int64_t i = 0; i < s->batch * count; i++)
        c->row[i] = i / count * s->seq_len + i % count * s->seq_len / count;
    c->in.start = c->start;
    c->in.row = c->row;
    c->in.n_group = s->batch;
}

static void bench_shape_losses(struct table *t, struct loss_case *c) {
    const struct bench_shape *s = c->shape;
    const int64_t n = rows(s);
    for (int k = 0; k < TENSORS; k++)
        c->tensor[k] = make(n, s->hidden, k < 2);
    c->head = make(s->vocab, s->hidden, 1);
    c->teacher_head = make(s->vocab, s->hidden, 0);
    c->head.grad = bench_floats(s->vocab * s->hidden, 0);
    c->targets = calloc((size_t)n, sizeof *c->targets);
    c->start = calloc((size_t)s->batch + 1, sizeof *c->start);
    c->row = calloc((size_t)n, sizeof *c->row);
    c->in = (struct feature_input){.B = s->batch, .T = s->seq_len, .causal = 1};
    for (c->loss = feature_loss_table; c->loss->name; c->loss++) {
        const int two = c->loss->reads == READS_FLOW || c->loss->reads == READS_ATTENTION;
        for (int k = 0; k < 2; k++) {
            c->in.student[k] = !k || two ? &c->tensor[k] : NULL;
            c->in.teacher[k] = !k || two ? &c->tensor[2 + k] : NULL;
            c->in.student_heads[k] = c->in.teacher_heads[k] = s->heads;
        }
        take_samples(c);
        measure(t, c, c->loss->name, run_feature);
    }
    for (int d = 0; d < DIVERGENCES; d++) {
        char name[48];
        for (int k = 0; k < DIVERGENCES; k++)
            c->divergence[k] = k == d;
        snprintf(name, sizeof name, "head with %s", divergence_names[d]);
        measure(t, c, name, run_head);
    }
    for (int k = 0; k < TENSORS; k++)
        free(c->tensor[k].data);
    free(c->head.data);
    free(c->head.grad);
    free(c->teacher_head.data);
    free(c->targets);
    free(c->start);
    free(c->row);
}

void bench_losses(const struct bench_options *o) {
    struct table t;
    table_open(&t, o->csv, "losses", "losses of distillation: one pair of layers, loss and gradient (answers: the whole head), f32",
               "case:-6|loss:-22|threads:7|ms:8|GFLOP:8|GFLOP/s:8");
    for (int i = 0; i < BENCH_SHAPES; i++) {
        struct loss_case c = {.shape = &bench_shapes[i]};
        if (!bench_wants_shape(o, i))
            continue;
        tape_init(&c.tape, PRECISION_F32);
        c.tape.recording = 1;
        bench_shape_losses(&t, &c);
        tape_release(&c.tape);
    }
    table_close(&t);
}
