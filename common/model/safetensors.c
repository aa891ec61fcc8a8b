// safetensors.c: the container's reader and writer (layout in safetensors.h).
//
// The reader's invariant: once safetensors_open has returned 0, every tensor's bytes lie inside its file's map,
// belong to no other tensor, and are exactly as many as its dtype and shape ask for. Nothing is read from the data
// before that.
#include "common/model/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEADER_MAX ((uint64_t)100 << 20) // the format's own limit
#define EXACT_MAX 9007199254740992.0     // 2^53: whole numbers up to here survive JSON's doubles
#define SHARDS_MAX 512                   // all are open at once while writing
#define CHUNK_ELEMENTS ((int64_t)1 << 18)
#define INDEX_NAME "model.safetensors.index.json"

// All of the format's types, so that files holding position ids, masks and the like can be checked and opened.
static const struct type_row {
    const char *name;
    int bits, is_float;
    enum dtype dtype;
} types[] = {
    {"F32", 32, 1, DTYPE_F32}, {"F16", 16, 1, DTYPE_F16}, {"BF16", 16, 1, DTYPE_BF16}, {"F64", 64, 0, 0},
    {"C64", 64, 0, 0},         {"I64", 64, 0, 0},         {"U64", 64, 0, 0},           {"I32", 32, 0, 0},
    {"U32", 32, 0, 0},         {"I16", 16, 0, 0},         {"U16", 16, 0, 0},           {"I8", 8, 0, 0},
    {"U8", 8, 0, 0},           {"BOOL", 8, 0, 0},         {"F8_E4M3", 8, 0, 0},        {"F8_E5M2", 8, 0, 0},
    {"F8_E8M0", 8, 0, 0},      {"F6_E2M3", 6, 0, 0},      {"F6_E3M2", 6, 0, 0},        {"F4", 4, 0, 0},
};

static const struct type_row *type_find(const char *name) {
    for (size_t i = 0; name && i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].name, name) == 0)
            return &types[i];
    return NULL;
}

// A whole number from 0 to max.
static int read_whole(const struct json *v, double max, int64_t *out) {
    double n = v && json_kind(v) == JSON_NUMBER ? json_number(v) : -1;
    if (!(n >= 0 && n <= max) || n != floor(n))
        return -1;
    *out = (int64_t)n;
    return 0;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(((const struct safetensor *)a)->name, ((const struct safetensor *)b)->name);
}

static int compare_places(const void *a, const void *b) {
    const struct safetensor *x = a, *y = b;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); // an empty tensor before the one at its place
}

// ---- Reading ----

static int read_shape(struct safetensor *t, const struct json *shape, int bits, const char *where,
                      struct error *err) {
    int64_t need = bits;
    if (!shape || json_kind(shape) != JSON_ARRAY || json_count(shape) > SAFETENSORS_DIMS)
        return error_set(err, "%s: its shape is no list of at most %d whole numbers", where, SAFETENSORS_DIMS);
    for (const struct json *d = json_first(shape); d; d = json_next(d)) {
        if (read_whole(d, EXACT_MAX, &t->dim[t->n_dim]) < 0)
            return error_set(err, "%s: its shape is no list of at most %d whole numbers", where, SAFETENSORS_DIMS);
        if (__builtin_mul_overflow(need, t->dim[t->n_dim], &need))
            return error_set(err, "%s: its shape has more elements than any file can hold", where);
        t->n_dim++;
    }
    if (need % 8 || need / 8 != t->bytes)
        return error_set(err, "%s: its data_offsets span %lld bytes; dtype %s and its shape need %lld", where,
                         (long long)t->bytes, t->dtype_name, (long long)(need / 8));
    return 0;
}

