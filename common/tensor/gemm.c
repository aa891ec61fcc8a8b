// gemm.c: matrix products, the only user of BLIS and oneDNN.
//
// A product is cut into panels by its shape alone, and each panel is computed by one thread with a serial call, so
// the bits of a result cannot depend on the number of threads. Panels are large: small ones lose to repeated packing.
// gemm() itself is called by one thread at a time, outside parallel regions.

#include "common/tensor/gemm.h"

#include <immintrin.h>
#include <omp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <blis.h>
#ifdef PDQ_HAVE_DNNL
#include <dnnl.h>
#endif

#include "common/base/error.h"
#include "common/base/timer.h"
#include "common/tensor/cpu.h"
#include "common/tensor/dtype.h"

static char description[200];
static double seconds_counted;
static atomic_llong flops_counted;
static void (*trace)(void *context, const struct gemm_call *call);
static void *trace_context;

// ---- the choice of kernels ----

// The number BLIS 0.9 wants in BLIS_ARCH_TYPE, which differs from build to build; -1: none.
static int blis_number(const char *name) {
    for (int i = 0; i < BLIS_NUM_ARCHS; i++) {
        const char *found = bli_arch_string((arch_t)i);
        if (found && !strcmp(found, name))
            return i;
    }
    return -1;
}

// BLIS goes by the names it knew in 2022, and calls what is newer "generic": a quarter of an AVX2 kernel's speed.
static const char *blis_wish(const struct cpu *cpu, const char **why) {
    if (cpu->two_fma) {
        *why = "AVX-512 with two FMA units";
        return "skx";
    }
    if (cpu->avx2 && bli_cpuid_query_id() == BLIS_ARCH_GENERIC) {
        *why = "AVX2, on a CPU that BLIS does not know";
        return "haswell";
    }
    *why = "BLIS's own choice";
    return NULL;
}

void gemm_init(void) {
    const char *why, *wish;

    if (description[0])
        return;
    if (getenv("BLIS_ARCH_TYPE")) {
        why = "BLIS_ARCH_TYPE is set by the user";
    } else if ((wish = blis_wish(cpu_get(), &why)) != NULL) {
        char number[16];
        snprintf(number, sizeof number, "%d", blis_number(wish));
        if (number[0] == '-' || setenv("BLIS_ARCH_TYPE", number, 1))
            why = "BLIS's own choice";
    }
    bli_init();
    snprintf(description, sizeof description, "BLIS %s %s (%s)", bli_info_get_version_str(),
             bli_arch_string(bli_arch_query_id()), why);
}

const char *gemm_description(void) {
    gemm_init();
    return description;
}

enum precision gemm_precision(enum precision wanted, const char **why) {
    const char *unused;
    const struct cpu *cpu = cpu_get();

    if (!why)
        why = &unused;
    if (wanted == PRECISION_F32) {
        *why = "f32 was asked for";
        return PRECISION_F32;
    }
#ifdef PDQ_HAVE_DNNL
    *why = cpu->amx_bf16      ? "oneDNN with AMX"
           : cpu->avx512_bf16 ? "oneDNN with AVX512-BF16"
                              : "this CPU has neither AMX nor AVX512-BF16, so f32 is used";
    return cpu->amx_bf16 || cpu->avx512_bf16 ? PRECISION_BF16 : PRECISION_F32;
#else
    (void)cpu;
    *why = "this build has no oneDNN, so f32 is used";
    return PRECISION_F32;
#endif
}

