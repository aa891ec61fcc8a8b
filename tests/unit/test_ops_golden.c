// test_ops_golden.c: every op, and one Llama block put together from them, against PyTorch's values and gradients.
// The golden files are written by tests/ref/make_golden.py, which see for the cases.
#include "tests/unit/golden.h"

#include "common/tensor/ops.h"
#include "tests/unit/tolerance.h"

// PyTorch computed in float64 on the same float32 inputs: what is left is our own f32 rounding, some 1e-7 for each of
// a few steps, as a share of the largest value. A block is a dozen ops deep.
#define OP_TOLERANCE 3e-6
#define BLOCK_TOLERANCE 1e-5

#define TENSORS 16

struct run {
    const struct golden *golden;
    const char *name; // of the case
    struct tape tape;
    struct tensor *input[TENSORS];
    char *label[TENSORS];
    int n;
};

static struct tensor *input(struct run *r, const char *name) {
    const struct golden_tensor *g = golden_get(r->golden, r->name, name);
    struct tensor *t = xcalloc(1, sizeof *t, "a test's tensor");
    t->name = g->name;
    t->n_dim = g->n_dim;
    t->dim[0] = g->dim[0];
    t->dim[1] = g->dim[1];
    t->needs_grad = 1;
    t->data = xcalloc((size_t)g->count, sizeof(float), "a test's tensor");
    t->grad = xcalloc((size_t)g->count, sizeof(float), "a test's tensor");
    for (int64_t i = 0; i < g->count; i++)
        t->data[i] = (float)g->value[i];
    r->input[r->n] = t;
    r->label[r->n++] = xasprintf("%s.grad", name);
    return t;
}

static struct tensor *maybe_input(struct run *r, const char *name) {
    return golden_find(r->golden, r->name, name) ? input(r, name) : NULL;
}

static float *floats(const struct golden_tensor *g) {
    float *x = xmalloc((size_t)g->count * sizeof *x, "a test's values");
    for (int64_t i = 0; i < g->count; i++)
        x[i] = (float)g->value[i];
    return x;
}

static double number(const struct run *r, const char *name) { return golden_number(r->golden, r->name, name); }

static void run_begin(struct run *r, const struct golden *g, const char *name) {
    memset(r, 0, sizeof *r);
    r->golden = g;
    r->name = name;
    gemm_init();
    tape_init(&r->tape, PRECISION_F32);
    r->tape.recording = 1;
}

// Goes backward from loss (NULL: from the mean square of y - target) and compares everything the file has.
static void run_end(struct run *r, struct tensor *y, struct tensor *loss, double tolerance) {
    float *target = NULL;
    if (y) {
        golden_expect(golden_get(r->golden, r->name, "y"), y->data, tolerance, r->golden->path);
        target = floats(golden_get(r->golden, r->name, "target"));
        loss = op_mse(&r->tape, y, target, 1);
    }
    golden_expect(golden_get(r->golden, r->name, "loss"), loss->data, tolerance, r->golden->path);
    tape_backward(&r->tape, loss);
    for (int i = 0; i < r->n; i++) {
        golden_expect(golden_get(r->golden, r->name, r->label[i]), r->input[i]->grad, tolerance, r->golden->path);
        free(r->input[i]->data);
        free(r->input[i]->grad);
        free(r->input[i]);
        free(r->label[i]);
    }
    free(target);
    tape_release(&r->tape);
}

Test(ops_golden, pointwise) {
    struct golden g = golden_open("ops/pointwise.txt");
    struct run r;
    run_begin(&r, &g, "embed");
    int32_t *ids = golden_ids(&g, "embed", "ids");
    run_end(&r, op_embed(&r.tape, input(&r, "table"), ids, golden_get(&g, "embed", "ids")->count), NULL,
            OP_TOLERANCE);
    free(ids);
    static const char *const norms[] = {"rmsnorm", "rmsnorm_large_eps"};
    for (int i = 0; i < 2; i++) {
        run_begin(&r, &g, norms[i]);
        struct tensor *x = input(&r, "x"), *w = input(&r, "w");
        run_end(&r, op_rmsnorm(&r.tape, x, w, number(&r, "eps")), NULL, OP_TOLERANCE);
    }
    run_begin(&r, &g, "swiglu");
    struct tensor *gate = input(&r, "gate"), *up = input(&r, "up");
    run_end(&r, op_swiglu(&r.tape, gate, up), NULL, OP_TOLERANCE);
    run_begin(&r, &g, "add");
    struct tensor *a = input(&r, "a"), *b = input(&r, "b");
    run_end(&r, op_add(&r.tape, a, b), NULL, OP_TOLERANCE);
    run_begin(&r, &g, "gate");
    struct tensor *x = input(&r, "x"), *units = input(&r, "gate");
    run_end(&r, op_gate(&r.tape, x, units), NULL, OP_TOLERANCE);
    golden_close(&g);
}

