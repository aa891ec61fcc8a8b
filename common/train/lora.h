// lora.h: low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): instead of a weight W [out, in] two factors are trained beside it,
//
//   h = W x + alpha / rank * B A x,    A [rank, in] normal at the start, B [out, rank] zero       (section 4.1, equation 3)
//
// and added to W at the end. All weights of the model itself are frozen: there are gradients and moments of the factors alone.
//
// The factors come in through weight hooks, so models, losses and evaluations know nothing of them. Where the weights that are zero are to
// stay zero (after a sparsify stage), the product B A is masked where W is zero, in training and in the end alike: what is trained is what is
// saved. That costs the whole weight's gradient as scratch; the plain way never makes it.
#ifndef PDQ_LORA_H
#define PDQ_LORA_H

#include "common/base/options.h"
#include "common/model/model.h"

struct lora_options { // the recipe's object
    int64_t rank;
    double alpha;
    struct option_list targets; // patterns of matrices of layers (name_pattern.h); none: all of them
};
// Reads the object; released by lora_options_release, also on failure.
int lora_options_read(struct lora_options *o, const struct json *object, const char *where, struct error *err);
void lora_options_release(struct lora_options *o);

struct lora_weight { // one target
    struct tensor *w, *a, *b;
    float scale;
    struct weight_hook hook; // its context is this struct
};

struct lora { // lifetime: one training
    struct model *factors; // parameters alone: A and B of each target. NULL: there is no lora
    struct lora_weight *weight;
    int n;
};

// Elements of the factors, and *share: the share of the model's products whose weights are targets. -1: a pattern matches no matrix of a
// layer. The model needs no storage.
int64_t lora_elements(const struct model *m, const struct lora_options *o, const char *where, double *share, struct error *err);
// Factors beside the targets of m, whose parameters are frozen from here on; hooks are attached. For options that lora_elements found fine.
// keep_zeros: the targets' zeros stay zero.
void lora_attach(struct lora *l, struct model *m, const struct lora_options *o, uint64_t seed, int keep_zeros);
// Adds the factors' products to the weights.
void lora_merge(const struct lora *l);
// Takes the hooks off; the model is again as any other. Fine for one without factors.
void lora_detach(struct lora *l, struct model *m);

#endif
