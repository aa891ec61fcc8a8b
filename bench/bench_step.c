// bench_step.c: the distillation step as users run it (distill_run), on a made-up model and random tokens of the
// shapes that bench/peers gives PyTorch, and then its own products alone.

#include <stdlib.h>

#include "bench/bench.h"
#include "common/base/error.h"
#include "common/base/random.h"
#include "common/base/threads.h"
#include "common/base/timer.h"
#include "distill/distill.h"

#define STEPS 6 // the first one warms up; of the others the median counts
#define SECONDS_EACH 0.03

struct recorded {
    struct gemm_call call;
    int64_t count;
    double seconds; // of all `count`, alone
};

struct recording {
    struct recorded *product;
    int64_t n;
    int on;
};

struct watch { // what the trainer's held-out hook notes between steps
    double end[STEPS];
    double inside_gemm; // seconds in gemm() during the last five steps
    int n;
    struct recording *recording;
};

static int same_call(const struct gemm_call *a, const struct gemm_call *b) {
    return a->precision == b->precision && a->ta == b->ta && a->tb == b->tb && a->M == b->M && a->N == b->N &&
           a->K == b->K && a->beta == b->beta && a->packed == b->packed;
}

static void record(void *context, const struct gemm_call *call) {
    struct recording *r = context;
#pragma omp critical(bench_record)
    {
        int64_t i = 0;
        while (i < r->n && !same_call(&r->product[i].call, call))
            i++;
        if (i == r->n) {
            r->product = xrealloc(r->product, (size_t)(r->n + 1) * sizeof *r->product, "products");
            r->product[r->n++] = (struct recorded){.call = *call};
        }
        r->product[i].count++;
    }
}

// Called after each step. The last one is recorded; recording costs about a thousandth of it.
static int between_steps(void *context, double best, double *loss, char note[HELD_OUT_NOTE], struct error *err) {
    struct watch *w = context;
    (void)best;
    (void)note;
    (void)err;
    *loss = 0;
    if (w->n == STEPS - 1)
        w->inside_gemm = gemm_counted().seconds;
    w->end[w->n++] = timer_now();
    if (w->n == 1)
        gemm_count_reset();
    if (w->n == STEPS - 1)
        gemm_trace(record, w->recording);
    return 0;
}

struct model *bench_model(const struct bench_shape *s, int64_t heads, int64_t ff, uint64_t seed) {
    struct config c = {.model_type = "llama",
                       .n_layer = s->layers,
                       .hidden = s->hidden,
                       .head_dim = s->hidden / s->heads,
                       .vocab = s->vocab,
                       .context = s->seq_len,
                       .norm_eps = 1e-5,
                       .rope_theta = 1e4,
                       .tie_embeddings = 1,
                       .bos_id = -1,
                       .eos_id = -1};
    c.layer = xcalloc((size_t)s->layers, sizeof *c.layer, "layers");
    for (int64_t l = 0; l < s->layers; l++)
        c.layer[l] = (struct layer_shape){heads, heads, ff};
    struct model *m = model_new(&c, 1);
    free(c.layer);
    model_initialise(m, seed);
    return m;
}

// ---- products alone ----

struct replay {
    struct gemm_call call;
    int64_t count;
    float *a, *b, *c; // c: one for each thread where packed
};

static void replay_one(const struct replay *r, float *c) {
    const struct gemm_call *p = &r->call;
    int64_t lda = p->ta == TRANSPOSED ? p->M : p->K, ldb = p->tb == TRANSPOSED ? p->K : p->N;
    if (p->packed) // b has room for whole panels
        gemm_packed(p->ta, p->M, p->N, p->K, r->a, lda, r->b, p->K, p->beta, c, p->N);
    else
        gemm(p->precision, p->ta, p->tb, p->M, p->N, p->K, r->a, lda, r->b, ldb, p->beta, c, p->N);
}

static void replay_parallel(void *context) {
    const struct replay *r = context;
    if (!r->call.packed) {
        replay_one(r, r->c);
        return;
    }
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < r->count; i++)
        replay_one(r, r->c + thread_number() * r->call.M * r->call.N);
}

static void time_alone(struct recorded *p) {
    const struct gemm_call *c = &p->call;
    struct replay r = {.call = *c,
                       .count = p->count,
                       .a = bench_floats(c->M * c->K, 1),
                       .b = bench_floats(gemm_packed_floats(c->N, c->K), 1),
                       .c = bench_floats(c->M * c->N * (c->packed ? threads_count() : 1), 0)};
    double once = bench_time(replay_parallel, &r, SECONDS_EACH);
    p->seconds = c->packed ? once : once * (double)p->count;
    free(r.a);
    free(r.b);
    free(r.c);
}

static int by_seconds(const void *a, const void *b) {
    double x = ((const struct recorded *)a)->seconds, y = ((const struct recorded *)b)->seconds;
    return (x < y) - (x > y);
}

