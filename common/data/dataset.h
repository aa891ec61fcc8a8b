// dataset.h: text files in, token windows out.
//
// Documents (a .txt file is one; each line of a .jsonl with a "text" field is one; either may be gzipped) are
// tokenized with the tokenizer's own BOS/EOS rules and laid end to end in one stream. Training windows are seq_len +
// 1 tokens at stride seq_len; their order is a seeded permutation, a new one for each pass.
//
// Several sources lie one behind the other, no window reaches from one into the next, and each has shuffled passes of its own; which of them a window
// comes from is the mixture's to say (mixture.h).
//
// A line with "prompt" and "answer" is a question: it has a window of its own, and only the answer's tokens are predicted.
#ifndef PDQ_DATASET_H
#define PDQ_DATASET_H

#include <stdint.h>

#include "common/base/error.h"
#include "common/base/hash.h"
#include "common/data/mixture.h"
#include "common/text/tokenizer.h"

struct dataset {    // process lifetime
    int32_t *token; // [n_token]
    int64_t n_token;
    int64_t text_bytes;    // of the text they came from
    int64_t invalid_bytes; // bytes that were not UTF-8
    // Questions: where each begins (and the last ends) and where its answer does. NULL, 0: a stream of text.
    int64_t *start, *answer; // [n_question + 1], [n_question]
    int64_t n_question;
    // Sources: the first token, or question, of each (and the last one's end). NULL, 0: all is one.
    int64_t *source; // [n_source + 1]
    int n_source;
    struct mixture mixture; // of the sources
};

struct document { // as it stands in a file
    const char *prompt, *text; // prompt NULL: no question; else text is the answer
    size_t prompt_len, len;
};
typedef void take_document(void *context, const struct document *d);

// where: for messages ("data.train"). Fewer than 2 tokens is an error. Paths are opened as they stand.
int dataset_read(struct dataset *d, const struct tokenizer *t, const char *const *paths, size_t n_paths,
                 const char *where, struct error *err);
void dataset_release(struct dataset *d);
// The documents in order, before tokenizing. `take` gets each one; the text is its only while it runs.
int dataset_documents(const char *const *paths, size_t n_paths, const char *where, take_document *take, void *context,
                      struct error *err);
// Adds a document's tokens; ends: with the EOS, too, where the tokenizer adds it.
int dataset_add(struct dataset *d, const struct tokenizer *t, const struct document *document, int ends, const char *where,
                struct error *err);
// Moves all of `more` behind d; one may not be text and the other questions.
int dataset_append(struct dataset *d, struct dataset *more, const char *where, struct error *err);
// Moves a source behind the others of d; between the first one and dataset_mix there is no other use of d.
int dataset_add_source(struct dataset *d, struct dataset *source, const char *where, struct error *err);
// The sources' weights [n_source] from now on (mixture_init).
void dataset_mix(struct dataset *d, const double *weight);
// d's tokens with a mixture of its own, which dataset_drop_view releases; d stays as long.
void dataset_view(struct dataset *view, const struct dataset *d);
void dataset_drop_view(struct dataset *view);
// A dataset of windows number window[0 .. n-1] of d alone, each with its own tokens: they become questions whose prompts are what is not predicted.
void dataset_choose(struct dataset *chosen, const struct dataset *d, int64_t seq_len, const int64_t *window, int64_t n);
// Every question must fit a window of seq_len + 1 tokens.
int dataset_fits(const struct dataset *d, int64_t seq_len, const char *where, struct error *err);
// Every id must be a row of an embedding of `vocab` rows.
int dataset_check(const struct dataset *d, int64_t vocab, const char *where, struct error *err);

int64_t dataset_windows(const struct dataset *d, int64_t seq_len); // number of training windows
int64_t dataset_source_windows(const struct dataset *d, int64_t seq_len, int source);
void dataset_hash_windows(const struct dataset *d, struct hasher *h); // all that windows hold, whenever they come
// Where window w lies does not depend on any seed; only when it comes does. Number i of the endless sequence of shuffled passes (of sources: the mixture's
// draw number i, the next window of that source's passes):
int64_t dataset_window(const struct dataset *d, int64_t seq_len, uint64_t seed, int64_t i);
// Inputs and targets [seq_len] of window w.
void dataset_read_window(const struct dataset *d, int64_t seq_len, int64_t w, int32_t *inputs, int32_t *targets);
// Windows number first .. first+B-1 of an endless sequence of shuffled passes: inputs and targets [B*seq_len]; a pure
// function of (mixture, seed, first). Targets past the stream's end are -1.
void dataset_batch(const struct dataset *d, int64_t seq_len, uint64_t seed, int64_t first, int64_t B, int32_t *inputs,
                   int32_t *targets);

// Noise for inputs [n] of batch number `index` (noise.c): each token becomes `hidden` with probability `hide`, or one drawn from the data with
// probability `replace`. Targets are not touched. A pure function of (seed, index) and the inputs.
void dataset_noise(const struct dataset *d, double hide, double replace, int32_t hidden, uint64_t seed, uint64_t index, int32_t *inputs, int64_t n);

#endif
