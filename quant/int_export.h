// int_export.h: a model as a Hugging Face folder whose layers' matrices are integers.
//
// In memory beside the model: one matrix as f32 and as integers, or, with GPTQ, one layer, the hidden states of the text (4 D bytes a token), and
// 24 C^2 bytes for the second moments of C inputs; with learned rounding what layer_rounding.h says. Of the model rows are read, so it may lie
// in a file.
#ifndef PDQ_INT_EXPORT_H
#define PDQ_INT_EXPORT_H

#include "common/eval/layer_walk.h"
#include "quant/gptq.h"
#include "quant/importance.h"
#include "quant/int_types.h"
#include "quant/layer_rounding.h"
#include "quant/observe.h"

struct int_export_options {
    const struct int_type *type;
    int64_t group;                       // columns of a scale, for types with groups; 0: a row's
    const struct importance *importance; // weights of the columns' errors; NULL: all alike
    const struct gptq_options *gptq;     // NULL: each value to the nearest
    const struct rounding_options *learned; // after GPTQ, layer by layer (layer_rounding.h); NULL: not
    const struct walk_text *text;        // for gptq and static inputs; NULL: none
    const struct observer *observer;     // of static inputs' ranges
    const char *carry_from;              // as in struct save_options
    const struct json *provenance;
};

// A value that is not finite is an error naming tensor, row and column; then no folder appears.
int int_export(const struct model *m, const char *folder, const struct int_export_options *o, struct error *err);

#endif
