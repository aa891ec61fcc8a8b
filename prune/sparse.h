// sparse.h: single weights set to zero, anywhere or in patterns such as 2:4, in the matrices of a model's layers.
//
// The result is a dense model with zeros; a training that keeps zeros (train.keep_zeros) leaves them where they are.
//
// To add a score: one function of sparse_score.score's signature in sparse_score.c and one row in sparse_score_table. A method that
// changes the weights that stay, as SparseGPT does, has its own file (sparse_gpt.c).
#ifndef PDQ_SPARSE_H
#define PDQ_SPARSE_H

#include "prune/prune.h"

struct sparse_options { // rows in sparse_option_table
    double sparsity;    // share of the weights set to zero; read from the pattern where there is one
    char *pattern;      // "unstructured", or "N:M": of M neighbours along the input, N stay
    int score, scope;   // index into sparse_score_table; enum prune_scope: each matrix alike, or one ranking over all
    int64_t calibration_tokens, calibration_batch;
    // from the pattern (sparse_check)
    int64_t keep, of; // N and M; 0: unstructured
};
extern const struct option sparse_option_table[];

struct sparse_matrix { // of one layer: W [D, C]
    struct tensor *w;
    const double *norm; // [C] sum of squares of each input over the calibration tokens; NULL: not asked for
    const float *gradient; // [D, C] of the loss; NULL: not asked for
    struct random *random;
};

enum sparse_needs { NEEDS_NOTHING, NEEDS_NORMS, NEEDS_GRADIENTS, NEEDS_MOMENTS };

struct sparse_score {
    const char *name;
    enum sparse_needs needs;
    int by_row; // compared within an output row, not within the matrix
    const char *source;
    void (*score)(const struct sparse_matrix *m, float *score); // [D, C], higher stays; NULL: SparseGPT
};
extern const struct sparse_score sparse_score_table[]; // ends with name NULL

// Reads the pattern; an N:M pattern and a sparsity that contradict each other, or a global scope that a score does not have, are
// errors. where: for the message.
int sparse_check(struct sparse_options *o, const char *where, struct error *err);
// Sets weights of m to zero, in place. Rows that are no multiple of M, and a score that needs text without one, are errors.
int sparsify(struct model *m, const struct sparse_options *o, const struct calibration *c, struct error *err);
// Shares of zeros: of the layers' matrices and of all parameters.
void sparse_shares(const struct model *m, double *of_matrices, double *of_all);

// ---- internal to prune ----

int sparse_is_matrix(const struct parameter *p); // one that is made sparse: a matrix of a layer
// Zeroes of each row's group of `of` neighbours (0: of the whole row) all but the best, so that a share `sparsity` goes.
void sparse_cut_rows(struct tensor *w, const float *score, int64_t keep, int64_t of, double sparsity);
// SparseGPT (Frantar and Alistarh 2023, algorithm 1): W [D, C] from H [C, C], the sum of x x^T over the inputs.
int sparse_gpt(struct tensor *w, const double *H, int64_t keep, int64_t of, double sparsity, struct error *err);

#endif
