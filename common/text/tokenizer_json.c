// tokenizer_json.c: Hugging Face's tokenizer.json, BPE and WordPiece models (Unigram and others are refused).
//
// Each read_ function knows the components it supports and refuses every other by name, because a tokenizer that
// skips a step gives other ids without a word.
#include <stdlib.h>
#include <string.h>

#include "common/text/tokenizer_parts.h"

struct reader {
    struct tokenizer *t;
    struct error *err;
};

static int refuse(const struct reader *r, const char *what, const char *type) {
    return error_set(r->err,
                     "%s: %s of type \"%s\" is not supported; convert the model with a tokenizer that does "
                     "without it",
                     r->t->source, what, type);
}

static int is_null(const struct json *v) { return !v || json_kind(v) == JSON_NULL; }

static int read_type(const struct reader *r, const struct json *v, const char *what, const char **type) {
    TRY(json_get_string(v, r->t->source, "type", NULL, type, r->err));
    if (!*type)
        return error_set(r->err, "%s: %s has no \"type\"", r->t->source, what);
    return 0;
}

static int read_text(const struct reader *r, const struct json *v, const char *what, const char *key,
                     const char **out) {
    TRY(json_get_string(v, r->t->source, key, NULL, out, r->err));
    if (!*out)
        return error_set(r->err, "%s: %s has no \"%s\"; expected a string", r->t->source, what, key);
    return 0;
}

// "pattern": {"String": "..."} or {"Regex": "..."} into from and pattern.
static int read_pattern(const struct reader *r, const struct json *v, const char *what, struct step *step) {
    const struct json *p = json_get(v, "pattern");
    const char *literal = member_string(p, "String"), *regex = member_string(p, "Regex");
    if (!literal && !regex)
        return error_set(r->err, "%s: the pattern of %s is neither {\"String\": ..} nor {\"Regex\": ..}",
                         r->t->source, what);
    step->from = xstrdup(regex ? regex : literal);
    if (regex && !(step->pattern = pattern_new(regex, r->t->source, r->err)))
        return -1;
    return 0;
}

static int read_replace(const struct reader *r, const struct json *v, const char *what, struct steps *out) {
    const char *content;
    TRY(read_text(r, v, what, "content", &content));
    struct step *step = steps_add(out, STEP_REPLACE);
    step->to = xstrdup(content);
    return read_pattern(r, v, what, step);
}

// The members of a Sequence, one after the other.
static int read_sequence(const struct reader *r, const struct json *v, const char *key,
                         int (*read)(const struct reader *, const struct json *)) {
    for (const struct json *item = member_first(v, key); item; item = json_next(item))
        TRY(read(r, item));
    return 0;
}

static int read_normalizer(const struct reader *r, const struct json *v) {
    static const struct {
        const char *name;
        enum step_kind kind;
    } plain[] = {{"NFC", STEP_NFC},
                 {"NFD", STEP_NFD},
                 {"NFKC", STEP_NFKC},
                 {"NFKD", STEP_NFKD},
                 {"Lowercase", STEP_LOWERCASE}};
    struct steps *out = &r->t->normalizer;
    const char *type, *text;
    TRY(read_type(r, v, "a normalizer", &type));
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(r, v, "normalizers", read_normalizer);
    if (strcmp(type, "Replace") == 0)
        return read_replace(r, v, "normalizer Replace", out);
    if (strcmp(type, "Prepend") == 0) {
        TRY(read_text(r, v, "normalizer Prepend", "prepend", &text));
        steps_add(out, STEP_PREPEND)->to = xstrdup(text);
        return 0;
    }
    if (strcmp(type, "Strip") == 0) {
        struct step *step = steps_add(out, STEP_TRIM);
        step->left = member_flag(v, "strip_left", 1);
        step->right = member_flag(v, "strip_right", 1);
        return 0;
    }
    if (strcmp(type, "BertNormalizer") == 0) {
        struct step *step = steps_add(out, STEP_BERT);
        step->clean = member_flag(v, "clean_text", 1);
        step->cjk = member_flag(v, "handle_chinese_chars", 1);
        step->lower = member_flag(v, "lowercase", 1);
        step->accents = member_flag(v, "strip_accents", step->lower);
        return 0;
    }
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (strcmp(type, plain[i].name) == 0) {
            steps_add(out, plain[i].kind);
            return 0;
        }
    }
    return refuse(r, "a normalizer", type);
}

