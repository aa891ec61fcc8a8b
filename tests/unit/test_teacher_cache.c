// test_teacher_cache.c: the file of a teacher's answers: what is read is what was written, to the bound that teacher_block.h names; what does
// not belong or is not whole is refused; made in pieces it is the same; and training from it.
#include <criterion/criterion.h>
#include <math.h>

#include "common/base/json.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "common/base/threads.h"
#include "distill/distill.h"
#include "distill/teacher_cache.h"
#include "tests/unit/tiny.h"
#include "tests/unit/tolerance.h"

#define SEQ_LEN 20
#define DRAWS 16
#define BOUND (1.0 / 32 + 1e-5) // half a step of rounding, half a step of the sum, and f32

struct job {
    struct dataset data;
    struct model *teacher;
    struct teacher_key key;
    unsigned char *wanted;
    char *folder, *path;
};

static void job_init(struct job *j, int64_t top_k)
{
    log_level = LOG_QUIET;
    *j = (struct job){.data = tiny_data(400), .teacher = tiny_model(2, 32, 6), .folder = tiny_folder()};
    const int64_t windows = dataset_windows(&j->data, SEQ_LEN);
    j->key = (struct teacher_key){.teacher = "t0", .tokenizer = "k0", .data = "d0", .seq_len = SEQ_LEN, .windows = windows,
                                  .vocab = TINY_VOCAB, .top_k = top_k, .tail_draws = top_k < TINY_VOCAB ? DRAWS : 0,
                                  .temperature = 2, .precision = PRECISION_F32};
    j->wanted = xmalloc((size_t)windows, "test");
    memset(j->wanted, 1, (size_t)windows);
    j->path = path_join(j->folder, "a.cache");
}

static void job_release(struct job *j)
{
    dataset_release(&j->data);
    model_free(j->teacher);
    free(j->wanted);
    free(j->path);
    tiny_remove(j->folder);
}

static void make(const struct job *j)
{
    struct error err;
    cr_assert_eq(teacher_cache_make(j->path, &j->key, j->wanted, &j->data, j->teacher, &err), 0, "%s", err.text);
}

static char *bytes_of(const char *path, size_t *n)
{
    struct error err;
    struct file_map map;
    cr_assert_eq(file_map(&map, path, &err), 0, "%s", err.text);
    char *copy = xmalloc(map.size, "test");
    memcpy(copy, map.data, map.size);
    *n = map.size;
    file_unmap(&map);
    return copy;
}

static void write_bytes(const char *path, const char *data, size_t n)
{
    struct error err;
    cr_assert_eq(file_write(path, data, n, &err), 0, "%s", err.text);
}

static void same_rows(const struct head_top *a, const struct head_top *b, int64_t rows)
{
    cr_assert_arr_eq(a->id, b->id, (size_t)(rows * a->k) * 4);
    cr_assert_arr_eq(a->log_p, b->log_p, (size_t)(rows * a->k) * 4);
    cr_assert_arr_eq(a->log_tail, b->log_tail, (size_t)rows * 4);
    if (!a->m)
        return;
    cr_assert_arr_eq(a->draws, b->draws, (size_t)rows * 4);
    cr_assert_arr_eq(a->entropy, b->entropy, (size_t)rows * 4);
    for (int64_t r = 0; r < rows; r++)
        cr_assert_arr_eq(a->drawn + r * a->m, b->drawn + r * b->m, (size_t)a->draws[r] * 4);
}

static void same_window(const struct job *j, const struct teacher_cache *c, const struct teacher_cache *d, int64_t w, const struct head_top *a,
                        const struct head_top *b)
{
    int32_t inputs[SEQ_LEN], targets[SEQ_LEN];
    struct error err;
    dataset_read_window(&j->data, SEQ_LEN, w, inputs, targets);
    cr_assert_eq(teacher_cache_read(c, w, targets, a, &err) + teacher_cache_read(d, w, targets, b, &err), 0);
    same_rows(a, b, SEQ_LEN);
}

