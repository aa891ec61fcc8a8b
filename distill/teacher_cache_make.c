// teacher_cache_make.c: asking the teacher, and writing what it says; see teacher_cache.h.
//
// Windows are asked for in rising order, BATCH at a time, and written together, so a killed run's file is cut to whole batches and each
// window meets the same neighbours in the teacher's products as without the kill.
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/progress.h"
#include "common/base/random.h"
#include "common/base/threads.h"
#include "common/tensor/tape.h"
#include "distill/teacher_cache.h"

#define BATCH 8
#define BYTES_AT_LEAST 1 // an entry, for the look at the disk's room before any work

struct making { // lifetime: one call
    const struct teacher_key *key;
    const struct dataset *data;
    struct model *teacher;
    struct tape tape;
    struct file_writer writer;
    struct block_shape shape;
    int64_t *offset; // [windows] 0: not there yet
    int64_t n_block;
    int32_t *inputs, *targets; // [BATCH, seq_len]
    struct head_top top;       // [BATCH * seq_len]
    double *start;             // [BATCH * seq_len] of the draws
};

static int put_member(struct making *m, const void *data, size_t bytes, int level, struct error *err)
{
    size_t n;
    void *packed = gzip_pack(data, bytes, level, &n);
    int status = file_writer_put(&m->writer, packed, n, err);
    free(packed);
    return status;
}

static int begin_file(struct making *m, struct error *err)
{
    char *text = teacher_key_text(m->key);
    int status = file_writer_cut(&m->writer, 0, err);
    if (status == 0)
        status = put_member(m, text, strlen(text), 9, err);
    free(text);
    return status;
}

static int is_ours(const struct making *m, const struct block_head *found)
{
    if (found->window < 0 || found->window >= m->key->windows)
        return 0;
    dataset_read_window(m->data, m->key->seq_len, found->window, m->inputs, m->targets);
    const struct block_head expected = teacher_block_head(found->window, m->targets, m->key->seq_len);
    return teacher_block_is(found, &expected);
}

// Notes the whole blocks in data[at .. end), up to the last whole batch; returns where they end.
static int64_t walk_blocks(struct making *m, const unsigned char *data, int64_t at, int64_t end)
{
    struct head_top rows = top_rows_new(m->key->seq_len, m->key->top_k, m->key->tail_draws);
    int64_t pending[BATCH], place[BATCH], n = 0, whole = at;
    struct block_head found;
    size_t used;
    while (at < end && block_unpack(&m->shape, data + at, (size_t)(end - at), &found, &rows, &used) == 0 && is_ours(m, &found)) {
        pending[n] = found.window;
        place[n++] = at;
        at += (int64_t)used;
        if (n < BATCH)
            continue;
        for (int i = 0; i < BATCH; i++)
            m->offset[pending[i]] = place[i];
        m->n_block += BATCH;
        whole = at;
        n = 0;
    }
    top_rows_free(&rows);
    return whole;
}

// Bytes of header and blocks of the finished file, where one is there; 0: none. Its windows are kept when it grows.
static int64_t finished_bytes(const struct making *m, struct error *err)
{
    struct teacher_cache c;
    if (!file_exists(m->writer.path))
        return 0;
    if (teacher_cache_open(&c, m->writer.path, m->key, err) < 0)
        return -1;
    const int64_t end = c.end;
    teacher_cache_close(&c);
    return end;
}

static int copy_finished(struct making *m, int64_t bytes, struct error *err)
{
    struct file_map map;
    TRY(file_writer_cut(&m->writer, 0, err));
    TRY(file_map(&map, m->writer.path, err));
    int status = file_writer_put(&m->writer, map.data, (size_t)bytes, err);
    file_unmap(&map);
    return status;
}

// What is there already: in FILE.part, or, where that has less, in the file itself.
static int take_up(struct making *m, struct error *err)
{
    const int64_t finished = finished_bytes(m, err);
    if (finished < 0 || (finished > m->writer.offset && copy_finished(m, finished, err) < 0) || fflush(m->writer.stream) != 0)
        return -1;
    struct file_map map;
    TRY(file_map(&map, m->writer.temporary, err));
    int64_t end = map.size ? teacher_header_bytes(map.data, map.size, m->key) : -1;
    if (end >= 0)
        end = walk_blocks(m, map.data, end, (int64_t)map.size);
    file_unmap(&map);
    return end < 0 ? begin_file(m, err) : file_writer_cut(&m->writer, end, err);
}

// Draws start where the window alone says, so that its block has the same bytes whatever it is made with.
static void ask_teacher(struct making *m, const int64_t *window)
{
    const int64_t T = m->key->seq_len;
    for (int b = 0; b < BATCH; b++) {
        struct random random;
        random_init(&random, 0, "draws from a teacher's tail", (uint64_t)window[b]);
        for (int64_t j = 0; j < T; j++)
            m->start[b * T + j] = random_uniform(&random);
        dataset_read_window(m->data, T, window[b], m->inputs + b * T, m->targets + b * T);
    }
    const struct forward f = {.ids = m->inputs, .B = BATCH, .T = T, .checkpoint = 1};
    tape_reset(&m->tape);
    const struct tensor *x = model_forward(m->teacher, &m->tape, &f);
    op_head_top(&m->tape, x, model_head(m->teacher), model_head_bias(m->teacher), m->teacher->config.logit_cap,
                m->key->temperature, m->start, &m->top);
}

