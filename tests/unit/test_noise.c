// Noise in a language model's inputs: its shares, where the tokens come from, what a hidden one does in a model, and the same bits again.
#include <criterion/criterion.h>
#include <math.h>

#include "common/base/log.h"
#include "common/base/threads.h"
#include "common/train/trainer.h"
#include "tests/unit/tiny.h"
#include "tests/unit/tolerance.h"

#define TOKENS 20000

Test(noise, shares_and_distribution)
{
    struct dataset d = tiny_data(500);
    int32_t *a = xmalloc(TOKENS * sizeof *a, "test"), *b = xmalloc(TOKENS * sizeof *b, "test");
    int64_t hidden = 0, replaced = 0, of_data[TINY_VOCAB] = {0}, drawn[TINY_VOCAB] = {0};
    for (int i = 0; i < TOKENS; i++)
        a[i] = b[i] = 1000;
    dataset_noise(&d, 0.2, 0.3, NO_TOKEN, 5, 7, a, TOKENS);
    dataset_noise(&d, 0.2, 0.3, NO_TOKEN, 5, 7, b, TOKENS);
    cr_assert_arr_eq(a, b, TOKENS * sizeof *a);
    dataset_noise(&d, 0.2, 0.3, NO_TOKEN, 5, 8, b, TOKENS);
    cr_assert_neq(memcmp(a, b, TOKENS * sizeof *a), 0);
    for (int i = 0; i < d.n_token; i++)
        of_data[d.token[i]]++;
    for (int i = 0; i < TOKENS; i++) {
        hidden += a[i] == NO_TOKEN;
        replaced += a[i] >= 0 && a[i] < 1000;
        if (a[i] >= 0 && a[i] < 1000)
            drawn[a[i]]++;
    }
    cr_expect_lt(fabs((double)hidden / TOKENS - 0.2), share_deviations(5, 0.2, TOKENS));
    cr_expect_lt(fabs((double)replaced / TOKENS - 0.3), share_deviations(5, 0.3, TOKENS));
    for (int v = 0; v < TINY_VOCAB; v++) {
        const double p = (double)of_data[v] / 500, n = (double)replaced;
        cr_expect_leq(fabs((double)drawn[v] - n * p), 5 * sqrt(n * p * (1 - p)), "token %d: %ld of %g, %g of the data", v, (long)drawn[v], n, p);
    }
    free(a);
    free(b);
    dataset_release(&d);
}

// A hidden token's embedding is zero and gets no gradient; others are as they are.
Test(noise, hidden_token_in_the_embedding)
{
    float w[8] = {1, 2, 3, 4, 5, 6, 7, 8}, grad[8] = {0};
    struct tensor table = {.name = "table", .n_dim = 2, .dim = {4, 2, 1}, .data = w, .grad = grad, .needs_grad = 1};
    const int32_t ids[] = {2, NO_TOKEN, 0, 2};
    const float wanted[] = {5, 6, 0, 0, 1, 2, 5, 6}, target[8] = {0}, slope[] = {1, 2, 0, 0, 10, 12, 0, 0}; // of the sum of squares / 2
    struct tape tape;
    tape_init(&tape, PRECISION_F32);
    tape.recording = 1;
    struct tensor *y = op_embed(&tape, &table, ids, 4);
    cr_expect_arr_eq(y->data, wanted, sizeof wanted);
    tape_backward(&tape, op_mse(&tape, y, target, 4));
    for (int i = 0; i < 8; i++)
        cr_expect_float_eq(grad[i], slope[i], FLOAT_FEW, "%d: %g, wanted %g", i, (double)grad[i], (double)slope[i]);
    tape_release(&tape);
}

static struct model *train(int threads, double hide, double replace, double *loss)
{
    struct dataset d = tiny_data(400);
    struct model *m = tiny_model(2, 32, 5);
    struct train_result result;
    struct error err;
    struct trainer t = {.model = m, .data = &d, .seq_len = 20, .seed = 3, .title = "train", .quiet = 1, .loss = train_cross_entropy, .context = m};
    log_level = LOG_QUIET;
    threads_set(threads);
    options_init(train_option_table, &t.options);
    t.options.steps = 4;
    t.options.batch = 2;
    t.options.hide_tokens = hide;
    t.options.replace_tokens = replace;
    cr_assert_eq(trainer_run(&t, &result, &err), 0, "%s", err.text);
    *loss = result.first_loss;
    options_release(train_option_table, &t.options);
    dataset_release(&d);
    return m;
}

Test(noise, training_is_the_same_at_any_number_of_threads)
{
    static const double share[][2] = {{0.3, 0}, {0, 0.3}, {0.2, 0.2}};
    double clean, loss[2];
    model_free(train(1, 0, 0, &clean));
    for (int k = 0; k < 3; k++) {
        struct model *m[2];
        for (int i = 0; i < 2; i++)
            m[i] = train(1 + i, share[k][0], share[k][1], &loss[i]);
        cr_expect_arr_eq(m[0]->data, m[1]->data, (size_t)m[0]->n_element * sizeof(float));
        cr_expect(isfinite(loss[0]) && loss[0] != clean, "%g with noise, %g without", loss[0], clean);
        for (int i = 0; i < 2; i++)
            model_free(m[i]);
    }
}

Test(noise, something_of_the_text_must_be_left)
{
    struct error err;
    const struct train_options o = {.steps = 1, .hide_tokens = 0.6, .replace_tokens = 0.5};
    cr_expect_eq(train_check(&o, "train", &err), -1);
    cr_expect_not_null(strstr(err.text, "leave nothing of the text"), "%s", err.text);
}
