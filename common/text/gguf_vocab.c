// gguf_vocab.c: a tokenizer from GGUF's arrays, and the arrays for a GGUF file.
//
// llama.cpp (February 2025) knows three that matter here. "llama" merges any two neighbours whose text is a token, best
// score first, after turning spaces into U+2581; it applies no other normalizer and no pre-tokenizer. "gpt2" merges
// by a list of ranked pairs after the pre-tokenizer that a name stands for. "bert" takes the longest pieces of words, as WordPiece does, after
// its own cleaning, which always lowers case and strips accents. What none of them can do is refused.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/text/tokenizer_parts.h"

void vocab_release(struct vocab *v) {
    for (int64_t i = 0; v->token && i < v->size; i++)
        free(v->token[i]);
    for (int64_t i = 0; v->merge && i < v->n_merges; i++)
        free(v->merge[i]);
    free(v->token);
    free(v->merge);
    free(v->score);
    free(v->type);
    free(v->model);
    free(v->pre);
    free(v->chat_template);
    memset(v, 0, sizeof *v);
}

// --- from a GGUF file

static int take_tokens(struct tokenizer *t, const struct vocab *v, struct error *err) {
    if (v->size <= 0 || v->size > PIECES_MAX)
        return error_set(err, "%s: %lld tokens; expected 1 to %d", t->source, (long long)v->size, PIECES_MAX);
    for (int64_t i = 0; i < v->size; i++) {
        int32_t type = v->type ? v->type[i] : TOKEN_NORMAL;
        size_t len = strlen(v->token[i]);
        if (!utf8_valid(v->token[i], len))
            return error_set(err, "%s: tokenizer.ggml.tokens[%lld] is not UTF-8", t->source, (long long)i);
        if (type < TOKEN_NORMAL || type > TOKEN_BYTE)
            type = TOKEN_NORMAL; // llama.cpp's 0, undefined
        TRY(tokenizer_put(t, i, v->token[i], len, (enum token_type)type, err));
        if (type == TOKEN_UNKNOWN || type == TOKEN_CONTROL || type == TOKEN_USER_DEFINED) {
            struct added_token a = {.id = (int32_t)i, .special = type != TOKEN_USER_DEFINED};
            tokenizer_add(t, v->token[i], &a);
        }
    }
    const int32_t end[] = {v->bos, v->eos, v->unk, v->pad};
    static const char *const name[] = {"bos", "eos", "unknown", "padding"};
    for (int i = 0; i < 4; i++) {
        if (end[i] < -1 || end[i] >= v->size)
            return error_set(err, "%s: tokenizer.ggml.%s_token_id is %d; the vocabulary has %lld", t->source, name[i],
                             end[i], (long long)v->size);
    }
    t->bos = v->bos;
    t->eos = v->eos;
    t->bpe.unk = v->unk;
    t->pad = v->pad;
    t->chat_template = v->chat_template ? xstrdup(v->chat_template) : NULL;
    return 0;
}

static int take_merge(struct tokenizer *t, const char *merge, int64_t place, struct error *err) {
    const char *space = *merge ? strchr(merge + 1, ' ') : NULL;
    struct merge_rule *rule = &t->rule[t->n_rules];
    if (!space)
        return error_set(err, "%s: tokenizer.ggml.merges[%lld] is '%s'; expected two tokens", t->source,
                         (long long)place, merge);
    struct text joined = {0};
    text_append(&joined, merge, (size_t)(space - merge));
    rule->left = pieces_find(&t->pieces, joined.data, joined.len);
    rule->right = pieces_find(&t->pieces, space + 1, strlen(space + 1));
    text_append(&joined, space + 1, strlen(space + 1));
    rule->result = pieces_find(&t->pieces, joined.data, joined.len);
    text_release(&joined);
    if (rule->left < 0 || rule->right < 0 || rule->result < 0)
        return error_set(err, "%s: tokenizer.ggml.merges[%lld], '%s', names what is no token", t->source,
                         (long long)place, merge);
    t->n_rules++;
    return 0;
}

static int fill_gpt2(struct tokenizer *t, const struct vocab *v, struct error *err) {
    const struct pre_rule *pre = pre_rule_by_name(v->pre ? v->pre : "default");
    if (!pre)
        return error_set(err, "%s: the pre-tokenizer \"%s\" is not supported", t->source, v->pre);
    TRY(pre_rule_steps(pre, &t->pretokenizer, err));
    t->byte_level = 1;
    t->bpe.ignore_merges = pre->ignore_merges;
    t->rule = xmalloc((size_t)v->n_merges * sizeof *t->rule + 1, "merges");
    for (int64_t i = 0; i < v->n_merges; i++)
        TRY(take_merge(t, v->merge[i], i, err));
    steps_add(&t->decoder, STEP_BYTES);
    tokenizer_set_ends(t, v->add_bos < 0 ? pre->add_bos : v->add_bos, v->add_eos > 0);
    tokenizer_finish(t, NULL);
    return 0;
}

