// Which source each window of a mixture comes from: in proportion after any number of draws, a function of the draw's number alone, also where the
// weights change on the way; and the windows that a dataset of sources gives by it.
#include <math.h>

#include "common/base/random.h"
#include "common/data/mixture.h"
#include "tests/unit/tiny.h"

static const double uneven[] = {0.1, 3, 0, 0.01, 1, 7, 0.33, 2};

static double sum_of(const double *w, int n)
{
    double sum = 0;
    for (int k = 0; k < n; k++)
        sum += w[k];
    return sum;
}

// Half a window for each halving down to one source (mixture.h); rounding of doubles is far below the 1e-6.
static double most_off(int n)
{
    double halvings = 0;
    for (int m = 1; m < n; m *= 2)
        halvings++;
    return halvings / 2 + 1e-6;
}

Test(mixture, is_in_proportion_after_any_number_of_draws)
{
    for (int n = 1; n <= 8; n++) {
        struct mixture m;
        int64_t drawn[8] = {0}, counts[8];
        mixture_init(&m, uneven, n);
        for (int64_t i = 0; i < 5000; i++) {
            mixture_counts(&m, i, counts);
            cr_assert_arr_eq(counts, drawn, (size_t)n * sizeof *counts);
            const struct mixture_draw d = mixture_at(&m, i);
            cr_assert_eq(d.number, drawn[d.source], "draw %ld: number %ld of source %d", (long)i, (long)d.number, d.source);
            drawn[d.source]++;
            for (int k = 0; k < n; k++) {
                const double off = (double)drawn[k] - (double)(i + 1) * uneven[k] / sum_of(uneven, n);
                cr_assert_leq(fabs(off), most_off(n), "%d sources, draw %ld: source %d is %g windows off", n, (long)i, k, off);
            }
        }
        mixture_release(&m);
    }
}

Test(mixture, knows_far_draws_without_those_before)
{
    struct mixture m;
    int64_t counts[4], total = 0;
    const int64_t far = 1000000000000; // of which a share is still exact in a double
    mixture_init(&m, uneven + 4, 4);
    mixture_counts(&m, far, counts);
    for (int k = 0; k < 4; k++) {
        total += counts[k];
        // A share has 53 bits, so a product has an error of far * 2^-53, here 1e-4.
        cr_assert_leq(fabs((double)counts[k] - (double)far * uneven[4 + k] / sum_of(uneven + 4, 4)), most_off(4) + 1e-3);
    }
    cr_assert_eq(total, far);
    const struct mixture_draw d = mixture_at(&m, far);
    cr_assert_eq(d.number, counts[d.source]);
    mixture_release(&m);
}

// Weights change at draws 10, 11, 500 ...; what a source is owed at a change it gets later.
Test(mixture, stays_in_proportion_where_weights_change)
{
    const int64_t change[] = {10, 11, 500, 501, 502, 503, 1900};
    const int n = 5;
    struct mixture m, copy;
    int64_t drawn[5] = {0};
    double due[5] = {0}, weight[5];
    struct random r;
    random_init(&r, 3, "weights", 0);
    for (int k = 0; k < n; k++)
        weight[k] = uneven[k + 3];
    mixture_init(&m, weight, n);
    struct mixture_draw early[600];
    for (int64_t i = 0; i < 3000; i++) {
        for (size_t c = 0; c < sizeof change / sizeof *change; c++)
            if (change[c] == i) {
                for (int k = 0; k < n; k++)
                    weight[k] = random_uniform(&r);
                mixture_reweight(&m, i, weight);
            }
        const struct mixture_draw d = mixture_at(&m, i);
        if (i < 600)
            early[i] = d;
        cr_assert_eq(d.number, drawn[d.source], "draw %ld", (long)i);
        drawn[d.source]++;
        for (int k = 0; k < n; k++) {
            due[k] += weight[k] / sum_of(weight, n);
            // Twice what weights that stay allow: changes come before the last one is made up for. In 3,000 mixtures of up to 12 sources 0.8 of that.
            cr_assert_leq(fabs((double)drawn[k] - due[k]), 2 * most_off(n), "draw %ld: source %d has %ld windows, and is due %g", (long)i, k, (long)drawn[k],
                          due[k]);
        }
    }
    mixture_copy(&copy, &m);
    for (int64_t i = 0; i < 600; i++) { // later changes do not touch what came before, and a copy is the same
        const struct mixture_draw d = mixture_at(&m, i), c = mixture_at(&copy, i);
        cr_assert(d.source == early[i].source && d.number == early[i].number, "draw %ld", (long)i);
        cr_assert(d.source == c.source && d.number == c.number, "draw %ld", (long)i);
    }
    mixture_release(&m);
    mixture_release(&copy);
}

Test(mixture, never_draws_from_weight_zero)
{
    const double ends[3][4] = {{0, 1, 0, 2}, {1, 0, 0, 0}, {0, 0, 0, 5}};
    struct mixture m;
    mixture_init(&m, uneven + 4, 4); // all are owed something when the weights change
    int64_t first = 1, count[4];
    for (int e = 0; e < 3; e++, first += 101) {
        mixture_counts(&m, first, count);
        mixture_reweight(&m, first, ends[e]);
        for (int64_t i = first; i < first + 101; i++) {
            const struct mixture_draw d = mixture_at(&m, i);
            cr_assert(ends[e][d.source] > 0, "a draw from source %d", d.source);
            cr_assert_eq(d.number, count[d.source]++);
        }
    }
    mixture_release(&m);
}

// ---- windows of a dataset ----

