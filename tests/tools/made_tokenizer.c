// made_tokenizer.c: see made_tokenizer.h. The JSON is written as text: the vocabulary is too long for json_set's
// lookups.
#include "tests/tools/made_tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/hash.h"
#include "common/text/byte_level.h"
#include "common/text/utf8.h"

#define PIECE_BYTES 14 // longer words are put together from two pieces
#define META "\xE2\x96\x81"

struct pieces_made {       // scratch
    char **text;           // mergeable pieces: the alphabet, then one for each merge
    int64_t *left, *right; // of each merge, indices into text
    int64_t n, first;      // first: how many are the alphabet
    int64_t *slot;         // hash table of indices + 1
    uint64_t mask;
};

static int add_piece(struct pieces_made *p, const char *text, int64_t left, int64_t right) {
    uint64_t at = hash_bytes(text, strlen(text), 0) & p->mask;
    for (; p->slot[at]; at = (at + 1) & p->mask)
        if (strcmp(p->text[p->slot[at] - 1], text) == 0)
            return 0;
    p->text[p->n] = xstrdup(text);
    p->left[p->n] = left;
    p->right[p->n] = right;
    p->slot[at] = ++p->n;
    return 1;
}

// Pairs in the order of the sum of their places: frequent with frequent first. Spaces only begin a piece.
static void make_merges(struct pieces_made *p, const char *space, int64_t merges) {
    static const char letters[] = "etaoinshrdlcumwfgypbvkjxqzTAISHWBMCPDNLRGEFOJYKUVQXZ";
    int64_t capacity = merges + 64;
    p->mask = 1;
    while (p->mask < (uint64_t)capacity * 2)
        p->mask *= 2;
    p->slot = xcalloc(p->mask--, sizeof *p->slot, "made pieces");
    p->text = xcalloc((size_t)capacity, sizeof *p->text, "made pieces");
    p->left = xcalloc((size_t)capacity, sizeof *p->left, "made pieces");
    p->right = xcalloc((size_t)capacity, sizeof *p->right, "made pieces");
    add_piece(p, space, -1, -1);
    for (const char *c = letters; *c; c++)
        add_piece(p, (char[2]){*c, '\0'}, -1, -1);
    p->first = p->n;
    for (int64_t sum = 1; p->n < p->first + merges; sum++)
        for (int64_t i = 0; i <= sum && p->n < p->first + merges; i++) {
            char joined[64];
            if (i >= p->n || sum - i >= p->n || strstr(p->text[sum - i], space))
                continue;
            snprintf(joined, sizeof joined, "%s%s", p->text[i], p->text[sum - i]);
            if (strlen(joined) <= PIECE_BYTES)
                add_piece(p, joined, i, sum - i);
        }
}

static void release_merges(struct pieces_made *p) {
    for (int64_t i = 0; i < p->n; i++)
        free(p->text[i]);
    free(p->text);
    free(p->left);
    free(p->right);
    free(p->slot);
}

static void put_token(FILE *out, int64_t id, const char *text) {
    fprintf(out, "%s\n      \"", id ? "," : "");
    for (; *text; text++)
        fprintf(out, "%s%c", *text == '"' || *text == '\\' ? "\\" : "", *text);
    fprintf(out, "\": %lld", (long long)id);
}

static void put_added_tokens(FILE *out, const char *const names[3]) {
    fprintf(out, "  \"added_tokens\": [");
    for (int i = 0; i < 3; i++)
        fprintf(
            out,
            "%s\n    {\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
            "\"normalized\": false, \"special\": true}",
            i ? "," : "", i, names[i]);
    fprintf(out, "\n  ],\n");
}

static void put_bos_rule(FILE *out, const char *bos, int id) {
    fprintf(out,
            "  \"post_processor\": {\"type\": \"TemplateProcessing\",\n"
            "    \"single\": [{\"SpecialToken\": {\"id\": \"%s\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", "
            "\"type_id\": 0}}],\n"
            "    \"pair\": [{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"B\", "
            "\"type_id\": 1}}],\n"
            "    \"special_tokens\": {\"%s\": {\"id\": \"%s\", \"ids\": [%d], \"tokens\": [\"%s\"]}}},\n",
            bos, bos, bos, id, bos);
}

static void put_merges(FILE *out, const struct pieces_made *p) {
    fprintf(out, "\n    },\n    \"merges\": [");
    for (int64_t i = p->first; i < p->n; i++)
        fprintf(out, "%s\n      \"%s %s\"", i > p->first ? "," : "", p->text[p->left[i]], p->text[p->right[i]]);
    fprintf(out, "\n    ]\n  }\n}\n");
}

