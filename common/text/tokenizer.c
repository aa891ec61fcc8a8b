// tokenizer.c: the public functions: opening, encoding, decoding (tokenizer.h).
//
// Encoding: invalid bytes escaped (utf8.h) -> added tokens cut out of the raw text -> normalizer -> added tokens that
// want normalized text -> pre-tokenizer -> model, between the post-processor's ids.
#include "common/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/text/added_tokens.h"
#include "common/text/byte_level.h"
#include "common/text/tokenizer_parts.h"

struct tokenizer *tokenizer_new(enum tokenizer_origin origin, const char *source) {
    struct tokenizer *t = xcalloc(1, sizeof *t, "tokenizer");
    t->origin = origin;
    t->source = xstrdup(source);
    t->bos = t->eos = t->pad = t->bpe.unk = -1;
    return t;
}

void tokenizer_free(struct tokenizer *t) {
    if (!t)
        return;
    pieces_release(&t->pieces);
    bpe_release(&t->bpe);
    steps_release(&t->normalizer);
    steps_release(&t->pretokenizer);
    steps_release(&t->decoder);
    matcher_release(&t->raw);
    matcher_release(&t->normalized);
    matcher_release(&t->user_defined);
    for (int32_t i = 0; i < t->n_added; i++)
        free(t->added[i].content);
    free(t->added);
    free(t->type);
    free(t->score);
    free(t->rule);
    free(t->prefix);
    free(t->suffix);
    free(t->between);
    free(t->source);
    free(t->chat_template);
    free(t->wordpiece.prefix);
    free(t);
}

int tokenizer_put(struct tokenizer *t, int64_t id, const char *text, size_t len, enum token_type type,
                  struct error *err) {
    if (id < 0 || id >= PIECES_MAX)
        return error_set(err, "%s: token '%s' has id %lld; expected 0 to %d", t->source, text, (long long)id,
                         PIECES_MAX - 1);
    int32_t i = (int32_t)id;
    if (i < t->pieces.count && t->pieces.text[i]) {
        if ((size_t)t->pieces.len[i] != len || memcmp(t->pieces.text[i], text, len) != 0)
            return error_set(err, "%s: id %d is given to both '%s' and '%s'", t->source, i, t->pieces.text[i], text);
    } else {
        pieces_put(&t->pieces, i, text, len);
    }
    if (t->pieces.count > t->size) {
        t->type = xrealloc(t->type, (size_t)t->pieces.capacity, "vocabulary");
        memset(t->type + t->size, TOKEN_UNUSED, (size_t)(t->pieces.count - t->size));
        t->size = t->pieces.count;
    }
    t->type[i] = (uint8_t)type;
    return 0;
}

void tokenizer_add(struct tokenizer *t, const char *content, const struct added_token *like) {
    t->added = xrealloc(t->added, (size_t)(t->n_added + 1) * sizeof *t->added, "added tokens");
    t->added[t->n_added] = *like;
    t->added[t->n_added++].content = xstrdup(content);
}

void tokenizer_set_ends(struct tokenizer *t, int add_bos, int add_eos) {
    t->prefix = xmalloc(sizeof *t->prefix, "tokenizer");
    t->suffix = xmalloc(sizeof *t->suffix, "tokenizer");
    t->prefix[0] = t->bos;
    t->suffix[0] = t->eos;
    t->n_prefix = add_bos && t->bos >= 0;
    t->n_suffix = add_eos && t->eos >= 0;
}

void tokenizer_sentencepiece_decoder(struct tokenizer *t, int strip_first) {
    struct step *s = steps_add(&t->decoder, STEP_REPLACE);
    s->from = xstrdup(META);
    s->to = xstrdup(" ");
    steps_add(&t->decoder, STEP_BYTE_FALLBACK);
    steps_add(&t->decoder, STEP_FUSE);
    if (strip_first) {
        s = steps_add(&t->decoder, STEP_STRIP);
        s->from = xstrdup(" ");
        s->left = 1;
    }
}

void tokenizer_finish(struct tokenizer *t, const uint8_t *takes_part) {
    struct pattern_match *m = pattern_match_new();
    struct text content = {0};
    matcher_finish(&t->user_defined); // the normalizer looks there
    for (int32_t i = 0; i < t->n_added; i++) {
        const struct added_token *a = &t->added[i];
        if (!a->normalized) {
            matcher_add(&t->raw, a->content, strlen(a->content), i);
        } else { // it is looked for in normalized text, so its name is normalized too
            normalize_text(&t->normalizer, m, a->content, strlen(a->content), &content);
            matcher_add(&t->normalized, content.data, content.len, i);
        }
    }
    text_release(&content);
    pattern_match_free(m);
    matcher_finish(&t->raw);
    matcher_finish(&t->normalized);
    t->bpe.symbols = &t->pieces;
    t->bpe.type = t->type;
    t->bpe.size = t->size;
    if (t->user_defined.count)
        t->bpe.frozen = &t->user_defined;
    if (t->score)
        bpe_finish_scores(&t->bpe, t->score, takes_part);
    else
        bpe_finish_ranks(&t->bpe, t->rule, t->n_rules);
}

