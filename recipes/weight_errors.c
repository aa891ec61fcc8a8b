// weight_errors.c: see weight_errors.h.
#include "recipes/weight_errors.h"

#include <math.h>
#include <stdlib.h>

#include "quant/gguf.h"
#include "quant/gguf_names.h"

struct distance {
    double lost, all, largest; // sums of squares of W - Q and of W
};

static void add_row(struct distance *d, const float *w, const float *q, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const double e = (double)w[i] - (double)q[i];
        d->lost += e * e;
        d->all += (double)w[i] * (double)w[i];
        d->largest = fmax(d->largest, fabs(e));
    }
}

static struct distance measure(const struct tensor *w, const struct tensor *q) {
    const int64_t D = tensor_rows(w), C = tensor_columns(w);
    struct distance *row = xcalloc((size_t)D, sizeof *row, "errors of rows"), sum = {0};
#pragma omp parallel
    {
        float *values = xmalloc((size_t)(2 * C) * sizeof *values, "two rows");
#pragma omp for schedule(static)
        for (int64_t i = 0; i < D; i++) {
            tensor_read_rows(w, i, 1, values);
            tensor_read_rows(q, i, 1, values + C);
            add_row(&row[i], values, values + C, C);
        }
        free(values);
    }
    for (int64_t i = 0; i < D; i++) {
        sum.lost += row[i].lost;
        sum.all += row[i].all;
        sum.largest = fmax(sum.largest, row[i].largest);
    }
    free(row);
    return sum;
}

// 0: not in the file under a name of its own.
static double bits_in_file(const struct gguf *g, const struct config *c, const struct parameter *p) {
    struct gguf_name name;
    if (!gguf_parameter_name(c, p, &name))
        return 0;
    for (int64_t i = 0; i < g->n_tensor; i++)
        if (strcmp(g->tensor[i].name, name.text) == 0)
            return 8 * (double)g->tensor[i].format->bytes / (double)g->tensor[i].format->elements;
    return 0;
}

static int add_matrices(struct json *list, const struct opened *m, const struct opened *from, const struct gguf *g, struct error *err) {
    for (int i = 0; i < m->model->n_parameter; i++) {
        const struct parameter *q = &m->model->parameter[i];
        const int slot = (q->layer + 1) * m->model->arch->n_specs + (int)(q->spec - m->model->arch->specs);
        const struct parameter *w = from->model->slot[slot];
        if (q->t.n_dim != 2)
            continue;
        if (!w || tensor_rows(&w->t) != tensor_rows(&q->t) || tensor_columns(&w->t) != tensor_columns(&q->t))
            return error_set(err, "%s: of another shape than in %s, or absent there: weights can be compared where the shapes are the same", q->name,
                             from->path);
        const struct distance d = measure(&w->t, &q->t);
        if (!isfinite(d.lost + d.all))
            return error_set(err, "%s: holds a value that is no number here or in %s: that model is broken; pdq eval says which", q->name, from->path);
        const double bits = g ? bits_in_file(g, &m->model->config, q) : 0;
        struct json *o = json_object();
        json_set_string(o, "name", q->name);
        if (bits > 0)
            json_set_number(o, "bits", bits);
        json_set_number(o, "relative_error", d.all > 0 ? sqrt(d.lost / d.all) : 0);
        json_set_number(o, "largest_error", d.largest);
        json_push(list, o);
    }
    return 0;
}

struct json *weight_errors(const struct opened *m, const struct opened *from, struct error *err) {
    struct json *list = json_array();
    struct gguf g = {0};
    int rc = 0;
    if (m->model->arch != from->model->arch || m->model->config.n_layer != from->model->config.n_layer)
        rc = error_set(err, "%s: a %s model of %ld layers, %s a %s model of %ld: weights can be compared where the shapes are the same", m->path,
                       m->model->config.model_type, (long)m->model->config.n_layer, from->path, from->model->config.model_type,
                       (long)from->model->config.n_layer);
    if (rc == 0 && m->is_gguf)
        rc = gguf_open(&g, m->path, err);
    if (rc == 0)
        rc = add_matrices(list, m, from, m->is_gguf ? &g : NULL, err);
    if (m->is_gguf)
        gguf_close(&g);
    if (rc == 0)
        return list;
    json_free(list);
    return NULL;
}
