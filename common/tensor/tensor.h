// tensor.h: a named block of f32 values with, perhaps, a gradient, and the hook through which a weight's effective
// values may differ from its stored ones.
//
// Row-major; a weight is [out, in]. Tensors do not own their memory: parameters lie in a model's arena, activations
// in a step's arena.
#ifndef PDQ_TENSOR_H
#define PDQ_TENSOR_H

#include <stdint.h>
#include <string.h>

struct tensor;
struct tape;

// What a product's inputs are rounded to first: symmetric integers times a scale.
struct input_rounding {
    int bits;
    float scale; // of all inputs; 0: each row's own, its largest magnitude / (2^(bits-1) - 1)
};

// A weight hook (mask, fake-quant, quantized storage), applied by op_linear, op_embed and the output head.
struct weight_hook {
    void *context;
    // Writes rows row0 .. row0+n-1 of the effective weight as f32 [n, columns]. Called from several threads.
    void (*rows)(void *context, const struct tensor *w, int64_t row0, int64_t n, float *to);
    const float *values; // all effective values [rows, columns], where they lie in memory; NULL: rows() makes them
    // y[N,O] = x[N,I] w^T without widening the rows, for the few N that decoding has; in parallel. NULL: rows() is used.
    void (*dot)(void *context, const struct tensor *w, int64_t N, const float *x, float *y);
    // Turns the gradient of the effective weight, n rows at row0, into that of the stored one, in place. NULL: the same.
    void (*backward)(void *context, const struct tensor *w, int64_t row0, int64_t n, float *gradient);
    // Products straight from what is stored (all three or none): y[N,O] = x[N,I] w^T, dx[N,I] = dy[N,O] w + beta dx, and
    // w->grad, laid out as w->data is, += dy^T x.
    void (*forward)(void *context, struct tape *tape, const struct tensor *w, int64_t N, const float *x, float *y);
    void (*input_gradient)(void *context, struct tape *tape, const struct tensor *w, int64_t N, const float *dy, float beta,
                           float *dx);
    void (*add_gradient)(void *context, struct tape *tape, const struct tensor *w, int64_t N, const float *dy,
                         const float *x);
    const struct input_rounding *inputs; // of op_linear; the backward pass takes them as they are. NULL: not rounded
};

#define TENSOR_DIMS 3

struct tensor {
    const char *name;
    int n_dim;
    int64_t dim[TENSOR_DIMS]; // slowest first
    float *data;              // NULL: only the hook knows the values
    float *grad;              // NULL: no contribution yet
    int needs_grad;
    const struct weight_hook *hook; // NULL: data is the weight
};

static inline int64_t tensor_count(const struct tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->n_dim; i++)
        n *= t->dim[i];
    return n;
}

// Rows and columns of a matrix view: the last dimension is the columns. [D] is 1 x D.
static inline int64_t tensor_columns(const struct tensor *t) { return t->dim[t->n_dim - 1]; }
static inline int64_t tensor_rows(const struct tensor *t) { return tensor_count(t) / tensor_columns(t); }

// Values of rows row0 .. row0+n-1 as f32 [n, columns], whether they lie in memory or behind a hook.
static inline void tensor_read_rows(const struct tensor *t, int64_t row0, int64_t n, float *to)
{
    const int64_t columns = tensor_columns(t);
    if (t->hook)
        t->hook->rows(t->hook->context, t, row0, n, to);
    else
        memcpy(to, t->data + row0 * columns, (size_t)(n * columns) * sizeof *to);
}

#endif