// data: where the file's data begins; size: how many bytes of it there are.
static int read_tensor(struct safetensor *t, const struct json *o, const char *where, const unsigned char *data,
                       int64_t size, struct error *err) {
    const struct json *dtype = json_get(o, "dtype"), *offsets = json_get(o, "data_offsets");
    const struct json *first = offsets && json_kind(offsets) == JSON_ARRAY ? json_first(offsets) : NULL;
    const struct type_row *row = type_find(dtype ? json_string(dtype) : NULL);
    int64_t begin, end;
    if (!row)
        return error_set(err, "%s: dtype %s is none of the format's (expected F32, F16, BF16, ...)", where,
                         dtype && json_string(dtype) ? json_string(dtype) : "(no text)");
    if (!first || json_count(offsets) != 2 || read_whole(first, EXACT_MAX, &begin) < 0 ||
        read_whole(json_next(first), EXACT_MAX, &end) < 0 || end < begin)
        return error_set(err, "%s: its data_offsets are no pair [begin, end] of ascending whole numbers", where);
    if (end > size)
        return error_set(err,
                         "%s: its data ends at byte %lld of the data; the file holds %lld (cut off? fetch it again)",
                         where, (long long)end, (long long)size);
    *t = (struct safetensor){.dtype_name = row->name,
                             .is_float = row->is_float,
                             .dtype = row->dtype,
                             .data = data + begin,
                             .bytes = end - begin};
    return read_shape(t, json_get(o, "shape"), row->bits, where, err);
}

static int merge_metadata(struct safetensors *s, const struct json *metadata, const char *path, struct error *err) {
    if (json_kind(metadata) != JSON_OBJECT)
        return error_set(err, "%s: __metadata__ is %s; expected an object", path,
                         json_kind_name(json_kind(metadata)));
    if (!s->metadata)
        s->metadata = json_object();
    for (const struct json *item = json_first(metadata); item; item = json_next(item)) {
        if (json_kind(item) != JSON_STRING)
            return error_set(err, "%s: __metadata__ \"%s\" is %s; expected text", path, json_key(item),
                             json_kind_name(json_kind(item)));
        json_set_string(s->metadata, json_key(item), json_string(item));
    }
    return 0;
}

// The tensors must fill the data without overlaps, holes or a rest: the format says so, and anything else means that
// the file is not what its header thinks. Sorts t by place.
static int check_places(struct safetensor *t, int64_t n, const char *path, const unsigned char *data, int64_t size,
                        struct error *err) {
    int64_t at = 0;
    if (n) // qsort must not be given NULL
        qsort(t, (size_t)n, sizeof *t, compare_places);
    for (int64_t i = 0; i < n; i++) {
        int64_t begin = (const unsigned char *)t[i].data - data;
        if (begin < at)
            return error_set(err,
                             "%s: tensors %s and %s overlap (the second begins at byte %lld, the first ends at %lld)",
                             path, t[i - 1].name, t[i].name, (long long)begin, (long long)at);
        if (begin > at)
            return error_set(err,
                             "%s: %lld bytes before tensor %s belong to no tensor: the header does not fit the data",
                             path, (long long)(begin - at), t[i].name);
        at = begin + t[i].bytes;
    }
    if (at != size)
        return error_set(err, "%s: %lld bytes after the last tensor belong to none: the header does not fit the data",
                         path, (long long)(size - at));
    return 0;
}

static struct json *read_header(const struct file_map *map, uint64_t *length, struct error *err) {
    uint64_t n = 0;
    if (map->size < 8) {
        error_set(err, "%s: %zu bytes; a safetensors file has at least 8 (cut off? fetch it again)", map->path,
                  map->size);
        return NULL;
    }
    for (int i = 0; i < 8; i++)
        n |= (uint64_t)map->data[i] << (8 * i);
    if (n > HEADER_MAX || n > map->size - 8) {
        error_set(
            err,
            "%s: its header would be %llu bytes long; the file has %zu and the format allows %llu (no safetensors "
            "file, or cut off)",
            map->path, (unsigned long long)n, map->size, (unsigned long long)HEADER_MAX);
        return NULL;
    }
    char *where = xasprintf("%s: header", map->path);
    struct json *header = json_parse((const char *)map->data + 8, n, where, 0, err);
    if (header && json_kind(header) != JSON_OBJECT) {
        error_set(err, "%s is %s; expected an object", where, json_kind_name(json_kind(header)));
        json_free(header);
        header = NULL;
    }
    free(where);
    *length = n;
    return header;
}

