// kept_zeros.h: weights that are zero and stay zero while a model is trained: those of a sparsify stage, or of masks.
#ifndef PDQ_KEPT_ZEROS_H
#define PDQ_KEPT_ZEROS_H

#include "common/model/model.h"

// Notes the zeros of m's matrices in is_zero [model_trained], which is made, and then the caller's to free, where it is NULL.
unsigned char *kept_zeros_find(const struct model *m, unsigned char *is_zero);
// No gradient for these; is_zero NULL: none are kept.
void kept_zeros_drop_gradients(const struct model *m, const unsigned char *is_zero);

#endif
