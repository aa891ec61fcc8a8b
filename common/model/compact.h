// compact.h: a model whose masked matrices hold only the weights that are kept: what sparse training works on, so that
// neither products nor optimizer touch what is pruned.
#ifndef PDQ_COMPACT_H
#define PDQ_COMPACT_H

#include "common/model/model.h"

// A copy of m with the weights where mask [m->n_element] is not 0. A matrix with at most `share` of its weights kept is
// stored sparsely (common/tensor/sparse_weight.h); any other stays dense, with zeros where the mask is 0, which the trainer's
// keep_zeros keeps. Freed with model_free.
struct model *model_compact(const struct model *m, const unsigned char *mask, double share);
// The weights of a compact model back in the shape of `to`'s flat array; what is not kept becomes 0.
void model_expand(const struct model *compact, struct model *to);

#define COMPACT_SHARE 0.5 // where the sparse products begin to be faster, about

#endif