// Appends the tensors of one file to s, in the order in which they lie there.
static int add_tensors(struct safetensors *s, const struct file_map *map, const struct json *header, uint64_t length,
                       struct error *err) {
    const unsigned char *data = map->data + 8 + length;
    int64_t size = (int64_t)(map->size - 8 - length), first = s->n_tensor, room = first + json_count(header);
    s->tensor = xrealloc(s->tensor, (size_t)(room + 1) * sizeof *s->tensor, "safetensors tensors");
    for (const struct json *item = json_first(header); item; item = json_next(item)) {
        const char *key = json_key(item);
        if (strcmp(key, "__metadata__") == 0) {
            TRY(merge_metadata(s, item, map->path, err));
            continue;
        }
        char *where = xasprintf("%s: tensor %s", map->path, key);
        struct safetensor *t = &s->tensor[s->n_tensor];
        int rc = read_tensor(t, item, where, data, size, err);
        free(where);
        TRY(rc);
        t->name = xstrdup(key);
        s->n_tensor++;
    }
    return check_places(s->tensor + first, s->n_tensor - first, map->path, data, size, err);
}

static int add_file(struct safetensors *s, const char *path, struct error *err) {
    uint64_t length;
    s->map = xrealloc(s->map, (size_t)(s->n_map + 1) * sizeof *s->map, "safetensors maps");
    struct file_map *map = &s->map[s->n_map];
    TRY(file_map(map, path, err));
    s->n_map++;
    struct json *header = read_header(map, &length, err);
    if (!header)
        return -1;
    int rc = add_tensors(s, map, header, length, err);
    json_free(header);
    return rc;
}

static const struct file_map *map_of(const struct safetensors *s, const struct safetensor *t) {
    const unsigned char *p = t->data;
    for (int i = 0; i < s->n_map; i++)
        if (p >= s->map[i].data && p <= s->map[i].data + s->map[i].size)
            return &s->map[i];
    BUG("safetensors: tensor %s lies in no map", t->name);
}

static int finish(struct safetensors *s, struct error *err) {
    if (s->n_tensor)
        qsort(s->tensor, (size_t)s->n_tensor, sizeof *s->tensor, compare_names);
    for (int64_t i = 1; i < s->n_tensor; i++)
        if (strcmp(s->tensor[i].name, s->tensor[i - 1].name) == 0)
            return error_set(err, "%s: tensor %s is there twice (the other one in %s)",
                             map_of(s, &s->tensor[i])->path, s->tensor[i].name,
                             path_base(map_of(s, &s->tensor[i - 1])->path));
    return 0;
}

