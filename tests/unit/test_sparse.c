// test_sparse.c: which weights go, patterns, SparseGPT against the naive optimum, the walk over layers, zeros kept in training.
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "common/tensor/cholesky.h"
#include "prune/sparse.h"
#include "tests/unit/rounding.h"
#include "tests/unit/tiny.h"
#include "tests/unit/tolerance.h"

static int score_named(const char *name)
{
    int i = 0;
    while (strcmp(sparse_score_table[i].name, name))
        i++;
    return i;
}

static int sparsify_with(struct model *m, const char *score, const char *pattern, double sparsity, int scope, struct error *err)
{
    static struct dataset d;
    if (!d.token)
        d = tiny_data(4000);
    char text[32];
    snprintf(text, sizeof text, "%s", pattern);
    struct sparse_options o = {.score = score_named(score), .pattern = text, .sparsity = sparsity, .scope = scope};
    const struct calibration c = {.data = &d, .seq_len = 32, .tokens = 1024, .batch = 4, .seed = 3};
    TRY(sparse_check(&o, "sparsify", err));
    return sparsify(m, &o, &c, err);
}

// U^T U = A^-1: so U A^-1... checked as A (U^T U) = 1.
Test(sparse, cholesky_of_the_inverse)
{
    enum { N = 9 };
    double A[N * N], U[N * N];
    make_inputs(A, 20, N, 1);
    memcpy(U, A, sizeof A);
    cr_assert_eq(cholesky_of_inverse(U, N), 0);
    for (int i = 0; i < N; i++)
        for (int k = 0; k < N; k++) {
            double sum = 0;
            for (int j = 0; j < N; j++)
                for (int l = 0; l < N; l++)
                    sum += A[i * N + j] * U[l * N + j] * U[l * N + k];
            cr_expect_float_eq(sum, i == k, DOUBLE_SUM);
            if (k < i)
                cr_expect_eq(U[i * N + k], 0);
        }
    double bad[4] = {1, 2, 2, 1};
    cr_expect_eq(cholesky_of_inverse(bad, 2), -1);
}

Test(sparse, patterns_hold_everywhere)
{
    static const struct {
        const char *pattern;
        int keep, of;
        double sparsity;
    } cases[] = {{"2:4", 2, 4, 0}, {"4:8", 4, 8, 0}, {"1:4", 1, 4, 0}, {"unstructured", 0, 0, 0.6}};
    for (const struct sparse_score *s = sparse_score_table; s->name; s++)
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
            struct model *m = tiny_model(2, 32, 5);
            struct error err;
            double of_matrices, of_all;
            cr_assert_eq(sparsify_with(m, s->name, cases[k].pattern, cases[k].sparsity, 0, &err), 0, "%s: %s", s->name, err.text);
            sparse_shares(m, &of_matrices, &of_all);
            const double expected = cases[k].of ? 1 - (double)cases[k].keep / cases[k].of : cases[k].sparsity;
            // a share of a row is rounded to whole weights: 19 of 19.2 of 32 are off by 0.006
            cr_expect_float_eq(of_matrices, expected, 0.01, "%s %s: %g", s->name, cases[k].pattern, of_matrices);
            for (int i = 0; i < m->n_parameter && cases[k].of; i++)
                for (int64_t g = 0; sparse_is_matrix(&m->parameter[i]) && g < tensor_count(&m->parameter[i].t) / cases[k].of; g++) {
                    int zeros = 0;
                    for (int j = 0; j < cases[k].of; j++)
                        zeros += m->parameter[i].t.data[g * cases[k].of + j] == 0;
                    cr_assert_eq(zeros, cases[k].of - cases[k].keep, "%s %s", s->name, m->parameter[i].name);
                }
            model_free(m);
        }
}

// The naive rules: the smallest |w| of a matrix, of the model; the smallest |w| |x| of a row.
Test(sparse, the_smallest_go)
{
    struct model *m = tiny_model(2, 32, 5), *whole = tiny_model(2, 32, 5);
    struct error err;
    for (int scope = 0; scope < 2; scope++) {
        memcpy(m->data, whole->data, (size_t)m->n_element * sizeof *m->data);
        cr_assert_eq(sparsify_with(m, "magnitude", "unstructured", 0.5, scope, &err), 0, "%s", err.text);
        float largest_gone = 0, smallest_kept = HUGE_VALF;
        for (int i = 0; i < m->n_parameter; i++) {
            const struct parameter *p = &m->parameter[i];
            if (!sparse_is_matrix(p)) {
                cr_expect_eq(memcmp(p->t.data, whole->parameter[i].t.data, (size_t)tensor_count(&p->t) * sizeof(float)), 0);
                continue;
            }
            if (scope == SCOPE_LAYER) {
                largest_gone = 0;
                smallest_kept = HUGE_VALF;
            }
            for (int64_t k = 0; k < tensor_count(&p->t); k++) {
                const float w = fabsf(whole->parameter[i].t.data[k]);
                if (p->t.data[k] == 0)
                    largest_gone = fmaxf(largest_gone, w);
                else
                    smallest_kept = fminf(smallest_kept, w);
            }
            if (scope == SCOPE_LAYER)
                cr_expect_leq(largest_gone, smallest_kept, "%s", p->name);
        }
        cr_expect_leq(largest_gone, smallest_kept);
    }
    model_free(m);
    model_free(whole);
}

