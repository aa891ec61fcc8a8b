// bench_cache.c: a step from a file of the teacher's answers beside the same step with the labels alone and with the teacher running. The three
// take turns, so that what else runs on the machine meets them alike; the shapes are those of bench_step.c.

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "bench/bench.h"
#include "common/base/error.h"
#include "common/base/random.h"
#include "common/base/threads.h"
#include "distill/distill.h"
#include "distill/teacher_cache.h"

#define TURNS 7
#define STEPS 3
#define TOP_K 32
#define TAIL_DRAWS 64
#define PASS 4 // batches in the made-up text

enum way { LABELS, CACHED, ONLINE, WAYS };

struct contest { // lifetime: one shape and precision
    const struct bench_shape *shape;
    enum precision precision;
    struct model *teacher, *student;
    struct dataset data;
    struct teacher_cache cache;
    double wall[WAYS][TURNS], cpu[WAYS][TURNS]; // seconds a step
};

// Seconds that all threads together worked; a thread that waits may count, so ratios of it are for one thread.
static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static struct trainer make_trainer(const struct contest *c) {
    return (struct trainer){.model = c->student, .data = &c->data, .seq_len = c->shape->seq_len, .seed = 4, .precision = c->precision,
                            .title = "bench", .quiet = 1};
}

static void take_turn(struct contest *c, enum way way, int turn) {
    struct distill_options o;
    struct train_result result;
    struct error err;
    struct trainer t = make_trainer(c);
    options_init(distill_option_table, &o);
    o.train.steps = STEPS;
    o.train.batch = c->shape->batch;
    t.options = o.train;
    t.loss = train_cross_entropy;
    t.context = c->student;
    const double before = cpu_seconds();
    const int status = way == LABELS   ? trainer_run(&t, &result, &err)
                       : way == CACHED ? distill_run_cached(&t, &c->cache, &o, &result, &err)
                                       : distill_run(&t, &c->teacher, 1, &o, &result, &err);
    if (status < 0)
        BUG("bench: %s", err.text);
    c->wall[way][turn] = result.seconds / STEPS;
    c->cpu[way][turn] = (cpu_seconds() - before) / STEPS;
    options_release(distill_option_table, &o);
}

static void make_cache(struct contest *c) {
    char folder[] = "/tmp/pdq-bench-XXXXXX";
    struct error err;
    const int64_t windows = dataset_windows(&c->data, c->shape->seq_len);
    const struct teacher_key key = {.teacher = "bench", .tokenizer = "", .data = "", .seq_len = c->shape->seq_len, .windows = windows,
                                    .vocab = c->shape->vocab, .top_k = TOP_K, .tail_draws = TAIL_DRAWS, .temperature = 2, .precision = c->precision};
    unsigned char *wanted = xmalloc((size_t)windows, "windows");
    memset(wanted, 1, (size_t)windows);
    if (!mkdtemp(folder))
        BUG("bench: no folder in /tmp");
    char *path = path_join(folder, "answers");
    if (teacher_cache_make(path, &key, wanted, &c->data, c->teacher, &err) < 0 || teacher_cache_open(&c->cache, path, &key, &err) < 0)
        BUG("bench: %s", err.text);
    unlink(path); // the map stays
    rmdir(folder);
    free(path);
    free(wanted);
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x) {
    qsort(x, TURNS, sizeof *x, by_value);
    return x[TURNS / 2];
}

static void hold(struct contest *c, const struct bench_options *options) {
    const struct bench_shape *s = c->shape;
    const int64_t n = PASS * s->batch * s->seq_len + 1;
    struct random random;
    struct table t;
    c->teacher = bench_model(s, s->heads, s->ff, 1);
    c->student = bench_model(s, s->student_heads, s->student_ff, 2);
    c->data = (struct dataset){.token = xmalloc((size_t)n * sizeof *c->data.token, "tokens"), .n_token = n};
    random_init(&random, 3, "bench tokens", 0);
    for (int64_t i = 0; i < n; i++)
        c->data.token[i] = (int32_t)random_below(&random, s->vocab);
    make_cache(c);
    for (int turn = -1; turn < TURNS; turn++) // the first warms up
        for (enum way way = 0; way < WAYS; way++)
            take_turn(c, way, turn < 0 ? 0 : turn);
    const double wall = median(c->wall[LABELS]), cpu = median(c->cpu[LABELS]);
    table_open(&t, options->csv, "cache", "A step from the teacher's answers on disk, from labels alone, with the teacher (medians of turns)",
               "shape:-5|precision:-9|threads:7|labels ms:9|cached ms:9|teacher ms:10|cached x:8|of CPU x:8|teacher x:9|bytes/token:11");
    table_text(&t, s->name);
    table_text(&t, c->precision == PRECISION_BF16 ? "bf16" : "f32");
    table_integer(&t, threads_count());
    table_number(&t, 1e3 * wall, 1);
    table_number(&t, 1e3 * median(c->wall[CACHED]), 1);
    table_number(&t, 1e3 * median(c->wall[ONLINE]), 1);
    table_number(&t, median(c->wall[CACHED]) / wall, 3);
    table_number(&t, median(c->cpu[CACHED]) / cpu, 3);
    table_number(&t, median(c->wall[ONLINE]) / wall, 3);
    table_number(&t, (double)c->cache.map.size / (double)(n - 1), 1);
    table_close(&t);
    teacher_cache_close(&c->cache);
    model_free(c->teacher);
    model_free(c->student);
    free(c->data.token);
}

void bench_cache(const struct bench_options *o) {
    for (int i = 0; i < BENCH_SHAPES; i++)
        for (int precision = PRECISION_F32; precision <= PRECISION_BF16; precision++)
            if (bench_wants_shape(o, i) && bench_wants(o, (enum precision)precision)) {
                struct contest c = {.shape = &bench_shapes[i], .precision = (enum precision)precision};
                hold(&c, o);
            }
}