static int compare_texts(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

// Opens each file that the weight map names, once.
static int add_shards(struct safetensors *s, const char *folder, const char *index, const struct json *weights,
                      struct error *err) {
    int rc = -1;
    int64_t n = 0;
    const char **file = xmalloc((size_t)(json_count(weights) + 1) * sizeof *file, "shard names");
    for (const struct json *item = json_first(weights); item; item = json_next(item)) {
        const char *name = json_string(item);
        if (!name || !*name || strchr(name, '/')) {
            error_set(err, "%s: weight_map \"%s\" names no file of this folder", index, json_key(item));
            goto out;
        }
        file[n++] = name;
    }
    if (n)
        qsort(file, (size_t)n, sizeof *file, compare_texts);
    for (int64_t i = 0; i < n; i++) {
        if (i && strcmp(file[i], file[i - 1]) == 0)
            continue;
        char *path = path_join(folder, file[i]);
        int found = file_exists(path), added = found ? add_file(s, path, err) : -1;
        if (!found)
            error_set(err, "%s: shard %s is missing from the folder: fetch the rest of the model", index, file[i]);
        free(path);
        if (added < 0)
            goto out;
    }
    rc = 0;
out:
    free(file);
    return rc;
}

static int read_index(struct safetensors *s, const char *folder, const char *path, struct error *err) {
    int rc = -1;
    struct json *index = json_read(path, err);
    if (!index)
        return -1;
    const struct json *weights = json_get(index, "weight_map");
    if (!weights || json_kind(weights) != JSON_OBJECT || !json_first(weights)) {
        error_set(err, "%s: weight_map is missing or empty; expected an object from tensor names to files", path);
        goto out;
    }
    if (add_shards(s, folder, path, weights, err) < 0 || finish(s, err) < 0)
        goto out;
    for (const struct json *item = json_first(weights); item; item = json_next(item)) {
        const struct safetensor *t = safetensors_find(s, json_key(item));
        if (!t || strcmp(path_base(map_of(s, t)->path), json_string(item)) != 0) {
            error_set(err, "%s: tensor %s should be in %s, but that file does not have it", path, json_key(item),
                      json_string(item));
            goto out;
        }
    }
    rc = 0;
out:
    json_free(index);
    return rc;
}

static int open_folder(struct safetensors *s, const char *folder, struct error *err) {
    char *one = path_join(folder, "model.safetensors"), *index = path_join(folder, INDEX_NAME);
    char *pickled = path_join(folder, "pytorch_model.bin");
    int rc = -1;
    if (file_exists(one))
        rc = add_file(s, one, err) < 0 ? -1 : finish(s, err);
    else if (file_exists(index))
        rc = read_index(s, folder, index, err);
    else
        error_set(err, "%s: neither model.safetensors nor %s there%s", folder, INDEX_NAME,
                  file_exists(pickled) ? " (pytorch_model.bin is not read: convert it to safetensors)" : "");
    free(one);
    free(index);
    free(pickled);
    return rc;
}

int safetensors_open(struct safetensors *s, const char *path, struct error *err) {
    *s = (struct safetensors){0};
    int rc = file_is_directory(path) ? open_folder(s, path, err) : add_file(s, path, err) < 0 ? -1 : finish(s, err);
    if (rc < 0)
        safetensors_close(s);
    return rc;
}

void safetensors_close(struct safetensors *s) {
    for (int i = 0; i < s->n_map; i++)
        file_unmap(&s->map[i]);
    for (int64_t i = 0; i < s->n_tensor; i++)
        free(s->tensor[i].name);
    free(s->map);
    free(s->tensor);
    json_free(s->metadata);
    *s = (struct safetensors){0};
}

const struct safetensor *safetensors_find(const struct safetensors *s, const char *name) {
    struct safetensor key = {.name = (char *)name};
    return s->n_tensor ? bsearch(&key, s->tensor, (size_t)s->n_tensor, sizeof key, compare_names) : NULL;
}

// ---- Writing ----

struct safetensors_writer { // lifetime: from begin to end
    char *folder, *path; // one of them
    const struct safetensors_item **item; // sorted by name
    int *shard;                           // of each item
    int64_t *at;                          // of each item, in its file; -1: it was put
    int64_t n;
    int n_shard;
    enum dtype dtype;
    const struct json *metadata;
    struct file_writer *writer; // [n_shard]
};

static int64_t item_count(const struct safetensors_item *item) {
    int64_t n = 1;
    for (int i = 0; i < item->n_dim; i++)
        n *= item->dim[i];
    return n;
}

static int64_t item_bytes(const struct safetensors_writer *job, const struct safetensors_item *item) {
    return item_count(item) * (item->raw_type ? type_find(item->raw_type)->bits / 8 : (int64_t)dtype_size(job->dtype));
}

static int compare_items(const void *a, const void *b) {
    return strcmp((*(const struct safetensors_item *const *)a)->name,
                  (*(const struct safetensors_item *const *)b)->name);
}

// Fills shards in the order of the names; a tensor larger than a shard gets one of its own.
static void assign_shards(struct safetensors_writer *job, int64_t shard_bytes) {
    int64_t used = 0;
    job->n_shard = 1;
    for (int64_t i = 0; i < job->n; i++) {
        int64_t bytes = item_bytes(job, job->item[i]);
        if (shard_bytes && used && used + bytes > shard_bytes) {
            job->n_shard++;
            used = 0;
        }
        used += bytes;
        job->shard[i] = job->n_shard - 1;
    }
}

// The caller frees. shard counts from 0.
static char *shard_name(int shard, int n_shard) {
    return n_shard == 1 ? xstrdup("model.safetensors")
                        : xasprintf("model-%05d-of-%05d.safetensors", shard + 1, n_shard);
}

// Padded with spaces to a multiple of 8, so that the data is aligned in a map. The caller frees.
static char *make_header(const struct safetensors_writer *job, int shard) {
    struct json *header = json_object(), *metadata = json_object();
    json_set_string(metadata, "format", "pt");
    if (job->metadata)
        for (const struct json *m = json_first(job->metadata); m; m = json_next(m))
            json_set_string(metadata, json_key(m), json_string(m));
    json_set(header, "__metadata__", metadata);
    int64_t at = 0;
    for (int64_t i = 0; i < job->n; i++) {
        const struct safetensors_item *item = job->item[i];
        if (job->shard[i] != shard)
            continue;
        static const char *const names[] = {[DTYPE_F32] = "F32", [DTYPE_F16] = "F16", [DTYPE_BF16] = "BF16"};
        struct json *o = json_object(), *shape = json_array(), *offsets = json_array();
        json_set_string(o, "dtype", item->raw_type ? item->raw_type : names[job->dtype]);
        for (int d = 0; d < item->n_dim; d++)
            json_push(shape, json_from_number((double)item->dim[d]));
        json_set(o, "shape", shape);
        json_push(offsets, json_from_number((double)at));
        at += item_bytes(job, item);
        json_push(offsets, json_from_number((double)at));
        json_set(o, "data_offsets", offsets);
        json_set(header, item->name, o);
    }
    char *text = json_text(header, 0);
    json_free(header);
    char *padded = xasprintf("%s%*s", text, (int)(-strlen(text) & 7), "");
    free(text);
    return padded;
}

static int put_values(struct file_writer *w, const char *name, const float *values, int64_t n, enum dtype dtype,
                      void *buffer, struct error *err) {
    static const float infinite[] = {[DTYPE_F32] = INFINITY, [DTYPE_F16] = 65520.0f, [DTYPE_BF16] = 0x1.ffp127f}; // the least that becomes infinity
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(values[i]))
            return error_set(err, "%s: tensor %s would hold %g: what it is made from is broken, or too large for f32", w->path, name, (double)values[i]);
        if (fabsf(values[i]) >= infinite[dtype])
            return error_set(err, "%s: tensor %s holds %g, beyond %s: write %s", w->path, name, (double)values[i],
                             dtype == DTYPE_F16 ? "F16's largest number 65504" : "BF16's largest number", dtype == DTYPE_F16 ? "bf16 or f32" : "f32");
    }
    if (dtype == DTYPE_F32)
        return file_writer_put(w, values, (size_t)n * 4, err);
    dtype_from_f32(dtype, values, buffer, n);
    return file_writer_put(w, buffer, (size_t)n * dtype_size(dtype), err);
}

