// Weights rounded in the forward pass: what it sees is what a file of the weights holds, bit for bit, in every type; gradients against PyTorch,
// float64 and differences.
#include "tests/unit/golden.h"

#include <math.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/base/threads.h"
#include "common/train/trainer.h"
#include "quant/fake_quant.h"
#include "quant/gguf_model.h"
#include "tests/unit/tiny.h"
#include "tests/unit/tolerance.h"

// Float32 against float64 on the same rounded weights: sums of up to 256 terms, 16 roundings (1e-6) as a rule.
#define TOLERANCE 3e-6

// Every type and mix, and one of whose layers differ in type.
static const char *const types[] = {"F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M",
                                    "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS"};
#define N_TYPES (int)(sizeof types / sizeof *types)

static void quiet_and_alone(void)
{
    log_level = LOG_QUIET;
    threads_set(1);
    gemm_init();
}
TestSuite(fake_quant, .init = quiet_and_alone);

// Rows of 256 everywhere, so that every block fits; q and k are turned on their way into the file.
static struct model *make(const char *model_type, int tied, uint64_t seed)
{
    struct layer_shape layer[2] = {{.n_head = 8, .n_kv_head = 4, .n_ff = 256}, {.n_head = 8, .n_kv_head = 4, .n_ff = 512}};
    struct config c = {.n_layer = 2, .hidden = 256, .head_dim = 32, .vocab = 70, .context = 64, .layer = layer, .norm_eps = 1e-5, .rope_theta = 10000,
                       .tie_embeddings = tied, .bos_id = 1, .eos_id = 2};
    snprintf(c.model_type, sizeof c.model_type, "%s", model_type);
    if (strcmp(model_type, "llama") != 0)
        layer[1].n_ff = 256;
    c.qkv_bias = strcmp(model_type, "qwen2") == 0;
    struct model *m = model_new(&c, 1);
    model_initialise(m, seed);
    return m;
}

static struct tensor *hidden(struct model *m, struct tape *tape)
{
    static const int32_t ids[] = {5, 33, 2, 69, 14, 14, 7, 50};
    return model_forward(m, tape, &(struct forward){.ids = ids, .B = 1, .T = 8});
}

// m's weights as a file of that type, opened.
static struct model *through_file(const struct model *m, const struct gguf_export_options *o)
{
    char path[64];
    struct error err;
    struct tokenizer *tokenizer;
    snprintf(path, sizeof path, "/tmp/pdq-fake-%ld.gguf", (long)getpid());
    cr_assert_eq(gguf_export(m, NULL, path, o, &err), 0, "%s", err.text);
    struct model *back = gguf_model_open(path, &tokenizer, &err);
    cr_assert(back, "%s", err.text);
    tokenizer_free(tokenizer);
    unlink(path);
    return back;
}

static void same_values(const struct model *seen, const struct model *file, const char *type)
{
    cr_assert_eq(seen->n_parameter, file->n_parameter);
    for (int i = 0; i < seen->n_parameter; i++) {
        const struct tensor *a = &seen->parameter[i].t, *b = &file->parameter[i].t;
        const int64_t n = tensor_count(a);
        float *x = xmalloc((size_t)n * sizeof *x, "test"), *y = xmalloc((size_t)n * sizeof *y, "test");
        tensor_read_rows(a, 0, tensor_rows(a), x);
        tensor_read_rows(b, 0, tensor_rows(b), y);
        cr_assert_arr_eq(x, y, (size_t)n * sizeof *x, "%s: %s", type, a->name);
        free(x);
        free(y);
    }
}

// The weights are the same to the bit; products from a file's blocks are summed in another order (weight_product): f32's rounding, over two layers.
static void same_states(const struct tensor *a, const struct tensor *b, const char *type)
{
    float most = 0, off = 0;
    for (int64_t i = 0; i < tensor_count(a); i++) {
        most = fmaxf(most, fabsf(a->data[i]));
        off = fmaxf(off, fabsf(a->data[i] - b->data[i]));
    }
    cr_assert((double)off <= TOLERANCE * (double)most, "%s: hidden states differ by %g of %g", type, (double)off, (double)most);
}