const char *gemm_bf16_description(void) {
#ifdef PDQ_HAVE_DNNL
    static char text[40];
    const dnnl_version_t *v = dnnl_version();
    snprintf(text, sizeof text, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
    return text;
#else
    return "absent";
#endif
}

// ---- panels ----

// Below this many operations starting the threads costs more than it brings.
#define PARALLEL_FLOPS 2e6
// C elements that a panel should keep: smaller ones lose to packing.
#define PANEL_AREA 32768
// Panel edges are multiples of this: whole register blocks of all kernels and whole cache lines.
#define PANEL_STEP 48
#define PANELS_MAX 32

struct cut {
    int64_t rows, columns; // number of panels along M and N
};

static struct cut cut_product(int64_t M, int64_t N, int64_t K) {
    struct cut cut = {1, 1};
    double area = (double)M * (double)N;
    int64_t most = area >= 1 << 22 ? PANELS_MAX : area >= 1 << 20 ? 16 : 8;

    if (2 * area * (double)K < PARALLEL_FLOPS)
        return cut;
    for (int64_t count = 1; count < most; count *= 2) {
        int64_t m = M / cut.rows, n = N / cut.columns;
        if ((m > n ? m : n) < 2 * PANEL_STEP || (count > 1 && m * n / 2 < PANEL_AREA))
            break;
        if (m >= n)
            cut.rows *= 2;
        else
            cut.columns *= 2;
    }
    return cut;
}

// Where panel p of `count` over n begins.
static int64_t panel_start(int64_t n, int64_t count, int64_t p, int64_t step) {
    return p == count ? n : n * p / count / step * step;
}

static void blis(enum transpose ta, enum transpose tb, int64_t M, int64_t N, int64_t K,
                 const float *A, int64_t lda, const float *B, int64_t ldb, float beta, float *C, int64_t ldc) {
    rntm_t rntm;
    float alpha = 1;

    bli_rntm_init(&rntm);
    bli_rntm_set_l3_sup(0, &rntm); // sup kernels would take another path, and give other bits, for small panels only
    // BLIS takes its inputs without const.
    bli_sgemm_ex(ta == TRANSPOSED ? BLIS_TRANSPOSE : BLIS_NO_TRANSPOSE,
                 tb == TRANSPOSED ? BLIS_TRANSPOSE : BLIS_NO_TRANSPOSE, M, N, K, &alpha, (float *)(uintptr_t)A, lda,
                 1, (float *)(uintptr_t)B, ldb, 1, &beta, C, ldc, 1, NULL, &rntm);
}

static void gemm_f32(enum transpose ta, enum transpose tb, int64_t M, int64_t N, int64_t K, const float *A,
                     int64_t lda, const float *B, int64_t ldb, float beta, float *C, int64_t ldc) {
    struct cut cut = cut_product(M, N, K);
    int64_t count = cut.rows * cut.columns;

#pragma omp parallel for schedule(dynamic, 1) if (count > 1)
    for (int64_t p = 0; p < count; p++) {
        int64_t i = panel_start(M, cut.rows, p / cut.columns, PANEL_STEP);
        int64_t j = panel_start(N, cut.columns, p % cut.columns, PANEL_STEP);
        int64_t m = panel_start(M, cut.rows, p / cut.columns + 1, PANEL_STEP) - i;
        int64_t n = panel_start(N, cut.columns, p % cut.columns + 1, PANEL_STEP) - j;
        blis(ta, tb, m, n, K, ta == TRANSPOSED ? A + i : A + i * lda, lda,
             tb == TRANSPOSED ? B + j * ldb : B + j, ldb, beta, C + i * ldc + j, ldc);
    }
}

// ---- a few rows against a weight: as fast as memory, which BLIS is not ----

#define FEW_ROWS 4

static float dot(const float *a, const float *b, int64_t n) {
    __m256 s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
    int64_t i = 0;

    for (; i + 32 <= n; i += 32) {
        s0 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), s0);
        s1 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8), s1);
        s2 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 16), _mm256_loadu_ps(b + i + 16), s2);
        s3 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 24), _mm256_loadu_ps(b + i + 24), s3);
    }
    for (; i + 8 <= n; i += 8)
        s0 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), s0);
    __m256 s = _mm256_add_ps(_mm256_add_ps(s0, s1), _mm256_add_ps(s2, s3));
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    float sum = _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
    for (; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static void gemm_few_rows(int64_t M, int64_t N, int64_t K, const float *A, int64_t lda, const float *B, int64_t ldb,
                          float beta, float *C, int64_t ldc) {
#pragma omp parallel for schedule(static) if (2.0 * (double)(M * N * K) >= PARALLEL_FLOPS / 8)
    for (int64_t j = 0; j < N; j++)
        for (int64_t i = 0; i < M; i++) {
            float sum = dot(A + i * lda, B + j * ldb, K);
            C[i * ldc + j] = beta == 0 ? sum : C[i * ldc + j] + sum;
        }
}

// ---- bf16 ----

#ifdef PDQ_HAVE_DNNL

// Everything that decides which primitive computes a panel. Operands are packed: no strides.
struct panel_key {
    int64_t m, n, k, ldc;
    int ta, tb, add;
};

struct panel_primitive {
    struct panel_key key;
    dnnl_primitive_t primitive;
    dnnl_memory_desc_t a, b, c, scratch;
    struct panel_primitive *next; // in the same slot
};

// Creating a primitive costs about a millisecond, so they are kept, until there are this many (texts of any length).
#define PRIMITIVES 4096
#define PRIMITIVE_SLOTS 1024 // 10 bits of hash

struct buffer {
    void *data;
    size_t bytes;
};

struct worker { // one for each thread
    dnnl_stream_t stream;
    struct buffer operand, scratch;
};

// Process lifetime: made at the first bf16 product.
static struct {
    dnnl_engine_t engine;
    struct panel_primitive *slot[PRIMITIVE_SLOTS];
    int primitives;
    struct worker *worker;
    int workers;
    struct buffer operand; // B of the product in progress
} bf16;

static void check(dnnl_status_t status, const char *what) {
    if (status == dnnl_out_of_memory)
        BUG("gemm: oneDNN has no memory for %s", what);
    if (status != dnnl_success)
        BUG("gemm: oneDNN failed in %s with status %d", what, (int)status);
}

static void *buffer_get(struct buffer *b, size_t bytes) {
    if (bytes > b->bytes) {
        free(b->data);
        b->bytes = bytes;
        b->data = xmalloc(bytes + 64, "a bf16 operand");
    }
    return (void *)(((uintptr_t)b->data + 63) & ~(uintptr_t)63);
}

static void primitives_drop(void) {
    for (int i = 0; i < PRIMITIVE_SLOTS; i++)
        while (bf16.slot[i]) {
            struct panel_primitive *p = bf16.slot[i];
            bf16.slot[i] = p->next;
            dnnl_primitive_destroy(p->primitive);
            free(p);
        }
    bf16.primitives = 0;
}

static void bf16_prepare(int threads) {
    if (!bf16.engine)
        check(dnnl_engine_create(&bf16.engine, dnnl_cpu, 0), "dnnl_engine_create");
    if (bf16.primitives >= PRIMITIVES)
        primitives_drop();
    if (threads <= bf16.workers)
        return;
    bf16.worker = xrealloc(bf16.worker, (size_t)threads * sizeof *bf16.worker, "oneDNN workers");
    for (int i = bf16.workers; i < threads; i++) {
        memset(&bf16.worker[i], 0, sizeof bf16.worker[i]);
        check(dnnl_stream_create(&bf16.worker[i].stream, bf16.engine, dnnl_stream_default_flags),
              "dnnl_stream_create");
    }
    bf16.workers = threads;
}

static void describe(dnnl_memory_desc_t *desc, int64_t rows, int64_t columns, dnnl_data_type_t type, int transposed,
                     int64_t ld) {
    dnnl_dims_t dims = {rows, columns};
    dnnl_dims_t strides = {transposed ? 1 : ld, transposed ? ld : 1};

    check(dnnl_memory_desc_init_by_strides(desc, 2, dims, type, strides), "dnnl_memory_desc_init_by_strides");
}

static void primitive_make(struct panel_primitive *p, const struct panel_key *key) {
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_attr_t attr;
    dnnl_primitive_desc_t desc;

    p->key = *key;
    describe(&p->a, key->m, key->k, dnnl_bf16, key->ta, key->ta ? key->m : key->k);
    describe(&p->b, key->k, key->n, dnnl_bf16, key->tb, key->tb ? key->k : key->n);
    describe(&p->c, key->m, key->n, dnnl_f32, 0, key->ldc);
    check(dnnl_matmul_desc_init(&matmul, &p->a, &p->b, NULL, &p->c), "dnnl_matmul_desc_init");
    check(dnnl_primitive_attr_create(&attr), "dnnl_primitive_attr_create");
    // oneDNN's own scratchpad belongs to the thread that created the primitive.
    check(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user),
          "dnnl_primitive_attr_set_scratchpad_mode");
    if (key->add) {
        dnnl_post_ops_t sum;
        check(dnnl_post_ops_create(&sum), "dnnl_post_ops_create");
        check(dnnl_post_ops_append_sum(sum, 1), "dnnl_post_ops_append_sum");
        check(dnnl_primitive_attr_set_post_ops(attr, sum), "dnnl_primitive_attr_set_post_ops");
        dnnl_post_ops_destroy(sum);
    }
    check(dnnl_primitive_desc_create(&desc, &matmul, attr, bf16.engine, NULL), "dnnl_primitive_desc_create");
    p->scratch = *dnnl_primitive_desc_query_md(desc, dnnl_query_scratchpad_md, 0);
    check(dnnl_primitive_create(&p->primitive, desc), "dnnl_primitive_create");
    dnnl_primitive_desc_destroy(desc);
    dnnl_primitive_attr_destroy(attr);
}