// --- opening

// The id of a token that a configuration names, as a string or as an object with "content"; -1: not named.
static int32_t named_token(const struct tokenizer *t, const struct json *config, const char *key) {
    const struct json *v = json_get(config, key);
    const char *name = v && json_kind(v) == JSON_OBJECT ? member_string(v, "content") : member_string(config, key);
    return name ? tokenizer_token_to_id(t, name) : -1;
}

// The id that config.json gives; generation may stop at several, the first counts.
static int32_t numbered_token(const struct tokenizer *t, const struct json *config, const char *key) {
    const struct json *v = json_get(config, key);
    if (v && json_kind(v) == JSON_ARRAY)
        v = json_first(v);
    double id = v && json_kind(v) == JSON_NUMBER ? json_number(v) : -1;
    return id >= 0 && id < t->size && t->pieces.text[(int32_t)id] ? (int32_t)id : -1;
}

static int read_optional(const char *folder, const char *name, struct json **out, struct error *err) {
    char *path = path_join(folder, name);
    *out = file_exists(path) ? json_read(path, err) : NULL;
    int failed = !*out && file_exists(path);
    free(path);
    return failed ? -1 : 0;
}

// A folder that holds no tokenizer at all: config.json says how many ids there are.
static int open_numbers(struct tokenizer *t, const struct json *config, struct error *err) {
    int64_t vocab;
    TRY(json_get_int(config, t->source, "vocab_size", 0, 1, PIECES_MAX, &vocab, err));
    if (!vocab && !file_is_directory(t->source))
        return error_set(err, "%s: %s; expected a folder with a tokenizer, or a .gguf file", t->source,
                         file_exists(t->source) ? "a file whose name does not end in .gguf" : "no such file or directory");
    if (!vocab)
        return error_set(err, "%s: no tokenizer.json, no tokenizer.model, no vocab.json with merges.txt, and config.json has no vocab_size",
                         t->source);
    log_debug("%s: no tokenizer there: texts are token ids, 0 to %lld, with spaces between", t->source, (long long)vocab - 1);
    return tokenizer_make_numbers(t, vocab, err);
}

static int open_file(struct tokenizer *t, const struct json *tokenizer_config, struct error *err) {
    if (t->origin == ORIGIN_JSON) {
        char *text;
        size_t len;
        TRY(file_read(t->source, &text, &len, err));
        struct json *root = NULL;
        int rc = -1;
        if (!utf8_valid(text, len))
            error_set(err, "%s: this is not UTF-8 text; expected Hugging Face's tokenizer.json", t->source);
        else if ((root = json_parse(text, len, t->source, 0, err)))
            rc = tokenizer_read_json(t, root, err);
        json_free(root);
        free(text);
        return rc;
    }
    struct file_map map;
    TRY(file_map(&map, t->source, err));
    int rc = tokenizer_read_model(t, map.data, map.size, tokenizer_config, err);
    file_unmap(&map);
    return rc;
}

static void find_ends(struct tokenizer *t, const struct json *tokenizer_config, const struct json *special_map,
                      const struct json *config) {
    const char *const name[] = {"bos_token", "eos_token", "pad_token"};
    const char *const number[] = {"bos_token_id", "eos_token_id", "pad_token_id"};
    int32_t *const end[] = {&t->bos, &t->eos, &t->pad};
    for (int i = 0; i < 3; i++) {
        if (*end[i] < 0)
            *end[i] = named_token(t, tokenizer_config, name[i]);
        if (*end[i] < 0)
            *end[i] = named_token(t, special_map, name[i]);
        if (*end[i] < 0)
            *end[i] = numbered_token(t, config, number[i]);
    }
    if (t->bos < 0 && t->n_prefix)
        t->bos = t->prefix[0];
    if (t->eos < 0 && t->n_suffix)
        t->eos = t->suffix[t->n_suffix - 1];
}