// Rows at a time where a hook gives the values, else chunks of any length.
static int put_item(struct file_writer *w, const struct safetensors_item *item, enum dtype dtype, struct error *err) {
    int64_t total = item_count(item), columns = item->hooked ? tensor_columns(item->hooked) : 1;
    int64_t step = CHUNK_ELEMENTS > columns ? CHUNK_ELEMENTS / columns * columns : columns;
    float *rows = item->hooked ? xmalloc((size_t)step * sizeof *rows, "rows to write") : NULL;
    void *buffer = xmalloc((size_t)step * dtype_size(dtype), "values to write");
    int rc = 0;
    for (int64_t at = 0; at < total && rc == 0; at += step) {
        int64_t n = total - at < step ? total - at : step;
        if (rows)
            item->hooked->hook->rows(item->hooked->hook->context, item->hooked, at / columns, n / columns, rows);
        rc = put_values(w, item->name, rows ? rows : item->data + at, n, dtype, buffer, err);
    }
    free(rows);
    free(buffer);
    return rc;
}

// Opens a shard's file and writes what lies before the tensors.
static int begin_shard(struct safetensors_writer *job, int shard, struct error *err) {
    struct file_writer *w = &job->writer[shard];
    char *name = shard_name(shard, job->n_shard), *path = job->path ? xstrdup(job->path) : path_join(job->folder, name);
    char *header = make_header(job, shard);
    unsigned char length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)strlen(header) >> (8 * i));
    int rc = file_writer_open(w, path, err);
    if (rc == 0)
        rc = file_writer_put(w, length, 8, err);
    if (rc == 0)
        rc = file_writer_put(w, header, strlen(header), err);
    int64_t at = w->offset;
    for (int64_t i = 0; i < job->n; i++)
        if (job->shard[i] == shard) {
            job->at[i] = at;
            at += item_bytes(job, job->item[i]);
        }
    free(name);
    free(path);
    free(header);
    return rc;
}

