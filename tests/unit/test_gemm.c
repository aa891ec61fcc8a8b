// Products against a naive loop in double, large ones against a random vector, and the promise that bits do not
// depend on the number of threads. Tolerances: a sum of K terms in f32 is off by at most about K 2^-24 of the sum of
// magnitudes; in practice by sqrt(K), so that 4 sqrt(K) 2^-24 of it is ample. bf16 operands are rounded before the
// reference is computed.

#include <criterion/criterion.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/error.h"
#include "common/base/random.h"
#include "common/tensor/dtype.h"
#include "common/tensor/gemm.h"
#include "tests/unit/tolerance.h"

struct product {
    enum precision precision;
    enum transpose ta, tb;
    int64_t m, n, k, lda, ldb, ldc;
    float beta;
};

static float *random_matrix(struct random *r, int64_t count) {
    float *to = xmalloc((size_t)count * sizeof *to + 64, "a test matrix");
    for (int64_t i = 0; i < count; i++)
        to[i] = (float)random_uniform(r) * 2 - 1;
    return to;
}

static int64_t a_count(const struct product *p) { return (p->ta == TRANSPOSED ? p->k : p->m) * p->lda; }
static int64_t b_count(const struct product *p) { return (p->tb == TRANSPOSED ? p->n : p->k) * p->ldb; }

static void multiply(const struct product *p, const float *a, const float *b, float *c) {
    gemm(p->precision, p->ta, p->tb, p->m, p->n, p->k, a, p->lda, b, p->ldb, p->beta, c, p->ldc);
}

static double operand(const struct product *p, const float *x, int64_t i) {
    // A few rows are multiplied in f32 whatever was asked for.
    int f32 = p->precision == PRECISION_F32 || (p->m <= 4 && p->ta == PLAIN && p->tb == TRANSPOSED);
    return f32 ? (double)x[i] : (double)bf16_to_f32(f32_to_bf16(x[i]));
}

static double a_at(const struct product *p, const float *a, int64_t i, int64_t k) {
    return operand(p, a, p->ta == TRANSPOSED ? k * p->lda + i : i * p->lda + k);
}

static double b_at(const struct product *p, const float *b, int64_t k, int64_t j) {
    return operand(p, b, p->tb == TRANSPOSED ? j * p->ldb + k : k * p->ldb + j);
}

static void check_naive(const struct product *p, struct random *r) {
    float *a = random_matrix(r, a_count(p)), *b = random_matrix(r, b_count(p));
    float *c = random_matrix(r, p->m * p->ldc), *before = xmalloc((size_t)(p->m * p->ldc) * 4, "a test matrix");

    if (p->beta == 0)
        for (int64_t i = 0; i < p->m; i++)
            for (int64_t j = 0; j < p->n; j++)
                c[i * p->ldc + j] = NAN; // must not be read
    memcpy(before, c, (size_t)(p->m * p->ldc) * 4);
    multiply(p, a, b, c);
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->ldc; j++) {
            float got = c[i * p->ldc + j], old = before[i * p->ldc + j];
            if (j >= p->n) {
                cr_assert(got == old, "gap at %ld,%ld was written", (long)i, (long)j);
                continue;
            }
            double want = p->beta == 0 ? 0 : (double)old, magnitude = fabs(want);
            for (int64_t k = 0; k < p->k; k++) {
                double term = a_at(p, a, i, k) * b_at(p, b, k, j);
                want += term;
                magnitude += fabs(term);
            }
            double allowed = 4 * sqrt((double)p->k + 1) * 0x1p-24 * magnitude;
            cr_assert(fabs((double)got - want) <= allowed, "%s %d%d %ldx%ldx%ld beta %g at %ld,%ld: %g, expected %g",
                      p->precision == PRECISION_F32 ? "f32" : "bf16", p->ta, p->tb, (long)p->m, (long)p->n,
                      (long)p->k, (double)p->beta, (long)i, (long)j, (double)got, want);
        }
    free(a), free(b), free(c), free(before);
}

