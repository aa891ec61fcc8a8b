// tokenizer_write.c: a SentencePiece BPE model, or the tokenizer of a GGUF file, as Hugging Face's tokenizer.json.
//
// A byte-level tokenizer and WordPiece go over as they are. For the others, tokenizer.json ranks pairs where SentencePiece scores pieces. The pairs are all the ways to cut a piece into two
// pieces, ordered by the piece's score and, for one piece, by the ids of its halves. Where that would not give the
// same ids (equal scores, characters that are no pieces, unused pieces, a charsmap) writing is refused.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/text/tokenizer_parts.h"

static void put(struct text *out, const char *s) { text_append(out, s, strlen(s)); }

static void put_string(struct text *out, const char *s) {
    put(out, "\"");
    for (; *s; s++) {
        char escape[8];
        if (*s == '"' || *s == '\\')
            snprintf(escape, sizeof escape, "\\%c", *s);
        else if ((unsigned char)*s < 0x20)
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned)*s);
        else
            snprintf(escape, sizeof escape, "%c", *s);
        put(out, escape);
    }
    put(out, "\"");
}

static void put_number(struct text *out, int64_t n) {
    char digits[24];
    snprintf(digits, sizeof digits, "%lld", (long long)n);
    put(out, digits);
}

static int refuse(const struct tokenizer *t, struct error *err, const char *why) {
    return error_set(err, "%s: cannot be written as tokenizer.json: %s; put a tokenizer.json or tokenizer.model there by hand",
                     t->source, why);
}

static int is_merged(const struct tokenizer *t, int32_t id) { return t->type[id] == TOKEN_NORMAL; }

// What is done to spaces, whichever steps say it.
struct spaces {
    int dummy_prefix, squeeze;
};

static struct spaces spaces_of(const struct tokenizer *t) {
    const struct step *s = &t->normalizer.item[0];
    if (s->kind == STEP_SENTENCEPIECE)
        return (struct spaces){s->dummy_prefix, s->squeeze};
    return (struct spaces){.dummy_prefix = s->kind == STEP_PREPEND}; // as gguf_vocab.c makes them
}

int tokenizer_needs_json(const struct tokenizer *t) { return t->origin == ORIGIN_SENTENCEPIECE || t->origin == ORIGIN_GGUF; }

static int check_writable(const struct tokenizer *t, struct error *err) {
    if (t->origin == ORIGIN_JSON)
        return refuse(t, err, "it came from one");
    if (t->byte_level || t->wordpiece.prefix)
        return 0;
    const struct step *s = &t->normalizer.item[0];
    if (s->map)
        return refuse(t, err, "it has a normalizer of its own");
    if (s->kind == STEP_SENTENCEPIECE && !s->escape)
        return refuse(t, err, "it keeps spaces as they are (escape_whitespaces is off)");
    if (t->pieces.count > t->size)
        return refuse(t, err, "a piece holds a character that is no piece itself");
    for (int32_t id = 0; id < t->size; id++) {
        if (t->pieces.text[id] && t->type[id] == TOKEN_UNUSED)
            return refuse(t, err, "it has pieces of type unused");
    }
    return 0;
}

struct cut {
    float score;
    int32_t piece, left, right;
};

static int compare_cuts(const void *a, const void *b) {
    const struct cut *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    if (x->piece != y->piece)
        return x->piece < y->piece ? -1 : 1;
    if (x->left != y->left)
        return x->left < y->left ? -1 : 1;
    return (x->right > y->right) - (x->right < y->right);
}