// tokenizer_config.json has it as text or as a list of named ones, newer folders in a file of its own.
static int read_chat_template(struct tokenizer *t, const char *folder, const struct json *tokenizer_config,
                              struct error *err) {
    const struct json *v = json_get(tokenizer_config, "chat_template");
    const char *text = NULL;
    if (v && json_kind(v) == JSON_STRING)
        text = json_string(v);
    for (const struct json *e = v && json_kind(v) == JSON_ARRAY ? json_first(v) : NULL; e; e = json_next(e)) {
        const char *name = member_string(e, "name");
        if (name && strcmp(name, "default") == 0)
            text = member_string(e, "template");
    }
    t->chat_template = text ? xstrdup(text) : NULL;
    char *path = path_join(folder, "chat_template.jinja");
    size_t len;
    int rc = !text && file_exists(path) ? file_read(path, &t->chat_template, &len, err) : 0;
    free(path);
    return rc;
}

// Files of the same names mean two tokenizers.
static int is_roberta(const struct json *config, const struct json *tokenizer_config) {
    const char *type = member_string(config, "model_type"), *class = member_string(tokenizer_config, "tokenizer_class");
    return (type && strcmp(type, "roberta") == 0) || (class && strncmp(class, "Roberta", 7) == 0);
}

struct tokenizer *tokenizer_open(const char *folder, struct error *err) {
    struct json *tokenizer_config = NULL, *special_map = NULL, *config = NULL;
    struct tokenizer *t = NULL;
    char *json_path = path_join(folder, "tokenizer.json"), *model_path = path_join(folder, "tokenizer.model");
    char *vocab_path = path_join(folder, "vocab.json"), *merges_path = path_join(folder, "merges.txt");
    char *words_path = path_join(folder, "vocab.txt");
    int rc = -1;
    if (file_exists(json_path))
        t = tokenizer_new(ORIGIN_JSON, json_path);
    else if (file_exists(model_path))
        t = tokenizer_new(ORIGIN_SENTENCEPIECE, model_path);
    else if (file_exists(vocab_path) && file_exists(merges_path))
        t = tokenizer_new(ORIGIN_VOCAB_MERGES, vocab_path);
    else if (file_exists(vocab_path) || file_exists(merges_path))
        error_set(err, "%s: %s without %s; GPT-2's tokenizer needs both (or tokenizer.json)", folder,
                  file_exists(vocab_path) ? "vocab.json" : "merges.txt", file_exists(vocab_path) ? "merges.txt" : "vocab.json");
    else if (file_exists(words_path))
        t = tokenizer_new(ORIGIN_VOCAB, words_path);
    else
        t = tokenizer_new(ORIGIN_NUMBERS, folder);
    if (!t || read_optional(folder, "tokenizer_config.json", &tokenizer_config, err) < 0 ||
        read_optional(folder, "special_tokens_map.json", &special_map, err) < 0 ||
        read_optional(folder, "config.json", &config, err) < 0)
        goto out;
    if (t->origin == ORIGIN_NUMBERS)
        rc = open_numbers(t, config, err);
    else if (t->origin == ORIGIN_VOCAB)
        rc = tokenizer_read_vocab_text(t, tokenizer_config, err);
    else if (t->origin == ORIGIN_VOCAB_MERGES)
        rc = tokenizer_read_vocab_merges(t, merges_path, special_map, is_roberta(config, tokenizer_config), err);
    else
        rc = open_file(t, tokenizer_config, err);
    if (rc < 0 || (rc = read_chat_template(t, folder, tokenizer_config, err)) < 0)
        goto out;
    find_ends(t, tokenizer_config, special_map, config);
out:
    json_free(tokenizer_config);
    json_free(special_map);
    json_free(config);
    free(json_path);
    free(model_path);
    free(vocab_path);
    free(merges_path);
    free(words_path);
    if (rc < 0) {
        tokenizer_free(t);
        t = NULL;
    }
    return t;
}

// --- encoding

struct encoder {
    const struct tokenizer *t;
    struct pattern_match *match;
    struct bpe_scratch *scratch;
    struct token_list *out;
    int flags, first;
    struct text normalized;
    struct placing *places; // NULL: not wanted
};

static void encode_piece(void *context, const char *text, size_t len) {
    struct encoder *e = context;
    if (e->t->wordpiece.prefix) {
        wordpiece_encode(e->t, text, len, e->out);
        if (e->places)
            placing_add(e->places, e->t, e->out, text, len);
        return;
    }
    bpe_encode(&e->t->bpe, e->scratch, text, len, e->out);
}

static void encode_normalized(void *context, const struct added_token *token, const char *text, size_t len,
                              int first) {
    struct encoder *e = context;
    if (token) {
        token_list_push(e->out, token->id);
        if (e->places)
            placing_add_named(e->places, e->out, (struct token_place){e->places->byte[text - e->normalized.data].start,
                                                                      e->places->byte[text - e->normalized.data + len - 1].end});
    } else {
        pretokenize_text(&e->t->pretokenizer, e->match, text, len, e->first && first, encode_piece, e);
    }
}

