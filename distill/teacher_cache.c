// teacher_cache.c: opening, checking and reading a teacher cache; see teacher_cache.h. Making one: teacher_cache_make.c.
#include "distill/teacher_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"

#define FORMAT 2 // 1 had no draws

static struct json *key_json(const struct teacher_key *k)
{
    struct json *o = json_object();
    json_set_number(o, "pdq_teacher_cache", FORMAT);
    json_set_string(o, "tokenizer", k->tokenizer);
    json_set_string(o, "data", k->data);
    json_set_number(o, "seq_len", (double)k->seq_len);
    json_set_number(o, "windows", (double)k->windows);
    json_set_string(o, "teacher", k->teacher);
    json_set_number(o, "vocab", (double)k->vocab);
    json_set_string(o, "precision", k->precision == PRECISION_BF16 ? "bf16" : "f32");
    json_set_number(o, "temperature", k->temperature);
    json_set_number(o, "top_k", (double)k->top_k);
    json_set_number(o, "tail_draws", (double)k->tail_draws);
    return o;
}

// What the members mean, in the order in which a difference is told.
static const struct {
    const char *member, *what;
} meaning[] = {{"pdq_teacher_cache", "format"},
               {"tokenizer", "tokenizer"},
               {"data", "text (data.train)"},
               {"seq_len", "order of windows (data.seq_len)"},
               {"windows", "number of windows"},
               {"teacher", "teacher"},
               {"vocab", "vocabulary"},
               {"precision", "precision"},
               {"temperature", "temperature"},
               {"top_k", "number of entries (top_k)"},
               {"tail_draws", "number of draws (tail_draws)"}};

char *teacher_key_text(const struct teacher_key *k)
{
    struct json *o = key_json(k);
    char *text = json_text(o, 0), *line = xasprintf("%s\n", text);
    free(text);
    json_free(o);
    return line;
}

void teacher_key_hash(const struct teacher_key *k, char out[HASH_TEXT])
{
    char *text = teacher_key_text(k);
    hash_text(text, out);
    free(text);
}

struct block_shape teacher_block_shape(const struct teacher_key *key)
{
    return (struct block_shape){key->seq_len, key->top_k, key->tail_draws, key->vocab};
}

struct block_head teacher_block_head(int64_t w, const int32_t *targets, int64_t seq_len)
{
    struct block_head h = {.window = w};
    while (h.first < seq_len && targets[h.first] < 0)
        h.first++;
    while (h.first + h.n < seq_len && targets[h.first + h.n] >= 0)
        h.n++;
    return h;
}

int teacher_block_is(const struct block_head *found, const struct block_head *expected)
{
    return found->window == expected->window && found->first == expected->first && found->n == expected->n;
}

struct head_top top_rows_new(int64_t rows, int64_t k, int64_t m)
{
    struct head_top t = {.k = k,
                         .m = m,
                         .id = xcalloc((size_t)(rows * k), sizeof(int32_t), "a teacher's entries"),
                         .log_p = xcalloc((size_t)(rows * k), sizeof(float), "a teacher's entries"),
                         .log_tail = xcalloc((size_t)rows, sizeof(float), "a teacher's entries")};
    if (m) {
        t.draws = xcalloc((size_t)rows, sizeof(int32_t), "a teacher's draws");
        t.drawn = xcalloc((size_t)(rows * m), sizeof(int32_t), "a teacher's draws");
        t.entropy = xcalloc((size_t)rows, sizeof(float), "a teacher's draws");
    }
    return t;
}

struct head_top top_rows_at(const struct head_top *t, int64_t row)
{
    struct head_top at = {.k = t->k, .m = t->m, .id = t->id + row * t->k, .log_p = t->log_p + row * t->k, .log_tail = t->log_tail + row};
    if (t->m) {
        at.draws = t->draws + row;
        at.drawn = t->drawn + row * t->m;
        at.entropy = t->entropy + row;
    }
    return at;
}

void top_rows_free(struct head_top *t)
{
    free(t->id);
    free(t->log_p);
    free(t->log_tail);
    free(t->draws);
    free(t->drawn);
    free(t->entropy);
    *t = (struct head_top){0};
}

int64_t teacher_header_bytes(const unsigned char *data, size_t size, const struct teacher_key *key)
{
    char text[CACHE_HEADER_ROOM], *wanted = teacher_key_text(key);
    size_t n, used;
    const int same = gzip_unpack(data, size, text, sizeof text, &n, &used) == 0 && n == strlen(wanted) && memcmp(text, wanted, n) == 0;
    free(wanted);
    return same ? (int64_t)used : -1;
}

static int tell_difference(const char *path, const struct json *found, const struct json *expected, struct error *err)
{
    for (size_t i = 0; i < sizeof meaning / sizeof *meaning; i++) {
        const struct json *there = json_get(found, meaning[i].member);
        char *a = there ? json_text(there, 0) : xstrdup("nothing"), *b = json_text(json_get(expected, meaning[i].member), 0);
        const int same = strcmp(a, b) == 0;
        if (!same)
            error_set(err,
                      "%s: this teacher cache is of another %s: found %s, expected %s; name another file as \"teacher_cache\", or delete "
                      "this one and it is made again",
                      path, meaning[i].what, a, b);
        free(a);
        free(b);
        if (!same)
            return -1;
    }
    return error_set(err, "%s: this teacher cache has a header of another form; delete it and it is made again", path);
}