static void cut_piece(const struct tokenizer *t, int32_t id, struct cut **cut, size_t *n, size_t *capacity) {
    const char *text = t->pieces.text[id];
    size_t len = (size_t)t->pieces.len[id];
    for (size_t at = 1; at < len; at++) {
        if (((unsigned char)text[at] & 0xC0) == 0x80)
            continue;
        int32_t left = pieces_find(&t->pieces, text, at), right = pieces_find(&t->pieces, text + at, len - at);
        if (left < 0 || right < 0 || !is_merged(t, left) || !is_merged(t, right))
            continue;
        if (*n == *capacity) {
            *capacity = *capacity ? *capacity * 2 : 1024;
            *cut = xrealloc(*cut, *capacity * sizeof **cut, "merges");
        }
        (*cut)[(*n)++] = (struct cut){t->score[id], id, left, right};
    }
}

static void put_pair(const struct tokenizer *t, int any, int32_t left, int32_t right, struct text *out) {
    put(out, any ? ",\n      [" : "\n      [");
    put_string(out, t->pieces.text[left]);
    put(out, ", ");
    put_string(out, t->pieces.text[right]);
    put(out, "]");
}

static void put_rules(const struct tokenizer *t, struct text *out) {
    put(out, "    \"merges\": [");
    for (size_t i = 0; i < t->n_rules; i++)
        put_pair(t, i > 0, t->rule[i].left, t->rule[i].right, out);
    put(out, "\n    ]\n");
}

static int put_cuts(const struct tokenizer *t, struct text *out, struct error *err) {
    struct cut *cut = NULL;
    size_t n = 0, capacity = 0;
    int rc = 0;
    for (int32_t id = 0; id < t->size; id++) {
        if (t->pieces.text[id] && is_merged(t, id))
            cut_piece(t, id, &cut, &n, &capacity);
    }
    if (n)
        qsort(cut, n, sizeof *cut, compare_cuts);
    put(out, "    \"merges\": [");
    for (size_t i = 0; i < n && rc == 0; i++) {
        if (i > 0 && cut[i].score == cut[i - 1].score && cut[i].piece != cut[i - 1].piece)
            rc = refuse(t, err, "two pieces have the same score");
        put_pair(t, i > 0, cut[i].left, cut[i].right, out);
    }
    put(out, "\n    ]\n");
    free(cut);
    return rc;
}

static void put_added_tokens(const struct tokenizer *t, struct text *out) {
    int any = 0;
    put(out, "  \"added_tokens\": [");
    for (int32_t id = 0; id < t->size; id++) {
        int type = t->type[id];
        if (!t->pieces.text[id] || (type != TOKEN_UNKNOWN && type != TOKEN_CONTROL && type != TOKEN_USER_DEFINED))
            continue;
        put(out, any++ ? ",\n    {\"id\": " : "\n    {\"id\": ");
        put_number(out, id);
        put(out, ", \"content\": ");
        put_string(out, t->pieces.text[id]);
        put(out,
            ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": ");
        put(out, type == TOKEN_USER_DEFINED ? "false}" : "true}");
    }
    put(out, "\n  ],\n");
}

static void put_byte_level(const struct tokenizer *t, struct text *out) {
    put(out, "  \"normalizer\": null,\n  \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [\n");
    for (int i = 0; i < t->pretokenizer.count && t->pretokenizer.item[i].kind == STEP_SPLIT; i++) {
        put(out, "    {\"type\": \"Split\", \"pattern\": {\"Regex\": ");
        put_string(out, t->pretokenizer.item[i].from);
        put(out, "}, \"behavior\": \"Isolated\", \"invert\": false},\n");
    }
    put(out, "    {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
             "\"use_regex\": false}\n  ]},\n");
}

static void put_spaces(const struct tokenizer *t, struct text *out) {
    const struct spaces s = spaces_of(t);
    put(out, "  \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [\n");
    if (s.squeeze) // \A and \z: Ruby's ^ and $ are ends of lines
        put(out, "    {\"type\": \"Replace\", \"pattern\": {\"Regex\": \"\\\\A +\"}, \"content\": \"\"},\n"
                 "    {\"type\": \"Replace\", \"pattern\": {\"Regex\": \" {2,}\"}, \"content\": \" \"},\n");
    if (s.dummy_prefix)
        put(out, "    {\"type\": \"Prepend\", \"prepend\": \"" META "\"},\n");
    put(out, "    {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"" META "\"}");
    if (s.squeeze) // SentencePiece takes a U+2581 of the text's own for a space here
        put(out, ",\n    {\"type\": \"Replace\", \"pattern\": {\"Regex\": \"" META "+\\\\z\"}, \"content\": \"\"}");
    put(out, "\n  ]},\n  \"pre_tokenizer\": null,\n");
}

