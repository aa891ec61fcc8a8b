// bench_ops.c: every op alone, forward and backward, at the shapes of the two distillation cases, beside the time
// that reading its inputs and writing its outputs once would take.

#include <math.h>
#include <stdlib.h>

#include "bench/bench.h"
#include "common/base/error.h"
#include "common/base/threads.h"
#include "common/tensor/ops.h"

#define SECONDS_EACH 0.15
#define TENSORS 4

struct op_case {
    const struct bench_shape *shape;
    struct tape tape;
    struct tensor tensor[TENSORS];
    int parameter[TENSORS]; // its gradient is kept, an activation's first contribution is written
    int n_tensor;
    struct tensor *(*forward)(struct op_case *c);
    int32_t *ids;     // [N]
    float *reference; // the teacher's hidden states, or a target
    double *rope;
    struct node node; // of the last forward
};

static int64_t rows(const struct bench_shape *s) { return s->batch * s->seq_len; }

static struct tensor *add_tensor(struct op_case *c, const char *name, int parameter, int64_t d0, int64_t d1) {
    struct tensor *t = &c->tensor[c->n_tensor];
    int64_t n = d0 * d1;
    *t = (struct tensor){.name = name,
                         .n_dim = d0 == 1 ? 1 : 2,
                         .dim = {d0 == 1 ? d1 : d0, d1, 1},
                         .needs_grad = 1,
                         .data = bench_floats(n, 0.1),
                         .grad = parameter ? bench_floats(n, 0) : NULL};
    c->parameter[c->n_tensor++] = parameter;
    return t;
}

static void run_forward(void *context) {
    struct op_case *c = context;
    tape_reset(&c->tape);
    c->forward(c);
}

static void run_backward(void *context) {
    struct op_case *c = context;
    size_t mark = arena_mark(&c->tape.arena);
    for (int i = 0; i < c->n_tensor; i++)
        if (!c->parameter[i])
            c->tensor[i].grad = NULL;
    c->node.backward(&c->tape, &c->node);
    arena_reset(&c->tape.arena, mark);
}

static struct tensor *embed(struct op_case *c) { return op_embed(&c->tape, &c->tensor[0], c->ids, rows(c->shape)); }

static struct tensor *linear(struct op_case *c) { return op_linear(&c->tape, &c->tensor[0], &c->tensor[1], NULL); }

static struct tensor *rmsnorm(struct op_case *c) { return op_rmsnorm(&c->tape, &c->tensor[0], &c->tensor[1], 1e-5); }

static struct tensor *rope(struct op_case *c) {
    const int64_t E = c->shape->hidden / c->shape->heads, T = c->shape->seq_len;
    return op_rope(&c->tape, &c->tensor[0], rope_table(&c->tape, c->rope, E, T, 0), E, T);
}

static struct tensor *attention(struct op_case *c) {
    const struct bench_shape *s = c->shape;
    return op_attention(&c->tape, &c->tensor[0], &c->tensor[1], &c->tensor[2], s->batch, s->seq_len, s->seq_len,
                        s->hidden / s->heads);
}

static struct tensor *swiglu(struct op_case *c) { return op_swiglu(&c->tape, &c->tensor[0], &c->tensor[1]); }

static struct tensor *add(struct op_case *c) { return op_add(&c->tape, &c->tensor[0], &c->tensor[1]); }

static struct tensor *gate(struct op_case *c) { return op_gate(&c->tape, &c->tensor[0], &c->tensor[1]); }

static struct tensor *mse(struct op_case *c) { return op_mse(&c->tape, &c->tensor[0], c->reference, 1); }

static struct tensor *head_loss(struct op_case *c) {
    struct head_spec spec = {.targets = c->ids,
                             .teacher_x = c->reference,
                             .teacher_w = &c->tensor[2],
                             .alpha = 0.7,
                             .temperature = 2,
                             .weight = 1};
    return op_head_loss(&c->tape, &c->tensor[0], &c->tensor[1], &spec, NULL);
}

// floats: what forward and backward together must read and write at least. flops: of their products.
static void measure(const struct bench_options *o, struct table *t, struct op_case *c, const char *name,
                    struct tensor *(*forward)(struct op_case *c), double floats, double flops) {
    for (int precision = PRECISION_F32; precision <= PRECISION_BF16; precision++) {
        if (!bench_wants(o, (enum precision)precision) || (precision == PRECISION_BF16 && flops == 0))
            continue;
        tape_init(&c->tape, (enum precision)precision);
        c->tape.recording = 1;
        c->forward = forward;
        double forward_time = bench_time(run_forward, c, SECONDS_EACH);
        tape_reset(&c->tape);
        struct tensor *y = c->forward(c);
        c->node = c->tape.node[c->tape.n_node - 1];
        y->grad = bench_floats(tensor_count(y), 0.1);
        if (tensor_count(y) == 1)
            y->grad[0] = 1;
        double backward_time = bench_time(run_backward, c, SECONDS_EACH), floor = 4 * floats / bench_bandwidth();
        table_text(t, c->shape->name);
        table_text(t, name);
        table_text(t, flops == 0 ? "-" : precision == PRECISION_F32 ? "f32" : "bf16");
        table_integer(t, threads_count());
        table_number(t, 1e3 * forward_time, 2);
        table_number(t, 1e3 * backward_time, 2);
        table_number(t, 1e3 * floor, 2);
        table_number(t, (forward_time + backward_time) / floor, 1);
        table_number(t, flops > 0 ? 1e-9 * flops / (forward_time + backward_time) : (double)NAN, 0);
        free(y->grad);
        tape_release(&c->tape);
    }
    for (int i = 0; i < c->n_tensor; i++) {
        free(c->tensor[i].data);
        if (c->parameter[i])
            free(c->tensor[i].grad);
    }
    c->n_tensor = 0;
}

