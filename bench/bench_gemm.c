// bench_gemm.c: the matrix products of the two distillation cases, by themselves.

#include <math.h>
#include <stdlib.h>

#include "bench/bench.h"
#include "common/base/threads.h"
#include "common/base/timer.h"

#define SECONDS_EACH 0.15
#define HEAD_ROWS_LARGE 256 // rows of a chunk in the output head, for a large and a small vocabulary
#define HEAD_ROWS_SMALL 1024

struct product {
    enum precision precision;
    enum transpose ta, tb;
    int64_t M, N, K;
    float *a, *b, *c;
};

static void multiply(void *context) {
    const struct product *p = context;
    gemm(p->precision, p->ta, p->tb, p->M, p->N, p->K, p->a, p->ta == TRANSPOSED ? p->M : p->K, p->b,
         p->tb == TRANSPOSED ? p->K : p->N, 0, p->c, p->N);
}

// One weight [O, I] at N rows: y = x w^T, dx = dy w, dw = dy^T x.
static void bench_weight(const struct bench_options *o, struct table *t, const char *name, int64_t N, int64_t O,
                         int64_t I, int threads) {
    struct product p = {.a = bench_floats(N * (O > I ? O : I), 1), .b = bench_floats((O > N ? O : N) * I, 1)};
    const struct {
        const char *what;
        enum transpose ta, tb;
        int64_t M, N, K;
    } way[] = {{"y", PLAIN, TRANSPOSED, N, O, I}, {"dx", PLAIN, PLAIN, N, I, O}, {"dw", TRANSPOSED, PLAIN, O, I, N}};

    for (size_t i = 0; i < sizeof way / sizeof *way; i++) {
        p.ta = way[i].ta, p.tb = way[i].tb, p.M = way[i].M, p.N = way[i].N, p.K = way[i].K;
        p.c = bench_floats(p.M * p.N, 0);
        table_text(t, name);
        table_text(t, way[i].what);
        table_integer(t, p.M);
        table_integer(t, p.N);
        table_integer(t, p.K);
        table_integer(t, threads);
        for (int precision = PRECISION_F32; precision <= PRECISION_BF16; precision++) {
            p.precision = (enum precision)precision;
            int wanted = bench_wants(o, p.precision);
            double flops = 2e-9 * (double)p.M * (double)p.N * (double)p.K;
            table_number(t, wanted ? flops / bench_time(multiply, &p, SECONDS_EACH) : (double)NAN, 0);
        }
        free(p.c);
    }
    free(p.a);
    free(p.b);
}

static void bench_shape_products(const struct bench_options *o, struct table *t, const struct bench_shape *s,
                                 int threads) {
    int64_t N = s->batch * s->seq_len, D = s->hidden;

    bench_weight(o, t, "q, k, v, o", N, D, D, threads);
    bench_weight(o, t, "gate, up", N, s->student_ff, D, threads);
    bench_weight(o, t, "down", N, D, s->student_ff, threads);
    bench_weight(o, t, "gate, up of the teacher", N, s->ff, D, threads);
    bench_weight(o, t, "head", s->vocab > 8192 ? HEAD_ROWS_LARGE : HEAD_ROWS_SMALL, s->vocab, D, threads);
}

void bench_gemm(const struct bench_options *o) {
    struct table t;
    int most = threads_count();

    printf("\n%s; %s\n", gemm_description(), gemm_bf16_description());
    for (int s = 0; s < BENCH_SHAPES; s++) {
        if (!bench_wants_shape(o, s))
            continue;
        char title[100];
        snprintf(title, sizeof title, "Products of %s, GFLOP/s (y = x w^T, dx = dy w, dw = dy^T x)",
                 bench_shapes[s].name);
        table_open(&t, o->csv, "gemm", title, "weight:-24|product:-7|M:6|N:6|K:6|threads:7|f32:6|bf16:6");
        for (int n = 1;; n = n * 2 < most ? n * 2 : most) {
            threads_set(n);
            bench_shape_products(o, &t, &bench_shapes[s], n);
            if (n == most)
                break;
        }
        table_close(&t);
    }
    threads_set(most);
}
