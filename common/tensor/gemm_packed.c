// gemm_packed.c: small products by one thread against a packed matrix, for attention's tiles.
//
// BLIS packs both operands again at every call, which for a tile of attention (64 rows, a depth of one head) takes longer
// than the product. Here B is packed once and used by many tiles, and A is read where it lies. Every element of C is one
// chain of fused multiply-adds along K, so AVX2 and AVX-512 give the same bits, however C is cut.
#include <string.h>

#include "common/tensor/cpu.h"
#include "common/tensor/gemm.h"

#define PANEL GEMM_PANEL

// Where one block of C comes from: A's strides between rows and along K; B's first panel and the distance to the next.
struct block {
    int64_t K;
    const float *a;
    int64_t row_stride, k_stride;
    const float *b;
    int64_t panel_stride;
    float *c;
    int64_t ldc;
    int add;
};

typedef void kernel(const struct block *block);

// ROWS rows and VECTORS vectors of LANES floats, all kept in registers.
#define KERNEL(name, target, LANES, ROWS, VECTORS)                                                                               \
    typedef float name##_vector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));                                  \
    target static void name(const struct block *t)                                                                               \
    {                                                                                                                            \
        name##_vector sum[ROWS][VECTORS];                                                                                        \
        memset(sum, 0, sizeof sum);                                                                                              \
        for (int64_t k = 0; k < t->K; k++) {                                                                                     \
            const float *a = t->a + k * t->k_stride;                                                                             \
            name##_vector b[VECTORS];                                                                                            \
            for (int v = 0; v < VECTORS; v++)                                                                                    \
                b[v] = *(const name##_vector *)(t->b + v * LANES / PANEL * t->panel_stride + k * PANEL + v * LANES % PANEL);     \
            for (int r = 0; r < ROWS; r++)                                                                                       \
                for (int v = 0; v < VECTORS; v++)                                                                                \
                    sum[r][v] += a[r * t->row_stride] * b[v];                                                                    \
        }                                                                                                                        \
        for (int r = 0; r < ROWS; r++)                                                                                           \
            for (int v = 0; v < VECTORS; v++) {                                                                                  \
                name##_vector *c = (name##_vector *)(t->c + r * t->ldc + v * LANES);                                             \
                if (t->add)                                                                                                      \
                    sum[r][v] += *c;                                                                                             \
                *c = sum[r][v];                                                                                                  \
            }                                                                                                                    \
    }

#define AVX512 __attribute__((target("avx512f,avx512vl")))

KERNEL(avx2_rows, , 8, 4, 2)
KERNEL(avx2_row, , 8, 1, 2)
KERNEL(avx512_rows_wide, AVX512, 16, 8, 2)
KERNEL(avx512_rows, AVX512, 16, 8, 1)
KERNEL(avx512_row, AVX512, 16, 1, 1)

struct kernels {
    int64_t rows;         // of the blocks
    kernel *wide;         // two panels at once; NULL: none
    kernel *narrow, *row; // one panel: `rows` rows, one row
};

static const struct kernels *choose(void)
{
    static const struct kernels avx2 = {4, NULL, avx2_rows, avx2_row};
    static const struct kernels avx512 = {8, avx512_rows_wide, avx512_rows, avx512_row};
    return cpu_get()->avx512 ? &avx512 : &avx2;
}

int64_t gemm_packed_floats(int64_t N, int64_t K) { return (N + PANEL - 1) / PANEL * PANEL * K; }

// Panels of PANEL columns, each [K, PANEL], the last filled up with zeros.
void gemm_pack(enum transpose tb, int64_t N, int64_t K, float alpha, const float *B, int64_t ldb, float *packed)
{
    for (int64_t n = 0; n < N; n += PANEL, packed += K * PANEL) {
        const int64_t width = N - n < PANEL ? N - n : PANEL;
        if (width < PANEL)
            memset(packed, 0, (size_t)(K * PANEL) * sizeof(float));
        if (tb == PLAIN)
            for (int64_t k = 0; k < K; k++)
                for (int64_t j = 0; j < width; j++)
                    packed[k * PANEL + j] = alpha * B[k * ldb + n + j];
        else
            for (int64_t j = 0; j < width; j++)
                for (int64_t k = 0; k < K; k++)
                    packed[k * PANEL + j] = alpha * B[(n + j) * ldb + k];
    }
}

// All rows of one panel (or of two, by the wide kernel) at column n; `width` columns of them exist.
static void panel_product(const struct kernels *kernels, struct block t, int64_t M, int64_t width)
{
    float edge[8 * PANEL];
    kernel *rows = width > PANEL ? kernels->wide : kernels->narrow;
    float *c = t.c;
    const int64_t ldc = t.ldc;
    for (int64_t m = 0; m < M;) {
        const int64_t count = M - m >= kernels->rows ? kernels->rows : 1;
        kernel *run = count > 1 ? rows : kernels->row;
        t.c = c + m * ldc;
        t.ldc = ldc;
        if (width < PANEL) { // C has no room for a whole panel
            for (int64_t r = 0; r < count && t.add; r++)
                memcpy(edge + r * PANEL, c + (m + r) * ldc, (size_t)width * sizeof(float));
            t.c = edge;
            t.ldc = PANEL;
        }
        run(&t);
        if (width > PANEL && count == 1) {
            struct block second = t;
            second.b += t.panel_stride;
            second.c += PANEL;
            run(&second);
        }
        for (int64_t r = 0; r < count && width < PANEL; r++)
            memcpy(c + (m + r) * ldc, edge + r * PANEL, (size_t)width * sizeof(float));
        t.a += count * t.row_stride;
        m += count;
    }
}

void gemm_packed(enum transpose ta, int64_t M, int64_t N, int64_t K, const float *A, int64_t lda, const float *packed,
                 int64_t packed_K, float beta, float *C, int64_t ldc)
{
    const struct kernels *kernels = choose();
    for (int64_t n = 0, width; n < N; n += width) {
        const int two = kernels->wide && N - n >= 2 * PANEL;
        width = two ? 2 * PANEL : N - n < PANEL ? N - n : PANEL;
        const struct block t = {.K = K,
                                .a = A,
                                .row_stride = ta == TRANSPOSED ? 1 : lda,
                                .k_stride = ta == TRANSPOSED ? lda : 1,
                                .b = packed + n * packed_K,
                                .panel_stride = packed_K * PANEL,
                                .c = C + n,
                                .ldc = ldc,
                                .add = beta != 0.0f};
        panel_product(kernels, t, M, width);
    }
    gemm_count_product(&(struct gemm_call){PRECISION_F32, ta, PLAIN, M, N, K, beta, 1});
}