static int panel_key_equal(const struct panel_key *a, const struct panel_key *b) {
    return a->m == b->m && a->n == b->n && a->k == b->k && a->ldc == b->ldc && a->ta == b->ta && a->tb == b->tb &&
           a->add == b->add;
}

// Inside a parallel region, under a lock. The thread's own omp_set_num_threads(1) has been called: a primitive's bits
// depend on the number of threads that it was created for.
static const struct panel_primitive *primitive_get(const struct panel_key *key) {
    uint64_t hash = 0;
    const int64_t part[] = {key->m, key->n, key->k, key->ldc, key->ta, key->tb, key->add};

    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        hash = (hash ^ (uint64_t)part[i]) * 0x9e3779b97f4a7c15u;
    struct panel_primitive **slot = &bf16.slot[hash >> 54], *p = *slot;
    while (p && !panel_key_equal(&p->key, key))
        p = p->next;
    if (!p) {
        p = xcalloc(1, sizeof *p, "a oneDNN primitive");
        primitive_make(p, key);
        p->next = *slot;
        *slot = p;
        bf16.primitives++;
    }
    return p;
}

static void panel_run(const struct panel_primitive *p, struct worker *w, uint16_t *a, uint16_t *b, float *c) {
    dnnl_memory_t memory[4];
    void *scratch = buffer_get(&w->scratch, dnnl_memory_desc_get_size(&p->scratch));

    check(dnnl_memory_create(&memory[0], &p->a, bf16.engine, a), "dnnl_memory_create");
    check(dnnl_memory_create(&memory[1], &p->b, bf16.engine, b), "dnnl_memory_create");
    check(dnnl_memory_create(&memory[2], &p->c, bf16.engine, c), "dnnl_memory_create");
    check(dnnl_memory_create(&memory[3], &p->scratch, bf16.engine, scratch), "dnnl_memory_create");
    dnnl_exec_arg_t args[4] = {{DNNL_ARG_SRC, memory[0]},
                               {DNNL_ARG_WEIGHTS, memory[1]},
                               {DNNL_ARG_DST, memory[2]},
                               {DNNL_ARG_SCRATCHPAD, memory[3]}};
    check(dnnl_primitive_execute(p->primitive, w->stream, 4, args), "dnnl_primitive_execute");
    check(dnnl_stream_wait(w->stream), "dnnl_stream_wait");
    for (int i = 0; i < 4; i++)
        dnnl_memory_destroy(memory[i]);
}