static void put_words(struct text *out) { // as wordpiece_set sets them for a GGUF file
    put(out, "  \"normalizer\": {\"type\": \"BertNormalizer\", \"clean_text\": true, \"handle_chinese_chars\": true, "
             "\"strip_accents\": null, \"lowercase\": true},\n  \"pre_tokenizer\": {\"type\": \"BertPreTokenizer\"},\n");
}

static void put_template_token(const struct tokenizer *t, int32_t id, const char *type_id, struct text *out) {
    put(out, "{\"SpecialToken\": {\"id\": ");
    put_string(out, t->pieces.text[id]);
    put(out, ", \"type_id\": ");
    put(out, type_id);
    put(out, "}}");
}

static void put_template(const struct tokenizer *t, int pair, struct text *out) {
    static const char *const name[2] = {"{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}",
                                        "{\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}"};
    static const char *const type_id[2] = {"0", "1"};
    put(out, pair ? "    \"pair\": [" : "    \"single\": [");
    for (int i = 0; i <= pair; i++) {
        put(out, i ? ", " : "");
        if (t->n_prefix && !(i && t->wordpiece.prefix)) { // BERT has one [CLS]
            put_template_token(t, t->prefix[0], type_id[i], out);
            put(out, ", ");
        }
        put(out, name[i]);
        if (t->n_suffix) {
            put(out, ", ");
            put_template_token(t, t->suffix[0], type_id[i], out);
        }
    }
    put(out, "],\n");
}

static void put_postprocessor(const struct tokenizer *t, struct text *out) {
    put(out, "  \"post_processor\": {\n    \"type\": \"TemplateProcessing\",\n");
    put_template(t, 0, out);
    put_template(t, 1, out);
    put(out, "    \"special_tokens\": {");
    const int32_t used[2] = {t->n_prefix ? t->prefix[0] : -1, t->n_suffix ? t->suffix[0] : -1};
    int any = 0;
    for (int i = 0; i < 2; i++) {
        if (used[i] < 0 || (i == 1 && used[1] == used[0]))
            continue;
        put(out, any++ ? ", " : "");
        put_string(out, t->pieces.text[used[i]]);
        put(out, ": {\"id\": ");
        put_string(out, t->pieces.text[used[i]]);
        put(out, ", \"ids\": [");
        put_number(out, used[i]);
        put(out, "], \"tokens\": [");
        put_string(out, t->pieces.text[used[i]]);
        put(out, "]}");
    }
    put(out, "}\n  },\n");
}

static void put_decoder(const struct tokenizer *t, struct text *out) {
    if (t->byte_level) {
        put(out, "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, "
                 "\"use_regex\": true},\n");
        return;
    }
    if (t->wordpiece.prefix) {
        put(out, "  \"decoder\": {\"type\": \"WordPiece\", \"prefix\": \"##\", \"cleanup\": true},\n");
        return;
    }
    const struct spaces s = spaces_of(t);
    put(out, "  \"decoder\": {\"type\": \"Sequence\", \"decoders\": [\n"
             "    {\"type\": \"Replace\", \"pattern\": {\"String\": \"" META "\"}, \"content\": \" \"},\n"
             "    {\"type\": \"ByteFallback\"},\n    {\"type\": \"Fuse\"}");
    if (s.dummy_prefix || s.squeeze)
        put(out, ",\n    {\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}");
    put(out, "\n  ]},\n");
}

static void put_flag(struct text *out, const char *key, int value) {
    put(out, ",\n    \"");
    put(out, key);
    put(out, value ? "\": true" : "\": false");
}