static double list_products(struct recording *r, const struct bench_options *o, const char *case_name) {
    struct table t;
    double total = 0;

    for (int64_t i = 0; i < r->n; i++) {
        time_alone(&r->product[i]);
        total += r->product[i].seconds;
    }
    qsort(r->product, (size_t)r->n, sizeof *r->product, by_seconds);
    table_open(&t, o->csv, "step-products", "The step's own products, each timed alone",
               "case:-20|A:-2|B:-2|M:6|N:6|K:6|beta:4|by:-8|count:6|ms:8|GFLOP/s:8");
    for (int64_t i = 0; i < r->n; i++) {
        const struct recorded *p = &r->product[i];
        const struct gemm_call *c = &p->call;
        table_text(&t, case_name);
        table_text(&t, c->ta == TRANSPOSED ? "T" : "-");
        table_text(&t, c->tb == TRANSPOSED ? "T" : "-");
        table_integer(&t, c->M);
        table_integer(&t, c->N);
        table_integer(&t, c->K);
        table_number(&t, (double)c->beta, 0);
        table_text(&t, c->packed ? "tile" : "panels");
        table_integer(&t, p->count);
        table_number(&t, 1e3 * p->seconds, 2);
        table_number(&t, 2e-9 * (double)(c->M * c->N * c->K * p->count) / p->seconds, 0);
    }
    table_close(&t);
    return total;
}

// ---- the step ----

static double median_step(const struct watch *w) {
    double step[STEPS - 1];
    for (int i = 0; i < STEPS - 1; i++)
        step[i] = w->end[i + 1] - w->end[i];
    for (int i = 0; i < STEPS - 1; i++) // five numbers
        for (int j = i + 1; j < STEPS - 1; j++)
            if (step[j] < step[i]) {
                double swap = step[i];
                step[i] = step[j];
                step[j] = swap;
            }
    return step[(STEPS - 1) / 2];
}

static void run_steps(const struct bench_shape *s, enum precision precision, struct watch *w) {
    struct model *teacher = bench_model(s, s->heads, s->ff, 1),
                 *student = bench_model(s, s->student_heads, s->student_ff, 2);
    int64_t n = STEPS * s->batch * s->seq_len + 1;
    struct dataset data = {.token = xmalloc((size_t)n * sizeof *data.token, "tokens"), .n_token = n};
    struct distill_options o;
    struct train_result result;
    struct error err;
    struct random random;

    random_init(&random, 3, "bench tokens", 0);
    for (int64_t i = 0; i < n; i++)
        data.token[i] = (int32_t)random_below(&random, s->vocab);
    options_init(distill_option_table, &o);
    o.alpha = 0.7;
    o.temperature = 2;
    o.train.steps = STEPS;
    o.train.batch = s->batch;
    o.train.eval_every = 1;
    struct trainer t = {.model = student,
                        .data = &data,
                        .seq_len = s->seq_len,
                        .seed = 4,
                        .precision = precision,
                        .title = "bench",
                        .held_out = between_steps,
                        .held_out_context = w};
    if (distill_run(&t, &teacher, 1, &o, &result, &err) < 0)
        BUG("bench: %s", err.text);
    gemm_trace(NULL, NULL);
    options_release(distill_option_table, &o);
    model_free(teacher);
    model_free(student);
    free(data.token);
}

void bench_step(const struct bench_options *o) {
    for (int i = 0; i < BENCH_SHAPES; i++)
        for (int precision = PRECISION_F32; precision <= PRECISION_BF16; precision++) {
            const struct bench_shape *s = &bench_shapes[i];
            if (!bench_wants_shape(o, i) || !bench_wants(o, (enum precision)precision))
                continue;
            struct recording recording = {0};
            struct watch w = {.recording = &recording};
            struct table t;
            char case_name[40];
            const char *name = precision == PRECISION_BF16 ? "bf16" : "f32";
            snprintf(case_name, sizeof case_name, "%s %s %d", s->name, name, threads_count());
            run_steps(s, (enum precision)precision, &w);
            double step = median_step(&w), peak = (double)memory_peak();
            double alone = list_products(&recording, o, case_name);
            table_open(&t, o->csv, "step", "The distillation step (median of five)",
                       "shape:-5|precision:-9|threads:7|tokens/s:8|step ms:8|products alone ms:17|share %:7|"
                       "inside gemm ms:14|process peak MB:15");
            table_text(&t, s->name);
            table_text(&t, name);
            table_integer(&t, threads_count());
            table_number(&t, (double)(s->batch * s->seq_len) / step, 0);
            table_number(&t, 1e3 * step, 1);
            table_number(&t, 1e3 * alone, 1);
            table_number(&t, 100 * alone / step, 1);
            table_number(&t, 1e3 * w.inside_gemm / (STEPS - 1), 1);
            table_number(&t, peak / 1e6, 0);
            table_close(&t);
            free(recording.product);
        }
}