static int fill_llama(struct tokenizer *t, const struct vocab *v, struct error *err) {
    if (!v->score)
        return error_set(err, "%s: no tokenizer.ggml.scores; a \"llama\" tokenizer merges by them", t->source);
    int prefix = v->add_space_prefix != 0;
    if (prefix)
        steps_add(&t->normalizer, STEP_PREPEND)->to = xstrdup(META);
    struct step *s = steps_add(&t->normalizer, STEP_REPLACE);
    s->from = xstrdup(" ");
    s->to = xstrdup(META);
    t->score = xmalloc((size_t)t->size * sizeof *t->score, "vocabulary");
    for (int32_t i = 0; i < t->size; i++) {
        t->score[i] = v->score[i];
        if (!isfinite(v->score[i]))
            return error_set(err, "%s: tokenizer.ggml.scores[%d] is not a number", t->source, i);
    }
    t->bpe.byte_fallback = 1;
    t->bpe.fuse_unk = 1; // only without byte tokens, where llama.cpp stops
    tokenizer_sentencepiece_decoder(t, prefix);
    tokenizer_set_ends(t, v->add_bos != 0, v->add_eos > 0);
    uint8_t *all = xmalloc((size_t)t->size, "merges"); // llama.cpp merges to tokens of every type
    memset(all, 1, (size_t)t->size);
    tokenizer_finish(t, all);
    free(all);
    return 0;
}

static int is_bracketed(const char *text) { return text[0] == '[' && text[strlen(text) - 1] == ']'; }

// "bert" marks the pieces that begin a word, a checkpoint those that go on with one.
static void unmark_words(const struct vocab *v, struct vocab *to) {
    *to = *v;
    to->token = xcalloc((size_t)v->size + 1, sizeof *to->token, "vocabulary");
    for (int64_t i = 0; i < v->size; i++) {
        const char *text = v->token[i];
        const int begins = strncmp(text, META, strlen(META)) == 0, is_plain = is_bracketed(text) || (v->type && v->type[i] != TOKEN_NORMAL);
        to->token[i] = begins ? xstrdup(text + strlen(META)) : xasprintf("%s%s", is_plain ? "" : "##", text);
    }
}

static int fill_bert(struct tokenizer *t, const struct vocab *v, struct error *err) {
    if (v->unk < 0)
        return error_set(err, "%s: no tokenizer.ggml.unknown_token_id; a \"bert\" tokenizer needs it", t->source);
    if (t->bos < 0) // llama.cpp takes bos_token_id, others cls_token_id
        t->bos = v->cls;
    if (v->sep >= 0)
        t->eos = v->sep;
    t->bpe.unk = -1; // it has no part in merging
    t->type[v->unk] = TOKEN_UNKNOWN;
    wordpiece_set(t, v->unk, 1);
    tokenizer_set_ends(t, 1, 1);
    tokenizer_finish(t, NULL);
    return 0;
}

static struct tokenizer *from_words(const struct vocab *v, struct error *err) {
    struct tokenizer *t = tokenizer_new(ORIGIN_GGUF, "GGUF metadata");
    struct vocab words;
    unmark_words(v, &words);
    int rc = take_tokens(t, &words, err);
    for (int64_t i = 0; i < v->size; i++)
        free(words.token[i]);
    free(words.token);
    if (rc == 0)
        rc = fill_bert(t, v, err);
    if (rc == 0)
        return t;
    tokenizer_free(t);
    return NULL;
}

struct tokenizer *tokenizer_from_vocab(const struct vocab *v, struct error *err) {
    const char *model = v->model ? v->model : "none";
    if (strcmp(model, "bert") == 0)
        return from_words(v, err);
    struct tokenizer *t = tokenizer_new(ORIGIN_GGUF, "GGUF metadata");
    int rc = take_tokens(t, v, err);
    if (rc == 0 && strcmp(model, "gpt2") == 0)
        rc = fill_gpt2(t, v, err);
    else if (rc == 0 && strcmp(model, "llama") == 0)
        rc = fill_llama(t, v, err);
    else if (rc == 0)
        rc = error_set(err, "%s: tokenizer.ggml.model is \"%s\"; expected \"llama\", \"gpt2\" or \"bert\"", t->source, model);
    if (rc < 0) {
        tokenizer_free(t);
        return NULL;
    }
    return t;
}

// --- for a GGUF file

