// importance.c: see importance.h. A reader that trusts nothing.
#include "quant/importance.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/model/safetensors.h"

#define MAX_VALUES (1 << 24)

void importance_add(struct importance *to, const char *name, const double *square, int64_t n, int64_t rows)
{
    if (importance_find(to, name))
        return;
    to->entry = xrealloc(to->entry, (size_t)(to->n_entry + 1) * sizeof *to->entry, "importance");
    struct importance_entry *e = &to->entry[to->n_entry++];
    snprintf(e->name, sizeof e->name, "%s", name);
    e->n = n;
    e->value = xmalloc((size_t)n * sizeof *e->value, "importance");
    for (int64_t i = 0; i < n; i++)
        e->value[i] = (float)(square[i] / (double)rows);
}

static const struct importance_entry *find(const struct importance *i, const char *name)
{
    for (int64_t k = 0; k < i->n_entry; k++)
        if (strcmp(i->entry[k].name, name) == 0)
            return &i->entry[k];
    return NULL;
}

const float *importance_find(const struct importance *i, const char *name)
{
    const struct importance_entry *e = find(i, name);
    return e ? e->value : NULL;
}

int64_t importance_length(const struct importance *i, const char *name)
{
    const struct importance_entry *e = find(i, name);
    return e ? e->n : -1;
}

void importance_release(struct importance *i)
{
    for (int64_t k = 0; k < i->n_entry; k++)
        free(i->entry[k].value);
    free(i->entry);
    free(i->text);
    free(i->path);
    *i = (struct importance){0};
}

// ---- reading ----

struct reader {
    struct file_map map;
    size_t at;
    struct error *err;
};

static int take(struct reader *r, void *to, size_t bytes, const char *what)
{
    if (bytes > r->map.size - r->at)
        return error_set(r->err, "%s: ends within %s at byte %zu; expected an importance matrix as llama-imatrix or pdq calibrate "
                         "writes it", r->map.path, what, r->at);
    memcpy(to, r->map.data + r->at, bytes);
    r->at += bytes;
    return 0;
}

static int take_count(struct reader *r, int32_t *to, int32_t least, int32_t most, const char *what)
{
    TRY(take(r, to, sizeof *to, what));
    if (*to < least || *to > most)
        return error_set(r->err, "%s: %s is %" PRId32 " at byte %zu, expected %" PRId32 " to %" PRId32 ": no importance matrix in "
                         "llama.cpp's format", r->map.path, what, *to, r->at - sizeof *to, least, most);
    return 0;
}

static int check_value(const char *path, const char *name, int64_t i, double v, struct error *err)
{
    if (v >= 0 && isfinite(v))
        return 0;
    return error_set(err, "%s: value %" PRId64 " of %s is %g; expected mean squares, finite and from 0: the file is damaged, or the model broken", path, i, name, v);
}

static int take_entry(struct reader *r, struct importance *to)
{
    char name[GGUF_NAME_MAX] = "";
    int32_t length, calls, n;
    TRY(take_count(r, &length, 1, GGUF_NAME_MAX - 1, "the length of a tensor's name"));
    TRY(take(r, name, (size_t)length, "a tensor's name"));
    TRY(take_count(r, &calls, 0, INT32_MAX, "the number of calls"));
    TRY(take_count(r, &n, 1, MAX_VALUES, "the number of values"));
    if ((size_t)n > (r->map.size - r->at) / sizeof(float))
        return error_set(r->err, "%s: ends within the %" PRId32 " values of %s: it is damaged or was not copied whole", r->map.path, n, name);
    if (find(to, name))
        return error_set(r->err, "%s: has two entries for %s", r->map.path, name);
    double *square = xmalloc((size_t)n * sizeof *square, "importance");
    int rc = 0;
    for (int32_t i = 0; i < n && rc == 0; i++) {
        float v = 0;
        rc = take(r, &v, sizeof v, "values");
        square[i] = (double)v;
        if (rc == 0)
            rc = check_value(r->map.path, name, i, square[i], r->err);
    }
    if (rc == 0)
        importance_add(to, name, square, n, calls ? calls : 1);
    free(square);
    return rc;
}

static int take_all(struct reader *r, struct importance *to)
{
    int32_t n, chunks, length;
    TRY(take_count(r, &n, 1, 1 << 20, "the number of entries"));
    for (int32_t i = 0; i < n; i++)
        TRY(take_entry(r, to));
    if (r->at == r->map.size) // an early file
        return 0;
    TRY(take_count(r, &chunks, 0, INT32_MAX, "the number of chunks"));
    TRY(take_count(r, &length, 0, 4096, "the length of the text's name"));
    to->chunks = chunks;
    to->text = xcalloc((size_t)length + 1, 1, "name of the text");
    return take(r, to->text, (size_t)length, "the text's name");
}