static int write_index(const struct safetensors_writer *job, struct error *err) {
    struct json *index = json_object(), *metadata = json_object(), *weights = json_object();
    int64_t total = 0;
    for (int64_t i = 0; i < job->n; i++) {
        char *name = shard_name(job->shard[i], job->n_shard);
        json_set_string(weights, job->item[i]->name, name);
        total += item_bytes(job, job->item[i]);
        free(name);
    }
    json_set_number(metadata, "total_size", (double)total);
    json_set(index, "metadata", metadata);
    json_set(index, "weight_map", weights);
    char *text = json_text(index, 1), *path = path_join(job->folder, INDEX_NAME);
    int rc = file_write(path, text, strlen(text), err);
    json_free(index);
    free(text);
    free(path);
    return rc;
}

static void remove_from(const char *folder, const char *name) {
    char *path = path_join(folder, name);
    unlink(path);
    free(path);
}

// Shards of an earlier save with another count (or, with one file now, of any).
static int remove_stale_shards(const struct safetensors_writer *job, struct error *err) {
    char **names;
    size_t n;
    TRY(directory_list(job->folder, &names, &n, err));
    for (size_t i = 0; i < n; i++) {
        int k, of, end = 0;
        if (sscanf(names[i], "model-%5d-of-%5d.safetensors%n", &k, &of, &end) == 2 && end && !names[i][end] &&
            (job->n_shard == 1 || of != job->n_shard))
            remove_from(job->folder, names[i]);
    }
    names_free(names, n);
    return 0;
}

// A reader prefers model.safetensors to an index. So an index goes before the shards that it names are replaced, and
// an old single file only after the new index is there: at every moment the folder shows one whole model, or none.
static int publish(struct safetensors_writer *job, struct error *err) {
    if (job->n_shard > 1)
        remove_from(job->folder, INDEX_NAME);
    for (int i = 0; i < job->n_shard; i++)
        TRY(file_writer_commit(&job->writer[i], err));
    if (job->n_shard > 1) {
        TRY(write_index(job, err));
        remove_from(job->folder, "model.safetensors");
    } else {
        remove_from(job->folder, INDEX_NAME);
    }
    return remove_stale_shards(job, err);
}

static int begin_files(struct safetensors_writer *job, int64_t shard_bytes, struct error *err) {
    assign_shards(job, shard_bytes);
    if (job->n_shard > SHARDS_MAX)
        return error_set(err, "%s: shards of %lld bytes would make %d files; at most %d: choose larger shards", job->folder,
                         (long long)shard_bytes, job->n_shard, SHARDS_MAX);
    job->writer = xcalloc((size_t)job->n_shard, sizeof *job->writer, "shard writers");
    for (int i = 0; i < job->n_shard; i++)
        TRY(begin_shard(job, i, err));
    return 0;
}

