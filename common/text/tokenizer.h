// tokenizer.h: text to token ids and back, as the checkpoint's own tokenizer does it.
//
// Five sources fill one struct: tokenizer.json (Hugging Face), vocab.json with merges.txt (GPT-2), vocab.txt (BERT), tokenizer.model (SentencePiece BPE)
// and the arrays of a GGUF file. A model without any is driven by token ids: its texts are numbers with spaces between. A component that is not supported is refused by name when the tokenizer is opened, so encoding itself
// cannot fail. Lifetime: model. Everything is const after opening and may be used from several threads.
#ifndef PDQ_TOKENIZER_H
#define PDQ_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"

struct tokenizer; // opaque

// What a GGUF file says of a tokenizer. Strings are owned by the struct and are in GGUF's form: pieces of "llama"
// with U+2581 for a space, pieces of "gpt2" in the byte-level alphabet, those of "bert" with U+2581 in front where a word begins and bare where
// one goes on, control and user-defined tokens as raw text.
struct vocab {
    char *model; // "llama" (SentencePiece merges by score), "gpt2" (byte-level merges by rank) or "bert" (WordPiece)
    char *pre;   // gpt2: name of the pre-tokenizer; NULL for llama
    int64_t size;
    char **token;
    float *score;  // llama only, else NULL
    int32_t *type; // enum token_type; NULL: all normal
    int64_t n_merges;
    char **merge;                           // gpt2 only: "left right"
    int32_t bos, eos, unk, pad;             // -1: none
    int32_t cls, sep, mask;                 // bert only; -1: none
    int add_bos, add_eos, add_space_prefix; // -1 when the file does not say: llama.cpp's default is taken
    char *chat_template;                    // Jinja text, carried along; NULL: none
};

enum token_type { TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER_DEFINED, TOKEN_UNUSED, TOKEN_BYTE };

void vocab_release(struct vocab *v);

// A folder with tokenizer.json (preferred), tokenizer.model, vocab.json and merges.txt, or vocab.txt; tokenizer_config.json, special_tokens_map.json and
// config.json, where they are there, name the BOS and EOS tokens, and for tokenizer.model say whether to add them.
struct tokenizer *tokenizer_open(const char *folder, struct error *err);
struct tokenizer *tokenizer_from_vocab(const struct vocab *v, struct error *err); // copies what it needs
void tokenizer_free(struct tokenizer *t);

// What a GGUF writer needs. `rows` is the number of rows of the embedding: ids that the tokenizer lacks below it
// become unused "[PADn]" tokens (0: no more than the tokenizer has). Fails, saying why, where llama.cpp would not
// split text as this tokenizer does.
int tokenizer_to_vocab(const struct tokenizer *t, int64_t rows, struct vocab *out, struct error *err);

// Writes a tokenizer that came from tokenizer.model or from a GGUF file as Hugging Face's tokenizer.json, and
// tokenizer_config.json, which transformers 5 needs. Fails, saying why, where tokenizer.json cannot express it.
int tokenizer_needs_json(const struct tokenizer *t); // it came from neither tokenizer.json nor vocab.json, and is no list of numbers
int tokenizer_write_json(const struct tokenizer *t, const char *path, struct error *err);
int tokenizer_write_config(const struct tokenizer *t, const char *path, struct error *err);

struct token_list {
    int32_t *id;
    size_t count, capacity;
};
void token_list_push(struct token_list *list, int32_t id);
void token_list_free(struct token_list *list); // a zeroed list is empty

enum {
    TOKENIZE_SPECIAL = 1, // add BOS and EOS as the post-processor says
    TOKENIZE_LITERAL = 2  // names of control tokens in the text are ordinary text (as llama-perplexity does)
};
// Appends ids. Bytes that are not UTF-8 go in one by one as byte-fallback input (or as their byte-level symbols) and
// are added to *invalid (may be NULL).
void tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, int flags, struct token_list *out,
                      int64_t *invalid);
// The same (TOKENIZE_LITERAL), and for each new id the bytes of the text that it stands for: [new ids], which the caller frees; a space may be
// among them at the start. Fails, saying why, where they cannot be told. where: for messages.
struct token_place {
    int64_t start, end;
};
int tokenizer_encode_places(const struct tokenizer *t, const char *text, size_t len, struct token_list *out, struct token_place **place,
                            const char *where, struct error *err);
// The text, NUL-terminated; control tokens and ids out of range are left out. Byte tokens give their bytes, so the
// text need not be UTF-8. The caller frees.
char *tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, size_t *len);
// What one id adds to a text that has begun: tokenizer_decode without the decoder's rule for a text's first space.
char *tokenizer_decode_next(const struct tokenizer *t, int32_t id, size_t *len);

// For a model without a tokenizer: texts are ids, as numbers with spaces between. source: for messages.
struct tokenizer *tokenizer_numbers(const char *source, int64_t vocab, struct error *err);
// Are texts numbers, because the model has no tokenizer? Then tokenizer_check_text says what in a text is none (where: for the message);
// any other tokenizer takes every text.
int tokenizer_is_numbers(const struct tokenizer *t);
int tokenizer_check_text(const struct tokenizer *t, const char *text, size_t len, const char *where, struct error *err);

int64_t tokenizer_size(const struct tokenizer *t); // the largest id + 1
int32_t tokenizer_bos(const struct tokenizer *t);  // -1: none
int32_t tokenizer_eos(const struct tokenizer *t);
int tokenizer_adds_bos(const struct tokenizer *t);
int tokenizer_adds_eos(const struct tokenizer *t);
// What the post-processor puts between the two texts of a pair: *n ids.
const int32_t *tokenizer_between(const struct tokenizer *t, int32_t *n);
const char *tokenizer_id_to_token(const struct tokenizer *t, int32_t id);    // NULL: no such id
int32_t tokenizer_token_to_id(const struct tokenizer *t, const char *token); // -1: none
const char *tokenizer_source(const struct tokenizer *t);                     // path of the file, or "GGUF metadata"

#endif