static int refuse(const struct tokenizer *t, struct error *err, const char *why) {
    return error_set(err, "%s: this tokenizer cannot go into GGUF: %s; llama.cpp would split text otherwise",
                     t->source, why);
}

// "llama": which steps become add_space_prefix, and whether words are cut at U+2581. -1 with the reason.
static int check_llama_steps(const struct tokenizer *t, int *prefix, int *split, struct error *err) {
    int escaped = 0;
    *prefix = *split = 0;
    for (int i = 0; i < t->normalizer.count; i++) {
        const struct step *s = &t->normalizer.item[i];
        if (s->kind == STEP_SENTENCEPIECE) {
            if (s->map)
                return refuse(t, err,
                              "its model has a normalizer of its own, and llama.cpp applies none "
                              "(train it with --normalization_rule_name=identity)");
            if (s->squeeze)
                return refuse(t, err,
                              "it makes one space of several (train it with --remove_extra_whitespaces=false)");
            escaped = s->escape;
            *prefix = s->dummy_prefix;
        } else if (s->kind == STEP_PREPEND && (strcmp(s->to, META) == 0 || strcmp(s->to, " ") == 0)) {
            *prefix = 1;
        } else if (s->kind == STEP_REPLACE && !s->pattern && strcmp(s->from, " ") == 0 && strcmp(s->to, META) == 0) {
            escaped = 1;
        } else {
            return refuse(t, err, "it has a normalizer, and llama.cpp only turns spaces into U+2581");
        }
    }
    for (int i = 0; i < t->pretokenizer.count; i++) {
        const struct step *s = &t->pretokenizer.item[i];
        if (s->kind != STEP_METASPACE || strcmp(s->to, META) != 0)
            return refuse(t, err, "it has a pre-tokenizer that is neither Metaspace nor byte-level");
        escaped = 1;
        *split = s->split;
        *prefix |= s->scheme != PREPEND_NEVER;
    }
    return escaped ? 0 : refuse(t, err, "it does not turn spaces into U+2581");
}

// Scores from ranks: minus the place, in the order of the merges, of the piece that they make.
static int rank_scores(const struct tokenizer *t, int split, float *score, struct error *err) {
    char why[256];
    int32_t groups = 0;
    for (int32_t i = 0; i < t->size; i++)
        score[i] = 1; // not made by any merge so far
    for (size_t k = 0; k < t->n_rules; k++) {
        int32_t id = t->rule[k].result;
        const char *text = t->pieces.text[id];
        if (k > 0 && t->rule[k - 1].result == id)
            continue;
        if (score[id] <= 0) {
            snprintf(why, sizeof why,
                     "the merges that make '%.60s' are apart, and one score per piece cannot say that", text);
            return refuse(t, err, why);
        }
        if (split && strstr(text + 1, META)) {
            snprintf(why, sizeof why, "'%.60s' joins what its pre-tokenizer cuts", text);
            return refuse(t, err, why);
        }
        score[id] = -(float)groups++;
    }
    for (int32_t i = 0; i < t->size; i++) {
        if (score[i] > 0)
            score[i] = -(float)groups;
    }
    return 0;
}

static void put_tokens(const struct tokenizer *t, int64_t rows, struct vocab *out) {
    out->size = rows;
    out->token = xcalloc((size_t)rows, sizeof *out->token, "vocabulary");
    out->type = xcalloc((size_t)rows, sizeof *out->type, "vocabulary");
    for (int64_t i = 0; i < rows; i++) {
        const char *text = i < t->size ? t->pieces.text[i] : NULL;
        out->type[i] = text ? t->type[i] : TOKEN_UNUSED;
        if (!text) {
            out->token[i] = xasprintf("[PAD%lld]", (long long)i);
        } else if (out->type[i] == TOKEN_USER_DEFINED && !t->byte_level) {
            // llama.cpp looks for these in the text as it came, with its spaces.
            struct text plain = {0};
            for (const char *p = text; *p;) {
                int meta = strncmp(p, META, strlen(META)) == 0;
                text_append(&plain, meta ? " " : p, 1);
                p += meta ? strlen(META) : 1;
            }
            text_append(&plain, "", 1);
            out->token[i] = plain.data;
        } else {
            out->token[i] = xstrdup(text);
        }
    }
}

static int put_llama(const struct tokenizer *t, struct vocab *out, struct error *err) {
    int prefix, split;
    TRY(check_llama_steps(t, &prefix, &split, err));
    if (t->bpe.ignore_merges)
        return refuse(t, err, "it has ignore_merges without a byte-level alphabet");
    out->model = xstrdup("llama");
    out->add_space_prefix = prefix;
    out->score = xcalloc((size_t)out->size, sizeof *out->score, "vocabulary");
    if (t->score)
        memcpy(out->score, t->score, (size_t)t->size * sizeof *out->score);
    else
        TRY(rank_scores(t, split, out->score, err));
    for (int64_t i = 0; i < out->size; i++) {
        if (out->type[i] == TOKEN_UNUSED)
            out->score[i] = -10000;
    }
    for (int byte = 0; byte < 256; byte++) {
        if (t->bpe.byte_id[byte] < 0) {
            log_warn("%s: the vocabulary lacks byte tokens: llama.cpp stops at a character that it does not have",
                     t->source);
            break;
        }
    }
    return 0;
}

