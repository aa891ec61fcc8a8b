// test_lstm.c: the LSTM and the classifier around it against PyTorch (tests/ref/lstm_golden.py), by finite differences, behind a weight hook,
// and to a folder and back.
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/random.h"
#include "common/model/save.h"
#include "common/tensor/gradcheck.h"
#include "tests/unit/sequences.h"
#include "tests/unit/tolerance.h"

// f32 against float64 through up to 7 steps in time
#define OP_TOLERANCE 5e-6

#define WEIGHTS 4
static const char *const names[WEIGHTS] = {"weight_ih_l0", "bias_ih_l0", "weight_hh_l0", "bias_hh_l0"};

struct lstm_case {
    const struct golden *golden;
    const char *name;
    int64_t B, T;
    int32_t *length;
    struct tensor x, w[2][WEIGHTS]; // in each direction
    const float *target;
};

static struct tensor tensor_of(const struct golden *g, const char *prefix, const char *name)
{
    const struct golden_tensor *from = golden_get(g, prefix, name);
    struct tensor t = {.name = from->name, .n_dim = from->n_dim, .dim = {from->dim[0], from->n_dim == 2 ? from->dim[1] : 1, 1}, .needs_grad = 1};
    t.data = xmalloc((size_t)from->count * sizeof *t.data, "a test's tensor");
    t.grad = xcalloc((size_t)from->count, sizeof *t.grad, "a test's tensor");
    for (int64_t i = 0; i < from->count; i++)
        t.data[i] = (float)from->value[i];
    return t;
}

static const char *weight_name(char to[64], int direction, int k, const char *suffix)
{
    snprintf(to, 64, "%s%s%s", names[k], direction ? "_reverse" : "", suffix);
    return to;
}

static void case_open(struct lstm_case *c, const struct golden *g, const char *name)
{
    char text[64];
    *c = (struct lstm_case){.golden = g, .name = name, .B = (int64_t)golden_number(g, name, "B"), .T = (int64_t)golden_number(g, name, "T")};
    c->length = golden_ids(g, name, "length");
    c->x = tensor_of(g, name, "x");
    for (int d = 0; d < 2; d++)
        for (int k = 0; k < WEIGHTS; k++)
            c->w[d][k] = tensor_of(g, name, weight_name(text, d, k, ""));
    const struct tensor target = tensor_of(g, name, "target");
    c->target = target.data;
    free(target.grad);
}

static void tensor_drop(struct tensor *t)
{
    free(t->data);
    free(t->grad);
}

static void case_close(struct lstm_case *c)
{
    free(c->length);
    free((float *)(uintptr_t)c->target);
    tensor_drop(&c->x);
    for (int d = 0; d < 2; d++)
        for (int k = 0; k < WEIGHTS; k++)
            tensor_drop(&c->w[d][k]);
}

static struct tensor *both_directions(struct lstm_case *c, struct tape *tape)
{
    struct tensor *h[2];
    for (int d = 0; d < 2; d++) {
        struct tensor *z = op_linear(tape, &c->x, &c->w[d][0], &c->w[d][1]);
        h[d] = op_lstm(tape, z, &c->w[d][2], &c->w[d][3], c->B, c->T, c->length, d);
    }
    return op_join(tape, h[0], h[1]);
}

static void expect(struct lstm_case *c, const char *name, const float *found)
{
    golden_expect(golden_get(c->golden, c->name, name), found, OP_TOLERANCE, c->golden->path);
}

static const char *const cases[] = {"small", "chunks", "short"};
#define CASES 3

static void check_case(const struct golden *g, const char *name, int threads)
{
    struct lstm_case c;
    struct tape tape;
    char text[64];
    threads_set(threads);
    case_open(&c, g, name);
    tape_init(&tape, PRECISION_F32);
    tape.recording = 1;
    struct tensor *y = both_directions(&c, &tape);
    expect(&c, "y", y->data);
    struct tensor *loss = op_mse(&tape, y, c.target, 1);
    expect(&c, "loss", loss->data);
    tape_backward(&tape, loss);
    expect(&c, "x.grad", c.x.grad);
    for (int d = 0; d < 2; d++)
        for (int k = 0; k < WEIGHTS; k++)
            expect(&c, weight_name(text, d, k, ".grad"), c.w[d][k].grad);
    tape_release(&tape);
    case_close(&c);
}

Test(lstm, is_pytorchs)
{
    struct golden g = golden_open("ops/lstm.txt");
    gemm_init();
    for (int i = 0; i < CASES; i++)
        for (int threads = 1; threads <= 3; threads++)
            check_case(&g, cases[i], threads);
    golden_close(&g);
}

static double projected(void *context, struct tape *tape, struct tensor **root)
{
    return gradcheck_project(tape, both_directions(context, tape), 11, root);
}

Test(lstm, finite_differences)
{
    struct golden g = golden_open("ops/lstm.txt");
    gemm_init();
    for (int i = 0; i < CASES; i++) {
        struct lstm_case c;
        case_open(&c, &g, cases[i]);
        struct tensor *input[1 + 2 * WEIGHTS] = {&c.x};
        for (int k = 0; k < 2 * WEIGHTS; k++)
            input[1 + k] = &c.w[k / WEIGHTS][k % WEIGHTS];
        const struct gradcheck check = {.function = projected, .context = &c, .input = input, .n_input = 1 + 2 * WEIGHTS, .step = 1.0 / 64,
                                        .directions = 3, .element = 130, .seed = 3};
        struct gradcheck_result r;
        gradcheck_run(&check, &r);
        cr_expect(r.worst <= BY_DIFFERENCES, "%s: finite differences at %s give %.7g, the tape %.7g", cases[i], r.where, r.expected, r.found);
        case_close(&c);
    }
    golden_close(&g);
}

