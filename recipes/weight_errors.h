// weight_errors.h: how far each matrix of a file lies from the one that it was made from.
#ifndef PDQ_WEIGHT_ERRORS_H
#define PDQ_WEIGHT_ERRORS_H

#include "recipes/open_model.h"

// For every matrix of m {"name" as in the checkpoint, "bits" a weight of its storage in a GGUF file, "relative_error" |W - Q| / |W| in Frobenius
// norms, "largest_error" max |W - Q|}, where W is `from`'s. Row by row, any number of threads giving the same numbers. Models of different
// shapes are an error. The caller frees.
struct json *weight_errors(const struct opened *m, const struct opened *from, struct error *err);

#endif
