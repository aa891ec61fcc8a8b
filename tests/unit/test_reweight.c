// Weights of sources by held-out losses, against Algorithm 1 of Xia et al. 2023 (Sheared LLaMA) in long double, and what a log gives back of them.
#include <math.h>

#include "common/base/random.h"
#include "common/train/reweight.h"
#include "tests/unit/tiny.h"
#include "tests/unit/tolerance.h"

#define N 6

// alpha = w exp(max(loss - reference, 0)), w = alpha / sum(alpha), as it is printed.
static void algorithm_1(long double *w, const double *loss, const double *reference)
{
    long double sum = 0;
    for (int k = 0; k < N; k++) {
        const long double behind = (long double)loss[k] - (long double)reference[k];
        w[k] *= expl(behind > 0 ? behind : 0);
        sum += w[k];
    }
    for (int k = 0; k < N; k++)
        w[k] /= sum;
}

Test(reweight, is_algorithm_1)
{
    double w[N], loss[N], reference[N];
    long double expected[N], sum = 0;
    struct random r;
    random_init(&r, 1, "losses", 0);
    for (int k = 0; k < N; k++)
        expected[k] = w[k] = k == 2 ? 0 : random_uniform(&r);
    for (int k = 0; k < N; k++)
        sum += expected[k];
    for (int k = 0; k < N; k++) {
        expected[k] /= sum;
        w[k] = (double)expected[k];
    }
    for (int step = 0; step < 20; step++) {
        for (int k = 0; k < N; k++) {
            reference[k] = 2 + random_uniform(&r);
            loss[k] = reference[k] + 2 * random_uniform(&r) - 0.5; // a quarter is below the reference
        }
        algorithm_1(expected, loss, reference);
        loss[2] = (double)NAN; // of weight 0: not looked at
        reweight_update(w, loss, reference, N);
        // Twenty updates of a few roundings each, all of them relative: 1e-13 is a thousand of 1e-16.
        for (int k = 0; k < N; k++)
            cr_assert_leq(fabsl(w[k] - expected[k]), 1e-13L * expected[k] + 1e-300L, "step %d, source %d: %g, expected %Lg", step, k, w[k], expected[k]);
        loss[2] = 0;
    }
    cr_assert_eq(w[2], 0);
}

Test(reweight, all_at_their_reference_stay)
{
    double w[N] = {0.1, 0.2, 0.3, 0.05, 0.05, 0.3}, before[N];
    const double loss[N] = {1, 2, 3, 1, 2, 3}, reference[N] = {1, 2.5, 3, 4, 5, 6};
    memcpy(before, w, sizeof w);
    reweight_update(w, loss, reference, N);
    for (int k = 0; k < N; k++)
        cr_assert_float_eq(w[k], before[k], DOUBLE_FEW);
}

// A model of random weights may be thousands of nats behind a made-up reference.
Test(reweight, has_no_infinities)
{
    double w[2] = {0.5, 0.5};
    const double loss[2] = {5000, 4999}, reference[2] = {0, 0};
    reweight_update(w, loss, reference, 2);
    cr_assert_float_eq(w[0], 1 / (1 + exp(-1)), DOUBLE_FEW);
    cr_assert_float_eq(w[1], 1 / (1 + exp(1)), DOUBLE_FEW);
}

Test(reweight, a_log_gives_the_mixture_back_to_the_bit)
{
    double w[3] = {0.2, 0.5, 0.3};
    const double reference[3] = {1, 1, 1};
    struct mixture m, again;
    char *log = xstrdup("{\"step\":1,\"loss\":3}\n");
    mixture_init(&m, w, 3);
    mixture_init(&again, w, 3);
    for (int step = 3; step < 30; step += 3) {
        const double loss[3] = {1 + 1.0 / step, 1.1, 1 - 0.1 / step};
        reweight_update(w, loss, reference, 3);
        char *line = reweight_line(step, w, loss, 3), *longer = xasprintf("%s%s{\"step\":%d,\"loss\":2}\n", log, line, step + 1);
        mixture_reweight(&m, 4 * step, w);
        memcpy(w, mixture_weights(&m), sizeof w);
        free(line);
        free(log);
        log = longer;
    }
    reweight_again(&again, log, 4);
    cr_assert_eq(again.n_span, m.n_span);
    for (int s = 0; s < m.n_span; s++) {
        cr_assert_eq(again.span[s].first, m.span[s].first);
        cr_assert_arr_eq(again.span[s].weight, m.span[s].weight, sizeof w);
        cr_assert_arr_eq(again.span[s].count, m.span[s].count, 3 * sizeof(int64_t));
        cr_assert_arr_eq(again.span[s].owed, m.span[s].owed, sizeof w);
    }
    mixture_release(&m);
    mixture_release(&again);
    free(log);
}
