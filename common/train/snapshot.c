// snapshot.c: see snapshot.h.
//
//   header | weights | first moments | second moments (AdamW) | best weights (if kept) | their average (if made) |
//   the first three of each model that is trained along | log | digest of all before
//
// Frozen weights are among the weights, and have no place in the other arrays.
//
// The file is written by one machine and read by the same kind of machine (little-endian), and replaced whole:
// whatever moment the run is killed at, the last complete snapshot is there.
#include "common/train/snapshot.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/hash.h"

#define MAGIC "pdqsnap3"

struct header {
    char magic[8];
    char identity[40]; // HASH_TEXT, NULs after it
    int64_t n_element, n_trained, step, evaluated, optimizer_step, log_bytes;
    double best_held_out;
    int64_t has_second, has_best, has_average, n_along; // elements of all that is trained along
};

// Writes and hashes at once.
static int put(struct file_writer *w, struct hasher *h, const void *data, size_t bytes, struct error *err)
{
    if (!bytes)
        return 0;
    hasher_add(h, data, bytes);
    return file_writer_put(w, data, bytes, err);
}

// Elements of what is trained along.
static int64_t count_along(const struct snapshot *s)
{
    int64_t n = s->beside ? s->beside->n_element : 0;
    for (int k = 0; k < s->n_peer; k++)
        n += s->peer[k]->n_element;
    return n;
}

// Weights and moments of one model.
static int put_state(struct file_writer *w, struct hasher *h, const struct model *m, const struct optimizer *o, struct error *err)
{
    const size_t bytes = (size_t)model_trained(m) * sizeof(float);
    TRY(put(w, h, m->data, (size_t)m->n_element * sizeof(float), err));
    TRY(put(w, h, o->m, bytes, err));
    return put(w, h, o->v, o->v ? bytes : 0, err);
}

int snapshot_write(const char *path, const char *identity, const struct model *m, const struct optimizer *o,
                   const struct snapshot *s, struct error *err)
{
    struct file_writer w;
    TRY(file_writer_open(&w, path, err));
    struct header head = {.magic = MAGIC, .n_element = m->n_element, .n_trained = model_trained(m), .step = s->step, .evaluated = s->evaluated};
    head.optimizer_step = o->step;
    snprintf(head.identity, sizeof head.identity, "%s", identity);
    head.log_bytes = (int64_t)s->log_bytes;
    head.best_held_out = s->best_held_out;
    head.has_second = o->v != NULL;
    head.has_best = s->best != NULL;
    head.has_average = s->average != NULL;
    head.n_along = count_along(s);

    struct hasher *h = hasher_new();
    char digest[HASH_TEXT];
    size_t bytes = (size_t)head.n_trained * sizeof(float);
    int status = put(&w, h, &head, sizeof head, err);
    status = status < 0 ? status : put_state(&w, h, m, o, err);
    status = status < 0 ? status : put(&w, h, s->best, s->best ? bytes : 0, err);
    status = status < 0 ? status : put(&w, h, s->average, s->average ? bytes : 0, err);
    if (s->beside)
        status = status < 0 ? status : put_state(&w, h, s->beside, s->beside_optimizer, err);
    for (int k = 0; k < s->n_peer; k++)
        status = status < 0 ? status : put_state(&w, h, s->peer[k], &s->peer_optimizer[k], err);
    status = status < 0 ? status : put(&w, h, s->log, s->log_bytes, err);
    hasher_end(h, digest);
    status = status < 0 ? status : file_writer_put(&w, digest, HASH_TEXT, err);
    status = status < 0 ? status : file_writer_commit(&w, err);
    if (status < 0)
        file_writer_abort(&w);
    return status;
}

static int damaged(const char *path, const char *what, struct error *err)
{
    return error_set(err, "%s: damaged snapshot (%s); remove it to train from the start", path, what);
}

