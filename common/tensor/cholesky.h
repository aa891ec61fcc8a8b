// cholesky.h: factors of second moments, in double.
#ifndef PDQ_CHOLESKY_H
#define PDQ_CHOLESKY_H

#include <stdint.h>

// A [n, n] = L L^T in place (lower triangle); 0, or -1 where A is not positive definite.
int cholesky(double *A, int64_t n);
// The upper triangular U [n, n] with A^-1 = U^T U, in place of the symmetric A; 0, or -1 where A is not positive definite.
int cholesky_of_inverse(double *A, int64_t n);

#endif