// Rows of f32 at stride ld, packed as bf16.
static void pack_bf16(const float *from, int64_t ld, int64_t rows, int64_t columns, uint16_t *to) {
    if (ld == columns) {
        dtype_from_f32(DTYPE_BF16, from, to, rows * columns);
        return;
    }
    for (int64_t r = 0; r < rows; r++)
        dtype_from_f32(DTYPE_BF16, from + r * ld, to + r * columns, columns);
}

// Panels along the rows of C only, so that a panel's C has whole rows: oneDNN's fast kernels want packed matrices.
#define BF16_ROWS 128 // at least, in a panel
#define BF16_STEP 16

static int64_t cut_rows(int64_t M, int64_t N, int64_t K) {
    int64_t count = 1, most = M >= 8192 ? PANELS_MAX : M >= 4096 ? 16 : 8;

    if (2.0 * (double)M * (double)N * (double)K < PARALLEL_FLOPS || M < 2 * BF16_STEP)
        return 1;
    do
        count *= 2;
    while (count < most && M / count >= 2 * BF16_ROWS);
    return count;
}

static void gemm_bf16(enum transpose ta, enum transpose tb, int64_t M, int64_t N, int64_t K, const float *A,
                      int64_t lda, const float *B, int64_t ldb, float beta, float *C, int64_t ldc) {
    int64_t count = cut_rows(M, N, K);
    int64_t b_rows = tb == TRANSPOSED ? N : K, b_columns = tb == TRANSPOSED ? K : N;

    bf16_prepare(omp_get_max_threads());
    uint16_t *b = buffer_get(&bf16.operand, (size_t)N * (size_t)K * 2);
#pragma omp parallel
    {
        struct worker *w = &bf16.worker[omp_get_thread_num()];
        omp_set_num_threads(1);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < b_rows; r++)
            pack_bf16(B + r * ldb, ldb, 1, b_columns, b + r * b_columns);
#pragma omp for schedule(dynamic, 1)
        for (int64_t p = 0; p < count; p++) {
            int64_t i = panel_start(M, count, p, BF16_STEP), m = panel_start(M, count, p + 1, BF16_STEP) - i;
            uint16_t *a = buffer_get(&w->operand, (size_t)m * (size_t)K * 2);
            if (ta == TRANSPOSED)
                pack_bf16(A + i, lda, K, m, a);
            else
                pack_bf16(A + i * lda, lda, m, K, a);
            struct panel_key key = {m, N, K, ldc, ta == TRANSPOSED, tb == TRANSPOSED, beta != 0};
            const struct panel_primitive *primitive;
#pragma omp critical(gemm_primitive)
            primitive = primitive_get(&key);
            panel_run(primitive, w, a, b, C + i * ldc);
        }
    }
}