static void bench_linear(const struct bench_options *o, struct table *t, struct op_case *c, const char *name,
                         int64_t O, int64_t I) {
    double N = (double)rows(c->shape), weight = (double)(O * I);
    add_tensor(c, "x", 0, rows(c->shape), I);
    add_tensor(c, "w", 1, O, I);
    measure(o, t, c, name, linear, 3 * N * (double)(I + O) + 4 * weight, 6 * N * weight);
}

static void bench_shape_ops(const struct bench_options *o, struct table *t, struct op_case *c) {
    const struct bench_shape *s = c->shape;
    const int64_t D = s->hidden, F = s->student_ff, V = s->vocab, n = rows(s);
    const double N = (double)n, ND = N * (double)D, NF = N * (double)F;

    add_tensor(c, "table", 1, V, D);
    measure(o, t, c, "embed", embed, 5 * ND, 0);
    bench_linear(o, t, c, "linear (q)", D, D);
    bench_linear(o, t, c, "linear (gate)", F, D);
    bench_linear(o, t, c, "linear (down)", D, F);
    add_tensor(c, "x", 0, n, D);
    add_tensor(c, "w", 1, 1, D);
    measure(o, t, c, "rmsnorm", rmsnorm, 5 * ND, 0);
    add_tensor(c, "x", 0, n, D);
    measure(o, t, c, "rope", rope, 4 * ND, 0);
    for (int i = 0; i < 3; i++)
        add_tensor(c, "q, k, v", 0, n, D);
    // Causal: half of every T x T product; two forward, five backward.
    measure(o, t, c, "attention", attention, 12 * ND, 7 * ND * (double)s->seq_len);
    add_tensor(c, "gate", 0, n, F);
    add_tensor(c, "up", 0, n, F);
    measure(o, t, c, "swiglu", swiglu, 8 * NF, 0);
    add_tensor(c, "a", 0, n, D);
    add_tensor(c, "b", 0, n, D);
    measure(o, t, c, "add", add, 6 * ND, 0);
    add_tensor(c, "x", 0, n, F);
    add_tensor(c, "gate", 1, 1, F);
    measure(o, t, c, "gate", gate, 5 * NF, 0);
    add_tensor(c, "x", 0, n, D);
    measure(o, t, c, "mse", mse, 5 * ND, 0);
    add_tensor(c, "x", 0, n, D);
    add_tensor(c, "w", 1, V, D);
    add_tensor(c, "teacher's w", 1, V, D);
    measure(o, t, c, "head and loss", head_loss, 4 * ND + 4 * (double)(V * D), 8 * ND * (double)V);
}

void bench_ops(const struct bench_options *o) {
    struct table t;
    for (int i = 0; i < BENCH_SHAPES; i++) {
        const struct bench_shape *s = &bench_shapes[i];
        if (!bench_wants_shape(o, i))
            continue;
        struct op_case c = {.shape = s};
        c.ids = xmalloc((size_t)rows(s) * sizeof *c.ids, "ids");
        for (int64_t n = 0; n < rows(s); n++)
            c.ids[n] = (int32_t)(n * 7919 % s->vocab);
        c.reference = bench_floats(rows(s) * s->hidden, 0.1);
        c.rope = xmalloc((size_t)(s->hidden / s->heads / 2) * sizeof *c.rope, "frequencies");
        for (int64_t e = 0; e < s->hidden / s->heads / 2; e++)
            c.rope[e] = pow(1e4, -2.0 * (double)e / (double)(s->hidden / s->heads));
        bench_bandwidth(); // before the table, so that its pause is not taken for an op
        table_open(
            &t, o->csv, "ops", "Ops, forward and backward (floor: inputs and outputs moved once at memory speed)",
            "shape:-5|op:-14|precision:-9|threads:7|forward ms:10|backward ms:11|floor ms:8|x floor:7|GFLOP/s:7");
        bench_shape_ops(o, &t, &c);
        table_close(&t);
        free(c.ids);
        free(c.reference);
        free(c.rope);
    }
}
