// fake_quant.h: a model whose forward pass sees its weights as a GGUF file would hold them, while what is trained stays f32.
//
// Quantization-aware training (Jacob et al. 2018, section 3): each matrix w is replaced by w' = decode(encode(w)), blocks of the type that the
// file's plan gives this tensor. The gradient of w' goes straight through to w (Bengio, Leonard and Courville 2013, section 4), but not where w
// lies beyond the block's last level by more than half a step: there w' does not move with w (the clipped range of Jacob 2018, eq. 12, and
// of Esser et al. 2020, eq. 3). Scales are the encoder's own, of the weights at hand: the same encoder that writes the file, so that
// the file of the trained weights holds exactly what the last forward pass saw.
//
// Or they are learned (LSQ: Esser et al. 2020), in formats with one scale a block: d = d0 exp(s), d0 the encoder's at the start and s trained
// with the weights; d w'/d d is code - w / d within the levels and the end's code beyond them (eq. 3). The logarithm makes a step of the
// optimizer a share of the scale, whatever its size (LSQ's own factor on the gradient is for plain SGD and means nothing to Adam). Then settle
// leaves w' itself as the weights: they lie on their blocks' grids, so that they encode to themselves (blocks_grid.h).
#ifndef PDQ_FAKE_QUANT_H
#define PDQ_FAKE_QUANT_H

#include "quant/gguf_export.h"

struct fake_weight;

struct fake_quant { // lifetime: one training
    struct model *model;    // not owned; its matrices have hooks
    struct model *master;   // the same weights without hooks
    struct gguf_plan plan;  // of master
    struct fake_weight *weight; // [n_parameter]; no hook: the file has it as it is, or not at all
    struct model *scales; // of blocks, as logarithms, all in one: trainer.beside; NULL: none are learned
};

// Which type each tensor gets. Refused: what gguf_plan_make refuses, and a matrix that the file holds twice in different types. m may be
// without storage. To be released with gguf_plan_release, not after a failure.
int fake_quant_plan(struct gguf_plan *plan, const struct model *m, const struct gguf_export_options *o, struct error *err);
// Bytes that begin takes for a model of this shape, and a step more than without.
int64_t fake_quant_bytes(const struct gguf_plan *plan, int learned);
// Has the file matrices whose scales can be learned?
int fake_quant_can_learn(const struct gguf_plan *plan);

// Hooks onto m's matrices, which show nothing yet: refresh comes first. m's weights stay where they are. learned: scales, where they can be.
int fake_quant_begin(struct fake_quant *q, struct model *m, const struct gguf_export_options *o, int learned, struct error *err);
// Rounds the weights as they are now: trainer.refresh. Fails at a value that the type cannot hold.
int fake_quant_refresh(void *fake_quant, struct error *err);
// After the training: weights of learned scales become what the last forward pass would see. Others stay.
int fake_quant_settle(struct fake_quant *q, struct error *err);
void fake_quant_end(struct fake_quant *q); // the hooks are gone; fine on a zeroed one

#endif