// Metaspace is a pre-tokenizer and a decoder; older files say add_prefix_space where newer ones say prepend_scheme.
static int read_metaspace(const struct reader *r, const struct json *v, struct steps *out) {
    const char *to, *scheme;
    int prefix = member_flag(v, "add_prefix_space", 1);
    TRY(json_get_string(v, r->t->source, "replacement", META, &to, r->err));
    TRY(json_get_string(v, r->t->source, "prepend_scheme", prefix ? "always" : "never", &scheme, r->err));
    struct step *step = steps_add(out, STEP_METASPACE);
    step->to = xstrdup(to);
    step->split = member_flag(v, "split", 1);
    if (strcmp(scheme, "always") == 0)
        step->scheme = PREPEND_ALWAYS;
    else if (strcmp(scheme, "first") == 0)
        step->scheme = PREPEND_FIRST;
    else if (strcmp(scheme, "never") == 0)
        step->scheme = PREPEND_NEVER;
    else
        return refuse(r, "a prepend_scheme", scheme);
    return 0;
}

static int add_split(const struct reader *r, const char *regex) {
    struct pattern *p = pattern_new(regex, r->t->source, r->err);
    if (!p)
        return -1;
    steps_add_split(&r->t->pretokenizer, regex, p);
    return 0;
}

static int read_split(const struct reader *r, const struct json *v) {
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *behavior;
    TRY(read_text(r, v, "pre-tokenizer Split", "behavior", &behavior));
    int found = -1;
    for (int i = 0; i < 5; i++) {
        if (strcmp(behavior, names[i]) == 0)
            found = i; // in the order of enum split_behavior
    }
    if (found < 0)
        return refuse(r, "a Split behavior", behavior);
    struct step *step = steps_add(&r->t->pretokenizer, STEP_SPLIT);
    step->behavior = (enum split_behavior)found;
    step->invert = member_flag(v, "invert", 0);
    return read_pattern(r, v, "pre-tokenizer Split", step);
}

static int read_pretokenizer(const struct reader *r, const struct json *v) {
    const char *type;
    TRY(read_type(r, v, "a pre-tokenizer", &type));
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(r, v, "pretokenizers", read_pretokenizer);
    if (strcmp(type, "Metaspace") == 0)
        return read_metaspace(r, v, &r->t->pretokenizer);
    if (strcmp(type, "Split") == 0)
        return read_split(r, v);
    if (strcmp(type, "BertPreTokenizer") == 0) {
        steps_add(&r->t->pretokenizer, STEP_BERT_SPLIT);
        return 0;
    }
    if (strcmp(type, "Digits") == 0)
        return add_split(r, member_flag(v, "individual_digits", 0) ? "\\p{N}" : "\\p{N}+");
    if (strcmp(type, "ByteLevel") == 0) {
        if (member_flag(v, "add_prefix_space", 1))
            steps_add(&r->t->pretokenizer, STEP_PREFIX_SPACE);
        if (member_flag(v, "use_regex", 1))
            TRY(add_split(r, gpt2_regex));
        steps_add(&r->t->pretokenizer, STEP_BYTES);
        r->t->byte_level = 1;
        return 0;
    }
    return refuse(r, "a pre-tokenizer", type);
}

static int read_decoder(const struct reader *r, const struct json *v) {
    struct steps *out = &r->t->decoder;
    const char *type, *content;
    int64_t left, right;
    TRY(read_type(r, v, "a decoder", &type));
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(r, v, "decoders", read_decoder);
    if (strcmp(type, "Metaspace") == 0)
        return read_metaspace(r, v, out);
    if (strcmp(type, "Replace") == 0) {
        TRY(read_replace(r, v, "decoder Replace", out));
        return out->item[out->count - 1].pattern ? refuse(r, "a decoder", "Replace with a Regex") : 0;
    }
    if (strcmp(type, "Strip") == 0) {
        TRY(read_text(r, v, "decoder Strip", "content", &content));
        TRY(json_get_int(v, r->t->source, "start", 0, 0, 1 << 20, &left, r->err));
        TRY(json_get_int(v, r->t->source, "stop", 0, 0, 1 << 20, &right, r->err));
        struct step *step = steps_add(out, STEP_STRIP);
        step->from = xstrdup(content);
        step->left = (int)left;
        step->right = (int)right;
        return 0;
    }
    if (strcmp(type, "WordPiece") == 0) {
        TRY(json_get_string(v, r->t->source, "prefix", "##", &content, r->err));
        struct step *step = steps_add(out, STEP_WORDPIECE);
        step->from = xstrdup(content);
        step->clean = member_flag(v, "cleanup", 1);
        return 0;
    }
    if (strcmp(type, "ByteFallback") == 0)
        steps_add(out, STEP_BYTE_FALLBACK);
    else if (strcmp(type, "Fuse") == 0)
        steps_add(out, STEP_FUSE);
    else if (strcmp(type, "ByteLevel") == 0)
        steps_add(out, STEP_BYTES);
    else
        return refuse(r, "a decoder", type);
    return 0;
}