Test(ops_golden, norms_and_gelu) {
    static const char *const norms[] = {"layernorm", "layernorm_large_eps"}, *const gelus[] = {"gelu_tanh", "gelu_erf"};
    struct golden g = golden_open("ops/norms.txt");
    struct run r;
    for (int i = 0; i < 2; i++) {
        run_begin(&r, &g, norms[i]);
        struct tensor *x = input(&r, "x"), *w = input(&r, "w"), *b = input(&r, "b");
        run_end(&r, op_layernorm(&r.tape, x, w, b, number(&r, "eps")), NULL, OP_TOLERANCE);
        run_begin(&r, &g, gelus[i]);
        x = input(&r, "x");
        run_end(&r, op_gelu(&r.tape, x, i ? GELU_ERF : GELU_TANH), NULL, OP_TOLERANCE);
    }
    golden_close(&g);
}

static const float *table_for(struct run *r, int64_t E, int64_t T, int64_t position0) {
    double frequency[32], theta = number(r, "theta");
    for (int64_t i = 0; i < E / 2; i++)
        frequency[i] = pow(theta, -2 * (double)i / (double)E);
    return rope_table(&r->tape, frequency, E, T, position0);
}

Test(ops_golden, rope) {
    struct golden g = golden_open("ops/pointwise.txt");
    struct run r;
    run_begin(&r, &g, "rope");
    int64_t E = (int64_t)number(&r, "E"), T = (int64_t)number(&r, "T");
    const float *table = table_for(&r, E, T, (int64_t)number(&r, "position0"));
    run_end(&r, op_rope(&r.tape, input(&r, "x"), table, E, T), NULL, OP_TOLERANCE);
    golden_close(&g);
}

Test(ops_golden, linear) {
    struct golden g = golden_open("ops/products.txt");
    static const char *const names[] = {"linear", "linear_bias"};
    for (int i = 0; i < 2; i++) {
        struct run r;
        run_begin(&r, &g, names[i]);
        struct tensor *x = input(&r, "x"), *w = input(&r, "w"), *bias = maybe_input(&r, "bias");
        run_end(&r, op_linear(&r.tape, x, w, bias), NULL, OP_TOLERANCE);
    }
    golden_close(&g);
}

Test(ops_golden, attention) {
    struct golden g = golden_open("ops/products.txt");
    static const char *const names[] = {"attention_1", "attention_2", "attention_4"};
    for (int i = 0; i < 3; i++) {
        struct run r;
        run_begin(&r, &g, names[i]);
        struct tensor *q = input(&r, "q"), *k = input(&r, "k"), *v = input(&r, "v");
        int64_t B = (int64_t)number(&r, "B"), T = (int64_t)number(&r, "T"), E = (int64_t)number(&r, "E");
        run_end(&r, op_attention(&r.tape, q, k, v, B, T, T, E), NULL, OP_TOLERANCE);
    }
    golden_close(&g);
}

// What the relatives of Llama add: tests/ref/families_golden.py has the cases.
Test(ops_golden, families) {
    struct golden g = golden_open("ops/families.txt");
    struct run r;
    run_begin(&r, &g, "rmsnorm_heads");
    struct tensor *x = input(&r, "x"), *w = input(&r, "w");
    run_end(&r, op_rmsnorm_shifted(&r.tape, x, w, number(&r, "shift"), number(&r, "eps")), NULL, OP_TOLERANCE);
    run_begin(&r, &g, "geglu");
    struct tensor *gate = input(&r, "gate"), *up = input(&r, "up");
    run_end(&r, op_geglu(&r.tape, gate, up), NULL, OP_TOLERANCE);
    run_begin(&r, &g, "softcap");
    run_end(&r, op_softcap(&r.tape, input(&r, "x"), number(&r, "cap")), NULL, OP_TOLERANCE);
    run_begin(&r, &g, "scale");
    run_end(&r, op_scale(&r.tape, input(&r, "x"), number(&r, "factor")), NULL, OP_TOLERANCE);
    static const char *const attentions[] = {"attention_window", "attention_cap", "attention_both"};
    for (int i = 0; i < 3; i++) {
        run_begin(&r, &g, attentions[i]);
        struct tensor *q = input(&r, "q"), *k = input(&r, "k"), *v = input(&r, "v");
        const int64_t T = (int64_t)number(&r, "T");
        const struct attention_rule rule = {number(&r, "scale"), number(&r, "cap"), (int64_t)number(&r, "window")};
        run_end(&r, op_attention_by(&r.tape, q, k, v, 1, T, T, T, (int64_t)number(&r, "E"), &rule), NULL, OP_TOLERANCE);
    }
    golden_close(&g);
}