static int put_gpt2(const struct tokenizer *t, struct vocab *out, struct error *err) {
    for (int i = 0; i < t->normalizer.count; i++) {
        if (t->normalizer.item[i].kind != STEP_NFC) // nearly all text is in this form already
            return refuse(t, err, "it has a normalizer other than NFC, and llama.cpp applies none");
    }
    const struct pre_rule *pre = pre_rule_by_steps(&t->pretokenizer, t->bpe.ignore_merges);
    if (!pre) {
        const struct step *s = t->pretokenizer.count ? &t->pretokenizer.item[0] : NULL;
        return error_set(err,
                         "%s: this tokenizer cannot go into GGUF: llama.cpp has no name for its pre-tokenizer (it "
                         "begins with '%.200s'%s)",
                         t->source, s && s->from ? s->from : "no regular expression",
                         t->bpe.ignore_merges ? ", with ignore_merges" : "");
    }
    out->model = xstrdup("gpt2");
    out->pre = xstrdup(pre->name);
    out->n_merges = (int64_t)t->n_rules;
    out->merge = xcalloc(t->n_rules + 1, sizeof *out->merge, "merges");
    for (size_t k = 0; k < t->n_rules; k++)
        out->merge[k] = xasprintf("%s %s", t->pieces.text[t->rule[k].left], t->pieces.text[t->rule[k].right]);
    return 0;
}

static int put_bert(const struct tokenizer *t, struct vocab *out, struct error *err) {
    const struct step *s = t->normalizer.count == 1 ? &t->normalizer.item[0] : NULL;
    if (!s || s->kind != STEP_BERT || !s->clean || !s->cjk || !s->lower || !s->accents || t->pretokenizer.count != 1 ||
        t->pretokenizer.item[0].kind != STEP_BERT_SPLIT || strcmp(t->wordpiece.prefix, "##") != 0)
        return refuse(t, err, "it does not clean words as uncased BERT does (lower case, no accents), and llama.cpp's WordPiece always does");
    if (t->bos < 0 || t->eos < 0 || !out->add_bos || !out->add_eos)
        return refuse(t, err, "it does not put [CLS] and [SEP] around a text");
    out->model = xstrdup("bert");
    out->cls = t->bos;
    out->sep = t->eos;
    out->mask = tokenizer_token_to_id(t, "[MASK]");
    out->unk = t->wordpiece.unk;
    for (int64_t i = 0; i < out->size; i++) {
        char *text = out->token[i];
        if (out->type[i] != TOKEN_NORMAL || is_bracketed(text))
            continue;
        out->token[i] = strncmp(text, "##", 2) == 0 ? xstrdup(text + 2) : xasprintf(META "%s", text);
        free(text);
    }
    return 0;
}

// llama.cpp can put BOS in front and EOS behind, and nothing else.
static int put_ends(const struct tokenizer *t, struct vocab *out, struct error *err) {
    out->bos = t->bos;
    out->eos = t->eos;
    out->unk = t->bpe.unk;
    out->pad = t->pad;
    out->chat_template = t->chat_template ? xstrdup(t->chat_template) : NULL;
    out->add_bos = tokenizer_adds_bos(t);
    out->add_eos = tokenizer_adds_eos(t);
    if (t->n_prefix != out->add_bos || t->n_suffix != out->add_eos)
        return refuse(t, err, "its post-processor adds other tokens than BOS in front and EOS behind");
    return 0;
}

int tokenizer_to_vocab(const struct tokenizer *t, int64_t rows, struct vocab *out, struct error *err) {
    memset(out, 0, sizeof *out);
    out->cls = out->sep = out->mask = -1;
    if (rows == 0)
        rows = t->size;
    if (rows < t->size)
        return error_set(err,
                         "%s: the tokenizer has %d ids and the model's embedding %lld rows; they belong to "
                         "different models",
                         t->source, t->size, (long long)rows);
    put_tokens(t, rows, out);
    int rc = put_ends(t, out, err);
    if (rc == 0)
        rc = t->wordpiece.prefix ? put_bert(t, out, err) : t->byte_level ? put_gpt2(t, out, err) : put_llama(t, out, err);
    if (rc < 0)
        vocab_release(out);
    return rc;
}
