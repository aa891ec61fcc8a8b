// stored.h: how parameters lie in a checkpoint's files, where that differs from how they lie in a model: several in one tensor (GPT-2's
// q, k, v), matrices as [in, out], names without the base model's prefix. Internal to common/model.
#ifndef PDQ_STORED_H
#define PDQ_STORED_H

#include "common/model/model.h"
#include "common/model/safetensors.h"

#define STORED_NAME 96

// The tensor that holds p, by name and shape (slowest first; returns the number of dimensions).
void stored_name(const struct model *m, const struct parameter *p, char to[STORED_NAME]);
int stored_shape(const struct parameter *p, int64_t dim[2]);
// Is it stored as it is, alone and not transposed?
int stored_plainly(const struct parameter *p);
int stored_is_last(const struct parameter *p); // of the parts of its tensor
// Values of rows row0 .. row0+n-1 of p (a vector is one row), from the tensor that holds it, whose shape was checked.
void stored_rows(const struct safetensor *from, const struct parameter *p, int64_t row0, int64_t n, float *to);

struct stored_tensor { // one to write; its hook reads the parameters' rows
    char name[STORED_NAME];
    struct tensor t;
    struct weight_hook hook; // its context is this struct
    const struct parameter *part[3];
    int n_part;
};
// All of a model's, in the order of its parameters; the caller frees the list. The model must outlive it.
struct stored_tensor *stored_list(const struct model *m, int *n);

#endif