// A distribution over V tokens: normal logits of a spread that differs from row to row, so that tails go from most of it to nearly nothing.
static void made_rows(struct head_top *t, int64_t rows, int64_t V)
{
    struct tensor x = {.name = "x", .n_dim = 2, .dim = {rows, 1, 1}}, w = {.name = "w", .n_dim = 2, .dim = {V, 1, 1}};
    struct random random;
    struct tape tape;
    random_init(&random, 1, "rows", 0);
    x.data = xmalloc((size_t)rows * 4, "test");
    double *start = xmalloc((size_t)rows * sizeof *start, "test");
    for (int64_t i = 0; i < rows; i++)
        start[i] = (double)i / (double)rows;
    w.data = xmalloc((size_t)V * 4, "test");
    for (int64_t i = 0; i < rows; i++)
        x.data[i] = (float)(0.1 * (double)(i + 1));
    for (int64_t i = 0; i < V; i++)
        w.data[i] = (float)random_normal(&random);
    tape_init(&tape, PRECISION_F32);
    op_head_top(&tape, &x, &w, NULL, 0, 1, start, t);
    tape_release(&tape);
    free(start);
    free(x.data);
    free(w.data);
}

Test(teacher_cache, a_block_is_what_was_packed)
{
    static const struct block_shape shapes[] = {{100, 32, 64, 5000}, {7, 1, 2, 300}, {40, 64, 0, 64}, {16, 32, 8, 200000}, {100, 32, 0, 5000}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const struct block_shape *b = &shapes[s];
        struct head_top in = top_rows_new(b->seq_len, b->k, b->m), out = top_rows_new(b->seq_len, b->k, b->m);
        size_t n, used;
        struct block_head found;
        made_rows(&in, b->seq_len, b->vocab);
        const int64_t first = 2, rows = b->seq_len - 3;
        const struct block_head head = {77, first, rows};
        void *packed = block_pack(b, &head, &in, &n);
        cr_assert_leq((double)n, 120.0 * (double)b->k / 32 * (double)rows + 100, "%zu bytes", n);
        cr_assert_eq(block_unpack(b, packed, n, &found, &out, &used), 0);
        cr_assert_eq(used, n);
        cr_assert(found.window == 77 && found.first == first && found.n == rows);
        for (int64_t r = first; r < first + rows; r++) {
            double sum = exp((double)out.log_tail[r]);
            for (int64_t i = r * b->k; i < (r + 1) * b->k; i++) {
                cr_assert_eq(in.id[i], out.id[i]);
                cr_assert_leq(fabs((double)(in.log_p[i] - out.log_p[i])), BOUND);
                sum += exp((double)out.log_p[i]);
            }
            cr_assert_lt(fabs(sum - 1), FLOAT_FEW);
            for (int64_t i = 0; b->m && i < in.draws[r]; i++)
                cr_assert_eq(in.drawn[r * b->m + i], out.drawn[r * b->m + i]);
            cr_assert(!b->m || (in.draws[r] == out.draws[r] && fabs((double)(in.entropy[r] - out.entropy[r])) <= BOUND));
            cr_assert(in.log_tail[r] == out.log_tail[r] || fabs((double)(in.log_tail[r] - out.log_tail[r])) <= BOUND);
        }
        cr_assert_eq(out.log_p[0], 0); // rows outside are left alone
        free(packed);
        top_rows_free(&in);
        top_rows_free(&out);
    }
}