// Three sources of 103, 2 and 40 tokens, numbered from 1000, 2000 and 3000.
static struct dataset three_sources(const double *weight)
{
    const int64_t tokens[] = {103, 2, 40};
    struct dataset d = {0};
    struct error err;
    for (int k = 0; k < 3; k++) {
        struct dataset one = {.token = xmalloc((size_t)tokens[k] * sizeof(int32_t), "test"), .n_token = tokens[k]};
        for (int64_t i = 0; i < tokens[k]; i++)
            one.token[i] = (int32_t)(1000 * (k + 1) + i);
        cr_assert_eq(dataset_add_source(&d, &one, "data", &err), 0, "%s", err.text);
    }
    dataset_mix(&d, weight);
    return d;
}

#define T 8

Test(mixture, each_source_has_passes_of_its_own)
{
    const double weight[] = {0.5, 0.25, 0.25};
    struct dataset d = three_sources(weight);
    cr_assert_eq(dataset_windows(&d, T), 13 + 1 + 5);
    cr_assert_eq(dataset_source_windows(&d, T, 1), 1);
    int32_t inputs[T], targets[T];
    int seen[4000] = {0};
    for (int64_t i = 0; i < 2 * 13 * 10; i++) { // ten passes of the first, 130 of the window alone, 26 of the last
        dataset_batch(&d, T, 7, i, 1, inputs, targets);
        for (int j = 0; j < T; j++)
            if (targets[j] >= 0) { // no window reaches into the next source
                cr_assert_eq(targets[j], inputs[j] + 1);
                seen[targets[j]]++;
            }
    }
    // Passes are whole up to the window that a source's share is rounded by.
    for (int t = 1001; t < 1103; t++)
        cr_assert_leq(abs(seen[t] - 10), 1, "token %d came %d times", t, seen[t]);
    cr_assert_leq(abs(seen[2001] - 65), 1);
    for (int t = 3001; t < 3040; t++)
        cr_assert_leq(abs(seen[t] - 13), 1, "token %d came %d times", t, seen[t]);
    dataset_release(&d);
}

Test(mixture, a_batch_is_a_function_of_its_number)
{
    const double weight[] = {1, 2, 3};
    struct dataset d = three_sources(weight), view;
    int32_t inputs[20 * T], targets[20 * T], other[T], other_targets[T];
    dataset_view(&view, &d);
    dataset_batch(&d, T, 42, 100, 20, inputs, targets);
    for (int64_t b = 19; b >= 0; b--) {
        dataset_batch(b % 2 ? &view : &d, T, 42, 100 + b, 1, other, other_targets);
        cr_assert_arr_eq(other, inputs + b * T, sizeof other);
        cr_assert_arr_eq(other_targets, targets + b * T, sizeof other);
    }
    const double others[] = {0, 0, 1};
    mixture_reweight(&view.mixture, 110, others); // the view's alone
    dataset_batch(&d, T, 42, 100, 20, inputs, targets);
    dataset_batch(&view, T, 42, 110, 1, other, other_targets);
    cr_assert_geq(other[0], 3000);
    dataset_batch(&view, T, 42, 109, 1, other, other_targets);
    cr_assert_arr_eq(other, inputs + 9 * T, sizeof other);
    dataset_drop_view(&view);
    dataset_release(&d);
}

Test(mixture, one_source_is_the_text_by_itself)
{
    const double weight = 0.3;
    struct dataset plain = tiny_data(103), d = {0}, one = tiny_data(103);
    struct error err;
    int32_t inputs[2][30 * T], targets[2][30 * T];
    cr_assert_eq(dataset_add_source(&d, &one, "data", &err), 0);
    dataset_mix(&d, &weight);
    dataset_batch(&plain, T, 3, 5, 30, inputs[0], targets[0]);
    dataset_batch(&d, T, 3, 5, 30, inputs[1], targets[1]);
    cr_assert_arr_eq(inputs[0], inputs[1], sizeof inputs[0]);
    cr_assert_arr_eq(targets[0], targets[1], sizeof targets[0]);
    dataset_release(&plain);
    dataset_release(&d);
}

Test(mixture, questions_can_be_sources)
{
    struct tokenizer *t = tiny_tokenizer();
    struct dataset d = {0}, one = {0}, text = tiny_data(20);
    struct error err;
    const struct document question[] = {{"ab", "c", 2, 1}, {"d", "ef", 1, 2}, {"gh", "ij", 2, 2}};
    for (int k = 0; k < 3; k++) {
        cr_assert_eq(dataset_add(&one, t, &question[k], 0, "data", &err), 0, "%s", err.text);
        if (k == 0 || k == 2)
            cr_assert_eq(dataset_add_source(&d, &one, "data", &err), 0, "%s", err.text);
    }
    const double weight[] = {1, 1};
    dataset_mix(&d, weight);
    cr_assert_eq(dataset_windows(&d, T), 3);
    cr_assert_eq(dataset_source_windows(&d, T, 1), 2);
    int came[3] = {0};
    for (int64_t i = 0; i < 40; i++)
        came[dataset_window(&d, T, 1, i)]++;
    cr_assert(came[0] == 20 && came[1] == 10 && came[2] == 10, "%d %d %d", came[0], came[1], came[2]);
    cr_assert_eq(dataset_add_source(&d, &text, "data.sources[2].train", &err), -1);
    cr_assert_not_null(strstr(err.text, "one kind"), "%s", err.text);
    dataset_release(&text);
    dataset_release(&d);
    tokenizer_free(t);
}
