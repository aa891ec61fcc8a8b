// steps.h: what happens to a text before the model and to pieces after it, as lists of small steps.
//
// To add a component of tokenizer.json: add a kind here, build it in tokenizer_json.c (read_normalizer,
// read_pretokenizer or read_decoder), do it in normalizer.c, pretokenizer.c or decoder.c, and say in gguf_vocab.c
// whether llama.cpp does the same.
#ifndef PDQ_STEPS_H
#define PDQ_STEPS_H

#include "common/text/charsmap.h"
#include "common/text/matcher.h"
#include "common/text/pattern.h"
#include "common/text/utf8.h"

#define META "\xE2\x96\x81" // U+2581, SentencePiece's visible space

enum step_kind {
    STEP_PREPEND, // `to` in front of a text that is not empty
    STEP_REPLACE, // `from`, or what `pattern` matches, by `to`                      (also a decoder)
    STEP_TRIM,    // white space on the left and on the right, where those are set
    STEP_NFC,
    STEP_NFD,
    STEP_NFKC,
    STEP_NFKD,
    STEP_LOWERCASE,
    STEP_BERT,          // BERT's cleaning: control characters, CJK, accents, case
    STEP_BERT_SPLIT,    // BERT's words: white space goes, punctuation stands alone
    STEP_WORDPIECE,     // a decoder: `from` joins a piece to the one before it, spaces between others
    STEP_SENTENCEPIECE, // charsmap, runs of spaces, dummy prefix, U+2581 for spaces
    STEP_PREFIX_SPACE,  // a space in front unless there is one
    STEP_SPLIT,         // at `pattern` or at the string `from`
    STEP_BYTES,         // bytes as the byte-level alphabet                                (also a decoder: back)
    STEP_METASPACE,     // spaces as `to`, one in front, perhaps split there               (also a decoder: back)
    STEP_BYTE_FALLBACK, // "<0x41>" as its byte
    STEP_FUSE,          // all pieces as one
    STEP_STRIP          // up to `left` times `from` at a piece's start, `right` times at its end
};

enum split_behavior { SPLIT_REMOVED, SPLIT_ISOLATED, SPLIT_PREVIOUS, SPLIT_NEXT, SPLIT_CONTIGUOUS };
enum prepend_scheme { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS };

struct step {
    enum step_kind kind;
    char *from, *to; // with `pattern`, from is the regular expression's text
    struct pattern *pattern;
    enum split_behavior behavior;
    int invert;
    enum prepend_scheme scheme;
    int split; // STEP_METASPACE: cut in front of every `to`
    int left, right;
    int clean, cjk, accents, lower; // STEP_BERT; STEP_WORDPIECE: clean, spaces before punctuation go
    // STEP_SENTENCEPIECE
    struct charsmap *map;            // NULL: identity
    const struct matcher *untouched; // user-defined pieces
    int dummy_prefix, squeeze, escape;
};

struct steps {
    struct step *item;
    int count;
};
struct step *steps_add(struct steps *s, enum step_kind kind); // zeroed but for its kind
void steps_release(struct steps *s);

// All steps in order on in[0..len); the result is in *out, whose old content is lost.
void normalize_text(const struct steps *s, struct pattern_match *m, const char *in, size_t len, struct text *out);

// Cuts a normalized text and hands every piece that is not empty to `sink`, in order. `first`: the text is the
// beginning of the input.
typedef void piece_sink(void *context, const char *text, size_t len);
void pretokenize_text(const struct steps *s, struct pattern_match *m, const char *text, size_t len, int first,
                      piece_sink *sink, void *context);

// Appends the text of the pieces, which are used up (released). With `inner`, rules for the first piece of a text and
// STEP_STRIP are left out.
void decode_pieces(const struct steps *s, struct text *piece, size_t n, int inner, struct text *out);

#endif