// The mean squares in what calibration_write left.
static int take_statistics(struct importance *to, const char *path, struct error *err)
{
    static const char suffix[] = ".mean_square";
    struct safetensors s;
    int rc = 0;
    TRY(safetensors_open(&s, path, err));
    for (int64_t i = 0; i < s.n_tensor && rc == 0; i++) {
        const struct safetensor *t = &s.tensor[i];
        char name[GGUF_NAME_MAX] = "";
        const size_t length = strlen(t->name) - (path_ends_with(t->name, suffix) ? strlen(suffix) : 0);
        if (!t->name[length] || length >= sizeof name || t->n_dim != 1 || !t->is_float || t->dtype != DTYPE_F32)
            continue;
        double *square = xmalloc((size_t)t->dim[0] * sizeof *square, "importance");
        memcpy(name, t->name, length);
        for (int64_t k = 0; k < t->dim[0] && rc == 0; k++) {
            float v;
            memcpy(&v, (const char *)t->data + (size_t)k * sizeof v, sizeof v);
            square[k] = (double)v;
            rc = check_value(path, name, k, square[k], err);
        }
        if (rc == 0)
            importance_add(to, name, square, t->dim[0], 1);
        free(square);
    }
    if (rc == 0 && !to->n_entry)
        rc = error_set(err, "%s: holds no mean squares; expected a file of pdq calibrate", path);
    safetensors_close(&s);
    return rc;
}

int importance_read(struct importance *to, const char *path, struct error *err)
{
    struct reader r = {.err = err};
    *to = (struct importance){.path = xstrdup(path)};
    if (path_ends_with(path, ".safetensors")) {
        const int status = take_statistics(to, path, err);
        if (status < 0)
            importance_release(to);
        return status;
    }
    if (file_map(&r.map, path, err) < 0) {
        importance_release(to);
        return -1;
    }
    const int rc = take_all(&r, to);
    file_unmap(&r.map);
    if (rc < 0)
        importance_release(to);
    return rc;
}

// ---- writing ----

static int put_i32(struct file_writer *w, int64_t v, struct error *err)
{
    const int32_t small = (int32_t)v;
    return file_writer_put(w, &small, sizeof small, err);
}

static int put_text(struct file_writer *w, const char *text, struct error *err)
{
    TRY(put_i32(w, (int64_t)strlen(text), err));
    return file_writer_put(w, text, strlen(text), err);
}

static int put_entry(struct file_writer *w, const struct importance_entry *e, int64_t calls, struct error *err)
{
    TRY(put_text(w, e->name, err));
    TRY(put_i32(w, calls, err));
    TRY(put_i32(w, e->n, err));
    for (int64_t i = 0; i < e->n; i++) {
        const float v = e->value[i] * (float)calls;
        TRY(check_value(w->path, e->name, i, (double)v, err));
        TRY(file_writer_put(w, &v, sizeof v, err));
    }
    return 0;
}

int importance_write(const struct importance *from, const char *path, struct error *err)
{
    const int64_t calls = from->chunks > 0 ? from->chunks : 1;
    struct file_writer w;
    TRY(file_writer_open(&w, path, err));
    int rc = put_i32(&w, from->n_entry, err);
    for (int64_t i = 0; i < from->n_entry && rc == 0; i++)
        rc = put_entry(&w, &from->entry[i], calls, err);
    if (rc == 0)
        rc = put_i32(&w, from->chunks, err);
    if (rc == 0)
        rc = put_text(&w, from->text ? from->text : "", err);
    if (rc == 0)
        return file_writer_commit(&w, err);
    file_writer_abort(&w);
    return -1;
}

// ---- whose it is ----

static int is_layers_matrix(const struct gguf_plan_tensor *t) { return t->n_dim == 2 && t->written && t->written->layer >= 0 && t->source[0]; }

int importance_check(const struct importance *i, const struct gguf_plan *plan, struct error *err)
{
    const char *path = i->path ? i->path : "importance";
    for (int64_t k = 0; k < plan->n_tensor; k++) {
        const struct gguf_plan_tensor *t = &plan->tensor[k];
        const struct importance_entry *e = t->n_dim == 2 ? find(i, t->name) : NULL;
        if (!e && is_layers_matrix(t))
            return error_set(err, "%s: has no entry for %s: an importance matrix of another model; make one with pdq calibrate", path,
                             t->name);
        if (e && e->n != tensor_columns(&t->source[0]->t))
            return error_set(err, "%s: has %" PRId64 " values for %s, whose rows have %" PRId64 ": an importance matrix of another model; "
                             "make one with pdq calibrate", path, e->n, t->name, tensor_columns(&t->source[0]->t));
    }
    for (int64_t k = 0; k < i->n_entry; k++) {
        int64_t at = 0;
        while (at < plan->n_tensor && strcmp(plan->tensor[at].name, i->entry[k].name) != 0)
            at++;
        if (at == plan->n_tensor && strncmp(i->entry[k].name, "blk.", 4) == 0)
            return error_set(err, "%s: has an entry for %s, which this model does not have: an importance matrix of another model; make "
                             "one with pdq calibrate", path, i->entry[k].name);
    }
    return 0;
}