Test(teacher_cache, holds_what_the_teacher_says)
{
    struct job j;
    struct error err;
    struct teacher_cache c;
    job_init(&j, 32);
    make(&j);
    cr_assert_eq(teacher_cache_open(&c, j.path, &j.key, &err), 0, "%s", err.text);
    struct head_top found = top_rows_new(SEQ_LEN, 32, DRAWS), said = top_rows_new(SEQ_LEN, 32, DRAWS);
    int32_t inputs[SEQ_LEN], targets[SEQ_LEN];
    const double start[SEQ_LEN] = {0};
    struct tape tape;
    tape_init(&tape, PRECISION_F32);
    static const int64_t windows[] = {13, 0, 19, 5};
    for (int i = 0; i < 4; i++) {
        dataset_read_window(&j.data, SEQ_LEN, windows[i], inputs, targets);
        const struct forward f = {.ids = inputs, .B = 1, .T = SEQ_LEN};
        tape_reset(&tape);
        op_head_top(&tape, model_forward(j.teacher, &tape, &f), model_head(j.teacher), NULL, 0, 2, start, &said);
        cr_assert_eq(teacher_cache_read(&c, windows[i], targets, &found, &err), 0, "%s", err.text);
        for (int64_t r = 0; r < SEQ_LEN && targets[r] >= 0; r++)
            for (int64_t k = r * 32; k < (r + 1) * 32; k++) {
                cr_assert_eq(found.id[k], said.id[k]);
                cr_assert_leq(fabs((double)(found.log_p[k] - said.log_p[k])), BOUND);
            }
    }
    tape_release(&tape);
    top_rows_free(&found);
    top_rows_free(&said);
    teacher_cache_close(&c);
    job_release(&j);
}

// The same bytes at any number of threads, and after a kill at any place; grown, it says what it said before.
Test(teacher_cache, made_in_pieces)
{
    struct job j;
    struct error err;
    size_t n, m;
    struct teacher_cache c;
    job_init(&j, 8);
    threads_set(1);
    make(&j);
    char *whole = bytes_of(j.path, &n), *part = path_join(j.folder, "a.cache.part"), *again;
    cr_assert_not(file_exists(part));
    cr_assert_eq(teacher_cache_open(&c, j.path, &j.key, &err), 0);
    const size_t end = (size_t)c.end;
    teacher_cache_close(&c);
    threads_set(3);
    for (size_t cut = 0; cut <= end; cut += end / 9) {
        remove(j.path);
        write_bytes(part, whole, cut);
        make(&j);
        again = bytes_of(j.path, &m);
        cr_assert_eq(n, m);
        cr_assert_arr_eq(whole, again, n, "after a cut to %zu bytes", cut);
        free(again);
    }
    remove(j.path);
    write_bytes(part, "something else", 14); // not ours: begun anew
    memset(j.wanted, 0, 10);
    make(&j);
    cr_assert_eq(teacher_cache_lacks(j.path, &j.key, j.wanted, &j.data, &err), 0, "%s", err.text);
    memset(j.wanted, 1, 10);
    cr_assert_eq(teacher_cache_lacks(j.path, &j.key, j.wanted, &j.data, &err), 10);
    make(&j);
    cr_assert_eq(teacher_cache_lacks(j.path, &j.key, j.wanted, &j.data, &err), 0);
    struct head_top a = top_rows_new(SEQ_LEN, 8, DRAWS), b = top_rows_new(SEQ_LEN, 8, DRAWS);
    char *first = path_join(j.folder, "first.cache");
    write_bytes(first, whole, n);
    struct teacher_cache d;
    cr_assert_eq(teacher_cache_open(&c, j.path, &j.key, &err), 0);
    cr_assert_eq(teacher_cache_open(&d, first, &j.key, &err), 0);
    for (int64_t w = 0; w < c.windows; w++) {
        same_window(&j, &c, &d, w, &a, &b);
    }
    teacher_cache_close(&c);
    teacher_cache_close(&d);
    top_rows_free(&a);
    top_rows_free(&b);
    free(whole);
    free(part);
    free(first);
    job_release(&j);
}

static void refused(const struct job *j, const struct teacher_key *key, const char *says)
{
    struct error err;
    struct teacher_cache c;
    cr_expect_eq(teacher_cache_open(&c, j->path, key, &err), -1, "accepted; expected: %s", says);
    cr_expect_not_null(strstr(err.text, says), "no \"%s\" in: %s", says, err.text);
}