static int check_header(const struct teacher_cache *c, const struct teacher_key *key, int64_t *used, struct error *err)
{
    const char *path = c->map.path;
    char text[CACHE_HEADER_ROOM];
    size_t n, taken;
    *used = teacher_header_bytes(c->map.data, c->map.size, key);
    if (*used >= 0)
        return 0;
    struct error ignored;
    struct json *found = NULL;
    if (gzip_unpack(c->map.data, c->map.size, text, sizeof text, &n, &taken) == 0)
        found = json_parse(text, n, path, 0, &ignored);
    if (!found || !json_get(found, "pdq_teacher_cache")) {
        json_free(found);
        return error_set(err, "%s: found no teacher cache; expected a file that \"teacher_cache\" made, or none, and it is made", path);
    }
    struct json *expected = key_json(key);
    tell_difference(path, found, expected, err);
    json_free(found);
    json_free(expected);
    return -1;
}

static uint64_t little_endian(const unsigned char *from)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v |= (uint64_t)from[i] << 8 * i;
    return v;
}

static int incomplete(const struct teacher_cache *c, struct error *err)
{
    return error_set(err, "%s: this teacher cache is damaged or cut off (its index is not whole in %zu bytes); delete it and it is made again",
                     c->map.path, c->map.size);
}

static int read_index(struct teacher_cache *c, int64_t header, struct error *err)
{
    unsigned char footer[24];
    size_t n, used;
    const size_t size = c->map.size, bytes = 8 * (size_t)c->windows;
    if (size < (size_t)header + CACHE_FOOTER ||
        gzip_unpack(c->map.data + size - CACHE_FOOTER, CACHE_FOOTER, footer, sizeof footer, &n, &used) < 0 || n != sizeof footer ||
        memcmp(footer, CACHE_MAGIC, 8) != 0)
        return incomplete(c, err);
    const uint64_t at = little_endian(footer + 8), end = size - CACHE_FOOTER;
    if (at < (uint64_t)header || at >= end)
        return incomplete(c, err);
    unsigned char *index = xmalloc(bytes, "the index of a teacher cache");
    c->offset = xmalloc(bytes, "the index of a teacher cache");
    c->end = (int64_t)at;
    int status = gzip_unpack(c->map.data + at, end - at, index, bytes, &n, &used);
    if (status < 0 || n != bytes || used != end - at)
        status = incomplete(c, err);
    for (int64_t w = 0; w < c->windows && status == 0; w++) {
        const uint64_t offset = little_endian(index + 8 * w);
        if (offset && (offset < (uint64_t)header || offset >= at))
            status = incomplete(c, err);
        c->offset[w] = (int64_t)offset;
        c->n_block += offset > 0;
    }
    free(index);
    return status;
}

int teacher_cache_open(struct teacher_cache *c, const char *path, const struct teacher_key *key, struct error *err)
{
    int64_t header;
    *c = (struct teacher_cache){.shape = teacher_block_shape(key), .windows = key->windows};
    teacher_key_hash(key, c->key);
    TRY(file_map(&c->map, path, err));
    int status = check_header(c, key, &header, err);
    if (status == 0)
        status = read_index(c, header, err);
    if (status < 0)
        teacher_cache_close(c);
    return status;
}

void teacher_cache_close(struct teacher_cache *c)
{
    file_unmap(&c->map);
    free(c->offset);
    *c = (struct teacher_cache){0};
}

static int window_error(const struct teacher_cache *c, int64_t w, struct error *err)
{
    return error_set(err, "%s: %s window %lld, at byte %lld; delete the file and it is made again", c->map.path,
                     c->offset[w] ? "this teacher cache is damaged in" : "this teacher cache lacks", (long long)w, (long long)c->offset[w]);
}

int teacher_cache_read(const struct teacher_cache *c, int64_t w, const int32_t *targets, const struct head_top *to, struct error *err)
{
    const struct block_head expected = teacher_block_head(w, targets, c->shape.seq_len);
    struct block_head found;
    size_t used;
    const int64_t at = c->offset[w];
    if (at && block_unpack(&c->shape, c->map.data + at, (size_t)(c->end - at), &found, to, &used) == 0 && teacher_block_is(&found, &expected))
        return 0;
    return window_error(c, w, err);
}

// Reads the wanted windows that are there; the first one that is damaged, or -1.
static int64_t first_damaged(const struct teacher_cache *c, const unsigned char *wanted, const struct dataset *data)
{
    const int64_t T = c->shape.seq_len;
    int64_t damaged = -1;
#pragma omp parallel
    {
        struct head_top rows = top_rows_new(T, c->shape.k, c->shape.m);
        int32_t *ids = xmalloc(2 * (size_t)T * sizeof *ids, "a window of tokens");
        struct error ignored;
#pragma omp for schedule(dynamic, 16)
        for (int64_t w = 0; w < c->windows; w++) {
            if (!wanted[w] || !c->offset[w])
                continue;
            dataset_read_window(data, T, w, ids, ids + T);
            if (teacher_cache_read(c, w, ids + T, &rows, &ignored) < 0) {
#pragma omp critical(teacher_cache_damage)
                damaged = damaged < 0 || w < damaged ? w : damaged;
            }
        }
        free(ids);
        top_rows_free(&rows);
    }
    return damaged;
}

int64_t teacher_cache_lacks(const char *path, const struct teacher_key *key, const unsigned char *wanted, const struct dataset *data,
                            struct error *err)
{
    struct teacher_cache c = {0};
    int64_t lacking = 0;
    if (file_exists(path))
        TRY(teacher_cache_open(&c, path, key, err));
    for (int64_t w = 0; w < key->windows; w++)
        lacking += wanted[w] && (!c.offset || !c.offset[w]);
    const int64_t damaged = c.offset ? first_damaged(&c, wanted, data) : -1;
    if (damaged >= 0)
        lacking = window_error(&c, damaged, err);
    teacher_cache_close(&c);
    return lacking;
}
