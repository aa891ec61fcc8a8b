// ticket_mask.h: masks over a model's weights, cut round by round. A mask has one byte for each element of the model's flat array;
// 1: kept. Vectors (biases, norms), embeddings and a language model's output head are never cut.
#ifndef PDQ_TICKET_MASK_H
#define PDQ_TICKET_MASK_H

#include "common/model/model.h"

// What is cut as one: a weight, or a query head and a feed-forward channel with all their weights.
enum granularity { GRAIN_WEIGHTS, GRAIN_UNITS };
enum mask_scope { MASK_LAYER, MASK_GLOBAL }; // a share of each matrix (or layer's heads, channels), or of all together

struct mask_options {
    enum granularity granularity;
    enum mask_scope scope;
    double output_factor; // the output head is cut at this multiple of the rate (Frankle and Carbin 2019: a half)
};

unsigned char *mask_ones(const struct model *m); // all kept; [n_element]; the caller frees
int64_t mask_total(const struct model *m); // weights that can be cut
int64_t mask_kept(const struct model *m, const unsigned char *mask);
double mask_pm(const struct model *m, const unsigned char *mask); // per cent of these that remain: Pm

// Cuts `rate` of what is left, what has the least score. score [n_element]: of each weight, higher is kept; a unit has the mean of its
// weights'. Ties keep what comes first.
void mask_cut(const struct model *m, unsigned char *mask, const float *score, double rate, const struct mask_options *o);
// Keeps of each matrix (or of each layer's heads and channels) as many as `like` does, by score. mask is overwritten.
void mask_like(const struct model *m, const unsigned char *like, const float *score, enum granularity granularity,
               unsigned char *mask);
// Share of each matrix to keep, so that `share` of all remain: by Erdos-Renyi with the matrix's sides (Mocanu et al. 2018; Evci et
// al. 2020, section 3), or equal. Kept by score within each matrix.
void mask_distribute(const struct model *m, double share, int erdos_renyi, const float *score, unsigned char *mask);
// Fresh random scores, uniform, by (seed, tensor's name).
void mask_random_scores(const struct model *m, uint64_t seed, const char *name, float *score);
void mask_zero(struct model *m, const unsigned char *mask); // zeros where it is 0

// Can parameter p be cut?
int mask_is_cut(const struct model *m, const struct parameter *p);

#endif
