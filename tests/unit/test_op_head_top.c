// test_op_head_top.c: a teacher's likeliest entries with the mass of all others: taken from its head, and the loss on them, against PyTorch
// (tests/ref/head_top_golden.py), finite differences, and the loss on the whole teacher.
#include "tests/unit/golden.h"

#include "common/base/random.h"
#include "common/base/threads.h"
#include "common/tensor/gemm.h"
#include "common/tensor/gradcheck.h"
#include "common/tensor/ops.h"
#include "tests/unit/tolerance.h"

#define TOLERANCE 3e-6  // f32 against float64, as a share of the largest value
#define DIFFERENCES 5e-5 // of the four-point rule on f32 logits, most at high temperatures, where little is left of T^2 times a small divergence

struct loss_case { // one loss on made-up or golden numbers
    struct tensor x, w;
    struct head_top top;
    struct head_spec spec;
    struct head_result result;
};

static struct tensor matrix(const char *name, int64_t rows, int64_t columns)
{
    const size_t n = (size_t)(rows * columns);
    return (struct tensor){.name = name, .n_dim = 2, .dim = {rows, columns, 1}, .needs_grad = 1,
                           .data = xcalloc(n, sizeof(float), "test"), .grad = xcalloc(n, sizeof(float), "test")};
}

static struct tensor random_matrix(const char *name, int64_t rows, int64_t columns)
{
    struct tensor t = matrix(name, rows, columns);
    struct random random;
    random_init(&random, 5, name, 0);
    for (int64_t i = 0; i < rows * columns; i++)
        t.data[i] = (float)random_normal(&random);
    return t;
}

static void matrix_free(struct tensor *t)
{
    free(t->data);
    free(t->grad);
}

static struct head_top top_new(int64_t rows, int64_t k, int64_t m)
{
    return (struct head_top){.k = k,
                             .m = m,
                             .id = xcalloc((size_t)(rows * k), 4, "test"),
                             .log_p = xcalloc((size_t)(rows * k), 4, "test"),
                             .log_tail = xcalloc((size_t)rows, 4, "test"),
                             .draws = xcalloc((size_t)rows, 4, "test"),
                             .drawn = xcalloc((size_t)(rows * m + 1), 4, "test"),
                             .entropy = xcalloc((size_t)rows, 4, "test")};
}

static void top_free(struct head_top *t)
{
    free(t->id);
    free(t->log_p);
    free(t->log_tail);
    free(t->draws);
    free(t->drawn);
    free(t->entropy);
}

static void take(const struct tensor *x, const struct tensor *w, const struct tensor *bias, double temperature, const double *start,
                 const struct head_top *top)
{
    struct tape tape;
    gemm_init();
    tape_init(&tape, PRECISION_F32);
    op_head_top(&tape, x, w, bias, 0, temperature, start, top);
    tape_release(&tape);
}

static double build(void *context, struct tape *tape, struct tensor **root)
{
    struct loss_case *c = context;
    *root = op_head_loss(tape, &c->x, &c->w, &c->spec, &c->result);
    return c->result.loss;
}

static void run(struct loss_case *c)
{
    struct tape tape;
    struct tensor *root;
    gemm_init();
    tape_init(&tape, PRECISION_F32);
    tape.recording = 1;
    build(c, &tape, &root);
    tape_backward(&tape, root);
    tape_release(&tape);
}


static struct tensor golden_matrix(const struct golden *g, const char *name, const char *which)
{
    const struct golden_tensor *from = golden_get(g, name, which);
    struct tensor t = matrix(from->name, from->dim[0], from->n_dim > 1 ? from->dim[1] : 1);
    for (int64_t i = 0; i < from->count; i++)
        t.data[i] = (float)from->value[i];
    return t;
}

static void close_to(const char *what, const float *found, const struct golden_tensor *wanted)
{
    double largest = 1e-30;
    for (int64_t i = 0; i < wanted->count; i++)
        largest = fmax(largest, fabs(wanted->value[i]));
    for (int64_t i = 0; i < wanted->count; i++)
        cr_expect(fabs((double)found[i] - wanted->value[i]) <= TOLERANCE * largest, "%s %s[%ld]: %.9g, PyTorch %.9g", what, wanted->name,
                  (long)i, (double)found[i], wanted->value[i]);
}

