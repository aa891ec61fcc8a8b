// bit_plan.h: which matrix gets how many bits: measured, solved for a size, and kept in a file that people can read and edit.
//
// The measure of a choice is the KL divergence from the parent with that matrix alone quantized; a plan's is their sum, which holds as
// long as the errors are small. The file is JSON: "tensors" is an object of GGUF names, each with a "type" (what it costs stands beside
// it and is not read); matrices that it does not name get what the quantize stage's "type" says.
#ifndef PDQ_BIT_PLAN_H
#define PDQ_BIT_PLAN_H

#include "common/base/json.h"
#include "common/eval/evaluate.h"
#include "quant/gguf_export.h"

#define BIT_CHOICES_MAX 16

struct bit_choice {
    const struct block_format *format;
    int64_t bytes;
    double error; // sum of squared errors, weighted by the columns' importance
    double kld;   // nats per token
    int measured; // 0: kld is the measured one's, scaled by the errors
};

struct bit_tensor {
    char name[GGUF_NAME_MAX];
    int n_choice, chosen;
    struct bit_choice choice[BIT_CHOICES_MAX]; // larger ones later
};

struct bit_plan { // lifetime: the caller's
    struct bit_tensor *tensor;
    int64_t n_tensor, fixed_bytes, weights; // fixed: what of the file is no matrix; weights: parameters
    int64_t bytes, tokens;                  // of the file as chosen; tokens of the measurement
    double kld;                             // predicted
};

struct bit_options {
    const struct block_format *type[BIT_CHOICES_MAX]; // a matrix has the choice of those that fit its rows
    int n_type, exact;                                // exact: every choice is measured, else one for each matrix
    double bits;                                      // the target: bits per weight of the whole file ..
    int64_t bytes;                                    // .. or, where not 0, its bytes
    const struct importance *importance;              // NULL: all columns alike
    struct eval_options eval;
};

// Lists the matrices and their choices, refuses a target below the smallest size before anything is measured, measures, and solves.
int bit_plan_make(struct bit_plan *p, struct model *m, const struct tokenizer *t, const struct dataset *stream,
                  const struct bit_options *o, struct error *err);
// Can the file have so few bytes?
int bit_plan_check(const struct bit_plan *p, int64_t bytes, struct error *err);
// Chooses the least predicted divergence in at most so many bytes of the file (exact to about 1/20000 of what can be spent), which
// bit_plan_check allows.
void bit_plan_solve(struct bit_plan *p, int64_t bytes);
struct json *bit_plan_json(const struct bit_plan *p);
void bit_plan_release(struct bit_plan *p);

// A plan's types for an export. Lifetime: the caller's.
struct gguf_types {
    char *path;
    struct gguf_type_of {
        char name[GGUF_NAME_MAX];
        const struct block_format *format;
    } *tensor;
    int64_t n_tensor;
};
int gguf_types_read(struct gguf_types *to, const char *path, struct error *err);
const struct block_format *gguf_types_find(const struct gguf_types *types, const char *name); // NULL: not named
// A name that the file does not have, or that is no matrix, is an error.
int gguf_types_check(const struct gguf_types *types, const struct gguf_plan *plan, struct error *err);
void gguf_types_release(struct gguf_types *types);

#endif
