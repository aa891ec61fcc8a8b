// tokenizer_parts.h: what is inside struct tokenizer, for the readers and writers of this folder only.
#ifndef PDQ_TOKENIZER_PARTS_H
#define PDQ_TOKENIZER_PARTS_H

#include "common/base/json.h"
#include "common/text/bpe.h"
#include "common/text/steps.h"
#include "common/text/tokenizer.h"

// Members that may be absent.
static inline const struct json *member_first(const struct json *object, const char *key) {
    const struct json *v = json_get(object, key);
    return v ? json_first(v) : NULL;
}

static inline const char *member_string(const struct json *object, const char *key) {
    const struct json *v = json_get(object, key);
    return v ? json_string(v) : NULL;
}

static inline int member_flag(const struct json *object, const char *key, int fallback) {
    const struct json *v = json_get(object, key);
    return v && json_kind(v) != JSON_NULL ? json_bool(v) : fallback;
}

enum tokenizer_origin { ORIGIN_JSON, ORIGIN_SENTENCEPIECE, ORIGIN_GGUF, ORIGIN_VOCAB_MERGES, ORIGIN_VOCAB, ORIGIN_NUMBERS };

// A token that is cut out of the text before the model sees it.
struct added_token {
    char *content;
    int32_t id;
    int special, normalized, lstrip, rstrip, single_word;
};

// Lifetime: model; const once tokenizer_finish has run.
struct tokenizer {
    enum tokenizer_origin origin;
    char *source;         // path for messages
    struct pieces pieces; // ids below size, then the symbols of bpe.h
    int32_t size;
    uint8_t *type;           // [size] enum token_type
    float *score;            // [size], NULL where merges are ranked
    struct merge_rule *rule; // in order of rank; NULL where pieces are scored
    size_t n_rules;
    struct bpe bpe;
    struct {
        char *prefix;            // "##"; NULL: the model is no WordPiece
        int64_t most_characters; // of a word; longer ones are unknown
        int32_t unk;
    } wordpiece;
    struct steps normalizer, pretokenizer, decoder;
    struct added_token *added;
    int32_t n_added;
    struct matcher raw, normalized; // values are indices into added
    struct matcher user_defined;    // SentencePiece's own; values are ids
    int32_t *prefix, *suffix;       // what the post-processor puts around a text
    int32_t n_prefix, n_suffix;
    int32_t *between; // ... and between two texts of a pair: [SEP], or </s></s>; NULL: what is behind one
    int32_t n_between;
    int32_t bos, eos, pad;
    char *chat_template; // Jinja text; NULL: none
    int byte_level; // pieces are in the byte-level alphabet
};

struct tokenizer *tokenizer_new(enum tokenizer_origin origin, const char *source);
// Sets a token's text and type; the same text again is fine, another text for an id that is taken is an error.
int tokenizer_put(struct tokenizer *t, int64_t id, const char *text, size_t len, enum token_type type,
                  struct error *err);
void tokenizer_add(struct tokenizer *t, const char *content, const struct added_token *like);
void tokenizer_set_ends(struct tokenizer *t, int add_bos, int add_eos); // prefix and suffix from bos and eos
// Sizes type, closes the gaps, builds the matchers and the model's tables. `takes_part`: see bpe_finish_scores.
void tokenizer_finish(struct tokenizer *t, const uint8_t *takes_part);

// The decoder of every SentencePiece-like tokenizer: U+2581 to space, byte tokens, and the first space dropped.
void tokenizer_sentencepiece_decoder(struct tokenizer *t, int strip_first);

// The readers; each fills a new tokenizer and finishes it.
int tokenizer_read_json(struct tokenizer *t, const struct json *root, struct error *err);
int tokenizer_read_vocab_merges(struct tokenizer *t, const char *merges_path, const struct json *special_map, int is_roberta, struct error *err);
int tokenizer_read_vocab_text(struct tokenizer *t, const struct json *tokenizer_config, struct error *err);
int tokenizer_make_numbers(struct tokenizer *t, int64_t vocab, struct error *err);
int tokenizer_read_model(struct tokenizer *t, const void *data, size_t len, const struct json *config,
                         struct error *err);

// Cleaning, splitting and joining as BERT's own tokenizer does them.
void wordpiece_set(struct tokenizer *t, int32_t unk, int lower);
// tokenizer_encode; places (places.c): NULL, or where to note the tokens' places, for a WordPiece model.
struct placing {
    const char *text, *normalized;
    struct token_place *byte;  // what each byte of the normalized text came from; owned
    struct token_place *token; // owned
    size_t count, capacity;
    int ascii[128];            // bytes that these characters become; -1: not yet known
    int failed;
};
void tokenizer_encode_placing(const struct tokenizer *t, const char *text, size_t len, int flags, struct token_list *out, int64_t *invalid,
                              struct placing *places);
void placing_trace(struct placing *p, const struct tokenizer *t, struct pattern_match *m, const char *text, size_t len,
                   const struct text *normalized); // this part of the text has become that
void placing_add(struct placing *p, const struct tokenizer *t, const struct token_list *ids, const char *text, size_t len); // a word's new ids
void placing_add_named(struct placing *p, const struct token_list *ids, struct token_place place); // one new id, an added token's

void wordpiece_encode(const struct tokenizer *t, const char *text, size_t len, struct token_list *out);

// Pre-tokenizers that llama.cpp knows (pre_names.c).
struct pre_rule {
    const char *name;         // as tokenizer.ggml.pre has it
    const char *const *regex; // applied one after the other, ended by NULL
    int ignore_merges;        // llama.cpp takes a word that is a token as it is
    int add_bos;              // llama.cpp's default when the file does not say
};
extern const char gpt2_regex[];
const struct pre_rule *pre_rule_by_name(const char *name); // NULL: unknown
// The rule that splits as these steps do, or NULL.
const struct pre_rule *pre_rule_by_steps(const struct steps *s, int ignore_merges);
int pre_rule_steps(const struct pre_rule *r, struct steps *out, struct error *err); // SPLIT steps, then BYTES
void steps_add_split(struct steps *s, const char *regex, struct pattern *pattern);

#endif