static void put_vocab(const struct tokenizer *t, struct text *out) {
    int any = 0;
    put(out, ",\n    \"vocab\": {");
    for (int32_t id = 0; id < t->size; id++) {
        if (!t->pieces.text[id])
            continue;
        put(out, any++ ? ",\n      " : "\n      ");
        put_string(out, t->pieces.text[id]);
        put(out, ": ");
        put_number(out, id);
    }
    put(out, "\n    }");
}

static void put_wordpiece(const struct tokenizer *t, struct text *out) {
    put(out, "  \"model\": {\n    \"type\": \"WordPiece\",\n    \"unk_token\": ");
    put_string(out, t->pieces.text[t->wordpiece.unk]);
    put(out, ",\n    \"continuing_subword_prefix\": \"##\",\n    \"max_input_chars_per_word\": 100");
    put_vocab(t, out);
    put(out, "\n  }\n}\n");
}

static int put_model(const struct tokenizer *t, struct text *out, struct error *err) {
    put(out, "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": ");
    if (t->bpe.unk >= 0)
        put_string(out, t->pieces.text[t->bpe.unk]);
    else
        put(out, "null");
    put(out, ",\n    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null");
    put_flag(out, "fuse_unk", !t->byte_level);
    put_flag(out, "byte_fallback", t->bpe.byte_fallback);
    put_flag(out, "ignore_merges", t->bpe.ignore_merges);
    put_vocab(t, out);
    put(out, ",\n");
    if (t->byte_level)
        put_rules(t, out);
    else
        TRY(put_cuts(t, out, err));
    put(out, "  }\n}\n");
    return 0;
}

int tokenizer_write_json(const struct tokenizer *t, const char *path, struct error *err) {
    TRY(check_writable(t, err));
    struct text out = {0};
    put(&out, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n");
    put_added_tokens(t, &out);
    if (t->byte_level)
        put_byte_level(t, &out);
    else if (t->wordpiece.prefix)
        put_words(&out);
    else
        put_spaces(t, &out);
    put_postprocessor(t, &out);
    put_decoder(t, &out);
    int rc = 0;
    if (t->wordpiece.prefix)
        put_wordpiece(t, &out);
    else
        rc = put_model(t, &out, err);
    if (rc == 0)
        rc = file_write(path, out.data, out.len, err);
    text_release(&out);
    return rc;
}

int tokenizer_write_config(const struct tokenizer *t, const char *path, struct error *err) {
    struct json *o = json_object();
    const int words = t->wordpiece.prefix != NULL;
    if (!words) {
        json_set_bool(o, "add_bos_token", tokenizer_adds_bos(t));
        json_set_bool(o, "add_eos_token", tokenizer_adds_eos(t));
    }
    json_set_bool(o, "clean_up_tokenization_spaces", words);
    const struct {
        const char *key;
        int32_t id;
    } named[] = {{words ? "cls_token" : "bos_token", t->bos},
                 {words ? "sep_token" : "eos_token", t->eos},
                 {"pad_token", t->pad},
                 {"unk_token", words ? t->wordpiece.unk : t->bpe.unk},
                 {"mask_token", words ? tokenizer_token_to_id(t, "[MASK]") : -1}};
    for (size_t i = 0; i < sizeof named / sizeof *named; i++)
        if (tokenizer_id_to_token(t, named[i].id))
            json_set_string(o, named[i].key, tokenizer_id_to_token(t, named[i].id));
    if (t->chat_template)
        json_set_string(o, "chat_template", t->chat_template);
    // The generic class takes tokenizer.json as it is; the Llama one would put its own pre-tokenizer in.
    json_set_string(o, "tokenizer_class", "PreTrainedTokenizerFast");
    char *text = json_text(o, 1);
    int rc = file_write(path, text, strlen(text), err);
    free(text);
    json_free(o);
    return rc;
}
