// bpe.h: byte-pair merging in O(n log n), the one model behind all three sources.
//
// Every source is brought to one table of rules (left symbol, right symbol) -> (rank, result): from the list of
// merges in tokenizer.json, or, where SentencePiece merges whatever pair makes a piece and prefers the best score,
// from all the ways to cut each piece in two, ranked by its score. Equal ranks go to the leftmost pair.
//
// Symbols are vocabulary ids, or, from `size` up, characters that occur inside pieces without being pieces.
// Invariant that makes whole books fast: two neighbouring characters can end up in one piece only when some rule has
// the first as the last character of its left side and the second as the first of its right side (`joint`). Text is
// cut wherever that is not so, and the short stretches are merged one by one with a heap that stays in cache.
#ifndef PDQ_BPE_H
#define PDQ_BPE_H

#include "common/text/matcher.h"
#include "common/text/pieces.h"
#include "common/text/tokenizer.h"

struct merge_rule {
    int32_t left, right, result;
};

#define CODES_FAST 0x400 // characters below have their symbol in a plain array

struct bpe {
    // Set by the reader.
    struct pieces *symbols; // the tokenizer's
    const uint8_t *type;    // per id below size: enum token_type
    int32_t size;
    int32_t unk; // -1: none
    int byte_fallback, fuse_unk, ignore_merges;
    int resegment_unused;         // SentencePiece: a piece of type unused is undone into the two that made it
    const struct matcher *frozen; // SentencePiece: user-defined pieces, found in the text and never merged; or NULL
    // Made by bpe_finish.
    struct merge_table rules, joint;
    int32_t byte_id[256]; // of "<0x41>"; -1: none
    int32_t fast[CODES_FAST];
};

struct bpe_scratch; // working memory of one call
struct bpe_scratch *bpe_scratch_new(void);
void bpe_scratch_free(struct bpe_scratch *s);

// Rank by place in the list. When a pair comes twice the later place counts.
void bpe_finish_ranks(struct bpe *b, const struct merge_rule *rule, size_t n);
// Rank by score, best first. `takes_part` says per id whether the piece may be merged to.
void bpe_finish_scores(struct bpe *b, const float *score, const uint8_t *takes_part);
void bpe_release(struct bpe *b);

void bpe_encode(const struct bpe *b, struct bpe_scratch *s, const char *text, size_t len, struct token_list *out);

#endif