static struct product random_product(struct random *r, enum precision precision, int64_t most, int64_t gap) {
    struct product p = {.precision = precision,
                        .ta = random_below(r, 2) ? TRANSPOSED : PLAIN,
                        .tb = random_below(r, 2) ? TRANSPOSED : PLAIN,
                        .m = 1 + random_below(r, most),
                        .n = 1 + random_below(r, most),
                        .k = 1 + random_below(r, most),
                        .beta = (float)random_below(r, 2)};
    p.lda = (p.ta == TRANSPOSED ? p.m : p.k) + random_below(r, gap + 1);
    p.ldb = (p.tb == TRANSPOSED ? p.k : p.n) + random_below(r, gap + 1);
    p.ldc = p.n + random_below(r, gap + 1);
    return p;
}

static int have_bf16(void) {
    const char *why;
    return gemm_precision(PRECISION_BF16, &why) == PRECISION_BF16;
}

Test(gemm, f32_against_a_naive_loop) {
    struct random r;
    random_init(&r, 1, "gemm naive", 0);
    for (int i = 0; i < 200; i++) {
        struct product p = random_product(&r, PRECISION_F32, i < 150 ? 40 : 150, 5);
        check_naive(&p, &r);
    }
}

Test(gemm, bf16_against_a_naive_loop) {
    if (!have_bf16())
        cr_skip("no bf16 on this machine");
    struct random r;
    random_init(&r, 2, "gemm naive", 0);
    for (int i = 0; i < 100; i++) {
        struct product p = random_product(&r, PRECISION_BF16, i < 60 ? 40 : 150, 5);
        check_naive(&p, &r);
    }
    cr_assert(omp_get_max_threads() == omp_get_num_procs() || getenv("OMP_NUM_THREADS"),
              "bf16 changed the thread count");
}

Test(gemm, few_rows) {
    struct random r;
    random_init(&r, 3, "gemm few rows", 0);
    for (int64_t m = 1; m <= 6; m++)
        for (int beta = 0; beta < 2; beta++) {
            struct product p = {PRECISION_F32, PLAIN, TRANSPOSED, m, 301, 331, 340, 333, 310, (float)beta};
            check_naive(&p, &r);
        }
}

Test(gemm, nothing_to_sum) {
    float c[4] = {1, 2, 3, 4}, none = 0;
    gemm(PRECISION_F32, PLAIN, TRANSPOSED, 0, 2, 3, &none, 3, &none, 3, 0, c, 2);
    cr_assert_eq(c[0], 1.0f);
    gemm(PRECISION_BF16, PLAIN, PLAIN, 2, 2, 0, &none, 1, &none, 2, 1, c, 2);
    cr_assert_eq(c[3], 4.0f);
    gemm(PRECISION_BF16, PLAIN, PLAIN, 2, 2, 0, &none, 1, &none, 2, 0, c, 2);
    for (int i = 0; i < 4; i++)
        cr_assert_eq(c[i], 0.0f);
}

// C x = A (B x) for a random x costs two passes over the operands: large products are checked in full for little.
static void check_with_vector(const struct product *p, struct random *r) {
    float *a = random_matrix(r, a_count(p)), *b = random_matrix(r, b_count(p)), *c = random_matrix(r, p->m * p->ldc);
    double *bx = xcalloc((size_t)p->k, sizeof *bx, "test"), *x = xcalloc((size_t)p->n, sizeof *x, "test");
    double *cx = xcalloc((size_t)p->m, sizeof *cx, "test"), *size = xcalloc((size_t)p->k, sizeof *size, "test");

    for (int64_t j = 0; j < p->n; j++)
        x[j] = random_uniform(r) * 2 - 1;
    for (int64_t i = 0; i < p->m && p->beta != 0; i++)
        for (int64_t j = 0; j < p->n; j++)
            cx[i] += (double)c[i * p->ldc + j] * x[j];
    multiply(p, a, b, c);
    for (int64_t k = 0; k < p->k; k++)
        for (int64_t j = 0; j < p->n; j++) {
            bx[k] += b_at(p, b, k, j) * x[j];
            size[k] += fabs(b_at(p, b, k, j) * x[j]);
        }
    for (int64_t i = 0; i < p->m; i++) {
        double got = 0, magnitude = 0;
        for (int64_t k = 0; k < p->k; k++) {
            cx[i] += a_at(p, a, i, k) * bx[k];
            magnitude += fabs(a_at(p, a, i, k)) * size[k];
        }
        for (int64_t j = 0; j < p->n; j++)
            got += (double)c[i * p->ldc + j] * x[j];
        // Magnitudes are of k n terms, whose roundings have all signs: far less than one rounding (6e-8) of the whole is left.
        cr_assert(fabs(got - cx[i]) <= FLOAT_FEW / 10 * magnitude, "%d%d %ldx%ldx%ld row %ld: %g, expected %g (of %g)", p->ta,
                  p->tb, (long)p->m, (long)p->n, (long)p->k, (long)i, got, cx[i], magnitude);
    }
    free(a), free(b), free(c), free(bx), free(x), free(cx), free(size);
}