Test(teacher_cache, refuses_what_it_does_not_belong_to)
{
    struct job j;
    job_init(&j, 8);
    make(&j);
    struct teacher_key key = j.key;
    strcpy(key.teacher, "t1");
    refused(&j, &key, "of another teacher: found \"t0\", expected \"t1\"");
    strcpy(key.data, "d1");
    refused(&j, &key, "of another text (data.train): found \"d0\"");
    strcpy(key.tokenizer, "k1");
    refused(&j, &key, "of another tokenizer: found \"k0\"");
    key = j.key;
    key.seq_len = 10;
    refused(&j, &key, "of another order of windows (data.seq_len): found 20, expected 10");
    key = j.key;
    key.windows = 21;
    refused(&j, &key, "number of windows: found 20, expected 21");
    key = j.key;
    key.temperature = 1;
    refused(&j, &key, "of another temperature: found 2, expected 1");
    key = j.key;
    key.top_k = 32;
    refused(&j, &key, "number of entries (top_k): found 8, expected 32");
    key = j.key;
    key.tail_draws = 3;
    refused(&j, &key, "number of draws (tail_draws): found 16, expected 3");
    key = j.key;
    key.precision = PRECISION_BF16;
    refused(&j, &key, "of another precision: found \"f32\", expected \"bf16\"");
    write_bytes(j.path, "{\"text\": \"a\"}", 13);
    refused(&j, &j.key, "found no teacher cache");
    write_bytes(j.path, "", 0);
    refused(&j, &j.key, "found no teacher cache");
    job_release(&j);
}

// The same bytes under a header of another format, and blocks with fewer rows than their windows have.
Test(teacher_cache, refuses_old_files_and_short_blocks)
{
    struct job j;
    struct error err;
    job_init(&j, 8);
    char *text = teacher_key_text(&j.key), *format = strstr(text, "\"pdq_teacher_cache\":2");
    size_t n;
    cr_assert_not_null(format);
    format[strlen("\"pdq_teacher_cache\":")] = '1';
    void *packed = gzip_pack(text, strlen(text), 9, &n);
    write_bytes(j.path, packed, n);
    refused(&j, &j.key, "of another format: found 1, expected 2");
    free(packed);
    free(text);
    remove(j.path);
    make(&j);
    struct dataset cut = j.data; // the last window is shorter there than in the file, and another one's rows are not asked for
    cut.n_token -= 5;
    cr_assert_eq(dataset_windows(&cut, SEQ_LEN), j.key.windows);
    cr_expect_eq(teacher_cache_lacks(j.path, &j.key, j.wanted, &cut, &err), -1);
    cr_expect_not_null(strstr(err.text, "damaged in window 19"), "%s", err.text);
    job_release(&j);
}

// Cut anywhere it is refused; with a changed byte it is refused, or says the same (a gzip header has bytes that say nothing).
Test(teacher_cache, refuses_what_is_not_whole)
{
    struct job j;
    struct error err;
    size_t n;
    struct teacher_cache c, good;
    job_init(&j, 4);
    make(&j);
    char *whole = bytes_of(j.path, &n), *copy = path_join(j.folder, "b.cache"), *first = j.path;
    cr_assert_eq(teacher_cache_open(&good, first, &j.key, &err), 0);
    for (size_t cut = 0; cut < n; cut += 1 + cut / 7) {
        write_bytes(copy, whole, cut);
        cr_assert_eq(teacher_cache_lacks(copy, &j.key, j.wanted, &j.data, &err), -1, "a cut to %zu bytes was accepted", cut);
    }
    struct head_top a = top_rows_new(SEQ_LEN, 4, DRAWS), b = top_rows_new(SEQ_LEN, 4, DRAWS);
    int accepted = 0, damaged = 0;
    for (size_t at = 0; at < n; at += 11) {
        whole[at] ^= 0x55;
        write_bytes(copy, whole, n);
        whole[at] ^= 0x55;
        if (teacher_cache_lacks(copy, &j.key, j.wanted, &j.data, &err) != 0) {
            damaged += strstr(err.text, "damaged") != NULL;
            continue;
        }
        accepted++;
        cr_assert_eq(teacher_cache_open(&c, copy, &j.key, &err), 0);
        for (int64_t w = 0; w < c.windows; w++) {
            same_window(&j, &c, &good, w, &a, &b);
        }
        teacher_cache_close(&c);
    }
    cr_assert_gt(damaged, 5 * accepted, "%d found, %d harmless", damaged, accepted);
    teacher_cache_close(&good);
    top_rows_free(&a);
    top_rows_free(&b);
    free(whole);
    free(copy);
    job_release(&j);
}