static void check_type(struct model *m, const char *type, int pure)
{
    const struct gguf_export_options o = {.type = type, .pure = pure};
    struct fake_quant q;
    struct error err;
    struct tape tape[2];
    cr_assert_eq(fake_quant_begin(&q, m, &o, 0, &err), 0, "%s", err.text);
    cr_assert_eq(fake_quant_refresh(&q, &err), 0, "%s", err.text);
    struct model *file = through_file(q.master, &o);
    same_values(m, file, type);
    tape_init(&tape[0], PRECISION_F32);
    tape_init(&tape[1], PRECISION_F32);
    const struct tensor *a = hidden(m, &tape[0]), *b = hidden(file, &tape[1]);
    same_states(a, b, type);
    tape_release(&tape[0]);
    tape_release(&tape[1]);
    fake_quant_end(&q);
    struct model *after = through_file(m, &o); // of what a training leaves
    same_values(file, after, type);
    model_free(after);
    model_free(file);
}

Test(fake_quant, the_forward_pass_sees_what_the_file_holds)
{
    struct model *tied = make("llama", 1, 3), *untied = make("qwen2", 0, 4);
    for (int i = 0; i < N_TYPES; i++) {
        check_type(tied, types[i], 0);
        check_type(untied, types[i], i % 2);
    }
    for (int i = 0; i < tied->n_parameter; i++)
        cr_assert_null(tied->parameter[i].t.hook);
    model_free(tied);
    model_free(untied);
}

// ---- gradients ----

static struct model *table_of(const struct golden_tensor *w)
{
    struct layer_shape layer = {0};
    const struct config c = {.model_type = "llama", .n_layer = 1, .hidden = w->dim[1], .head_dim = 8, .vocab = w->dim[0], .context = 8, .layer = &layer,
                             .norm_eps = 1e-5, .rope_theta = 10000, .tie_embeddings = 1};
    layer = (struct layer_shape){.n_head = 4, .n_kv_head = 4, .n_ff = 32};
    struct model *m = model_new(&c, 1);
    model_initialise(m, 1);
    model_want_gradients(m);
    for (int64_t i = 0; i < w->count; i++)
        m->parameter[0].t.data[i] = (float)w->value[i];
    return m;
}

// y = [x; w'[ids]] w'^T, loss = mean((y - target)^2), as tests/ref/fake_quant_golden.py has it: the table of a model stands in for w.
static void check_golden(const struct golden *g, const char *name, const char *type, int learned)
{
    const struct golden_tensor *wanted = golden_get(g, name, "w"), *gx = golden_get(g, name, "x"), *gt = golden_get(g, name, "target");
    struct model *m = table_of(wanted);
    struct tensor *w = &m->parameter[0].t;
    struct fake_quant q;
    struct error err;
    struct tape tape;
    cr_assert_eq(fake_quant_begin(&q, m, &(struct gguf_export_options){.type = type, .pure = 1}, learned, &err), 0, "%s", err.text);
    cr_assert_eq(fake_quant_refresh(&q, &err), 0, "%s", err.text);
    if (learned)
        model_want_gradients(q.scales);
    tape_init(&tape, PRECISION_F32);
    tape.recording = 1;
    const int64_t N = gx->dim[0], D = gx->dim[1], n = golden_get(g, name, "ids")->count, V = w->dim[0];
    struct tensor x = {.name = "x", .n_dim = 2, .dim = {N, D}, .needs_grad = 1};
    x.data = xmalloc((size_t)(N * D) * sizeof(float), "test");
    x.grad = xcalloc((size_t)(N * D), sizeof(float), "test");
    for (int64_t i = 0; i < N * D; i++)
        x.data[i] = (float)gx->value[i];
    float *target = xmalloc((size_t)gt->count * sizeof *target, "test");
    for (int64_t i = 0; i < gt->count; i++)
        target[i] = (float)gt->value[i];
    int32_t *ids = golden_ids(g, name, "ids");
    struct tensor *top = op_linear(&tape, &x, w, NULL), *bottom = op_linear(&tape, op_embed(&tape, w, ids, n), w, NULL);
    const double share = (double)N / (double)(N + n);
    struct tensor *loss = op_sum(&tape, op_mse(&tape, top, target, share), op_mse(&tape, bottom, target + N * V, 1 - share));
    golden_expect(golden_get(g, name, "loss"), loss->data, TOLERANCE, name);
    tape_backward(&tape, loss);
    golden_expect(golden_get(g, name, "w.grad"), w->grad, TOLERANCE, name);
    golden_expect(golden_get(g, name, "x.grad"), x.grad, TOLERANCE, name);
    if (learned)
        golden_expect(golden_get(g, name, "s.grad"), q.scales->parameter[0].t.grad, TOLERANCE, name);
    tape_release(&tape);
    fake_quant_end(&q);
    model_free(m);
    free(x.data);
    free(x.grad);
    free(target);
    free(ids);
}