Test(gemm, large_products_with_a_random_vector) {
    // Rows cut, columns cut, a gradient of a head, both operands strided.
    const struct product large[] = {{PRECISION_F32, PLAIN, TRANSPOSED, 1000, 288, 288, 288, 288, 288, 0},
                                    {PRECISION_F32, PLAIN, TRANSPOSED, 64, 5000, 288, 288, 288, 5000, 0},
                                    {PRECISION_F32, TRANSPOSED, PLAIN, 3001, 96, 256, 3001, 96, 96, 1},
                                    {PRECISION_F32, PLAIN, PLAIN, 301, 403, 509, 520, 410, 420, 1}};
    struct random r;
    random_init(&r, 4, "gemm vector", 0);
    for (size_t i = 0; i < sizeof large / sizeof *large; i++)
        for (int bf16 = 0; bf16 <= have_bf16(); bf16++) {
            struct product p = large[i];
            p.precision = bf16 ? PRECISION_BF16 : PRECISION_F32;
            check_with_vector(&p, &r);
        }
}

static void check_threads(enum precision precision, uint64_t seed) {
    struct random r;
    random_init(&r, seed, "gemm threads", 0);
    for (int i = 0; i < 200; i++) {
        struct product p = random_product(&r, precision, i < 100 ? 300 : 700, 3);
        size_t bytes = (size_t)(p.m * p.ldc) * sizeof(float);
        float *a = random_matrix(&r, a_count(&p)), *b = random_matrix(&r, b_count(&p)),
              *c = random_matrix(&r, p.m * p.ldc);
        float *one = xmalloc(bytes, "test");
        memcpy(one, c, bytes);
        omp_set_num_threads(1);
        multiply(&p, a, b, one);
        omp_set_num_threads(2 + i % 3);
        multiply(&p, a, b, c);
        cr_assert_eq(omp_get_max_threads(), 2 + i % 3);
        cr_assert(!memcmp(one, c, bytes), "%d%d %ldx%ldx%ld: bits differ", p.ta, p.tb, (long)p.m, (long)p.n,
                  (long)p.k);
        free(a), free(b), free(c), free(one);
    }
}

Test(gemm, f32_bits_do_not_depend_on_threads) { check_threads(PRECISION_F32, 5); }

Test(gemm, f32_bits_do_not_depend_on_threads_with_avx2_kernels) {
    setenv("BLIS_ARCH_TYPE", "3", 1); // haswell in Debian's BLIS 0.9
    if (!strstr(gemm_description(), "haswell"))
        cr_skip("3 is %s here", gemm_description());
    check_threads(PRECISION_F32, 6);
}

Test(gemm, bf16_bits_do_not_depend_on_threads) {
    if (!have_bf16())
        cr_skip("no bf16 on this machine");
    check_threads(PRECISION_BF16, 7);
}

// Packed once with room to spare along K and N, then used for the first k and n of these.
static void check_packed(void) {
    struct random r;
    random_init(&r, 8, "gemm packed", 0);
    for (int i = 0; i < 200; i++) {
        struct product p = random_product(&r, PRECISION_F32, 70, 5);
        float *a = random_matrix(&r, a_count(&p)), *b = random_matrix(&r, b_count(&p)),
              *c = random_matrix(&r, p.m * p.ldc);
        float *before = xmalloc((size_t)(p.m * p.ldc) * 4, "test");
        memcpy(before, c, (size_t)(p.m * p.ldc) * 4);
        float *packed = xmalloc((size_t)gemm_packed_floats(p.n, p.k) * 4, "test");
        gemm_pack(p.tb, p.n, p.k, 0.25f, b, p.ldb, packed);
        int64_t n = i % 3 ? p.n : (p.n + 1) / 2, k_used = i % 5 ? p.k : (p.k + 1) / 2;
        gemm_packed(p.ta, p.m, n, k_used, a, p.lda, packed, p.k, p.beta, c, p.ldc);
        for (int64_t y = 0; y < p.m; y++)
            for (int64_t x = 0; x < p.ldc; x++) {
                double sum = 0;
                for (int64_t k = 0; k < k_used && x < n; k++)
                    sum += a_at(&p, a, y, k) * b_at(&p, b, k, x);
                double want = 0.25 * sum + (p.beta == 0 && x < n ? 0 : (double)before[y * p.ldc + x]);
                cr_assert_float_eq((double)c[y * p.ldc + x], want, FLOAT_SUM, "%ld %ld of %ld %ld", (long)y, (long)x,
                                   (long)p.m, (long)n);
            }
        free(a), free(b), free(c), free(before), free(packed);
    }
}

