// adversary.h: adversarial training on embeddings, the fast gradient method (Miyato, Dai and Goodfellow 2017, arXiv 1605.07725, section 3,
// equations 1 and 2): with g the gradient of the loss with respect to the embeddings s of one sequence,
//
//   r = epsilon g / ||g||,    loss(s) + loss(s + r) is what the step makes smaller
//
// The norm is that of the whole sequence. Embeddings are taken as they are, not normalised as the paper's recurrent models have them: every
// architecture here normalises them, or what it adds to them, itself. So epsilon is a length in the embeddings' own units: rows of a BERT's
// are about 1.4 long, those of fresh weights sqrt(width) / 50.
#ifndef PDQ_ADVERSARY_H
#define PDQ_ADVERSARY_H

#include "common/model/model.h"

struct adversary { // lifetime: one training
    double epsilon;
    struct tensor shift; // for struct forward; its memory is [rows, width]. data NULL: none
};

void adversary_init(struct adversary *a, const struct model *m, double epsilon, int64_t rows);
void adversary_release(struct adversary *a);
// Before the first pass over B sequences of T tokens: no move, and the gradient is caught.
void adversary_watch(struct adversary *a, int64_t B, int64_t T);
// Before the second one: the move along the gradient that was caught.
void adversary_move(struct adversary *a, int64_t B, int64_t T);

#endif