static void *pack_window(const struct making *m, int64_t window, int64_t b, size_t *packed)
{
    const int64_t T = m->key->seq_len;
    const struct block_head head = teacher_block_head(window, m->targets + b * T, T);
    const struct head_top rows = top_rows_at(&m->top, b * T);
    return block_pack(&m->shape, &head, &rows, packed);
}

// n windows, the last one repeated to a whole batch: products of another shape might round otherwise.
static int add_batch(struct making *m, const int64_t *window, int64_t n, struct error *err)
{
    int64_t whole[BATCH];
    void *packed[BATCH];
    size_t bytes[BATCH];
    int status = 0;
    for (int64_t b = 0; b < BATCH; b++)
        whole[b] = window[b < n ? b : n - 1];
    ask_teacher(m, whole);
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t b = 0; b < n; b++)
        packed[b] = pack_window(m, whole[b], b, &bytes[b]);
    for (int64_t b = 0; b < n; b++) {
        m->offset[window[b]] = m->writer.offset;
        if (status == 0)
            status = file_writer_put(&m->writer, packed[b], bytes[b], err);
        free(packed[b]);
    }
    m->n_block += n;
    return status;
}

static int64_t count_lacking(const struct making *m, const unsigned char *wanted)
{
    int64_t n = 0;
    for (int64_t w = 0; w < m->key->windows; w++)
        n += wanted[w] && !m->offset[w];
    return n;
}

static int add_lacking(struct making *m, const unsigned char *wanted, struct error *err)
{
    const int64_t total = count_lacking(m, wanted), T = m->key->seq_len;
    const int64_t room = disk_free(m->writer.path), needed = total * T * m->key->top_k * BYTES_AT_LEAST;
    if (room >= 0 && needed > room)
        return error_set(err, "%s: the teacher's answers for %lld tokens need more than %lld bytes, and the disk has %lld left", m->writer.path,
                         (long long)(total * T), (long long)needed, (long long)room);
    int64_t window[BATCH], n = 0, done = 0;
    struct progress progress;
    progress_begin(&progress, "teacher", "tokens", total * T, 0);
    for (int64_t w = 0; w < m->key->windows; w++) {
        if (!wanted[w] || m->offset[w])
            continue;
        window[n++] = w;
        if (n < BATCH && done + n < total)
            continue;
        if (interrupted()) { // what a full disk keeps back is asked for again
            fflush(m->writer.stream);
            return error_set(err, "%s: interrupted after %lld of %lld windows; run the same command again to go on", m->writer.path,
                             (long long)done, (long long)total);
        }
        TRY(add_batch(m, window, n, err));
        done += n;
        n = 0;
        progress_update(&progress, done * T, "%s", "");
    }
    progress_end(&progress, "%.1f MB", 1e-6 * (double)m->writer.offset);
    return 0;
}

static void put_number(unsigned char *to, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        to[i] = (unsigned char)(v >> 8 * i);
}

static int end_file(struct making *m, struct error *err)
{
    const size_t bytes = 8 * (size_t)m->key->windows;
    unsigned char footer[24] = CACHE_MAGIC, *index = xmalloc(bytes, "the index of a teacher cache");
    for (int64_t w = 0; w < m->key->windows; w++)
        put_number(index + 8 * w, (uint64_t)m->offset[w]);
    put_number(footer + 8, (uint64_t)m->writer.offset);
    put_number(footer + 16, (uint64_t)m->n_block);
    int status = put_member(m, index, bytes, 6, err);
    free(index);
    const int64_t before = m->writer.offset;
    if (status == 0)
        status = put_member(m, footer, sizeof footer, 0, err);
    if (status == 0 && m->writer.offset - before != CACHE_FOOTER)
        BUG("teacher cache: a footer of %ld bytes", (long)(m->writer.offset - before));
    return status < 0 ? -1 : file_writer_commit(&m->writer, err);
}

static void making_init(struct making *m, const struct teacher_key *key, const struct dataset *data, struct model *teacher)
{
    const size_t n = (size_t)(BATCH * key->seq_len);
    *m = (struct making){.key = key, .data = data, .teacher = teacher, .shape = teacher_block_shape(key)};
    tape_init(&m->tape, key->precision);
    m->offset = xcalloc((size_t)key->windows, sizeof *m->offset, "the index of a teacher cache");
    m->inputs = xmalloc(n * sizeof *m->inputs, "a batch of tokens");
    m->targets = xmalloc(n * sizeof *m->targets, "a batch of tokens");
    m->start = xmalloc(n * sizeof *m->start, "a teacher's draws");
    m->top = top_rows_new((int64_t)n, key->top_k, key->tail_draws);
}

static void making_release(struct making *m)
{
    file_writer_abort(&m->writer);
    tape_release(&m->tape);
    free(m->offset);
    free(m->inputs);
    free(m->targets);
    free(m->start);
    top_rows_free(&m->top);
}

int teacher_cache_make(const char *path, const struct teacher_key *key, const unsigned char *wanted, const struct dataset *data,
                       struct model *teacher, struct error *err)
{
    struct making m;
    making_init(&m, key, data, teacher);
    int status = file_writer_continue(&m.writer, path, err);
    if (status == 0)
        status = take_up(&m, err);
    if (status == 0)
        status = add_lacking(&m, wanted, err);
    if (status == 0)
        status = end_file(&m, err);
    making_release(&m);
    return status;
}
