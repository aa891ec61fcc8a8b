// pad.h: a model made wider with zeros: the same function in a shape that more tools load.
//
// A feed-forward channel whose gate, up and down are zero adds nothing, nor does a query head whose o columns are zero; both
// sides are zeroed, because a row of zeros is exactly zero in every block format.
#ifndef PDQ_PAD_H
#define PDQ_PAD_H

#include "common/model/model.h"

// One shape that every layer of c fits into: the most groups, the most heads in a group, the most channels of any layer.
struct layer_shape pad_shape(const struct config *c);

// The element of c's own axis that stands at element i of the axis in a layer of shape `to`; -1: padding. Heads are filled up
// inside their groups, then by whole groups.
int64_t pad_source(const struct config *c, const struct layer_shape *to, enum axis axis, int layer, int64_t i);

// A new model of m's weights in layers of the given shapes [n_layer], each at least as wide; the caller frees.
struct model *model_pad(const struct model *m, const struct layer_shape *layer);

#endif
