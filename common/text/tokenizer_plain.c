// tokenizer_plain.c: tokenizers of folders without tokenizer.json: GPT-2's vocab.json with merges.txt, BERT's vocab.txt, and token ids as
// numbers.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/text/tokenizer_parts.h"

// ---- vocab.json and merges.txt ----

// One merge a line, the first line perhaps "#version: 0.2".
static int read_merges(const char *path, struct json *list, struct error *err) {
    char *text;
    size_t len;
    TRY(file_read(path, &text, &len, err));
    for (char *line = text, *end; *line; line = end) {
        end = line + strcspn(line, "\n");
        if (*end)
            *end++ = 0;
        line[strcspn(line, "\r")] = 0;
        if (*line && strncmp(line, "#version", 8) != 0)
            json_push(list, json_from_string(line));
    }
    free(text);
    return 0;
}

static struct json *byte_level(void) {
    struct json *o = json_object();
    json_set_string(o, "type", "ByteLevel");
    json_set_bool(o, "add_prefix_space", 0);
    return o;
}

// The names of special tokens in special_tokens_map.json, and those that GPT-2 or RoBERTa has without it, as added tokens.
static struct json *special_tokens(const struct json *vocab, const struct json *map, int is_roberta) {
    static const char *const own[2][6] = {{"<|endoftext|>"}, {"<s>", "</s>", "<unk>", "<pad>", "<mask>"}};
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
    struct json *list = json_array();
    const size_t n_key = sizeof keys / sizeof *keys;
    for (size_t i = 0; i < n_key || own[is_roberta][i - n_key]; i++) {
        const struct json *v = i >= n_key ? NULL : json_get(map, keys[i]);
        const char *name = i >= n_key ? own[is_roberta][i - n_key] : v && json_kind(v) == JSON_OBJECT ? member_string(v, "content") : v ? json_string(v) : NULL;
        const struct json *id = name ? json_get(vocab, name) : NULL;
        int known = !id;
        for (const struct json *a = json_first(list); a && !known; a = json_next(a))
            known = strcmp(json_string(json_get(a, "content")), name) == 0;
        if (known)
            continue;
        struct json *token = json_object();
        json_set_number(token, "id", json_number(id));
        json_set_string(token, "content", name);
        json_set_bool(token, "special", 1);
        json_set_bool(token, "lstrip", is_roberta && strcmp(name, "<mask>") == 0); // it stands for a word with its space
        json_push(list, token);
    }
    return list;
}

// RoBERTa's: <s> text </s>, or <s> text </s></s> text </s>.
static int add_roberta_ends(struct json *root, const struct json *vocab, const char *where, struct error *err) {
    static const char *const names[2][2] = {{"cls", "<s>"}, {"sep", "</s>"}};
    struct json *processor = json_object();
    json_set_string(processor, "type", "RobertaProcessing");
    json_set(root, "post_processor", processor);
    for (int i = 0; i < 2; i++) {
        const struct json *id = json_get(vocab, names[i][1]);
        if (!id)
            return error_set(err, "%s: no token %s; expected RoBERTa's vocab.json", where, names[i][1]);
        struct json *pair = json_array();
        json_push(pair, json_from_string(names[i][1]));
        json_push(pair, json_copy(id));
        json_set(processor, names[i][0], pair);
    }
    return 0;
}

int tokenizer_read_vocab_merges(struct tokenizer *t, const char *merges_path, const struct json *special_map, int is_roberta,
                                struct error *err) {
    struct json *root = json_object(), *model = json_object(), *merges = json_array();
    struct json *vocab = json_read(t->source, err);
    int rc = vocab ? read_merges(merges_path, merges, err) : -1;
    json_set_string(model, "type", "BPE");
    if (rc == 0 && is_roberta)
        rc = add_roberta_ends(root, vocab, t->source, err);
    if (rc == 0) {
        json_set(root, "added_tokens", special_tokens(vocab, special_map, is_roberta));
        json_set(model, "vocab", vocab);
    } else {
        json_free(vocab);
    }
    json_set(model, "merges", merges);
    json_set(root, "model", model);
    json_set(root, "pre_tokenizer", byte_level());
    json_set(root, "decoder", byte_level());
    if (rc == 0)
        rc = tokenizer_read_json(t, root, err);
    json_free(root);
    return rc;
}

// ---- vocab.txt ----

static struct json *special(const char *name, double id) {
    struct json *o = json_object();
    json_set_number(o, "id", id);
    json_set_string(o, "content", name);
    json_set_bool(o, "special", 1);
    return o;
}

