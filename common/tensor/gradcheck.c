// gradcheck.c: see gradcheck.h.
#include "common/tensor/gradcheck.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/base/random.h"

void gradcheck_weights(uint64_t seed, double *r, int64_t n) {
    struct random random;
    random_init(&random, seed, "gradcheck_weights", 0);
    for (int64_t i = 0; i < n; i++)
        r[i] = 2 * random_uniform(&random) - 1;
}

static void project_backward(struct tape *tape, struct node *node) {
    const double *r = node->saved;
    double dout = (double)node->out->grad[0];
    float beta;
    float *dy = tape_grad(tape, node->in[0], &beta);
    if (!dy)
        return;
    int64_t n = tensor_count(node->in[0]);
    for (int64_t i = 0; i < n; i++)
        dy[i] = (float)(r[i] * dout + (beta != 0 ? (double)dy[i] : 0));
}

double gradcheck_project(struct tape *tape, struct tensor *y, uint64_t seed, struct tensor **root) {
    int64_t n = tensor_count(y);
    double *r = arena_alloc(&tape->arena, (size_t)n * sizeof *r);
    gradcheck_weights(seed, r, n);
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += r[i] * (double)y->data[i];
    struct tensor *out = tape_tensor(tape, "projection", 1, 1, 0, 0);
    out->data[0] = (float)sum;
    struct node *node = tape_record(tape, project_backward, out, y, NULL, NULL, NULL);
    if (node)
        node->saved = r;
    *root = out;
    return sum;
}

// The inputs moved by `by` along direction (NULL: along one element alone).
struct move {
    const struct gradcheck *g;
    float **origin; // per input, its values
    float **direction;
    int input; // of the one element
    int64_t element;
};

static double value_at(const struct move *move, double by) {
    const struct gradcheck *g = move->g;
    for (int k = 0; k < g->n_input; k++) {
        float *x = g->input[k]->data;
        int64_t n = tensor_count(g->input[k]);
        memcpy(x, move->origin[k], (size_t)n * sizeof *x);
        if (move->direction) {
            for (int64_t i = 0; i < n; i++)
                x[i] += (float)by * move->direction[k][i];
        } else if (k == move->input) {
            x[move->element] += (float)by;
        }
    }
    struct tape tape;
    tape_init(&tape, g->precision);
    tape.recording = 0;
    struct tensor *root;
    double value = g->function(g->context, &tape, &root);
    tape_release(&tape);
    return value;
}

static double slope(const struct move *move) {
    double h = move->g->step;
    double near = value_at(move, h) - value_at(move, -h);
    double far = value_at(move, 2 * h) - value_at(move, -2 * h);
    return (8 * near - far) / (12 * h);
}

static void note_error(struct gradcheck_result *r, double expected, double found, double scale, const char *name,
                       int64_t i) {
    double error = fabs(expected - found) / scale;
    if (isnan(error))
        error = (double)INFINITY;
    if (error <= r->worst)
        return;
    r->worst = error;
    r->expected = expected;
    r->found = found;
    snprintf(r->where, sizeof r->where, "%s[%ld]", name, (long)i);
}

static void check_directions(struct move *move, struct gradcheck_result *result) {
    const struct gradcheck *g = move->g;
    double norm = 0;
    for (int k = 0; k < g->n_input; k++)
        for (int64_t i = 0, n = tensor_count(g->input[k]); i < n; i++)
            norm += (double)g->input[k]->grad[i] * (double)g->input[k]->grad[i];
    norm = sqrt(norm);
    float **direction = xmalloc((size_t)g->n_input * sizeof *direction, "gradcheck's directions");
    for (int k = 0; k < g->n_input; k++)
        direction[k] = xmalloc((size_t)tensor_count(g->input[k]) * sizeof **direction, "gradcheck's directions");
    move->direction = direction;
    for (int d = 0; d < g->directions; d++) {
        struct random random;
        random_init(&random, g->seed, "gradcheck_direction", (uint64_t)d);
        double found = 0;
        for (int k = 0; k < g->n_input; k++)
            for (int64_t i = 0, n = tensor_count(g->input[k]); i < n; i++) {
                direction[k][i] = (float)random_normal(&random);
                found += (double)direction[k][i] * (double)g->input[k]->grad[i];
            }
        note_error(result, slope(move), found, fmax(norm, 1e-3), "direction", d);
    }
    move->direction = NULL;
    for (int k = 0; k < g->n_input; k++)
        free(direction[k]);
    free(direction);
}

static void check_elements(struct move *move, struct gradcheck_result *result) {
    const struct gradcheck *g = move->g;
    for (int k = 0; k < g->n_input; k++) {
        struct tensor *t = g->input[k];
        int64_t n = tensor_count(t);
        if (n > g->element)
            continue;
        double largest = 0;
        for (int64_t i = 0; i < n; i++)
            largest = fmax(largest, fabs((double)t->grad[i]));
        move->input = k;
        for (int64_t i = 0; i < n; i++) {
            move->element = i;
            // Where nothing has any influence, errors are shares of one thousandth.
            note_error(result, slope(move), (double)t->grad[i], fmax(largest, 1e-3), t->name, i);
        }
    }
}

void gradcheck_run(const struct gradcheck *g, struct gradcheck_result *result) {
    memset(result, 0, sizeof *result);
    struct move move = {g, xmalloc((size_t)g->n_input * sizeof(float *), "gradcheck's inputs"), NULL, 0, 0};
    for (int k = 0; k < g->n_input; k++) {
        size_t bytes = (size_t)tensor_count(g->input[k]) * sizeof(float);
        move.origin[k] = xmalloc(bytes, "gradcheck's inputs");
        memcpy(move.origin[k], g->input[k]->data, bytes);
        memset(g->input[k]->grad, 0, bytes);
    }
    struct tape tape;
    tape_init(&tape, g->precision);
    tape.recording = 1;
    struct tensor *root;
    g->function(g->context, &tape, &root);
    tape_backward(&tape, root);
    tape_release(&tape);
    check_directions(&move, result);
    check_elements(&move, result);
    for (int k = 0; k < g->n_input; k++) {
        memcpy(g->input[k]->data, move.origin[k], (size_t)tensor_count(g->input[k]) * sizeof(float));
        free(move.origin[k]);
    }
    free(move.origin);
}
