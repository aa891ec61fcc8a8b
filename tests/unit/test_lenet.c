// test_lenet.c: a multi-layer perceptron against PyTorch (tests/ref/lenet_golden.py): logits, losses, gradients, ten steps of
// Adam, scores before training; dense and with sparse storage; and by finite differences.
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/random.h"
#include "common/model/compact.h"
#include "common/model/load.h"
#include "common/model/save.h"
#include "common/tensor/gradcheck.h"
#include "common/tensor/sparse_weight.h"
#include "prune/lottery.h"
#include "tests/unit/golden.h"
#include "tests/unit/tolerance.h"

#define TOLERANCE 5e-6       // f32 against float64
#define ADAM_TOLERANCE 2e-5  // ten steps in f32
#define HESSIAN_TOLERANCE 2e-3 // a central difference of f32 gradients against the exact product

static struct model *model_of(const int64_t *size, int n)
{
    struct layer_shape layer[8] = {{0}};
    for (int l = 0; l < n - 2; l++)
        layer[l].n_ff = size[l + 1];
    const struct config c = {
        .model_type = "lenet", .n_layer = n - 2, .hidden = size[0], .vocab = size[n - 1], .layer = layer, .image_std = 1, .bos_id = -1, .eos_id = -1};
    return model_new(&c, 1);
}

static struct model *golden_model(const struct golden *g, const char *prefix, const int64_t *size, int n)
{
    struct model *m = model_of(size, n);
    for (int i = 0; i < m->n_parameter; i++) {
        const struct golden_tensor *t = golden_get(g, prefix, m->parameter[i].name);
        cr_assert_eq(t->count, tensor_count(&m->parameter[i].t));
        for (int64_t k = 0; k < t->count; k++)
            m->parameter[i].t.data[k] = (float)t->value[k];
    }
    return m;
}

struct batch {
    struct golden golden;
    struct model *student, *teacher;
    struct tensor x;
    int32_t *y;
};

static void batch_init(struct batch *b)
{
    static const int64_t size[] = {12, 9, 7, 5}, teacher[] = {12, 11, 10, 5};
    b->golden = golden_open("lenet/lenet.txt");
    b->student = golden_model(&b->golden, "w", size, 4);
    b->teacher = golden_model(&b->golden, "teacher", teacher, 4);
    const struct golden_tensor *x = golden_get(&b->golden, NULL, "x");
    b->x = (struct tensor){.name = "x", .n_dim = 2, .dim = {x->dim[0], x->dim[1], 1}};
    b->x.data = xmalloc((size_t)x->count * sizeof(float), "x");
    for (int64_t i = 0; i < x->count; i++)
        b->x.data[i] = (float)x->value[i];
    b->y = golden_ids(&b->golden, NULL, "y");
}

static void batch_release(struct batch *b)
{
    golden_close(&b->golden);
    model_free(b->student);
    model_free(b->teacher);
    free(b->x.data);
    free(b->y);
}

static void expect_gradients(const struct batch *b, const char *prefix)
{
    for (int i = 0; i < b->student->n_parameter; i++)
        golden_expect(golden_get(&b->golden, prefix, b->student->parameter[i].name), b->student->parameter[i].t.grad, TOLERANCE,
                      b->golden.path);
}

static double backward(struct batch *b, int distils, struct head_result *result)
{
    struct tape tape, teacher_tape;
    tape_init(&tape, PRECISION_F32);
    tape_init(&teacher_tape, PRECISION_F32);
    tape.recording = 1;
    model_want_gradients(b->student);
    memset(b->student->grad, 0, (size_t)b->student->n_element * sizeof(float));
    const struct forward f = {.x = &b->x, .B = b->x.dim[0], .T = 1};
    struct tensor *states = model_forward(b->student, &tape, &f);
    struct head_spec spec = {.targets = b->y, .temperature = 3, .alpha = 0.6, .weight = 1, .bias = model_head_bias(b->student)};
    if (distils) {
        spec.teacher_x = model_forward(b->teacher, &teacher_tape, &f)->data;
        spec.teacher_w = model_head(b->teacher);
        spec.teacher_bias = model_head_bias(b->teacher);
    }
    struct tensor *loss = op_head_loss(&tape, states, model_head(b->student), &spec, result);
    tape_backward(&tape, loss);
    tape_release(&tape);
    tape_release(&teacher_tape);
    return result->loss;
}

