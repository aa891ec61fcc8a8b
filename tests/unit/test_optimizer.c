// AdamW and SGD against naive loops in double; the same bits at any number of threads.
#include <criterion/criterion.h>
#include <math.h>

#include "common/base/random.h"
#include "common/base/threads.h"
#include "common/train/optimizer.h"
#include "tests/unit/tiny.h"
#include "tests/unit/tolerance.h"

static void fill_gradients(struct model *m, uint64_t step)
{
    struct random r;
    random_init(&r, 7, "gradients", step);
    for (int64_t i = 0; i < m->n_element; i++)
        m->grad[i] = (float)random_normal(&r);
}

// f32 state against double: a few roundings a step, on values near 1.
#define TOLERANCE 2e-6

static void compare(int kind)
{
    const struct optimizer_options p = {
        .kind = kind, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .momentum = 0.8};
    const double scale = 0.5, lr = 0.01;
    struct model *m = tiny_model(2, 32, 1);
    model_want_gradients(m);
    struct optimizer o;
    optimizer_init(&o, &p, m);
    const int64_t n = m->n_element;
    double *w = xcalloc((size_t)n, sizeof *w, "test"), *mean = xcalloc((size_t)n, sizeof *w, "test");
    double *square = xcalloc((size_t)n, sizeof *w, "test");
    for (int64_t i = 0; i < n; i++)
        w[i] = (double)m->data[i];
    for (int step = 1; step <= 4; step++) {
        fill_gradients(m, (uint64_t)step);
        for (int q = 0; q < m->n_parameter; q++)
            for (int64_t j = 0; j < tensor_count(&m->parameter[q].t); j++) {
                const int64_t i = m->parameter[q].offset + j;
                const double g = (double)m->grad[i] * scale, decay = m->parameter[q].decay ? lr * 0.1 * w[i] : 0;
                if (kind == OPTIMIZER_ADAMW) {
                    mean[i] = 0.9 * mean[i] + 0.1 * g;
                    square[i] = 0.95 * square[i] + 0.05 * g * g;
                    w[i] -= lr * (mean[i] / (1 - pow(0.9, step))) / (sqrt(square[i] / (1 - pow(0.95, step))) + 1e-8);
                } else {
                    mean[i] = 0.8 * mean[i] + g;
                    w[i] -= lr * mean[i];
                }
                w[i] -= decay;
            }
        optimizer_step(&o, m, lr, scale);
    }
    for (int64_t i = 0; i < n; i++) {
        cr_assert_lt(fabs(w[i] - (double)m->data[i]), TOLERANCE, "weight %ld: %g, expected %g", (long)i,
                     (double)m->data[i], w[i]);
        cr_assert_eq(m->grad[i], 0.0f);
    }
    free(w);
    free(mean);
    free(square);
    optimizer_release(&o);
    model_free(m);
}

Test(optimizer, adamw_against_a_naive_loop) { compare(OPTIMIZER_ADAMW); }
Test(optimizer, sgd_against_a_naive_loop) { compare(OPTIMIZER_SGD); }

Test(optimizer, norm_and_step_at_any_number_of_threads)
{
    struct layer_shape layer = {.n_head = 4, .n_kv_head = 2, .n_ff = 700}; // several chunks
    const struct config c = {.model_type = "llama",
                             .n_layer = 1,
                             .hidden = 256,
                             .head_dim = 64,
                             .vocab = 1001,
                             .context = 64,
                             .layer = &layer,
                             .norm_eps = 1e-5,
                             .rope_theta = 10000,
                             .tie_embeddings = 1,
                             .bos_id = -1,
                             .eos_id = -1};
    const struct optimizer_options p = {
        .kind = OPTIMIZER_ADAMW, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
    struct model *m[3];
    double norm[3], exact = 0;
    for (int i = 0; i < 3; i++) {
        threads_set(i + 1);
        m[i] = model_new(&c, 1);
        model_initialise(m[i], 3);
        model_want_gradients(m[i]);
        struct optimizer o;
        optimizer_init(&o, &p, m[i]);
        for (int step = 0; step < 2; step++) {
            fill_gradients(m[i], (uint64_t)step);
            norm[i] = gradient_norm(m[i]);
            if (i == 0 && step == 1)
                for (int64_t j = 0; j < m[i]->n_element; j++)
                    exact += (double)m[i]->grad[j] * (double)m[i]->grad[j];
            optimizer_step(&o, m[i], 1e-3, 0.9);
        }
        optimizer_release(&o);
    }
    cr_assert_float_eq(norm[0], sqrt(exact), DOUBLE_SUM * norm[0]);
    for (int i = 1; i < 3; i++) {
        cr_assert_eq(norm[0], norm[i]);
        cr_assert_arr_eq(m[0]->data, m[i]->data, (size_t)m[0]->n_element * sizeof(float));
    }
    for (int i = 0; i < 3; i++)
        model_free(m[i]);
}
