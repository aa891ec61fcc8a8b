// divergence.h: how far a student's distribution over a vocabulary is from its teacher's: the losses on answers beside cross-entropy, on
// one row of logits, for the fused head.
//
// With p = softmax(z_t / T) of the teacher and q = softmax(z_s / T) of the student:
//
//   kl          sum p (log p - log q)                                         Hinton et al. 2015; times T^2
//   reverse_kl  sum q (log q - log p)                                         MiniLLM, Gu et al. 2024, section 2.1, on given text; times T^2
//   js          b KL(p || m) + (1 - b) KL(q || m),  m = b p + (1 - b) q       GKD, Agarwal et al. 2024, section 2 (b = beta); times T^2
//   tv          1/2 sum |p - q|                                               f-DISTILL, Wen et al. 2023, on given text; times T
//   mse         mean of (z_s - z_t)^2                                         Ba and Caruana 2014, section 2.2; no temperature
//
// The factor makes a loss's gradient on the logits keep its size when T grows: that of kl, reverse_kl and js falls with 1/T^2, that of tv
// with 1/T (it is no square).
//
// To add one: a name below and in DIVERGENCE_NAMES, its power of T and its terms in divergence.c, its formula in test_ops_losses.c.
#ifndef PDQ_DIVERGENCE_H
#define PDQ_DIVERGENCE_H

#include <stdint.h>

enum divergence { DIVERGENCE_KL, DIVERGENCE_REVERSE_KL, DIVERGENCE_JS, DIVERGENCE_TV, DIVERGENCE_MSE, DIVERGENCES };
#define DIVERGENCE_NAMES "kl|reverse_kl|js|tv|mse"
extern const char *const divergence_names[DIVERGENCES];

double divergence_scale(enum divergence which, double temperature); // the temperature to the loss's power

struct divergence_row { // one row of both models' logits
    const float *zs, *zt; // [V]
    int64_t V;
    double temperature, beta;
};
// Of the student's and the teacher's row: log softmax(z / T) = (z - top) / T - log_sum.
struct divergence_sums {
    float top_s, top_t;
    double log_sum_s, log_sum_t;
};
// Returns the divergence (any but kl, which the head makes itself), and adds k times its gradient on zs to dz [V].
double divergence_add(enum divergence which, const struct divergence_row *row, const struct divergence_sums *sums, double k, float *dz);

#endif