static void put_byte_level(FILE *out, enum made_split split, int64_t size) {
    static const char *const names[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    static const char *const splits[] = {
        "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}",
        "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", \"individual_digits\": true}, "
        "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}]}",
        "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": "
        "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "
        "?[^\\\\s\\\\p{L}\\\\p{N}]+"
        "[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}, \"behavior\": \"Isolated\", \"invert\": "
        "false}, "
        "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": false}]}"};
    struct pieces_made p = {0};
    int64_t id = 0;
    make_merges(&p, "\xC4\xA0", size - MADE_BYTE_LEVEL_MIN); // U+0120 is the byte-level space
    put_added_tokens(out, names);
    fprintf(out, "  \"normalizer\": null,\n  \"pre_tokenizer\": %s,\n", splits[split]);
    if (split == SPLIT_LLAMA_BPE)
        put_bos_rule(out, names[0], 0);
    else
        fprintf(out, "  \"post_processor\": null,\n");
    fprintf(
        out,
        "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": "
        "true},\n"
        "  \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, \"continuing_subword_prefix\": "
        "null,\n"
        "    \"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": %s,\n"
        "    \"vocab\": {",
        split == SPLIT_LLAMA_BPE ? "true" : "false");
    for (; id < 3; id++)
        put_token(out, id, names[id]);
    for (int byte = 0; byte < 256; byte++, id++) {
        char symbol[5] = "";
        utf8_put(symbol, byte_level_code((unsigned char)byte));
        put_token(out, id, symbol);
    }
    for (int64_t i = p.first; i < p.n; i++)
        put_token(out, id++, p.text[i]);
    put_merges(out, &p);
    release_merges(&p);
}

static void put_spm_like(FILE *out, int64_t size) {
    static const char *const names[] = {"<unk>", "<s>", "</s>"};
    struct pieces_made p = {0};
    int64_t id = 0;
    make_merges(&p, META, size - MADE_SPM_LIKE_MIN);
    put_added_tokens(out, names);
    fprintf(
        out,
        "  \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": \"" META
        "\"},\n"
        "    {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"" META "\"}]},\n"
        "  \"pre_tokenizer\": null,\n");
    put_bos_rule(out, names[1], 1);
    fprintf(
        out,
        "  \"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": \"Replace\", \"pattern\": {\"String\": "
        "\"" META "\"}, "
        "\"content\": \" \"},\n    {\"type\": \"ByteFallback\"}, {\"type\": \"Fuse\"}, {\"type\": \"Strip\", "
        "\"content\": \" \", "
        "\"start\": 1, \"stop\": 0}]},\n"
        "  \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": \"<unk>\", "
        "\"continuing_subword_prefix\": null,\n"
        "    \"end_of_word_suffix\": null, \"fuse_unk\": true, \"byte_fallback\": true, \"ignore_merges\": false,\n"
        "    \"vocab\": {");
    for (; id < 3; id++)
        put_token(out, id, names[id]);
    for (int byte = 0; byte < 256; byte++, id++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)byte);
        put_token(out, id, name);
    }
    put_token(out, id++, META);
    for (char c = '!'; c <= '~'; c++)
        put_token(out, id++, (char[2]){c, '\0'});
    for (int64_t i = p.first; i < p.n; i++)
        put_token(out, id++, p.text[i]);
    put_merges(out, &p);
    release_merges(&p);
}

static int write_in(const char *folder, const char *name, const char *text, struct error *err) {
    char *path = path_join(folder, name);
    int rc = file_write(path, text, strlen(text), err);
    free(path);
    return rc;
}

int made_tokenizer_write(const char *folder, enum made_kind kind, enum made_split split, int64_t size,
                         struct error *err) {
    int64_t least = kind == MADE_BYTE_LEVEL ? MADE_BYTE_LEVEL_MIN : MADE_SPM_LIKE_MIN;
    if (size < least || size > MADE_SIZE_MAX)
        return error_set(err, "vocab: a made-up tokenizer of %lld tokens is not possible; expected %lld to %d",
                         (long long)size, (long long)least, MADE_SIZE_MAX);
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    if (!out)
        return error_set(err, "tokenizer.json: out of memory");
    fprintf(out, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n");
    if (kind == MADE_BYTE_LEVEL)
        put_byte_level(out, split, size);
    else
        put_spm_like(out, size);
    int rc = fclose(out) == 0 ? write_in(folder, "tokenizer.json", text, err)
                              : error_set(err, "tokenizer.json: out of memory");
    free(text);
    if (rc < 0)
        return -1;
    if (kind == MADE_BYTE_LEVEL)
        return write_in(folder, "tokenizer_config.json",
                        "{\n  \"add_prefix_space\": false,\n  \"bos_token\": \"<|endoftext|>\",\n"
                        "  \"eos_token\": \"<|endoftext|>\",\n  \"unk_token\": \"<|endoftext|>\",\n"
                        "  \"clean_up_tokenization_spaces\": false,\n  \"tokenizer_class\": \"GPT2Tokenizer\"\n}\n",
                        err);
    return write_in(folder, "tokenizer_config.json",
                    "{\n  \"add_bos_token\": true,\n  \"add_eos_token\": false,\n  \"bos_token\": \"<s>\",\n"
                    "  \"eos_token\": \"</s>\",\n  \"unk_token\": \"<unk>\",\n  \"legacy\": false,\n"
                    "  \"clean_up_tokenization_spaces\": false,\n  \"tokenizer_class\": \"LlamaTokenizer\"\n}\n",
                    err);
}
