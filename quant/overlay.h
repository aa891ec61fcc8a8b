// overlay.h: a model that shares another one's weights but for the matrices that are replaced, so that a part of a model can run
// quantized. Nothing is copied.
#ifndef PDQ_OVERLAY_H
#define PDQ_OVERLAY_H

#include "common/model/model.h"
#include "quant/gguf_rows.h"

// The result must be released with model_free before m is.
struct model *overlay_new(const struct model *m);
// Gives parameters of the overlay the values that blocks of their tensor (dim[0] rows of the file) stand for. Parameters of a tensor that
// a plan of the overlaid model names.
void overlay_replace(struct model *overlay, const struct gguf_plan *plan, const struct gguf_plan_tensor *t, const unsigned char *blocks);
// The overlay's own values of a parameter of the overlaid model, its at first: to be changed.
float *overlay_values(struct model *overlay, const struct parameter *p);
void overlay_drop(struct model *overlay, const struct parameter *p); // back to the overlaid model's; fine where there are none
// Back to the weights of the overlaid model.
void overlay_restore(struct model *overlay, const struct gguf_plan_tensor *t);

#endif
