// gemm.h: the one door to matrix products. f32 goes to BLIS, bf16 operands with f32 accumulation to oneDNN.
//
// Every product is cut into panels by its shape alone, each computed by one thread, so a result has the same bits at
// any number of threads.
#ifndef PDQ_GEMM_H
#define PDQ_GEMM_H

#include <stdint.h>

#include "common/base/json.h"

enum precision { PRECISION_F32, PRECISION_BF16 };
enum transpose { PLAIN, TRANSPOSED };

// Chooses BLIS's kernels from the CPU's features (BLIS itself looks at the CPU's name). Called once before the first
// product by anything that multiplies; a second call does nothing.
void gemm_init(void);
// What bf16 will really use: PRECISION_BF16 where oneDNN is there and the CPU multiplies bf16 (AMX or AVX512-BF16),
// else PRECISION_F32, with the reason in *why (static text).
enum precision gemm_precision(enum precision wanted, const char **why);
// "BLIS 0.9.0 skx (AVX-512, ...)": what was chosen and why, static text.
const char *gemm_description(void);
// oneDNN's version or "absent".
const char *gemm_bf16_description(void);

// C [M, N] = op(A) op(B) + beta C. op(A) is [M, K], op(B) [K, N]; ld: row strides of the matrices as stored.
// bf16 rounds A and B on the way in; C and the sums are f32. beta is 0 or 1 (C is not read with 0).
void gemm(enum precision precision, enum transpose ta, enum transpose tb, int64_t M, int64_t N, int64_t K,
          const float *A, int64_t lda, const float *B, int64_t ldb, float beta, float *C, int64_t ldc);

// A small product in f32 by the calling thread alone, for use inside parallel regions, against a B that gemm_pack made
// ready for it; many products can use one packed B, and its first K rows or N columns alone.
// packed: gemm_packed_floats(N, K) floats; B's values are scaled by alpha on the way.
#define GEMM_PANEL 16
int64_t gemm_packed_floats(int64_t N, int64_t K);
void gemm_pack(enum transpose tb, int64_t N, int64_t K, float alpha, const float *B, int64_t ldb, float *packed);
// C [M, N] = op(A) B + beta C; packed_K: the K that B was packed with, at least this product's.
void gemm_packed(enum transpose ta, int64_t M, int64_t N, int64_t K, const float *A, int64_t lda, const float *packed,
                 int64_t packed_K, float beta, float *C, int64_t ldc);

// Counts what gemm and gemm_packed did since the last reset: for the bench's "GEMM-only" time and FLOP rates.
struct gemm_count {
    double flops;   // 2 M N K summed
    double seconds; // wall time inside gemm() (gemm_packed runs inside parallel regions and is not timed)
};
struct gemm_count gemm_counted(void);
void gemm_count_reset(void);

// Shows every product as it is called, for the bench to time them alone. seen is called by gemm_packed's threads too.
struct gemm_call {
    enum precision precision;
    enum transpose ta, tb;
    int64_t M, N, K;
    float beta;
    int packed; // by gemm_packed
};
void gemm_trace(void (*seen)(void *context, const struct gemm_call *call), void *context); // NULL: no more
void gemm_count_product(const struct gemm_call *call);

#endif