static int check(const char *path, const struct file_map *map, const struct header *head, const char *identity,
                 const struct model *m, const struct optimizer *o, const struct snapshot *s, struct error *err)
{
    if (memcmp(head->magic, MAGIC, sizeof head->magic) != 0)
        return damaged(path, "it does not begin with " MAGIC, err);
    if (strncmp(head->identity, identity, sizeof head->identity) != 0)
        return error_set(
            err,
            "%s: snapshot of another run (inputs %.32s, this run's are %s): the options, the data or the "
            "start weights differ; remove it to train from the start, or choose another output",
            path, head->identity, identity);
    if (head->n_element != m->n_element || head->n_trained != model_trained(m) || head->has_average != (s->average != NULL) ||
        head->has_second != (o->v != NULL) || head->log_bytes < 0 || (head->has_best != 0 && head->has_best != 1) || head->step < 0 ||
        head->n_along != count_along(s))
        return damaged(path, "its header does not fit this run", err);
    const size_t moments = 1 + (size_t)head->has_second, copies = (size_t)head->has_best + (size_t)head->has_average;
    const size_t floats = (size_t)m->n_element + (moments + copies) * (size_t)head->n_trained + (1 + moments) * (size_t)head->n_along;
    const size_t fixed = sizeof *head + floats * sizeof(float) + HASH_TEXT;
    if (map->size < fixed || map->size - fixed != (size_t)head->log_bytes)
        return damaged(path, "its size does not match its header", err);
    struct hasher *h = hasher_new();
    char digest[HASH_TEXT];
    hasher_add_map(h, map->data, map->size - HASH_TEXT);
    hasher_end(h, digest);
    if (memcmp(digest, map->data + map->size - HASH_TEXT, HASH_TEXT) != 0)
        return damaged(path, "its digest does not match", err);
    return 0;
}

static const unsigned char *take(const unsigned char *at, void *to, size_t bytes)
{
    memcpy(to, at, bytes);
    file_map_drop(at, bytes);
    return at + bytes;
}

static const unsigned char *take_state(const unsigned char *at, struct model *m, struct optimizer *o)
{
    const size_t bytes = (size_t)model_trained(m) * sizeof(float);
    at = take(at, m->data, (size_t)m->n_element * sizeof(float));
    at = take(at, o->m, bytes);
    return o->v ? take(at, o->v, bytes) : at;
}

int snapshot_read(const char *path, const char *identity, struct model *m, struct optimizer *o, struct snapshot *s,
                  struct error *err)
{
    if (!file_exists(path))
        return 0;
    struct file_map map;
    TRY(file_map(&map, path, err));
    struct header head = {0};
    int status = -1;
    if (map.size < sizeof head + HASH_TEXT) {
        damaged(path, "it is cut off", err);
        goto out;
    }
    const unsigned char *at = take(map.data, &head, sizeof head);
    if (check(path, &map, &head, identity, m, o, s, err) < 0)
        goto out;
    size_t bytes = (size_t)head.n_trained * sizeof(float);
    at = take_state(at, m, o);
    free(s->best);
    free(s->log);
    s->best = NULL;
    if (head.has_best) {
        s->best = xmalloc(bytes, "the best weights so far");
        at = take(at, s->best, bytes);
    }
    if (s->average)
        at = take(at, s->average, bytes);
    if (s->beside) {
        at = take_state(at, s->beside, s->beside_optimizer);
        s->beside_optimizer->step = head.optimizer_step;
    }
    for (int k = 0; k < s->n_peer; k++) {
        at = take_state(at, s->peer[k], &s->peer_optimizer[k]);
        s->peer_optimizer[k].step = head.optimizer_step;
    }
    s->log_bytes = s->log_capacity = (size_t)head.log_bytes;
    s->log = xmalloc(s->log_bytes + 1, "the log of a training run");
    take(at, s->log, s->log_bytes);
    s->log[s->log_bytes] = '\0';
    s->step = head.step;
    s->evaluated = head.evaluated;
    s->best_held_out = head.best_held_out;
    o->step = head.optimizer_step;
    status = 1;
out:
    file_unmap(&map);
    return status;
}

void snapshot_release(struct snapshot *s)
{
    free(s->best);
    free(s->average);
    free(s->log);
    *s = (struct snapshot){0};
}