// folder or path
static struct safetensors_writer *begin(const char *folder, const char *path, const struct safetensors_item *items, int64_t n, enum dtype dtype,
                                        int64_t shard_bytes, const struct json *metadata, struct error *err) {
    if (n < 1)
        BUG("safetensors_begin: no tensors for %s", path ? path : folder);
    struct safetensors_writer *job = xcalloc(1, sizeof *job, "tensors to write");
    *job = (struct safetensors_writer){.folder = folder ? xstrdup(folder) : NULL, .path = path ? xstrdup(path) : NULL, .n = n, .dtype = dtype,
                                       .metadata = metadata};
    job->item = xmalloc((size_t)n * sizeof *job->item, "tensors to write");
    job->shard = xmalloc((size_t)n * sizeof *job->shard, "shards");
    job->at = xmalloc((size_t)n * sizeof *job->at, "tensors to write");
    for (int64_t i = 0; i < n; i++)
        job->item[i] = &items[i];
    qsort(job->item, (size_t)n, sizeof *job->item, compare_items);
    if (begin_files(job, shard_bytes, err) == 0)
        return job;
    safetensors_end(job);
    return NULL;
}

struct safetensors_writer *safetensors_begin(const char *folder, const struct safetensors_item *items, int64_t n, enum dtype dtype,
                                             int64_t shard_bytes, const struct json *metadata, struct error *err) {
    return begin(folder, NULL, items, n, dtype, shard_bytes, metadata, err);
}

int safetensors_put(struct safetensors_writer *job, const struct safetensors_item *item, struct error *err) {
    const struct safetensors_item **found = bsearch(&item, job->item, (size_t)job->n, sizeof *job->item, compare_items);
    const int64_t k = found ? found - job->item : -1;
    if (k < 0 || job->at[k] < 0 || item_bytes(job, item) != item_bytes(job, *found))
        BUG("safetensors_put: %s is %s", item->name, k < 0 ? "no tensor of the file" : job->at[k] < 0 ? "there already" : "of another size");
    if (!item->raw && !item->data && !item->hooked)
        BUG("safetensors_put: %s has no data", item->name);
    struct file_writer *w = &job->writer[job->shard[k]];
    TRY(file_writer_seek(w, job->at[k], err));
    job->at[k] = -1;
    return item->raw ? file_writer_put(w, item->raw, (size_t)item_bytes(job, item), err) : put_item(w, item, job->dtype, err);
}

int safetensors_commit(struct safetensors_writer *job, struct error *err) {
    for (int64_t i = 0; i < job->n; i++)
        if (job->at[i] >= 0)
            TRY(safetensors_put(job, job->item[i], err));
    return job->path ? file_writer_commit(&job->writer[0], err) : publish(job, err);
}

void safetensors_end(struct safetensors_writer *job) {
    if (!job)
        return;
    for (int i = 0; i < job->n_shard && job->writer; i++)
        file_writer_abort(&job->writer[i]);
    free(job->writer);
    free(job->shard);
    free(job->at);
    free(job->item);
    free(job->folder);
    free(job->path);
    free(job);
}

int safetensors_write(const char *folder, const struct safetensors_item *items, int64_t n, enum dtype dtype,
                      int64_t shard_bytes, const struct json *metadata, struct error *err) {
    struct safetensors_writer *job = begin(folder, NULL, items, n, dtype, shard_bytes, metadata, err);
    const int rc = job ? safetensors_commit(job, err) : -1;
    safetensors_end(job);
    return rc;
}

int safetensors_write_file(const char *path, const struct safetensors_item *items, int64_t n, enum dtype dtype, const struct json *metadata,
                           struct error *err) {
    struct safetensors_writer *job = begin(NULL, path, items, n, dtype, 0, metadata, err);
    const int rc = job ? safetensors_commit(job, err) : -1;
    safetensors_end(job);
    return rc;
}