Test(fake_quant, gradients_are_pytorchs_straight_through)
{
    struct golden g = golden_open("ops/fake_quant.txt");
    cr_assert_gt(golden_number(&g, "q4_0", "clipped"), 0); // some lie beyond the levels
    check_golden(&g, "q4_0", "Q4_0", 0);
    check_golden(&g, "q8_0", "Q8_0", 0);
    check_golden(&g, "learned", "Q4_0", 1);
    golden_close(&g);
}

// The loss sum_i (x w'^T)_i^2 in double, w' [V, D] given.
static double loss_of(const double *w, int64_t V, int64_t D, const float *x)
{
    double sum = 0;
    for (int64_t v = 0; v < V; v++) {
        double y = 0;
        for (int64_t i = 0; i < D; i++)
            y += (double)x[i] * w[v * D + i];
        sum += y * y;
    }
    return sum;
}

// The surrogate whose derivative the straight-through gradient is: w' moves with w one to one, or, where w is clipped, not at all.
static void check_differences(const char *type)
{
    struct model *m = make("llama", 1, 9);
    struct tensor *w = &m->parameter[0].t;
    const int64_t V = w->dim[0], D = w->dim[1];
    float x[256];
    struct fake_quant q;
    struct error err;
    struct tape tape;
    int64_t passed = 0;
    model_want_gradients(m);
    for (int64_t i = 0; i < D; i++)
        x[i] = sinf((float)i);
    cr_assert_eq(fake_quant_begin(&q, m, &(struct gguf_export_options){.type = type, .pure = 1}, 0, &err), 0, "%s", err.text);
    cr_assert_eq(fake_quant_refresh(&q, &err), 0, "%s", err.text);
    struct tensor in = {.name = "x", .n_dim = 2, .dim = {1, D}, .data = x};
    float *seen = xmalloc((size_t)(V * D) * sizeof *seen, "test"), *zero = xcalloc((size_t)V, sizeof *zero, "test");
    double *moved = xmalloc((size_t)(V * D) * sizeof *moved, "test");
    tensor_read_rows(w, 0, V, seen);
    for (int64_t i = 0; i < V * D; i++)
        moved[i] = (double)seen[i];
    tape_init(&tape, PRECISION_F32);
    tape.recording = 1;
    struct tensor *y = op_linear(&tape, &in, w, NULL);
    tape_backward(&tape, op_mse(&tape, y, zero, (double)V)); // a sum
    double largest = 0;
    for (int64_t i = 0; i < V * D; i++)
        largest = fmax(largest, fabs((double)w->grad[i]));
    for (int64_t i = 0; i < V * D; i += 7) {
        const double h = 1e-4, at = moved[i];
        moved[i] = at + h;
        const double up = loss_of(moved, V, D, x);
        moved[i] = at - h;
        const double slope = (up - loss_of(moved, V, D, x)) / (2 * h);
        moved[i] = at;
        if (w->grad[i] == 0.0f) // clipped: then it lies further from w' than rounding takes it
            continue;
        passed++;
        cr_assert_lt(fabs(slope - (double)w->grad[i]), FLOAT_SUM * largest, "%s: element %ld: %g, by differences %g", type, (long)i, (double)w->grad[i], slope);
    }
    cr_assert_gt(passed, V * D / 7 * 9 / 10, "%s: only %ld gradients pass", type, (long)passed);
    tape_release(&tape);
    fake_quant_end(&q);
    model_free(m);
    free(seen);
    free(zero);
    free(moved);
}

Test(fake_quant, gradients_by_differences_of_the_surrogate)
{
    for (int i = 0; i < N_TYPES; i++)
        check_differences(types[i]);
}

// ---- training ----