static void check_head(const struct golden *g, const char *name, const double *divergence) {
    struct run r;
    run_begin(&r, g, name);
    struct tensor *x = input(&r, "x"), *w = input(&r, "w");
    const struct golden_tensor *tw = golden_get(g, name, "teacher_w");
    float *teacher_x = floats(golden_get(g, name, "teacher_x")), *teacher_w = floats(tw);
    struct tensor teacher = {
        .name = "teacher", .n_dim = 2, .dim = {tw->dim[0], tw->dim[1], 0}, .data = teacher_w};
    int32_t *targets = golden_ids(g, name, "targets");
    struct head_spec spec = {.targets = targets, .teacher_x = teacher_x, .teacher_w = &teacher, .alpha = number(&r, "alpha"),
                             .temperature = number(&r, "temperature"), .weight = 1, .divergence = divergence};
    if (divergence)
        spec.beta = number(&r, "beta");
    struct head_result result;
    struct tensor *loss = op_head_loss(&r.tape, x, w, &spec, &result);
    if (!divergence) {
        cr_expect(fabs(result.ce / number(&r, "ce") - 1) < FLOAT_FEW, "ce %.9g, PyTorch %.9g", result.ce,
                  number(&r, "ce"));
        cr_expect(fabs(result.kl / number(&r, "kl") - 1) < FLOAT_FEW, "kl %.9g, PyTorch %.9g", result.kl,
                  number(&r, "kl"));
    }
    run_end(&r, NULL, loss, OP_TOLERANCE);
    free(teacher_x);
    free(teacher_w);
    free(targets);
}

Test(ops_golden, head_loss) {
    struct golden g = golden_open("ops/head.txt");
    static const char *const names[] = {"ce", "kl", "kl_warm", "mixed"};
    for (int i = 0; i < 4; i++)
        check_head(&g, names[i], NULL);
    golden_close(&g);
}

Test(ops_golden, divergences) {
    struct golden g = golden_open("ops/divergence.txt");
    for (int d = DIVERGENCE_KL + 1; d < DIVERGENCES; d++) {
        double weight[DIVERGENCES] = {0};
        weight[d] = 1;
        char warm[64];
        snprintf(warm, sizeof warm, "%s_warm", divergence_names[d]);
        check_head(&g, divergence_names[d], weight);
        check_head(&g, warm, weight);
    }
    golden_close(&g);
}

Test(ops_golden, span_loss) {
    struct golden g = golden_open("ops/spans.txt");
    static const char *const names[] = {"ce", "kl", "mixed"};
    for (int i = 0; i < 3; i++) {
        struct run r;
        run_begin(&r, &g, names[i]);
        struct tensor *z = input(&r, "z");
        float *teacher = floats(golden_get(&g, names[i], "teacher"));
        int32_t *targets = golden_ids(&g, names[i], "targets"), *length = golden_ids(&g, names[i], "length");
        const struct span_spec spec = {.targets = targets, .length = length, .B = (int64_t)number(&r, "B"), .T = (int64_t)number(&r, "T"),
                                       .teacher = teacher, .alpha = number(&r, "alpha"), .temperature = number(&r, "temperature"), .weight = 1};
        struct head_result result;
        struct tensor *loss = op_span_loss(&r.tape, z, &spec, &result);
        cr_expect(fabs(result.ce / number(&r, "ce") - 1) < FLOAT_FEW, "ce %.9g, PyTorch %.9g", result.ce, number(&r, "ce"));
        cr_expect(fabs(result.kl / number(&r, "kl") - 1) < FLOAT_FEW, "kl %.9g, PyTorch %.9g", result.kl, number(&r, "kl"));
        run_end(&r, NULL, loss, OP_TOLERANCE);
        free(teacher);
        free(targets);
        free(length);
    }
    golden_close(&g);
}

Test(ops_golden, llama_block) {
    struct golden g = golden_open("ops/block.txt");
    struct run r;
    run_begin(&r, &g, "block");
    struct tape *tape = &r.tape;
    int64_t B = (int64_t)number(&r, "B"), T = (int64_t)number(&r, "T"), E = (int64_t)number(&r, "E");
    double eps = number(&r, "eps");
    const float *table = table_for(&r, E, T, 0);
    struct tensor *x = input(&r, "x");
    struct tensor *n = op_rmsnorm(tape, x, input(&r, "input_layernorm"), eps);
    struct tensor *q = op_linear(tape, n, input(&r, "q_proj"), NULL);
    struct tensor *k = op_linear(tape, n, input(&r, "k_proj"), NULL);
    struct tensor *v = op_linear(tape, n, input(&r, "v_proj"), NULL);
    q = op_rope(tape, q, table, E, T);
    k = op_rope(tape, k, table, E, T);
    struct tensor *heads = op_attention(tape, q, k, v, B, T, T, E);
    struct tensor *o = op_linear(tape, heads, input(&r, "o_proj"), NULL);
    struct tensor *middle = op_add(tape, x, o);
    struct tensor *m = op_rmsnorm(tape, middle, input(&r, "post_attention_layernorm"), eps);
    struct tensor *gate = op_linear(tape, m, input(&r, "gate_proj"), NULL);
    struct tensor *up = op_linear(tape, m, input(&r, "up_proj"), NULL);
    struct tensor *act = op_swiglu(tape, gate, up);
    struct tensor *down = op_linear(tape, act, input(&r, "down_proj"), NULL);
    run_end(&r, op_add(tape, middle, down), NULL, BLOCK_TOLERANCE);
    golden_close(&g);
}
