// examples.h: texts, or pairs of texts, as token sequences for an encoder: [CLS] text [SEP], or [CLS] text [SEP] pair [SEP]. With labels
// they are for a classifier; without, for a model that learns masked words; with spans (spans.h) for one that finds answers.
#ifndef PDQ_EXAMPLES_H
#define PDQ_EXAMPLES_H

#include <stdint.h>

#include "common/base/error.h"
#include "common/base/hash.h"
#include "common/base/json.h"
#include "common/text/tokenizer.h"

struct examples { // process lifetime
    int32_t *token;  // all sequences, one behind the other
    int64_t *start;  // [n + 1]
    int32_t *pair;   // [n] tokens before the second text (its type is 1); the length where there is none
    int32_t *label;  // [n]; 0 without labels
    int32_t *span;   // [n, 2] positions of an answer's first and last token (spans.h); NULL: no answers
    int64_t *question, n_question; // [n_question + 1] the first window of each question; NULL: every example is alone
    int64_t n, longest;
    int64_t n_cut;   // of which something had to be left out
    int32_t mask;    // the id that hides a word; -1: the tokenizer has none
    int32_t vocab;   // of the tokenizer
    char hash[HASH_TEXT];
};

struct example_columns { // of the files (table.h)
    const char *text, *pair, *label; // pair NULL: none
};

struct example_classes {
    int64_t n;
    const struct json *names; // config.json's id2label: {"0": "negative", ...}; NULL: none
};

// Sequences longer than `most` tokens lose their ends, the longer text of a pair first. Labels are the classes' numbers, or their
// names. where: for messages.
int examples_read(struct examples *e, const struct tokenizer *t, const struct example_classes *classes, const char *const *paths, size_t n_paths,
                  const struct example_columns *columns, int64_t most, const char *where, struct error *err);
// Unlabelled: each row of a table (.tsv, .csv; column text), or each document of a text (.txt, .jsonl with "text"), in as many sequences of at
// most `most` tokens as it takes.
int examples_read_unlabelled(struct examples *e, const struct tokenizer *t, const char *const *paths, size_t n_paths, const char *text, int64_t most,
                             const char *where, struct error *err);
// Moves `n` of them, or of their questions with all windows, drawn by seed, out of `from` into `to`.
int examples_set_aside(struct examples *to, struct examples *from, int64_t n, uint64_t seed, const char *where, struct error *err);
void examples_release(struct examples *e); // fine on a zeroed one

struct example_batch { // of B sequences, padded to T
    int64_t B, T;
    int32_t *ids, *types;      // [B*T]
    int32_t *length, *label;   // [B]
    int32_t *span;             // [B, 2] where the examples have spans
    int32_t *hidden, *word;    // [n_hidden] positions b * T + t whose word is hidden, and what stood there (examples_mask)
    int64_t n_hidden;
};
void example_batch_init(struct example_batch *b, int64_t B, int64_t T); // room for that many
void example_batch_release(struct example_batch *b);
// Fills b with the examples of these numbers; T becomes the longest one's.
void examples_pick(const struct examples *e, const int64_t *number, int64_t B, struct example_batch *b);
// Batch number `index` of B examples each in an endless sequence of shuffled passes; of so many batches that follow each other the examples
// are sorted by length, so that there is little padding. A pure function of (seed, B, index).
void examples_batch(const struct examples *e, uint64_t seed, int64_t index, int64_t B, struct example_batch *b);
// Hides words of a batch (Devlin et al. 2019, section 3.1): each token between the first and the last of a sequence is chosen with
// probability `share`, one of a batch at least; a chosen one becomes the mask in 80 % of the cases, a random token in 10 %, and stays in 10 %.
// A pure function of (seed, index) and the batch.
#define SHARE_HIDDEN 0.15 // the usual one
void examples_mask(const struct examples *e, double share, uint64_t seed, uint64_t index, struct example_batch *b);
// Makes other sequences of a batch's (augment.c): each token between the first and the last becomes the mask with probability `mask`, then a
// single text is cut to one to five neighbours with probability `ngram`. A pure function of (seed, index) and the batch; T stays.
void examples_augment(const struct examples *e, double mask, double ngram, uint64_t seed, uint64_t index, struct example_batch *b);
// What a model learns from a batch: the examples' spans, or their labels.
static inline const int32_t *example_targets(const struct examples *e, const struct example_batch *b) { return e->span ? b->span : b->label; }
// How many examples of such an order to run at once, from number `at` on: about 2,048 tokens with the padding, at most EXAMPLES_AT_ONCE.
#define EXAMPLES_AT_ONCE 256
int64_t examples_at_once(const struct examples *e, const int64_t *order, int64_t at);
// The examples' numbers, shortest first: batches in this order have little padding. The caller frees.
int64_t *examples_by_length(const struct examples *e);

#endif