static void check_drawn(const struct golden *g, const char *name, const struct head_top *top, int64_t N)
{
    const struct golden_tensor *draws = golden_get(g, name, "draws"), *drawn = golden_get(g, name, "drawn");
    for (int64_t n = 0; n < N; n++) {
        cr_assert_eq(top->draws[n], (int32_t)draws->value[n]);
        for (int64_t i = 0; i < top->draws[n]; i++)
            cr_expect_eq(top->drawn[n * top->m + i], (int32_t)drawn->value[n * top->m + i]);
    }
    close_to(name, top->entropy, golden_get(g, name, "entropy"));
}

static void check_taken(const struct golden *g, const char *name, const struct head_top *top, int64_t N, int64_t V)
{
    const struct golden_tensor *id = golden_get(g, name, "ids"), *tail = golden_get(g, name, "log_tail");
    for (int64_t i = 0; i < id->count; i++)
        cr_expect_eq(top->id[i], (int32_t)id->value[i]);
    close_to(name, top->log_p, golden_get(g, name, "log_p"));
    for (int64_t n = 0; n < N; n++)
        if (top->k == V)
            cr_expect(isinf(top->log_tail[n]) && top->log_tail[n] < 0);
        else
            cr_expect(fabs((double)top->log_tail[n] - tail->value[n]) <= TOLERANCE * fmax(1, fabs(tail->value[n])));
}

Test(op_head_top, like_pytorch)
{
    struct golden g = golden_open("ops/head_top.txt");
    static const char *const names[] = {"one", "few", "warm", "all", "drawn", "drawn_warm"};
    for (int i = 0; i < 6; i++) {
        const char *name = names[i];
        struct tensor tx = golden_matrix(&g, name, "teacher_x"), tw = golden_matrix(&g, name, "teacher_w"), bias = golden_matrix(&g, name, "bias");
        struct loss_case c = {.x = golden_matrix(&g, name, "x"), .w = golden_matrix(&g, name, "w")};
        int32_t *targets = golden_ids(&g, name, "targets");
        const int64_t N = c.x.dim[0], V = c.w.dim[0], k = (int64_t)golden_number(&g, name, "k");
        const double temperature = golden_number(&g, name, "temperature");
        const int64_t m = i < 4 ? 0 : (int64_t)golden_number(&g, name, "m");
        c.top = top_new(N, k, m);
        take(&tx, &tw, &bias, temperature, m ? golden_get(&g, name, "start")->value : NULL, &c.top);
        check_taken(&g, name, &c.top, N, V);
        if (m)
            check_drawn(&g, name, &c.top, N);
        c.spec = (struct head_spec){
            .targets = targets, .top = &c.top, .alpha = golden_number(&g, name, "alpha"), .temperature = temperature, .weight = 1};
        run(&c);
        cr_expect(fabs(c.result.ce / golden_number(&g, name, "ce") - 1) < FLOAT_FEW);
        cr_expect(fabs(c.result.kl / golden_number(&g, name, "kl") - 1) < FLOAT_FEW, "kl %.9g, PyTorch %.9g", c.result.kl,
                  golden_number(&g, name, "kl"));
        cr_expect(fabs(c.result.loss / golden_number(&g, name, "loss") - 1) < FLOAT_FEW);
        close_to(name, c.x.grad, golden_get(&g, name, "x.grad"));
        close_to(name, c.w.grad, golden_get(&g, name, "w.grad"));
        top_free(&c.top);
        matrix_free(&tx);
        matrix_free(&tw);
        matrix_free(&bias);
        matrix_free(&c.x);
        matrix_free(&c.w);
        free(targets);
    }
    golden_close(&g);
}

// A student of N rows and V tokens with a teacher of its own, as answers of k entries.
static void made_case(struct loss_case *c, int32_t *targets, int64_t N, int64_t V, int64_t k, int64_t m, double alpha, double temperature)
{
    static const double start[8] = {0, 0.1, 0.3, 0.99, 0.5, 0.7, 0.2, 0.6};
    struct tensor tx = random_matrix("teacher_x", N, 8), tw = random_matrix("teacher_w", V, 8);
    *c = (struct loss_case){.x = random_matrix("x", N, 6), .w = random_matrix("w", V, 6), .top = top_new(N, k, m)};
    for (int64_t n = 0; n < N; n++)
        targets[n] = n % 4 == 3 ? -1 : (int32_t)(n * 7 % V);
    take(&tx, &tw, NULL, temperature, start, &c->top);
    c->spec = (struct head_spec){.targets = targets, .top = &c->top, .alpha = alpha, .temperature = temperature, .weight = 0.5};
    matrix_free(&tx);
    matrix_free(&tw);
}

