// overlay.h: a model that shares another one's weights but for the matrices that are replaced, so that a part of a model can run
// quantized. Nothing is copied.
//
// A replaced parameter has values of the overlay's own, until they are dropped; one with factors (scaled_rows.h) computes them from the overlaid
// model's where they are read, and has them for good.
#ifndef PDQ_OVERLAY_H
#define PDQ_OVERLAY_H

#include "common/model/model.h"
#include "quant/gguf_rows.h"
#include "quant/scaled_rows.h"

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

// A layer's matrices as f32 of the overlay's own, for passes over a text: what lies in a file is then read and widened once, not for every batch.
// Inputs are rounded as they were, but for a matrix with factors.
void overlay_hold_layer(struct model *overlay, int64_t layer);
void overlay_drop_layer(struct model *overlay, int64_t layer); // its matrices, held or replaced

// Factors of a matrix of the overlaid model, to be given in that order; values of the overlay's own follow.
void overlay_multiply_columns(struct model *overlay, const struct parameter *p, const double *factor);
void overlay_divide_rows(struct model *overlay, const struct parameter *p, const double *factor);
void overlay_cut(struct model *overlay, const struct parameter *p, int64_t group, const uint8_t *cut);

#endif