// ---- training ----

static struct model *trained(const struct job *j, int from_cache, int threads, double *last)
{
    struct distill_options o;
    struct train_result r;
    struct error err;
    struct model *student = tiny_model(1, 32, 5);
    options_init(distill_option_table, &o);
    o.train.steps = 30;
    o.train.batch = 3;
    o.train.accumulate = 2;
    o.train.learning_rate = 2e-3;
    o.alpha = 0.8;
    threads_set(threads);
    struct trainer t = {.model = student, .data = &j->data, .seq_len = SEQ_LEN, .seed = 4, .title = "distill", .quiet = 1};
    if (from_cache) {
        struct teacher_cache c;
        cr_assert_eq(teacher_cache_open(&c, j->path, &j->key, &err), 0, "%s", err.text);
        cr_assert_eq(distill_run_cached(&t, &c, &o, &r, &err), 0, "%s", err.text);
        teacher_cache_close(&c);
    } else {
        cr_assert_eq(distill_run(&t, &j->teacher, 1, &o, &r, &err), 0, "%s", err.text);
    }
    *last = r.last_loss;
    options_release(distill_option_table, &o);
    return student;
}

// All entries: only the rounding of log-probabilities is between the two. Any number of threads: the same bits.
Test(teacher_cache, trains_as_the_teacher_does)
{
    struct job j;
    double loss[4];
    job_init(&j, TINY_VOCAB);
    make(&j);
    struct model *online = trained(&j, 0, 1, &loss[0]), *cached = trained(&j, 1, 1, &loss[1]), *again = trained(&j, 1, 3, &loss[2]);
    // an entry is off by 1/32 at most, with either sign: six times what was seen
    cr_expect_lt(fabs(loss[0] / loss[1] - 1), 1e-3, "%g from the teacher, %g from the file", loss[0], loss[1]);
    cr_expect_arr_eq(cached->data, again->data, (size_t)cached->n_element * sizeof(float));
    model_free(online);
    model_free(cached);
    model_free(again);
    job_release(&j);
}

Test(teacher_cache, options_that_need_the_teacher)
{
    struct distill_options o;
    struct error err;
    options_init(distill_option_table, &o);
    o.hidden = 1;
    cr_expect_eq(distill_check_cached(&o, "stages[0].distill", &err), 0);
    o.teacher_cache = xstrdup("auto");
    cr_expect_eq(distill_check_cached(&o, "stages[0].distill", &err), -1);
    cr_expect_not_null(strstr(err.text, "stages[0].distill: \"hidden\""), "%s", err.text);
    o.hidden = 0;
    static const char *const divergences[] = {"\"kl\"", "{\"kl\": 2}", "\"js\"", "{\"kl\": 1, \"tv\": 0.5}", "\"mse\"", "\"reverse_kl\""};
    for (int i = 0; i < 6; i++) {
        o.divergence = json_parse(divergences[i], strlen(divergences[i]), "test", 0, &err);
        cr_expect_eq(distill_check_cached(&o, "stages[0].distill", &err), i < 2 ? 0 : -1, "%s", divergences[i]);
        cr_expect(i < 2 || strstr(err.text, "needs the teacher's probability of every token"), "%s", err.text);
        json_free(o.divergence);
        o.divergence = NULL;
    }
    o.temperature_rule = TEMPERATURE_RISING;
    cr_expect_eq(distill_check_cached(&o, "stages[0].distill", &err), -1);
    cr_expect_not_null(strstr(err.text, "temperature_rule"), "%s", err.text);
    options_release(distill_option_table, &o);
}