static void case_free(struct loss_case *c)
{
    top_free(&c->top);
    matrix_free(&c->x);
    matrix_free(&c->w);
}

Test(op_head_top, finite_differences)
{
    static const struct {
        int64_t N, V, k, m;
        double alpha, temperature;
    } made[] = {{5, 11, 1, 0, 1, 1}, {7, 300, 32, 0, 0.7, 2}, {6, 13, 13, 0, 1, 2}, {4, 40, 8, 0, 1, 4}, {7, 300, 32, 20, 0.7, 2}, {5, 11, 1, 40, 1, 1}};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) {
        struct loss_case c;
        int32_t targets[8];
        made_case(&c, targets, made[i].N, made[i].V, made[i].k, made[i].m, made[i].alpha, made[i].temperature);
        struct tensor *inputs[] = {&c.x, &c.w};
        const struct gradcheck g = {.function = build, .context = &c, .input = inputs, .n_input = 2, .precision = PRECISION_F32,
                                    .step = 0x1p-5, .directions = 3, .element = 60, .seed = 9};
        struct gradcheck_result r;
        gradcheck_run(&g, &r);
        cr_expect(r.worst <= DIFFERENCES, "case %zu: error %.2g at %s, differences %.9g, the tape %.9g", i, r.worst, r.where, r.expected,
                  r.found);
        case_free(&c);
    }
}

// With all entries the divergence is that from the whole teacher; with few it is smaller (events put together tell less apart).
Test(op_head_top, all_entries_are_the_whole_teacher)
{
    enum { N = 6, V = 50 };
    struct tensor tx = random_matrix("teacher_x", N, 8), tw = random_matrix("teacher_w", V, 8);
    int32_t targets[N];
    struct loss_case c;
    double kl[3];
    static const int64_t k[] = {V, 10};
    for (int i = 0; i < 2; i++) {
        made_case(&c, targets, N, V, k[i], 0, 0.7, 2);
        run(&c);
        kl[i] = c.result.kl;
        case_free(&c);
    }
    made_case(&c, targets, N, V, V, 0, 0.7, 2);
    c.spec.top = NULL;
    c.spec.teacher_x = tx.data;
    c.spec.teacher_w = &tw;
    run(&c);
    kl[2] = c.result.kl;
    cr_expect_lt(fabs(kl[0] / kl[2] - 1), FLOAT_FEW);
    cr_expect(kl[1] > 0 && kl[1] < kl[2], "%g of %g", kl[1], kl[2]);
    case_free(&c);
    matrix_free(&tx);
    matrix_free(&tw);
}

// The loss and its gradient on x from draws with one start in all rows; start below 0: from the whole teacher.
static double drawn_loss(double start, int64_t k, int64_t m, float *gradient)
{
    enum { N = 6, V = 50 };
    struct tensor tx = random_matrix("teacher_x", N, 8), tw = random_matrix("teacher_w", V, 8);
    int32_t targets[N];
    double starts[N];
    struct loss_case c;
    made_case(&c, targets, N, V, k, m, 1, 2);
    for (int n = 0; n < N; n++)
        starts[n] = start;
    if (start < 0) {
        c.spec.top = NULL;
        c.spec.teacher_x = tx.data;
        c.spec.teacher_w = &tw;
    } else {
        take(&tx, &tw, NULL, 2, starts, &c.top);
    }
    run(&c);
    memcpy(gradient, c.x.grad, (size_t)(6 * N) * sizeof *gradient);
    const double loss = c.result.loss;
    case_free(&c);
    matrix_free(&tx);
    matrix_free(&tw);
    return loss;
}

