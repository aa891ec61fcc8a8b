// cholesky.c: see cholesky.h. Column after column, rows in parallel, each sum in one order: the same bits at any number of threads.
#include "common/tensor/cholesky.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

int cholesky(double *A, int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        double d = A[j * n + j];
        for (int64_t k = 0; k < j; k++)
            d -= A[j * n + k] * A[j * n + k];
        if (!(d > 0))
            return -1;
        A[j * n + j] = sqrt(d);
#pragma omp parallel for schedule(static) if ((n - j) * j > 65536)
        for (int64_t i = j + 1; i < n; i++) {
            double s = A[i * n + j];
            for (int64_t k = 0; k < j; k++)
                s -= A[i * n + k] * A[j * n + k];
            A[i * n + j] = s / A[j * n + j];
        }
    }
    return 0;
}

// A with rows and columns in reverse order.
static void reverse(const double *A, double *to, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < n; k++)
            to[i * n + k] = A[(n - 1 - i) * n + n - 1 - k];
}

// Reversed, A = L L^T; so A = R R^T with R = reverse(L) upper triangular, and U = R^-1 = reverse(L^-1).
int cholesky_of_inverse(double *A, int64_t n)
{
    double *L = xmalloc((size_t)(n * n) * sizeof *L, "a factor"), *X = xcalloc((size_t)(n * n), sizeof *X, "a factor");
    reverse(A, L, n);
    const int rc = cholesky(L, n);
#pragma omp parallel for schedule(dynamic, 8) if (rc == 0)
    for (int64_t c = 0; c < (rc == 0 ? n : 0); c++) { // column c of L^-1, kept as row c of X: its places stand side by side
        double *x = X + c * n;
        x[c] = 1 / L[c * n + c];
        for (int64_t i = c + 1; i < n; i++) {
            double s = 0;
            for (int64_t k = c; k < i; k++)
                s -= L[i * n + k] * x[k];
            x[i] = s / L[i * n + i];
        }
    }
    for (int64_t i = 0; i < n; i++) // transposed and reversed
        for (int64_t k = 0; k < n; k++)
            A[i * n + k] = X[(n - 1 - k) * n + n - 1 - i];
    free(L);
    free(X);
    return rc;
}
