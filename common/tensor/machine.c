// machine.c: short measurements. A rate is the best of several tries: other work on the machine only makes it worse.

#include "common/tensor/machine.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/base/threads.h"
#include "common/base/timer.h"
#include "common/tensor/gemm.h"

#define SECONDS_IN_ALL 2.4
#define TRIES_MIN 3

// A feed-forward product of a small model at 2,048 tokens: what a step spends most of its time on.
#define M_ROWS 2048
#define M_COLUMNS 768
#define M_DEPTH 288

// Larger than any cache shared by the cores of a small machine.
#define STREAM_FLOATS ((int64_t)12 << 20)

struct work {
    float *a, *b, *c;
    double share; // seconds for one measurement
};

static double product_gflops(const struct work *w, enum precision precision) {
    double best = 0, end = timer_now() + w->share;

    gemm(precision, PLAIN, TRANSPOSED, M_ROWS, M_COLUMNS, M_DEPTH, w->a, M_DEPTH, w->b, M_DEPTH, 0, w->c, M_COLUMNS);
    for (int i = 0; i < TRIES_MIN || timer_now() < end; i++) {
        double start = timer_now();
        gemm(precision, PLAIN, TRANSPOSED, M_ROWS, M_COLUMNS, M_DEPTH, w->a, M_DEPTH, w->b, M_DEPTH, 0, w->c,
             M_COLUMNS);
        double rate = 2e-9 * M_ROWS * M_COLUMNS * M_DEPTH / (timer_now() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

static double stream_gbs(const struct work *w, int arrays) {
    double best = 0, end = timer_now() + w->share;

    for (int i = 0; i < TRIES_MIN || timer_now() < end; i++) {
        double start = timer_now();
        if (arrays == 2) {
#pragma omp parallel for schedule(static)
            for (int64_t j = 0; j < STREAM_FLOATS; j++)
                w->a[j] = w->b[j];
        } else {
#pragma omp parallel for schedule(static)
            for (int64_t j = 0; j < STREAM_FLOATS; j++)
                w->a[j] = w->b[j] + 0.5f * w->c[j];
        }
        double rate = (double)arrays * 4e-9 * (double)STREAM_FLOATS / (timer_now() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

void machine_measure(struct machine *m) {
    int levels = 1;

    memset(m, 0, sizeof *m);
    m->cpu = cpu_get();
    m->threads = threads_count();
    enum precision bf16 = gemm_precision(PRECISION_BF16, &m->bf16_why);
    for (int n = 1; n < m->threads && levels < MACHINE_RATES; n *= 2)
        levels++;
    struct work w = {.share = SECONDS_IN_ALL / levels / 4};
    size_t bytes = (size_t)STREAM_FLOATS * sizeof(float);
    w.a = xmalloc(bytes, "measuring the machine");
    w.b = xmalloc(bytes, "measuring the machine");
    w.c = xmalloc(bytes, "measuring the machine");
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < STREAM_FLOATS; i++) {
        w.a[i] = (float)(i % 17) - 8;
        w.b[i] = (float)(i % 19) - 9;
        w.c[i] = 0;
    }
    for (int i = 0; i < levels; i++) {
        struct machine_rate *r = &m->rate[m->n_rate++];
        r->threads = i == levels - 1 ? m->threads : 1 << i;
        threads_set(r->threads);
        r->copy_gbs = stream_gbs(&w, 2);
        r->triad_gbs = stream_gbs(&w, 3);
        r->f32_gflops = product_gflops(&w, PRECISION_F32);
        r->bf16_gflops = bf16 == PRECISION_BF16 ? product_gflops(&w, PRECISION_BF16) : 0;
    }
    threads_set(m->threads);
    free(w.a);
    free(w.b);
    free(w.c);
}

const struct machine_rate *machine_full_rate(const struct machine *m) { return &m->rate[m->n_rate - 1]; }

static void add_feature(struct json *features, int present, const char *name) {
    if (present)
        json_push(features, json_from_string(name));
}

struct json *machine_json(const struct machine *m) {
    struct json *o = json_object(), *features = json_array(), *rates = json_array();

    json_set_string(o, "cpu", m->cpu->name);
    add_feature(features, m->cpu->avx2, "avx2+fma");
    add_feature(features, m->cpu->f16c, "f16c");
    add_feature(features, m->cpu->avx512, "avx512");
    add_feature(features, m->cpu->avx512_bf16, "avx512_bf16");
    add_feature(features, m->cpu->avx512_vnni, "avx512_vnni");
    add_feature(features, m->cpu->amx_bf16, "amx_bf16");
    json_set(o, "features", features);
    json_set_number(o, "threads", m->threads);
    json_set_number(o, "memory_available", (double)memory_available());
    json_set_string(o, "blis", gemm_description());
    json_set_string(o, "onednn", gemm_bf16_description());
    json_set_string(o, "bf16_by", m->bf16_why);
    for (int i = 0; i < m->n_rate; i++) {
        const struct machine_rate *r = &m->rate[i];
        struct json *row = json_object();
        json_set_number(row, "threads", r->threads);
        json_set_number(row, "f32_gflops", r->f32_gflops);
        json_set(row, "bf16_gflops", r->bf16_gflops > 0 ? json_from_number(r->bf16_gflops) : json_null());
        json_set_number(row, "copy_gbs", r->copy_gbs);
        json_set_number(row, "triad_gbs", r->triad_gbs);
        json_push(rates, row);
    }
    json_set(o, "rates", rates);
    return o;
}
