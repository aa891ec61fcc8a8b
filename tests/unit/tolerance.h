// tolerance.h: how far two computations of one number may lie apart where only rounding is between them. A rounding is off by at most u of its value:
// 2^-53 = 1.1e-16 of a double, 2^-24 = 6e-8 of a float; those of n terms add up to n u at worst, to about sqrt(n) u as a rule. As shares of what is
// compared, or of 1 where that is of order 1. Any other tolerance stands where it is used, with its reason.
#ifndef PDQ_TOLERANCE_H
#define PDQ_TOLERANCE_H

#include <math.h>

#define DOUBLE_FEW 1e-15 // up to 9 operations
#define DOUBLE_SUM 1e-12 // sums of up to 9,000 terms in another order
#define FLOAT_FEW 1e-6   // up to 16 operations; mean losses, in which f32's roundings average out
#define FLOAT_SUM 1e-5   // products and sums of up to 160 terms at worst, and of some 20,000 as a rule, a few in a row

#define BY_DIFFERENCES 1e-3 // gradients against finite differences of f32 values, of the largest: gradcheck.h has the errors' sizes

// So many standard deviations of a share: of n independent draws, each with probability p. Five: one test in 1.7 million is wrong, were seeds not fixed.
static inline double share_deviations(double deviations, double p, double n) { return deviations * sqrt(p * (1 - p) / n); }

#endif
