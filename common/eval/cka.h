// cka.h: how much of what one model's layers know stands in another's: linear centred kernel alignment (Kornblith et al. 2019, equation 4)
// between the hidden states of the same tokens. 1: the same up to rotation and scale; 0: nothing in common.
#ifndef PDQ_CKA_H
#define PDQ_CKA_H

#include "common/model/model.h"

#define CKA_TOKENS 512 // that are enough: the estimate has no bias at any number of tokens (Nguyen et al. 2021, equation 3)

struct cka {
    int64_t rows, columns; // layers of the one and of the other, each with the embeddings first
    double *value;         // [rows, columns], owned
};

// f: ids, lengths and so on for both models. position [n]: rows of the hidden states that count, at least 4; of equal or other widths.
void cka_measure(struct cka *out, struct model *m, struct model *against, const struct forward *f, const int32_t *position, int64_t n);
void cka_release(struct cka *c);
// The unbiased estimate for two Gram matrices [n, n], symmetric, whose diagonals are zero (Song et al. 2012, equation 5); NaN where one of
// them varies too little to tell.
double cka_of(const float *a, const float *b, int64_t n);

#endif