Test(lenet, losses_and_gradients_are_pytorchs)
{
    struct batch b;
    struct head_result r;
    gemm_init();
    batch_init(&b);
    backward(&b, 0, &r);
    cr_expect_float_eq(r.ce, golden_number(&b.golden, NULL, "ce"), FLOAT_FEW);
    expect_gradients(&b, "ce");
    backward(&b, 1, &r);
    cr_expect_float_eq(r.kl, golden_number(&b.golden, NULL, "kl"), FLOAT_FEW);
    cr_expect_float_eq(r.loss, golden_number(&b.golden, NULL, "kd"), 4 * FLOAT_FEW); // T^2 times the KL's error
    expect_gradients(&b, "kd");
    batch_release(&b);
}

Test(lenet, ten_steps_of_adam_are_pytorchs)
{
    struct batch b;
    struct head_result r;
    struct optimizer o;
    const struct optimizer_options options = {.kind = OPTIMIZER_ADAMW, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    gemm_init();
    batch_init(&b);
    optimizer_init(&o, &options, b.student);
    const struct golden_tensor *losses = golden_get(&b.golden, NULL, "adam");
    for (int64_t step = 0; step < losses->count; step++) {
        backward(&b, 0, &r);
        cr_expect_float_eq(r.ce, losses->value[step], ADAM_TOLERANCE, "step %ld: %.9g, PyTorch %.9g", (long)step, r.ce,
                           losses->value[step]);
        optimizer_step(&o, b.student, 1.2e-2, 1);
    }
    optimizer_release(&o);
    batch_release(&b);
}

// The trainer of a method's scores reads images, whose pixels are bytes; here the golden batch takes their place.
static struct tensor *batch_loss(void *context, struct tape *tape, const struct forward *forward, const int32_t *targets,
                                 double weight, int64_t step, struct loss_parts *parts)
{
    struct batch *b = context;
    const struct forward f = {.x = &b->x, .B = b->x.dim[0], .T = 1};
    (void)forward;
    (void)targets;
    return train_cross_entropy(b->student, tape, &f, b->y, weight, step, parts);
}

Test(lenet, scores_before_training_are_the_papers)
{
    struct batch b;
    struct error err;
    gemm_init();
    batch_init(&b);
    unsigned char pixel[12] = {0};
    int32_t label[1] = {0};
    const struct images images = {.pixel = pixel, .label = label, .n = 1, .height = 3, .width = 4, .classes = 5};
    struct trainer t = {.model = b.student, .images = &images, .seq_len = 1, .loss = batch_loss, .context = &b};
    options_init(train_option_table, &t.options);
    t.options.batch = 1;
    model_want_gradients(b.student);
    float *score = xcalloc((size_t)b.student->n_element, sizeof *score, "scores");
    for (const struct at_init *a = at_init_methods; a->name; a++) {
        if (strcmp(a->name, "random") == 0 || strcmp(a->name, "magnitude") == 0)
            continue;
        cr_assert_eq(a->score(&t, b.student, 1, score, &err), 0, "%s", err.text);
        for (int i = 0; i < b.student->n_parameter; i++) {
            const struct parameter *p = &b.student->parameter[i];
            if (mask_is_cut(b.student, p))
                golden_expect(golden_get(&b.golden, a->name, p->name), score + p->offset,
                              strcmp(a->name, "grasp") ? TOLERANCE : HESSIAN_TOLERANCE, b.golden.path);
        }
    }
    free(score);
    batch_release(&b);
}

static unsigned char *some_mask(const struct model *m, double share, uint64_t seed)
{
    unsigned char *mask = mask_ones(m);
    struct random r;
    random_init(&r, seed, "mask", 0);
    for (int i = 0; i < m->n_parameter; i++)
        for (int64_t k = 0; k < tensor_count(&m->parameter[i].t) && m->parameter[i].t.n_dim == 2; k++)
            mask[m->parameter[i].offset + k] = random_uniform(&r) < share;
    return mask;
}

// Products of sparse weights are the dense ones: losses and gradients of kept weights, for batches that fill blocks and such that do not.
Test(lenet, sparse_storage_computes_the_same)
{
    static const int64_t size[] = {37, 29, 18, 5};
    gemm_init();
    for (int64_t B = 3; B < 200; B = 2 * B + 7)
        for (int part = 0; part < 3; part++) {
            struct model *m = model_of(size, 4);
            model_initialise(m, 5);
            for (int64_t i = 0; i < m->n_element; i++)
                m->data[i] += 0.01f * (float)(i % 7);
            unsigned char *mask = some_mask(m, (const double[]){0, 0.2, 1}[part], 3);
            mask_zero(m, mask);
            struct model *sparse = model_compact(m, mask, 1), *back = model_new(&m->config, 1);
            struct batch d = {.student = m, .x = {.name = "x", .n_dim = 2, .dim = {B, size[0], 1}}}, s;
            d.x.data = xmalloc((size_t)(B * size[0]) * sizeof(float), "x");
            d.y = xmalloc((size_t)B * sizeof *d.y, "y");
            for (int64_t i = 0; i < B * size[0]; i++)
                d.x.data[i] = (float)(i * 37 % 101) / 101 - 0.3f;
            for (int64_t i = 0; i < B; i++)
                d.y[i] = (int32_t)(i % 5);
            s = d;
            s.student = sparse;
            struct head_result a, b;
            backward(&d, 0, &a);
            backward(&s, 0, &b);
            cr_expect_float_eq(a.ce, b.ce, FLOAT_FEW); // sums of up to 37 products in another order
            model_expand(sparse, back);
            cr_assert_arr_eq(back->data, m->data, (size_t)m->n_element * sizeof(float));
            memcpy(sparse->data, sparse->grad, (size_t)sparse->n_element * sizeof(float)); // gradients go back the same way
            model_expand(sparse, back);
            for (int64_t i = 0; i < m->n_element; i++)
                // the same, over up to 192 rows
                cr_assert_float_eq(back->data[i], mask[i] ? m->grad[i] : 0.0f, FLOAT_SUM, "B %ld, %ld: %g and %g", (long)B, (long)i,
                                   (double)back->data[i], (double)m->grad[i]);
            model_free(m);
            model_free(sparse);
            model_free(back);
            free(mask);
            free(d.x.data);
            free(d.y);
        }
}

struct op_net { // relu and dropout between two products, with a gradient through each
    struct tensor *x, *w;
    double rate;
};

static double op_net(void *context, struct tape *tape, struct tensor **root)
{
    const struct op_net *n = context;
    struct tensor *y = op_linear(tape, n->x, n->w, NULL);
    y = op_relu(tape, y);
    if (n->rate > 0)
        y = op_dropout(tape, y, n->rate, 9, "net", 4);
    return gradcheck_project(tape, y, 11, root);
}

Test(lenet, relu_and_dropout_by_finite_differences)
{
    gemm_init();
    for (int with_dropout = 0; with_dropout < 2; with_dropout++) {
        float xs[15], ws[12], gx[15] = {0}, gw[12] = {0};
        for (int i = 0; i < 15; i++)
            xs[i] = (float)(i * 7 % 15) / 5 - 1.3f;
        for (int i = 0; i < 12; i++)
            ws[i] = (float)(i * 5 % 12) / 4 - 1.1f;
        struct tensor x = {.name = "x", .n_dim = 2, .dim = {5, 3, 1}, .data = xs, .grad = gx, .needs_grad = 1};
        struct tensor w = {.name = "w", .n_dim = 2, .dim = {4, 3, 1}, .data = ws, .grad = gw, .needs_grad = 1};
        struct op_net net = {&x, &w, with_dropout ? 0.4 : 0};
        struct tensor *input[] = {&x, &w};
        // a step small enough that no unit crosses zero here
        const struct gradcheck g = {.function = op_net, .context = &net, .input = input, .n_input = 2, .step = 1.0 / 256,
                                    .directions = 4, .element = 15, .seed = 2};
        struct gradcheck_result r;
        gradcheck_run(&g, &r);
        // rounding of f32 over the small step: 6e-8 * 256 * a few
        cr_expect_lt(r.worst, 2e-3, "%s: expected %g, found %g", r.where, r.expected, r.found);
    }
}

Test(lenet, dropout_keeps_its_share_and_its_draw)
{
    enum { N = 20000 };
    static float ones[N];
    struct tape tape;
    tape_init(&tape, PRECISION_F32);
    for (int i = 0; i < N; i++)
        ones[i] = 1;
    struct tensor x = {.name = "x", .n_dim = 2, .dim = {N / 100, 100, 1}, .data = ones};
    struct tensor *a = op_dropout(&tape, &x, 0.3, 1, "a", 5), *b = op_dropout(&tape, &x, 0.3, 1, "a", 5);
    struct tensor *c = op_dropout(&tape, &x, 0.3, 1, "a", 6);
    int kept = 0, same = 0;
    for (int i = 0; i < N; i++) {
        kept += a->data[i] != 0.0f;
        same += (a->data[i] != 0.0f) == (c->data[i] != 0.0f);
        cr_assert(a->data[i] == b->data[i] && (a->data[i] == 0.0f || fabsf(a->data[i] - 1 / 0.7f) < (float)FLOAT_FEW));
    }
    // 300 is more than four standard deviations of a binomial, here and below
    cr_expect(abs(kept - 14000) < 300, "%d of %d kept", kept, N);
    cr_expect(abs(same - 11600) < 300, "%d alike in the next step", same); // 0.7^2 + 0.3^2
    tape_release(&tape);
}

// What the config says of the inputs is done before the first matrix.
Test(lenet, inputs_are_standardised)
{
    struct batch b;
    struct head_result plain, r;
    gemm_init();
    batch_init(&b);
    backward(&b, 0, &plain);
    for (int64_t i = 0; i < tensor_count(&b.x); i++)
        b.x.data[i] = b.x.data[i] * 0.25f + 0.5f;
    b.student->config.image_mean = 0.5;
    b.student->config.image_std = 0.25;
    backward(&b, 0, &r);
    cr_expect_float_eq(r.ce, plain.ce, FLOAT_FEW);
    batch_release(&b);
}

Test(lenet, goes_to_a_folder_and_back)
{
    static const int64_t size[] = {6, 4, 3};
    char folder[] = "/tmp/pdq-lenet-XXXXXX";
    struct error err;
    cr_assert_not_null(mkdtemp(folder));
    struct model *m = model_of(size, 3);
    m->config.image_mean = 0.1307;
    m->config.image_std = 0.3081;
    m->config.lecun_init = 1;
    model_initialise(m, 1);
    const struct save_options options = {.dtype = DTYPE_F32};
    cr_assert_eq(model_save(m, folder, &options, &err), 0, "%s", err.text);
    struct model *back = model_load(folder, &err);
    cr_assert_not_null(back, "%s", err.text);
    cr_assert_arr_eq(back->data, m->data, (size_t)m->n_element * sizeof(float));
    cr_assert(back->config.image_mean == 0.1307 && back->config.image_std == 0.3081 && back->config.lecun_init);
    cr_assert_eq(config_parameters(&back->config), 6 * 4 + 4 + 4 * 3 + 3);
    cr_assert_eq(model_flops_per_token(&back->config, 1), 2.0 * (6 * 4 + 4 * 3));
    model_free(m);
    model_free(back);
    directory_remove(folder, &err);
}
