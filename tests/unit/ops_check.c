// ops_check.c: the comparisons that ops_check.h promises.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/base/random.h"
#include "common/base/threads.h"
#include "common/tensor/gradcheck.h"
#include "tests/unit/ops_check.h"
#include "tests/unit/tolerance.h"

// ---- Tensors and comparisons -------------------------------------------------------------------------------------

struct tensor *tensor_make(const char *name, int64_t d0, int64_t d1, double scale) {
    struct tensor *t = xcalloc(1, sizeof *t, "a test's tensor");
    t->name = name;
    t->n_dim = d1 ? 2 : 1;
    t->dim[0] = d0;
    t->dim[1] = d1;
    t->needs_grad = 1;
    int64_t n = tensor_count(t);
    t->data = xcalloc((size_t)n, sizeof(float), "a test's tensor");
    t->grad = xcalloc((size_t)n, sizeof(float), "a test's tensor");
    struct random random;
    random_init(&random, 7, name, (uint64_t)n);
    for (int64_t i = 0; i < n; i++)
        t->data[i] = (float)(scale * random_normal(&random));
    return t;
}

void tensor_drop(struct tensor *t) {
    free(t->data);
    free(t->grad);
    free(t);
}

double *to_double(const float *x, int64_t n) {
    double *to = xmalloc((size_t)n * sizeof *to, "a test's values");
    for (int64_t i = 0; i < n; i++)
        to[i] = (double)x[i];
    return to;
}

double *zeros(int64_t n) { return xcalloc((size_t)n, sizeof(double), "a test's values"); }

void compare(const char *what, const char *which, const float *found, const double *wanted, int64_t n,
                    double tolerance, double floor) {
    double largest = fmax(floor, 1e-30), worst = 0;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(wanted[i]));
    for (int64_t i = 0; i < n; i++) {
        double error = fabs((double)found[i] - wanted[i]) / largest;
        if (!(error <= worst)) {
            worst = error;
            at = i;
        }
    }
    cr_expect(worst <= tolerance, "%s: %s[%ld] is %.9g, wanted %.9g: error %.2g of the largest, allowed %.2g", what,
              which, (long)at, (double)found[at], wanted[at], worst, tolerance);
}

// ---- The checks --------------------------------------------------------------------------------------------------

static double build_root(void *context, struct tape *tape, struct tensor **root) {
    struct op_case *c = context;
    struct tensor *y = c->build(c, tape);
    if (!c->is_root)
        return gradcheck_project(tape, y, 11, root);
    *root = y;
    return c->head.targets ? c->result.loss : (double)y->data[0];
}

void outcome_make(struct outcome *o, struct op_case *c, enum precision precision, int threads) {
    threads_set(threads);
    for (int k = 0; k < c->n_in; k++)
        memset(c->in[k]->grad, 0, (size_t)tensor_count(c->in[k]) * sizeof(float));
    struct tape tape;
    tape_init(&tape, precision);
    tape.recording = 1;
    struct tensor *y = c->build(c, &tape), *root = y;
    cr_assert_eq(tensor_count(y), c->n_out, "%s: %ld values came out, wanted %ld", c->name, (long)tensor_count(y),
                 (long)c->n_out);
    o->y = xmalloc((size_t)c->n_out * sizeof(float), "a test's values");
    memcpy(o->y, y->data, (size_t)c->n_out * sizeof(float));
    o->result = c->result;
    if (!c->is_root)
        gradcheck_project(&tape, y, 11, &root);
    tape_backward(&tape, root);
    for (int k = 0; k < c->n_in; k++) {
        size_t bytes = (size_t)tensor_count(c->in[k]) * sizeof(float);
        o->grad[k] = xmalloc(bytes, "a test's values");
        memcpy(o->grad[k], c->in[k]->grad, bytes);
    }
    tape_release(&tape);
}

void outcome_drop(struct outcome *o, const struct op_case *c) {
    free(o->y);
    for (int k = 0; k < c->n_in; k++)
        free(o->grad[k]);
}

static void expect_same_bits(const struct outcome *a, const struct outcome *b, const struct op_case *c,
                             const char *what) {
    cr_expect(memcmp(a->y, b->y, (size_t)c->n_out * sizeof(float)) == 0, "%s: %s differ in the output", c->name,
              what);
    for (int k = 0; k < c->n_in; k++)
        cr_expect(memcmp(a->grad[k], b->grad[k], (size_t)tensor_count(c->in[k]) * sizeof(float)) == 0,
                  "%s: %s differ in the gradient of %s", c->name, what, c->in[k]->name);
    cr_expect(memcmp(&a->result, &b->result, sizeof a->result) == 0, "%s: %s differ in the losses", c->name, what);
}

// The naive gradients against central differences of the naive forward pass along one random direction: in double
// with steps of 1e-5 both errors are near 1e-9.
static void check_naive(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    double *moved[INPUTS], slope = 0, expected = 0, norm = 0, *y = zeros(c->n_out);
    for (int sign = 1; sign >= -1; sign -= 2) {
        struct random random;
        random_init(&random, 5, "naive_direction", 0);
        for (int k = 0; k < c->n_in; k++) {
            int64_t n = tensor_count(c->in[k]);
            moved[k] = zeros(n);
            for (int64_t i = 0; i < n; i++) {
                double u = random_normal(&random);
                moved[k][i] = x[k][i] + sign * 1e-5 * u;
                if (sign > 0) {
                    expected += u * dx[k][i];
                    norm += dx[k][i] * dx[k][i];
                }
            }
        }
        memset(y, 0, (size_t)c->n_out * sizeof *y);
        c->forward(c, moved, y);
        for (int64_t i = 0; i < c->n_out; i++)
            slope += sign * dy[i] * y[i] / 2e-5;
        for (int k = 0; k < c->n_in; k++)
            free(moved[k]);
    }
    cr_expect(fabs(slope - expected) <= 1e-6 * (sqrt(norm) + 1e-3),
              "%s: the test's own gradient is wrong: %.12g by differences, %.12g", c->name, slope, expected);
    free(y);
}