static void encode_raw(void *context, const struct added_token *token, const char *text, size_t len, int first) {
    struct encoder *e = context;
    if (token) {
        token_list_push(e->out, token->id);
        if (e->places)
            placing_add_named(e->places, e->out, (struct token_place){text - e->places->text, text - e->places->text + (int64_t)len});
        return;
    }
    e->first = first;
    normalize_text(&e->t->normalizer, e->match, text, len, &e->normalized);
    if (e->places)
        placing_trace(e->places, e->t, e->match, text, len, &e->normalized);
    split_added_tokens(e->t, &e->t->normalized, e->normalized.data, e->normalized.len, e->flags, encode_normalized,
                       e);
}

void tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, int flags, struct token_list *out,
                      int64_t *invalid) {
    tokenizer_encode_placing(t, text, len, flags, out, invalid, NULL);
}

void tokenizer_encode_placing(const struct tokenizer *t, const char *text, size_t len, int flags, struct token_list *out, int64_t *invalid,
                              struct placing *places) {
    struct text escaped = {0};
    int changed = 0;
    size_t bad = utf8_escape(text, len, &escaped, &changed);
    if (invalid)
        *invalid += (int64_t)bad;
    struct encoder e = {.t = t, .out = out, .flags = flags, .places = changed ? NULL : places};
    if (places)
        places->failed = changed;
    e.match = pattern_match_new();
    e.scratch = bpe_scratch_new();
    for (int32_t i = 0; (flags & TOKENIZE_SPECIAL) && i < t->n_prefix; i++)
        token_list_push(out, t->prefix[i]);
    split_added_tokens(t, &t->raw, changed ? escaped.data : text, changed ? escaped.len : len, flags, encode_raw, &e);
    for (int32_t i = 0; (flags & TOKENIZE_SPECIAL) && i < t->n_suffix; i++)
        token_list_push(out, t->suffix[i]);
    pattern_match_free(e.match);
    bpe_scratch_free(e.scratch);
    text_release(&e.normalized);
    text_release(&escaped);
}

void token_list_free(struct token_list *list) {
    free(list->id);
    memset(list, 0, sizeof *list);
}

// --- decoding

// The text that the decoder sees for an id; a token added to a byte-level vocabulary is stored as plain text.
static void append_piece(const struct tokenizer *t, int32_t id, struct text *out) {
    if (t->byte_level && t->type[id] == TOKEN_USER_DEFINED)
        byte_level_encode(t->pieces.text[id], (size_t)t->pieces.len[id], out);
    else
        text_append(out, t->pieces.text[id], (size_t)t->pieces.len[id]);
}

static char *decode(const struct tokenizer *t, const int32_t *ids, size_t n, int inner, size_t *len) {
    struct text *piece = xcalloc(n + 1, sizeof *piece, "decoder"), out = {0};
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] >= 0 && ids[i] < t->size && t->pieces.text[ids[i]] && t->type[ids[i]] != TOKEN_CONTROL &&
            t->type[ids[i]] != TOKEN_UNKNOWN)
            append_piece(t, ids[i], &piece[used++]);
    }
    decode_pieces(&t->decoder, piece, used, inner, &out);
    text_append(&out, "", 1);
    free(piece);
    if (len)
        *len = out.len - 1;
    return out.data;
}

char *tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, size_t *len) {
    return decode(t, ids, n, 0, len);
}

char *tokenizer_decode_next(const struct tokenizer *t, int32_t id, size_t *len) { return decode(t, &id, 1, 1, len); }

// --- questions

int64_t tokenizer_size(const struct tokenizer *t) { return t->size; }

int32_t tokenizer_bos(const struct tokenizer *t) { return t->bos; }

int32_t tokenizer_eos(const struct tokenizer *t) { return t->eos; }

int tokenizer_adds_bos(const struct tokenizer *t) { return t->n_prefix > 0 && t->bos >= 0 && t->prefix[0] == t->bos; }

int tokenizer_adds_eos(const struct tokenizer *t) {
    return t->n_suffix > 0 && t->eos >= 0 && t->suffix[t->n_suffix - 1] == t->eos;
}

const int32_t *tokenizer_between(const struct tokenizer *t, int32_t *n) {
    *n = t->between ? t->n_between : t->n_suffix;
    return t->between ? t->between : t->suffix;
}

const char *tokenizer_id_to_token(const struct tokenizer *t, int32_t id) {
    return id >= 0 && id < t->size ? t->pieces.text[id] : NULL;
}

int32_t tokenizer_token_to_id(const struct tokenizer *t, const char *token) {
    int32_t id = pieces_find(&t->pieces, token, strlen(token));
    return id < t->size ? id : -1;
}

const char *tokenizer_source(const struct tokenizer *t) { return t->source; }
