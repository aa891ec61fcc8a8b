// bias.h: what rounding adds to a matrix's mean output, taken back in its bias (Nagel et al. 2019, "Data-free quantization", section 4.2, with
// means from a text): b += (W - Q(W)) E[x].
#ifndef PDQ_BIAS_H
#define PDQ_BIAS_H

#include "quant/rescale.h"

// A model that shares all but its biases with m, released (model_free) before it. NULL: no matrix of a layer has a bias.
struct model *correct_biases(const struct model *m, const struct walk_text *text, const struct rescale_options *o, struct error *err);

#endif