static void push_end(int32_t **ids, int32_t *n, int32_t id) {
    *ids = xrealloc(*ids, (size_t)(*n + 1) * sizeof **ids, "post-processor");
    (*ids)[(*n)++] = id;
}

// The ids of one SpecialToken of a template, as "special_tokens" lists them, into a list.
static int read_template_token(const struct reader *r, const struct json *v, const char *name, int32_t **list, int32_t *n) {
    const struct json *ids = json_get(json_get(json_get(v, "special_tokens"), name), "ids");
    if (!ids || json_kind(ids) != JSON_ARRAY)
        return error_set(r->err, "%s: the post-processor's template names \"%s\", which special_tokens does not list",
                         r->t->source, name);
    for (const struct json *item = json_first(ids); item; item = json_next(item)) {
        double id = json_kind(item) == JSON_NUMBER ? json_number(item) : -1;
        if (id < 0 || id >= r->t->size)
            return error_set(r->err, "%s: the post-processor gives \"%s\" the id %.0f; the vocabulary has %d",
                             r->t->source, name, id, r->t->size);
        push_end(list, n, (int32_t)id);
    }
    return 0;
}

// What a template's pair has between its two texts.
static int read_template_pair(const struct reader *r, const struct json *v) {
    struct tokenizer *t = r->t;
    int texts = 0;
    for (const struct json *item = member_first(v, "pair"); item; item = json_next(item)) {
        const char *name = member_string(json_get(item, "SpecialToken"), "id");
        texts += !name;
        if (name && texts == 1)
            TRY(read_template_token(r, v, name, &t->between, &t->n_between));
    }
    if (texts == 2 && !t->between) // nothing, which is not the same as not said
        t->between = xcalloc(1, sizeof *t->between, "post-processor");
    return 0;
}

// BertProcessing, RobertaProcessing: {"sep": ["[SEP]", 102], "cls": ["[CLS]", 101]}; so many of the first between two texts.
static int read_ends(const struct reader *r, const struct json *v, int between) {
    static const char *const keys[] = {"cls", "sep"};
    for (int i = 0; i < 2; i++) {
        const struct json *name = json_first(json_get(v, keys[i])), *id = name ? json_next(name) : NULL;
        if (!id || json_kind(id) != JSON_NUMBER || json_number(id) < 0 || json_number(id) >= r->t->size)
            return error_set(r->err, "%s: the post-processor's \"%s\" is no pair of a token and its id", r->t->source, keys[i]);
        if (i) {
            push_end(&r->t->suffix, &r->t->n_suffix, (int32_t)json_number(id));
            for (int k = 0; k < between; k++)
                push_end(&r->t->between, &r->t->n_between, (int32_t)json_number(id));
        } else
            push_end(&r->t->prefix, &r->t->n_prefix, (int32_t)json_number(id));
    }
    return 0;
}

static int read_postprocessor(const struct reader *r, const struct json *v) {
    const char *type;
    TRY(read_type(r, v, "a post-processor", &type));
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(r, v, "processors", read_postprocessor);
    if (strcmp(type, "ByteLevel") == 0) // moves offsets only
        return 0;
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0)
        return read_ends(r, v, type[0] == 'R' ? 2 : 1);
    if (strcmp(type, "TemplateProcessing") != 0)
        return refuse(r, "a post-processor", type);
    struct tokenizer *t = r->t;
    int after = 0;
    for (const struct json *item = member_first(v, "single"); item; item = json_next(item)) {
        const char *name = member_string(json_get(item, "SpecialToken"), "id");
        if (name)
            TRY(read_template_token(r, v, name, after ? &t->suffix : &t->prefix, after ? &t->n_suffix : &t->n_prefix));
        else
            after = 1; // {"Sequence": ..}: the text itself
    }
    return read_template_pair(r, v);
}