// One token a line, whose number is its id.
static int read_words(const char *path, struct json *vocab, struct json *added, struct error *err) {
    static const char *const names[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    char *text;
    size_t len;
    double id = 0;
    TRY(file_read(path, &text, &len, err));
    for (char *line = text, *end; *line; line = end, id++) {
        end = line + strcspn(line, "\n");
        if (*end)
            *end++ = 0;
        line[strcspn(line, "\r")] = 0;
        json_append(vocab, line, json_from_number(id));
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            if (strcmp(line, names[i]) == 0)
                json_push(added, special(line, id));
    }
    free(text);
    return 0;
}

static struct json *typed(const char *type) {
    struct json *o = json_object();
    json_set_string(o, "type", type);
    return o;
}

// What BertTokenizer makes of vocab.txt: "[CLS] text [SEP]". do_lower_case is true where tokenizer_config.json says nothing else.
int tokenizer_read_vocab_text(struct tokenizer *t, const struct json *tokenizer_config, struct error *err) {
    struct json *root = json_object(), *model = typed("WordPiece"), *vocab = json_object(), *added = json_array();
    struct json *normalizer = typed("BertNormalizer"), *processor = typed("BertProcessing");
    int rc = read_words(t->source, vocab, added, err);
    const struct json *ends[2] = {NULL, NULL};
    for (const struct json *a = json_first(added); a; a = json_next(a)) {
        ends[0] = strcmp(json_string(json_get(a, "content")), "[SEP]") == 0 ? a : ends[0];
        ends[1] = strcmp(json_string(json_get(a, "content")), "[CLS]") == 0 ? a : ends[1];
    }
    for (int i = 0; i < 2 && rc == 0; i++) {
        if (!ends[i]) {
            rc = error_set(err, "%s: no line %s; expected BERT's vocab.txt, one token a line", t->source, i ? "[CLS]" : "[SEP]");
            break;
        }
        struct json *pair = json_array();
        json_push(pair, json_copy(json_get(ends[i], "content")));
        json_push(pair, json_copy(json_get(ends[i], "id")));
        json_set(processor, i ? "cls" : "sep", pair);
    }
    json_set_string(model, "unk_token", "[UNK]");
    json_set(model, "vocab", vocab);
    json_set_bool(normalizer, "lowercase", member_flag(tokenizer_config, "do_lower_case", 1));
    json_set_bool(normalizer, "handle_chinese_chars", member_flag(tokenizer_config, "tokenize_chinese_chars", 1));
    const struct json *accents = json_get(tokenizer_config, "strip_accents");
    if (accents && json_kind(accents) != JSON_NULL)
        json_set_bool(normalizer, "strip_accents", json_bool(accents));
    json_set(root, "model", model);
    json_set(root, "added_tokens", added);
    json_set(root, "normalizer", normalizer);
    json_set(root, "pre_tokenizer", typed("BertPreTokenizer"));
    json_set(root, "post_processor", processor);
    json_set(root, "decoder", typed("WordPiece"));
    if (rc == 0)
        rc = tokenizer_read_json(t, root, err);
    json_free(root);
    return rc;
}

// ---- numbers ----

int tokenizer_make_numbers(struct tokenizer *t, int64_t vocab, struct error *err) {
    char name[32];
    for (int64_t id = 0; id < vocab; id++) {
        snprintf(name, sizeof name, META "%ld", (long)id);
        TRY(tokenizer_put(t, id, name, strlen(name), TOKEN_NORMAL, err));
    }
    struct step *s = steps_add(&t->pretokenizer, STEP_SPLIT);
    s->from = xstrdup("\\s+");
    s->behavior = SPLIT_REMOVED;
    if (!(s->pattern = pattern_new(s->from, t->source, err)))
        return -1;
    s = steps_add(&t->pretokenizer, STEP_METASPACE);
    s->to = xstrdup(META);
    s->scheme = PREPEND_ALWAYS;
    s = steps_add(&t->decoder, STEP_METASPACE);
    s->to = xstrdup(META);
    s->scheme = PREPEND_ALWAYS;
    t->bpe.ignore_merges = 1; // a word is a token, or it is nothing
    tokenizer_finish(t, NULL);
    return 0;
}

struct tokenizer *tokenizer_numbers(const char *source, int64_t vocab, struct error *err) {
    struct tokenizer *t = tokenizer_new(ORIGIN_NUMBERS, source);
    if (tokenizer_make_numbers(t, vocab, err) == 0)
        return t;
    tokenizer_free(t);
    return NULL;
}

int tokenizer_is_numbers(const struct tokenizer *t) { return t->origin == ORIGIN_NUMBERS; }

int tokenizer_check_text(const struct tokenizer *t, const char *text, size_t len, const char *where, struct error *err) {
    static const char space[] = " \t\r\n\v\f";
    if (!tokenizer_is_numbers(t))
        return 0;
    for (size_t i = 0; i < len;) {
        size_t n = 0;
        while (i + n < len && !strchr(space, text[i + n]))
            n++;
        char word[32];
        snprintf(word, sizeof word, META "%.*s", (int)(n < 20 ? n : 20), text + i);
        if (n && (n > 20 || pieces_find(&t->pieces, word, strlen(word)) < 0))
            return error_set(err, "%s: found \"%.*s\"; %s has no tokenizer, so texts are token ids from 0 to %d, with spaces between", where,
                             (int)(n < 20 ? n : 20), text + i, t->source, t->size - 1);
        i += n + 1;
    }
    return 0;
}
