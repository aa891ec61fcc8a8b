// fake_quant_options.h: the options of a training whose weights are rounded to a storage type while they learn. Whoever runs the training
// attaches the hooks that round (quant/fake_quant.h); common and distill only carry the options.
#ifndef PDQ_FAKE_QUANT_OPTIONS_H
#define PDQ_FAKE_QUANT_OPTIONS_H

#include <stddef.h>

#include "common/base/options.h"

struct fake_quant_options {
    char *quantize; // a type or mix, as `quantize` names them; NULL: weights as they are
    int quantize_pure;
};

// The rows, for a struct S that holds a fake_quant_options as member `prefix` ("fake." with its dot).
// clang-format off
#define FAKE_QUANT_ROWS(S, prefix)                                                                                  \
    {"quantize", OPTION_STRING, offsetof(S, prefix quantize), NULL, 0, 0, NULL, "TYPE",                              \
     "quantization-aware: learn with the weights rounded as the quantize stage writes this type or mix"},            \
    {"quantize_pure", OPTION_BOOL, offsetof(S, prefix quantize_pure), "false", 0, 0, NULL, NULL,                     \
     "with quantize: the bare type for every matrix, no mix"}
// clang-format on

#endif