// --- model

static int read_vocab(const struct reader *r, const struct json *model) {
    const struct json *vocab = json_get(model, "vocab");
    if (!vocab || json_kind(vocab) != JSON_OBJECT || json_count(vocab) == 0)
        return error_set(r->err, "%s: model.vocab is missing or empty; expected an object of token: id",
                         r->t->source);
    for (const struct json *item = json_first(vocab); item; item = json_next(item)) {
        double id = json_kind(item) == JSON_NUMBER ? json_number(item) : -1;
        const char *text = json_key(item);
        if (!(id >= 0 && id < PIECES_MAX) || id != (double)(int64_t)id)
            return error_set(r->err, "%s: model.vocab gives '%s' no usable id; expected 0 to %d", r->t->source, text,
                             PIECES_MAX - 1);
        TRY(tokenizer_put(r->t, (int64_t)id, text, strlen(text), TOKEN_NORMAL, r->err));
    }
    return 0;
}

static int find_piece(const struct reader *r, const char *text, size_t len, int64_t place, int32_t *id) {
    *id = pieces_find(&r->t->pieces, text, len);
    if (*id < 0)
        return error_set(r->err, "%s: merge %lld names '%.*s', which is not in the vocabulary", r->t->source,
                         (long long)place, (int)len, text);
    return 0;
}

// A merge is "left right" or ["left", "right"].
static int read_merge(const struct reader *r, const struct json *v, int64_t place, struct text *joined) {
    const char *left = json_string(v), *right = NULL;
    size_t n_left = 0;
    if (left) {
        const char *space = strchr(left, ' ');
        right = space ? space + 1 : NULL;
        n_left = space ? (size_t)(space - left) : 0;
    } else if (json_kind(v) == JSON_ARRAY && json_count(v) == 2) {
        left = json_string(json_first(v));
        right = json_string(json_next(json_first(v)));
        n_left = left ? strlen(left) : 0;
    }
    if (!left || !right || n_left == 0 || !*right)
        return error_set(r->err, "%s: merge %lld is neither \"left right\" nor [\"left\", \"right\"]", r->t->source,
                         (long long)place);
    struct merge_rule *rule = &r->t->rule[r->t->n_rules];
    TRY(find_piece(r, left, n_left, place, &rule->left));
    TRY(find_piece(r, right, strlen(right), place, &rule->right));
    text_clear(joined);
    text_append(joined, left, n_left);
    text_append(joined, right, strlen(right));
    TRY(find_piece(r, joined->data, joined->len, place, &rule->result));
    r->t->n_rules++;
    return 0;
}

static int read_merges(const struct reader *r, const struct json *model) {
    const struct json *merges = json_get(model, "merges");
    if (!merges || json_kind(merges) != JSON_ARRAY)
        return error_set(r->err, "%s: model.merges is missing; expected an array", r->t->source);
    int64_t place = 0;
    int rc = 0;
    struct text joined = {0};
    r->t->rule = xmalloc((size_t)json_count(merges) * sizeof *r->t->rule + 1, "merges");
    for (const struct json *item = json_first(merges); item && rc == 0; item = json_next(item))
        rc = read_merge(r, item, place++, &joined);
    text_release(&joined);
    return rc;
}

static int read_wordpiece(const struct reader *r, const struct json *model) {
    const char *prefix, *unk;
    TRY(json_get_string(model, r->t->source, "continuing_subword_prefix", "##", &prefix, r->err));
    TRY(json_get_string(model, r->t->source, "unk_token", "[UNK]", &unk, r->err));
    TRY(json_get_int(model, r->t->source, "max_input_chars_per_word", 100, 1, 1 << 20, &r->t->wordpiece.most_characters, r->err));
    TRY(read_vocab(r, model));
    r->t->wordpiece.unk = pieces_find(&r->t->pieces, unk, strlen(unk));
    if (r->t->wordpiece.unk < 0)
        return error_set(r->err, "%s: unk_token '%s' is not in the vocabulary", r->t->source, unk);
    r->t->wordpiece.prefix = xstrdup(prefix);
    r->t->type[r->t->wordpiece.unk] = TOKEN_UNKNOWN;
    return 0;
}