static void check_against_naive(struct op_case *c, const struct outcome *f32, const struct outcome *bf16) {
    double *x[INPUTS], *dx[INPUTS], *y = zeros(c->n_out), *dy = zeros(c->n_out);
    for (int k = 0; k < c->n_in; k++) {
        x[k] = to_double(c->in[k]->data, tensor_count(c->in[k]));
        dx[k] = zeros(tensor_count(c->in[k]));
    }
    c->forward(c, x, y);
    gradcheck_weights(11, dy, c->n_out);
    if (c->is_root)
        dy[0] = 1;
    c->backward(c, x, dy, dx);
    check_naive(c, x, dy, dx);
    compare(c->name, "output", f32->y, y, c->n_out, c->f32, c->floor);
    compare(c->name, "output in bf16", bf16->y, y, c->n_out, c->bf16, c->floor);
    for (int k = 0; k < c->n_in; k++) {
        char which[64];
        int64_t n = tensor_count(c->in[k]);
        snprintf(which, sizeof which, "gradient of %s", c->in[k]->name);
        compare(c->name, which, f32->grad[k], dx[k], n, c->f32, c->floor);
        snprintf(which, sizeof which, "gradient of %s in bf16", c->in[k]->name);
        compare(c->name, which, bf16->grad[k], dx[k], n, c->bf16, c->floor);
        free(x[k]);
        free(dx[k]);
    }
    free(y);
    free(dy);
}

void check_op(struct op_case *c, int differences) {
    struct outcome one, two, bf16_one, bf16_two;
    outcome_make(&one, c, PRECISION_F32, 1);
    outcome_make(&two, c, PRECISION_F32, 2);
    expect_same_bits(&one, &two, c, "1 and 2 threads in f32");
    outcome_make(&bf16_one, c, PRECISION_BF16, 1);
    outcome_make(&bf16_two, c, PRECISION_BF16, 2);
    expect_same_bits(&bf16_one, &bf16_two, c, "1 and 2 threads in bf16");
    if (c->one_precision)
        expect_same_bits(&one, &bf16_one, c, "f32 and bf16, which have no product here,");
    check_against_naive(c, &one, &bf16_one);
    if (differences) {
        threads_set(1);
        // Step and tolerance: gradcheck.h has the errors' sizes; 1e-3 leaves room for outputs whose values are large
        // beside their slope.
        struct gradcheck g = {build_root, c, c->in, c->n_in, PRECISION_F32, 1.0 / 64, 3, 200, 3};
        struct gradcheck_result r;
        gradcheck_run(&g, &r);
        cr_expect(r.worst <= BY_DIFFERENCES, "%s: finite differences at %s give %.7g, the tape %.7g (error %.2g)", c->name,
                  r.where, r.expected, r.found, r.worst);
    }
    outcome_drop(&one, c);
    outcome_drop(&two, c);
    outcome_drop(&bf16_one, c);
    outcome_drop(&bf16_two, c);
    for (int k = 0; k < c->n_in; k++)
        tensor_drop(c->in[k]);
}

// ---- What several naive ops are made of --------------------------------------------------------------------------

double hook_factor(int64_t i) { return i % 4 == 1 ? 0 : 2; }

void hook_rows(void *context, const struct tensor *w, int64_t row0, int64_t n, float *to) {
    const float *stored = context;
    int64_t columns = tensor_columns(w);
    for (int64_t i = 0; i < n * columns; i++)
        to[i] = (float)hook_factor(row0 * columns + i) * stored[row0 * columns + i];
}

void hook_dot(void *context, const struct tensor *w, int64_t N, const float *x, float *y) {
    const float *stored = context;
    int64_t rows = tensor_rows(w), columns = tensor_columns(w);
    for (int64_t n = 0; n < N; n++)
        for (int64_t r = 0; r < rows; r++) {
            double sum = 0;
            for (int64_t i = 0; i < columns; i++)
                sum += hook_factor(r * columns + i) * (double)stored[r * columns + i] * (double)x[n * columns + i];
            y[n * rows + r] = (float)sum;
        }
}

void hook_backward(void *context, const struct tensor *w, int64_t row0, int64_t n, float *gradient) {
    (void)context;
    int64_t columns = tensor_columns(w);
    for (int64_t i = 0; i < n * columns; i++)
        gradient[i] *= (float)hook_factor(row0 * columns + i);
}

double capped(double cap, double score) { return cap > 0 ? cap * tanh(score / cap) : score; }
double cap_slope(double cap, double score) { return cap > 0 ? 1 - tanh(score / cap) * tanh(score / cap) : 1; }

void naive_log_softmax(const double *z, int64_t V, double temperature, double *logp) {
    double largest = -(double)INFINITY, sum = 0;
    for (int64_t v = 0; v < V; v++)
        largest = fmax(largest, z[v] / temperature);
    for (int64_t v = 0; v < V; v++)
        sum += exp(z[v] / temperature - largest);
    for (int64_t v = 0; v < V; v++)
        logp[v] = z[v] / temperature - largest - log(sum);
}