// 1 and 2 threads give the same bits, over several chunks of sequences and without lengths.
Test(lstm, same_bits_at_any_number_of_threads)
{
    enum { B = 37, T = 11, U = 21, G = 4 * U };
    float *first = NULL;
    gemm_init();
    for (int turn = 0; turn < 4; turn++) {
        struct tape tape;
        struct random r;
        static float z[B * T * G], w[G * U], bias[G], grad[B * T * G + G * U + G], target[B * T * U];
        threads_set(1 + turn % 2);
        random_init(&r, 1, "lstm", 0);
        for (int i = 0; i < B * T * G; i++)
            z[i] = (float)random_normal(&r);
        for (int i = 0; i < G * U; i++)
            w[i] = (float)(0.3 * random_normal(&r));
        memset(grad, 0, sizeof grad);
        struct tensor zt = {.name = "z", .n_dim = 2, .dim = {B * T, G, 1}, .data = z, .needs_grad = 1, .grad = grad};
        struct tensor wt = {.name = "w", .n_dim = 2, .dim = {G, U, 1}, .data = w, .needs_grad = 1, .grad = grad + B * T * G};
        struct tensor bt = {.name = "bias", .n_dim = 1, .dim = {G, 1, 1}, .data = bias, .needs_grad = 1, .grad = grad + B * T * G + G * U};
        tape_init(&tape, PRECISION_F32);
        tape.recording = 1;
        struct tensor *y = op_lstm(&tape, &zt, &wt, &bt, B, T, NULL, turn / 2);
        tape_backward(&tape, op_mse(&tape, y, target, 1));
        if (turn % 2 == 0) {
            free(first);
            first = xmalloc(sizeof grad, "gradients");
            memcpy(first, grad, sizeof grad);
        }
        cr_expect(memcmp(first, grad, sizeof grad) == 0, "direction %d", turn / 2);
        tape_release(&tape);
    }
    free(first);
}

static void doubled_rows(void *context, const struct tensor *w, int64_t row0, int64_t n, float *to)
{
    const float *stored = context;
    for (int64_t i = 0; i < n * tensor_columns(w); i++)
        to[i] = 2 * stored[row0 * tensor_columns(w) + i];
}

static void doubled_backward(void *context, const struct tensor *w, int64_t row0, int64_t n, float *gradient)
{
    (void)context;
    (void)row0;
    for (int64_t i = 0; i < n * tensor_columns(w); i++)
        gradient[i] *= 2;
}

// A hook that doubles half of the weights leaves the values, and doubles their gradient.
Test(lstm, honours_hooks)
{
    struct golden g = golden_open("ops/lstm.txt");
    struct lstm_case c;
    struct tape tape;
    gemm_init();
    case_open(&c, &g, "small");
    struct weight_hook hook[2];
    for (int d = 0; d < 2; d++) {
        struct tensor *w = &c.w[d][2];
        for (int64_t i = 0; i < tensor_count(w); i++)
            w->data[i] /= 2;
        hook[d] = (struct weight_hook){.context = w->data, .rows = doubled_rows, .backward = doubled_backward};
        w->hook = &hook[d];
    }
    tape_init(&tape, PRECISION_F32);
    tape.recording = 1;
    struct tensor *y = both_directions(&c, &tape);
    expect(&c, "y", y->data);
    tape_backward(&tape, op_mse(&tape, y, c.target, 0.5));
    expect(&c, "weight_hh_l0.grad", c.w[0][2].grad);
    expect(&c, "weight_hh_l0_reverse.grad", c.w[1][2].grad);
    tape_release(&tape);
    case_close(&c);
    golden_close(&g);
}

Test(bilstm, is_pytorchs)
{
    sequences_check("bilstm", 1, 0, 0);
    sequences_check("bilstm", 2, 1, 0);
}

Test(bilstm, padding_changes_nothing) { sequences_check_padding("bilstm"); }

Test(bilstm, goes_to_a_folder_and_back)
{
    char folder[] = "/tmp/pdq-bilstm-XXXXXX";
    struct sequences s;
    struct error err;
    cr_assert_not_null(mkdtemp(folder));
    sequences_open(&s, "bilstm", "ce");
    const struct save_options options = {.dtype = DTYPE_F32};
    cr_assert_eq(model_save(s.model, folder, &options, &err), 0, "%s", err.text);
    struct model *back = model_load(folder, &err);
    cr_assert_not_null(back, "%s", err.text);
    cr_assert_arr_eq(back->data, s.model->data, (size_t)back->n_element * sizeof(float));
    const struct config *c = &back->config;
    cr_expect(c->vocab == 23 && c->n_embedding == 10 && c->n_cell == 7 && c->hidden == 9 && c->n_label == 3 && c->head == HEAD_CLASSES);
    const int64_t lstm = 2 * (4 * 7 * 10 + 4 * 7 * 7 + 2 * 4 * 7), head = 9 * 14 + 9 + 3 * 9 + 3;
    cr_expect_eq(config_parameters(c), 23 * 10 + lstm + head);
    // the products of a token, and of what is done once for a sequence; a table that is looked up multiplies nothing
    cr_expect_eq(model_flops_per_token(c, 1), 2.0 * (2 * 28 * 17 + 9 * 14 + 3 * 9));
    model_free(back);
    sequences_close(&s);
    directory_remove(folder, &err);
}