// With one weight of a row to go, SparseGPT is OBS: the others move by -w_q / [H^-1]_qq times H^-1's column q, as far as they lie to
// the right of it; and on any problem it harms the outputs less than zeroing alone.
Test(sparse, sparsegpt_makes_up_for_what_goes)
{
    enum { D = 6, C = 24, N = 100 };
    static float W[D * C], V[D * C], Z[D * C];
    static double H[C * C];
    make_inputs(H, N, C, 2);
    fill(W, D * C, 3);
    static const int patterns[3][2] = {{2, 4}, {4, 8}, {0, 0}};
    for (int p = 0; p < 3; p++) {
        struct error err;
        memcpy(V, W, sizeof W);
        struct tensor t = {.name = "w", .n_dim = 2, .dim = {D, C, 1}, .data = V};
        cr_assert_eq(sparse_gpt(&t, H, patterns[p][0], patterns[p][1], 0.5, &err), 0, "%s", err.text);
        for (int i = 0; i < D * C; i++)
            Z[i] = V[i] == 0 ? 0 : W[i];
        cr_expect_lt(damage(W, V, H, D, C), 0.7 * damage(W, Z, H, D, C), "%d:%d", patterns[p][0], patterns[p][1]);
    }
    // the first column alone goes, of one row: against OBS (damping included)
    static double inverse[C * C], damped[C * C];
    double mean = 0;
    for (int i = 0; i < C; i++)
        mean += H[i * C + i] / C;
    for (int i = 0; i < C * C; i++)
        damped[i] = H[i] + (i % (C + 1) == 0 ? 0.01 * mean : 0);
    memcpy(inverse, damped, sizeof damped);
    cr_assert_eq(cholesky_of_inverse(inverse, C), 0);
    float row[C], expected[C];
    fill(row, C, 4);
    row[0] = 1e-3f; // the least of all
    for (int k = 0; k < C; k++) { // H^-1[k][0] / H^-1[0][0] = U[0][k] / U[0][0]
        expected[k] = row[k] - row[0] * (float)(inverse[k] / inverse[0]);
    }
    struct tensor t = {.name = "w", .n_dim = 2, .dim = {1, C, 1}, .data = row};
    struct error err;
    cr_assert_eq(sparse_gpt(&t, H, 0, 0, 1.0 / C, &err), 0);
    cr_expect_eq(row[0], 0);
    for (int k = 1; k < C; k++)
        cr_expect_float_eq(row[k], expected[k], FLOAT_FEW);
    memset(H, 0, sizeof H);
    cr_expect_eq(sparse_gpt(&t, H, 0, 0, 0.5, &err), -1);
    cr_expect(strstr(err.text, "say nothing"), "%s", err.text);
}

Test(sparse, bad_options_are_named)
{
    struct error err;
    struct model *m = tiny_model(1, 32, 1);
    cr_expect(sparsify_with(m, "wanda", "2:2", 0, 0, &err) < 0 && strstr(err.text, "0 < N < M"), "%s", err.text);
    cr_expect(sparsify_with(m, "wanda", "2-4", 0, 0, &err) < 0 && strstr(err.text, "\"2-4\""), "%s", err.text);
    cr_expect(sparsify_with(m, "wanda", "2:4", 0.4, 0, &err) < 0 && strstr(err.text, "contradict"), "%s", err.text);
    cr_expect(sparsify_with(m, "wanda", "unstructured", 0, 0, &err) < 0 && strstr(err.text, "nothing to do"), "%s", err.text);
    cr_expect(sparsify_with(m, "wanda", "unstructured", 0.5, SCOPE_GLOBAL, &err) < 0 && strstr(err.text, "scope"), "%s", err.text);
    cr_expect(sparsify_with(m, "magnitude", "3:7", 0, 0, &err) < 0 && strstr(err.text, "no multiple of the 7"), "%s", err.text);
    m->data[m->n_element - 40] = (float)NAN;
    cr_expect(sparsify_with(m, "magnitude", "unstructured", 0.5, 0, &err) < 0 && strstr(err.text, "NaN"), "%s", err.text);
    model_free(m);
}