static int read_model(const struct reader *r, const struct json *root) {
    const struct json *model = json_get(root, "model");
    if (!model || json_kind(model) != JSON_OBJECT)
        return error_set(r->err, "%s: no \"model\"; expected Hugging Face's tokenizer.json", r->t->source);
    const char *type, *affix, *unk;
    double dropout;
    // Files of before 2020 leave the type out; merges mean BPE.
    TRY(json_get_string(model, r->t->source, "type", json_get(model, "merges") ? "BPE" : "none", &type, r->err));
    if (strcmp(type, "WordPiece") == 0)
        return read_wordpiece(r, model);
    if (strcmp(type, "BPE") != 0)
        return refuse(r, "a model", type);
    TRY(json_get_double(model, r->t->source, "dropout", 0, 0, 1, &dropout, r->err));
    if (dropout > 0)
        return refuse(r, "a model", "BPE with dropout");
    TRY(json_get_string(model, r->t->source, "continuing_subword_prefix", "", &affix, r->err));
    if (*affix)
        return refuse(r, "a model", "BPE with continuing_subword_prefix");
    TRY(json_get_string(model, r->t->source, "end_of_word_suffix", "", &affix, r->err));
    if (*affix)
        return refuse(r, "a model", "BPE with end_of_word_suffix");
    TRY(read_vocab(r, model));
    TRY(read_merges(r, model));
    TRY(json_get_string(model, r->t->source, "unk_token", NULL, &unk, r->err));
    struct bpe *b = &r->t->bpe;
    b->byte_fallback = member_flag(model, "byte_fallback", 0);
    b->fuse_unk = member_flag(model, "fuse_unk", 0);
    b->ignore_merges = member_flag(model, "ignore_merges", 0);
    if (unk && (b->unk = pieces_find(&r->t->pieces, unk, strlen(unk))) < 0)
        return error_set(r->err, "%s: unk_token '%s' is not in the vocabulary", r->t->source, unk);
    return 0;
}

static int is_byte_name(const char *text, size_t len) {
    return len == 6 && memcmp(text, "<0x", 3) == 0 && strspn(text + 3, "0123456789ABCDEF") == 2 && text[5] == '>';
}

static void set_types(struct tokenizer *t) {
    for (int32_t id = 0; t->bpe.byte_fallback && id < t->size; id++) {
        if (t->pieces.text[id] && is_byte_name(t->pieces.text[id], (size_t)t->pieces.len[id]))
            t->type[id] = TOKEN_BYTE;
    }
    if (t->bpe.unk >= 0)
        t->type[t->bpe.unk] = TOKEN_UNKNOWN;
}

static int read_added_tokens(const struct reader *r, const struct json *root) {
    struct tokenizer *t = r->t;
    for (const struct json *v = member_first(root, "added_tokens"); v; v = json_next(v)) {
        const char *content;
        int64_t id;
        TRY(read_text(r, v, "an added token", "content", &content));
        TRY(json_get_int(v, t->source, "id", -1, 0, PIECES_MAX - 1, &id, r->err));
        struct added_token a = {.id = (int32_t)id};
        a.special = member_flag(v, "special", 0);
        a.normalized = member_flag(v, "normalized", !a.special);
        a.lstrip = member_flag(v, "lstrip", 0);
        a.rstrip = member_flag(v, "rstrip", 0);
        a.single_word = member_flag(v, "single_word", 0);
        enum token_type type = id == t->bpe.unk ? TOKEN_UNKNOWN : a.special ? TOKEN_CONTROL : TOKEN_USER_DEFINED;
        TRY(tokenizer_put(t, id, content, strlen(content), type, r->err));
        tokenizer_add(t, content, &a);
    }
    return 0;
}

int tokenizer_read_json(struct tokenizer *t, const struct json *root, struct error *err) {
    const struct reader r = {t, err};
    const struct json *v;
    TRY(read_model(&r, root));
    set_types(t);
    TRY(read_added_tokens(&r, root));
    if (!is_null(v = json_get(root, "normalizer")))
        TRY(read_normalizer(&r, v));
    if (!is_null(v = json_get(root, "pre_tokenizer")))
        TRY(read_pretokenizer(&r, v));
    if (!is_null(v = json_get(root, "decoder")))
        TRY(read_decoder(&r, v));
    if (!is_null(v = json_get(root, "post_processor")))
        TRY(read_postprocessor(&r, v));
    tokenizer_finish(t, NULL);
    return 0;
}
