// stored.c: see stored.h.
#include "common/model/stored.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

void stored_name(const struct model *m, const struct parameter *p, char to[STORED_NAME])
{
    const char *name = p->spec->stored.name ? p->spec->stored.name : p->spec->name, *prefix = m->arch->prefix;
    if (prefix && m->config.bare_names && strncmp(name, prefix, strlen(prefix)) == 0)
        name += strlen(prefix);
    const char *at = strstr(name, "%d");
    if (at)
        snprintf(to, STORED_NAME, "%.*s%d%s", (int)(at - name), name, p->layer, at + 2);
    else
        snprintf(to, STORED_NAME, "%s", name);
}

static int64_t parts_of(const struct parameter *p) { return p->spec->stored.parts ? p->spec->stored.parts : 1; }

int stored_shape(const struct parameter *p, int64_t dim[2])
{
    const int transposed = p->spec->transposed;
    dim[0] = p->t.dim[transposed ? 1 : 0];
    dim[1] = p->t.n_dim == 2 ? p->t.dim[transposed ? 0 : 1] : 1;
    dim[transposed ? 1 : 0] *= parts_of(p);
    return p->t.n_dim;
}

int stored_plainly(const struct parameter *p) { return !p->spec->transposed && parts_of(p) == 1; }

int stored_is_last(const struct parameter *p) { return p->spec->stored.part == parts_of(p) - 1; }

// Offsets in a file need not be multiples of the element's size.
static void convert(const struct safetensor *from, int64_t at, int64_t n, float *to)
{
    const size_t size = dtype_size(from->dtype);
    const char *data = (const char *)from->data + (size_t)at * size;
    if ((uintptr_t)data % size == 0) {
        dtype_to_f32(from->dtype, data, to, n);
        return;
    }
    void *aligned = xmalloc((size_t)n * size, from->name);
    memcpy(aligned, data, (size_t)n * size);
    dtype_to_f32(from->dtype, aligned, to, n);
    free(aligned);
}

void stored_rows(const struct safetensor *from, const struct parameter *p, int64_t row0, int64_t n, float *to)
{
    const int64_t rows = tensor_rows(&p->t), columns = tensor_columns(&p->t), part = p->spec->stored.part;
    if (!p->spec->transposed) {
        convert(from, (part * rows + row0) * columns, n * columns, to);
        return;
    }
    float *piece = xmalloc((size_t)n * sizeof *piece, from->name);
    for (int64_t c = 0; c < columns; c++) {
        convert(from, (c * parts_of(p) + part) * rows + row0, n, piece);
        for (int64_t r = 0; r < n; r++)
            to[r * columns + c] = piece[r];
    }
    free(piece);
}

// Rows of what is stored, from the rows of its parts.
static void plain_rows(const struct stored_tensor *s, int64_t row0, int64_t n, float *to)
{
    const int64_t of_part = tensor_rows(&s->part[0]->t), columns = tensor_columns(&s->t);
    for (int64_t r = 0; r < n; r++)
        tensor_read_rows(&s->part[(row0 + r) / of_part]->t, (row0 + r) % of_part, 1, to + r * columns);
}

static void vector_of_parts(const struct stored_tensor *s, float *to)
{
    const int64_t of_part = tensor_count(&s->part[0]->t);
    for (int k = 0; k < s->n_part; k++)
        tensor_read_rows(&s->part[k]->t, 0, 1, to + k * of_part);
}

static void transposed_rows(const struct stored_tensor *s, int64_t row0, int64_t n, float *to)
{
    const int64_t outputs = tensor_rows(&s->part[0]->t), inputs = tensor_columns(&s->part[0]->t), columns = tensor_columns(&s->t);
    float *row = xmalloc((size_t)inputs * sizeof *row, "a row");
    for (int64_t c = 0; c < columns; c++) {
        tensor_read_rows(&s->part[c / outputs]->t, c % outputs, 1, row);
        for (int64_t r = 0; r < n; r++)
            to[r * columns + c] = row[row0 + r];
    }
    free(row);
}

static void rows(void *context, const struct tensor *w, int64_t row0, int64_t n, float *to)
{
    const struct stored_tensor *s = context;
    if (w->n_dim == 1)
        vector_of_parts(s, to);
    else if (s->part[0]->spec->transposed)
        transposed_rows(s, row0, n, to);
    else
        plain_rows(s, row0, n, to);
}

struct stored_tensor *stored_list(const struct model *m, int *n)
{
    struct stored_tensor *list = xcalloc((size_t)m->n_parameter, sizeof *list, "tensors to write");
    *n = 0;
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        char name[STORED_NAME];
        int k = 0;
        stored_name(m, p, name);
        while (p->spec->stored.part && k < *n && strcmp(list[k].name, name) != 0) // a part joins its first one
            k++;
        struct stored_tensor *s = p->spec->stored.part && k < *n ? &list[k] : &list[(*n)++];
        s->part[s->n_part++] = p;
        if (s->n_part > 1)
            continue;
        memcpy(s->name, name, sizeof s->name);
        s->hook = (struct weight_hook){.context = s, .rows = rows};
        s->t = (struct tensor){.name = s->name, .hook = &s->hook, .dim = {1, 1, 1}};
        s->t.n_dim = stored_shape(p, s->t.dim);
    }
    return list;
}