// The mean over evenly spread starts is the whole teacher's loss and gradient. A single draw is not: the noise that goes away is there.
Test(op_head_top, draws_are_unbiased)
{
    enum { STARTS = 300, X = 36 };
    float whole[X], one[X];
    double mean[X] = {0}, loss = 0, largest = 0, worst = 0, noise = 0;
    threads_set(1); // many small runs
    const double expected = drawn_loss(-1, 5, 7, whole);
    for (int s = 0; s < STARTS; s++) {
        loss += drawn_loss((s + 0.5) / STARTS, 5, 7, one) / STARTS;
        for (int i = 0; i < X; i++) {
            mean[i] += (double)one[i] / STARTS;
            noise = fmax(noise, fabs((double)one[i] - (double)whole[i]));
        }
    }
    for (int i = 0; i < X; i++) {
        largest = fmax(largest, fabs((double)whole[i]));
        worst = fmax(worst, fabs(mean[i] - (double)whole[i]));
    }
    // Evenly spread starts miss a mean by less than one of them, 1/300, of the largest step between two draws.
    cr_expect_lt(fabs(loss / expected - 1), 2e-3, "%g, the whole teacher %g", loss, expected);
    cr_expect_lt(worst / largest, 2e-3, "%g of %g", worst, largest);
    cr_expect_gt(noise / largest, 0.02);
}

// A tail of equal masses with a draw for each entry is the whole teacher.
Test(op_head_top, a_tail_drawn_whole)
{
    enum { N = 4, V = 30, K = 6, M = 64 };
    struct tensor tx = random_matrix("teacher_x", N, 1), tw = matrix("teacher_w", V, 1);
    struct loss_case c[2];
    int32_t targets[N];
    for (int64_t n = 0; n < N; n++)
        tx.data[n] = (float)n + 0.5f;
    for (int64_t v = 0; v < V; v++)
        tw.data[v] = v < K ? 1 + 0.1f * (float)v : 0.25f;
    for (int i = 0; i < 2; i++) {
        made_case(&c[i], targets, N, V, K, M, 1, 1);
        const double start[N] = {0.5, 0.5, 0.5, 0.5};
        take(&tx, &tw, NULL, 1, start, &c[i].top);
        for (int64_t n = 0; i == 0 && n < N; n++) { // each entry once
            c[0].top.draws[n] = V - K;
            for (int64_t v = K; v < V; v++)
                c[0].top.drawn[n * M + v - K] = (int32_t)v;
        }
        if (i) {
            c[1].spec.top = NULL;
            c[1].spec.teacher_x = tx.data;
            c[1].spec.teacher_w = &tw;
        }
        run(&c[i]);
    }
    cr_expect_lt(fabs(c[0].result.kl / c[1].result.kl - 1), FLOAT_FEW);
    for (int64_t i = 0; i < 6 * N; i++)
        cr_expect_lt(fabs((double)(c[0].x.grad[i] - c[1].x.grad[i])), FLOAT_FEW);
    for (int i = 0; i < 2; i++)
        case_free(&c[i]);
    matrix_free(&tx);
    matrix_free(&tw);
}

// Of equal logits the first ones are taken, whatever the number of threads; more rows than a chunk holds.
Test(op_head_top, ties_threads_and_chunks)
{
    enum { V = 4099, K = 5, M = 9 };
    const int64_t N = head_chunk_rows(1 << 20, V) + 70;
    struct tensor x = random_matrix("x", N, 4), w = random_matrix("w", V, 4);
    memset(w.data, 0, sizeof(float) * 4 * (V - 40)); // equal logits, 0, and forty others
    struct head_top a = top_new(N, K, M), b = top_new(N, K, M);
    double *start = xmalloc((size_t)N * sizeof *start, "test");
    for (int64_t n = 0; n < N; n++)
        start[n] = (double)n / (double)N;
    threads_set(1);
    take(&x, &w, NULL, 1, start, &a);
    threads_set(3);
    take(&x, &w, NULL, 1, start, &b);
    cr_expect_arr_eq(a.id, b.id, (size_t)(N * K) * 4);
    cr_expect_arr_eq(a.log_p, b.log_p, (size_t)(N * K) * 4);
    cr_expect_arr_eq(a.log_tail, b.log_tail, (size_t)N * 4);
    cr_expect_arr_eq(a.draws, b.draws, (size_t)N * 4);
    cr_expect_arr_eq(a.drawn, b.drawn, (size_t)(N * M) * 4);
    cr_expect_arr_eq(a.entropy, b.entropy, (size_t)N * 4);
    memset(w.data, 0, sizeof(float) * 4 * V);
    take(&x, &w, NULL, 1, start, &a);
    for (int64_t i = 0; i < N * K; i++)
        cr_assert_eq(a.id[i], i % K);
    free(start);
    top_free(&a);
    top_free(&b);
    matrix_free(&x);
    matrix_free(&w);
}