#endif

// ---- the door ----

void gemm_count_product(const struct gemm_call *call) {
    atomic_fetch_add_explicit(&flops_counted, 2 * call->M * call->N * call->K, memory_order_relaxed);
    if (trace)
        trace(trace_context, call);
}

void gemm_trace(void (*seen)(void *context, const struct gemm_call *call), void *context) {
    trace = seen;
    trace_context = context;
}

void gemm(enum precision precision, enum transpose ta, enum transpose tb, int64_t M, int64_t N, int64_t K,
          const float *A, int64_t lda, const float *B, int64_t ldb, float beta, float *C, int64_t ldc) {
    double start = timer_now();

#ifndef PDQ_HAVE_DNNL
    precision = PRECISION_F32;
#endif
    gemm_init();
    if (M == 0 || N == 0)
        return;
    if (ta == PLAIN && tb == TRANSPOSED && M <= FEW_ROWS)
        gemm_few_rows(M, N, K, A, lda, B, ldb, beta, C, ldc);
#ifdef PDQ_HAVE_DNNL
    else if (precision == PRECISION_BF16 && K > 0 && gemm_precision(precision, NULL) == PRECISION_BF16)
        gemm_bf16(ta, tb, M, N, K, A, lda, B, ldb, beta, C, ldc);
#endif
    else
        gemm_f32(ta, tb, M, N, K, A, lda, B, ldb, beta, C, ldc);
    seconds_counted += timer_now() - start;
    gemm_count_product(&(struct gemm_call){precision, ta, tb, M, N, K, beta, 0});
}

struct gemm_count gemm_counted(void) {
    return (struct gemm_count){(double)atomic_load(&flops_counted), seconds_counted};
}

void gemm_count_reset(void) {
    atomic_store(&flops_counted, 0);
    seconds_counted = 0;
}
