// fake_quant_options.h: the options of a training whose weights are rounded to a storage type while they learn. Whoever runs the training
// attaches the hooks that round (quant/fake_quant.h); common and distill only carry the options.
#ifndef PDQ_FAKE_QUANT_OPTIONS_H
#define PDQ_FAKE_QUANT_OPTIONS_H

#include <stddef.h>

#include "common/base/options.h"

struct fake_quant_options {
    char *quantize; // a type or mix, as `quantize` names them; NULL: weights as they are
    int quantize_pure;
    int quantize_scales; // enum quantize_scales
    int quantize_start;  // enum quantize_start
};
enum quantize_start { START_WEIGHTS, START_GPTQ };
enum quantize_scales { SCALES_ENCODER, SCALES_LEARNED };

// The rows, for a struct S that holds a fake_quant_options as member `prefix` ("fake." with its dot).
// clang-format off
#define FAKE_QUANT_ROWS(S, prefix)                                                                                  \
    {"quantize", OPTION_STRING, offsetof(S, prefix quantize), NULL, 0, 0, NULL, "TYPE",                              \
     "quantization-aware: learn with the weights rounded as the quantize stage writes this type or mix"},            \
    {"quantize_pure", OPTION_BOOL, offsetof(S, prefix quantize_pure), "false", 0, 0, NULL, NULL,                     \
     "with quantize: the bare type for every matrix, no mix"},                                                       \
    {"quantize_scales", OPTION_CHOICE, offsetof(S, prefix quantize_scales), "encoder", 0, 0, "encoder|learned", NULL,  \
     "with quantize: chosen anew from the weights before each step, or learned along (Q8_0, Q5_0, Q4_0)"},             \
    {"quantize_start", OPTION_CHOICE, offsetof(S, prefix quantize_start), "weights", 0, 0, "weights|gptq", NULL,      \
     "with quantize: begin with the weights as they are, or with what GPTQ makes of them on the text"}
// clang-format on

#endif