Test(gemm, packed_with_alpha) { check_packed(); }

Test(gemm, packed_with_alpha_avx2) {
    setenv("PDQ_CPU", "avx2", 1);
    check_packed();
}

// Another process computes as an older CPU would; both see one piece of memory.
Test(gemm, packed_bits_do_not_depend_on_the_kernel) {
    enum { M = 67, N = 93, K = 131, COUNT = M * N };
    float *c = mmap(NULL, 2 * COUNT * sizeof *c, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq((void *)c, MAP_FAILED);
    pid_t child = fork();
    if (child == 0)
        setenv("PDQ_CPU", "avx2", 1);
    struct random r;
    random_init(&r, 10, "gemm packed", 0);
    float *a = random_matrix(&r, M * K), *b = random_matrix(&r, K * N);
    float *packed = xmalloc((size_t)gemm_packed_floats(N, K) * sizeof *packed, "test");
    gemm_pack(PLAIN, N, K, 1, b, N, packed);
    gemm_packed(PLAIN, M, N, K, a, K, packed, K, 0, child ? c : c + COUNT, N);
    if (child == 0)
        _exit(0);
    cr_assert_eq(waitpid(child, NULL, 0), child);
    cr_assert_arr_eq(c, c + COUNT, COUNT * sizeof *c);
    free(a), free(b), free(packed);
}

Test(gemm, counts_operations) {
    float a[6] = {0}, c[4], packed[3 * GEMM_PANEL] = {0};
    gemm_count_reset();
    gemm(PRECISION_F32, PLAIN, TRANSPOSED, 2, 2, 3, a, 3, a, 3, 0, c, 2);
    gemm_packed(PLAIN, 2, 2, 3, a, 3, packed, 3, 0, c, 2);
    cr_assert_eq(gemm_counted().flops, 48.0);
    cr_assert_gt(gemm_counted().seconds, 0.0);
}

// Every 16-bit pattern goes to f32 and back unchanged; arrays give what single values give, at every tail length.
Test(dtype, sixteen_bits_there_and_back) {
    static uint16_t from[65536], back[65536];
    static float wide[65536];
    for (int type = DTYPE_F16; type <= DTYPE_BF16; type++) {
        for (int i = 0; i < 65536; i++)
            from[i] = (uint16_t)i;
        dtype_to_f32((enum dtype)type, from, wide, 65536);
        dtype_from_f32((enum dtype)type, wide, back, 65536);
        for (int i = 0; i < 65536; i++)
            if (!isnan(wide[i]))
                cr_assert_eq(back[i], from[i], "type %d pattern %04x came back as %04x", type, from[i], back[i]);
            else
                cr_assert(isnan(type == DTYPE_F16 ? f16_to_f32(back[i]) : bf16_to_f32(back[i])));
    }
}

Test(dtype, arrays_round_like_single_values) {
    float from[67];
    uint16_t to[67];
    struct random r;
    random_init(&r, 9, "dtype", 0);
    for (int round = 0; round < 2000; round++) {
        for (int i = 0; i < 67; i++) {
            uint32_t bits = random_u32(&r);
            memcpy(&from[i], &bits, 4);
        }
        int n = round % 68;
        dtype_from_f32(DTYPE_BF16, from, to, n);
        for (int i = 0; i < n; i++)
            cr_assert_eq(to[i], f32_to_bf16(from[i]), "%a", (double)from[i]);
        dtype_from_f32(DTYPE_F16, from, to, n);
        for (int i = 0; i < n; i++)
            cr_assert_eq(to[i], f32_to_f16(from[i]), "%a", (double)from[i]);
    }
}