// *seen: what the last forward pass would see of the table; *file: a file of the weights that the training leaves.
static void train(struct model *m, const struct dataset *d, const char *type, int threads, int learned, float **seen, struct model **file)
{
    struct fake_quant q;
    struct error err;
    struct train_options o;
    struct train_result result;
    threads_set(threads);
    options_init(train_option_table, &o);
    o.steps = 3;
    o.batch = 2;
    cr_assert_eq(fake_quant_begin(&q, m, &(struct gguf_export_options){.type = type}, learned, &err), 0, "%s", err.text);
    struct trainer t = {.model = m, .data = d, .seq_len = 16, .seed = 7, .options = o, .title = "train", .quiet = 1, .loss = train_cross_entropy, .context = m,
                        .refresh = fake_quant_refresh, .refresh_context = &q, .beside = q.scales};
    cr_assert_eq(trainer_run(&t, &result, &err), 0, "%s", err.text);
    cr_assert_eq(fake_quant_refresh(&q, &err), 0, "%s", err.text);
    const struct tensor *w = &m->parameter[0].t;
    *seen = xmalloc((size_t)tensor_count(w) * sizeof **seen, "test");
    tensor_read_rows(w, 0, tensor_rows(w), *seen);
    for (int64_t i = 0; learned && i < q.scales->n_element; i++)
        learned += q.scales->data[i] != 0;
    cr_assert(!q.scales || learned > q.scales->n_element / 2, "%s: scales did not move", type);
    cr_assert_eq(fake_quant_settle(&q, &err), 0, "%s", err.text);
    struct model *before = through_file(q.master, &(struct gguf_export_options){.type = type});
    same_values(m, before, type); // all of it
    model_free(before);
    fake_quant_end(&q);
    *file = through_file(m, &(struct gguf_export_options){.type = type});
    threads_set(1);
}

Test(fake_quant, trains_the_same_at_any_number_of_threads_and_moves_the_weights)
{
    struct dataset d = tiny_data(400);
    struct model *m[2] = {make("llama", 1, 5), make("llama", 1, 5)}, *before = make("llama", 1, 5);
    float *seen[2];
    struct model *file[2];
    for (int i = 0; i < 2; i++)
        train(m[i], &d, "Q4_K_M", i + 1, 0, &seen[i], &file[i]);
    cr_assert_arr_eq(m[0]->data, m[1]->data, (size_t)m[0]->n_element * sizeof(float));
    cr_assert_arr_neq(m[0]->data, before->data, (size_t)before->n_element * sizeof(float));
    cr_assert_arr_eq(seen[0], seen[1], (size_t)tensor_count(&m[0]->parameter[0].t) * sizeof(float));
    for (int i = 0; i < 2; i++) {
        free(seen[i]);
        model_free(m[i]);
        model_free(file[i]);
    }
    model_free(before);
    dataset_release(&d);
}

Test(fake_quant, learned_scales_leave_weights_that_encode_to_themselves)
{
    static const char *const learned[] = {"Q4_0", "Q5_0", "Q8_0"};
    struct dataset d = tiny_data(400);
    for (int k = 0; k < 3; k++) {
        struct model *m[2] = {make("llama", 0, 5), make("llama", 0, 5)}, *file[2];
        float *seen[2];
        for (int i = 0; i < 2; i++)
            train(m[i], &d, learned[k], i + 1, 1, &seen[i], &file[i]);
        const int64_t n = tensor_count(&m[0]->parameter[0].t);
        float *written = xmalloc((size_t)n * sizeof *written, "test");
        tensor_read_rows(&file[0]->parameter[0].t, 0, n / 256, written);
        cr_assert_arr_eq(written, seen[0], (size_t)n * sizeof *written, "%s", learned[k]);
        cr_assert_arr_eq(seen[1], seen[0], (size_t)n * sizeof *written, "%s: threads", learned[k]);
        for (int i = 0; i < 2; i++) {
            free(seen[i]);
            model_free(m[i]);
            model_free(file[i]);
        }
        free(written);
    }
    dataset_release(&d);
}

Test(fake_quant, refuses)
{
    struct model *narrow = tiny_model(1, 32, 1), *wide = make("llama", 1, 2);
    struct gguf_plan plan;
    struct fake_quant q;
    struct error err;
    cr_assert_eq(fake_quant_plan(&plan, narrow, &(struct gguf_export_options){.type = "Q4_K"}, &err), -1);
    cr_assert(strstr(err.text, "rows of 32 values"), "%s", err.text);
    cr_assert_eq(fake_quant_begin(&q, wide, &(struct gguf_export_options){.type = "Q4_K"}, 0, &err), 0, "%s", err.text);
    wide->parameter[0].t.data[256 * 3 + 5] = INFINITY;
    cr_assert_eq(fake_quant_refresh(&q, &err), -1);
    cr_assert(strstr(err.text, "row 3, column 5"), "%s", err.text);
    fake_quant_end(&q);
    model_free(narrow);
    model_free(wide);
}
