// evaluate.h: what a model costs on text: loss, perplexity, and, against a parent on the same tokens, KL and
// agreement.
#ifndef PDQ_EVALUATE_H
#define PDQ_EVALUATE_H

#include "common/data/dataset.h"
#include "common/model/model.h"

enum eval_protocol { EVAL_WINDOWS, EVAL_LLAMA_CPP };

// Final hidden states of the model that others are compared with, so that it runs once for many of them: filled by the first
// evaluation, used by later ones of the same stream with the same options. Lifetime: the caller's; zero at first.
struct eval_states {
    float *x; // [tokens, hidden]
    int64_t rows, seq_len;
    const struct dataset *stream;
    const struct model *model;
};

struct eval_options {
    enum eval_protocol protocol;
    int64_t seq_len; // tokens in a window
    int64_t tokens;  // stop after this many predicted tokens; 0: all
    enum precision precision;
    int quiet; // no progress line
    struct eval_states *against_states; // NULL: the other model runs every time
};

struct eval_result {
    int64_t tokens;     // predicted
    double nll, nll_se; // nats per token, standard error of the mean
    double ppl, bits_per_byte;
    int64_t questions, answered; // of questions: how many, and how many answered to the letter by the likeliest tokens
    int compared;                                                    // the rest is meaningful
    double against_nll, difference, difference_low, difference_high; // paired, model - parent, 95 % interval
    double kld, kld_p95, kld_p99, top1; // mean and percentiles of KL(parent || model); share of equal argmax
    double *token_nll, *token_kl;       // [tokens], owned: for paired comparisons between runs; token_kl NULL without a parent
};

// The text as one token stream: BOS first where the tokenizer adds it. Files as dataset_read takes them; for
// llama.cpp all are one text, one trailing newline is dropped, and names of control tokens are ordinary text.
int eval_stream(struct dataset *d, const struct tokenizer *t, enum eval_protocol protocol, const char *const *paths,
                size_t n_paths, struct error *err);
// windows: cuts the stream into windows of seq_len (the last may be shorter), loss on every token but a window's
// first; of questions only on the answers' tokens. llama.cpp: whole windows only (fewer than two: error), first token replaced by BOS, targets N/2+1 .. N-1.
// against: the parent or NULL; vocabularies must be equal.
int evaluate(struct eval_result *r, struct model *m, struct model *against, const struct dataset *stream,
             const struct tokenizer *t, const struct eval_options *o, struct error *err);
int64_t eval_batch_rows(int64_t seq_len); // tokens that go through the model at once
void eval_states_release(struct eval_states *s);
void eval_result_release(struct eval_result *r);
// {"tokens","nll","nll_se","ppl","bits_per_byte","kld","top1",...}; null where there was no parent.
struct json *eval_result_json(const struct eval_result *r);

#endif
