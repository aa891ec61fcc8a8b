// cmd_tokenize.c: `pdq tokenize MODEL --text T`: the ids that a model sees. MODEL may be a folder with a tokenizer
// alone.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/text/tokenizer.h"
#include "quant/gguf_model.h"
#include "recipes/command.h"
#include "recipes/open_model.h"

struct tokenize_options {
    char *text, *file;
    int special, json;
};
#define ROW(name, kind, field) name, kind, offsetof(struct tokenize_options, field)
static const struct option table[] = {
    {ROW("text", OPTION_STRING, text), NULL, 0, 0, NULL, "T", "text to tokenize"},
    {ROW("file", OPTION_STRING, file), NULL, 0, 0, NULL, "F", "file to tokenize, as one text"},
    {ROW("special", OPTION_BOOL, special), "true", 0, 0, NULL, NULL,
     "leave out the BOS and EOS that the tokenizer adds"},
    {ROW("json", OPTION_BOOL, json), "false", 0, 0, NULL, NULL, "print one JSON object: ids, count, invalid_bytes"},
    {.name = NULL}};
#undef ROW

static struct tokenizer *open_tokenizer(const char *path, struct error *err) {
    struct tokenizer *t = NULL;
    if (!path_is_gguf(path) || file_is_directory(path))
        return tokenizer_open(path, err);
    struct model *m = gguf_model_open(path, &t, err);
    if (m && !t)
        error_set(err, "%s: this file has no tokenizer", path);
    model_free(m);
    return t;
}

static void print_ids(const struct token_list *ids, int64_t invalid, int as_json) {
    if (as_json)
        fputs("{\"ids\":[", stdout);
    for (size_t i = 0; i < ids->count; i++)
        printf("%s%d", i ? "," : "", (int)ids->id[i]);
    if (as_json)
        printf("],\"count\":%zu,\"invalid_bytes\":%ld}", ids->count, (long)invalid);
    putchar('\n');
    if (invalid)
        log_warn("%ld bytes of the text are not UTF-8; they were taken as bytes", (long)invalid);
}

static int run(struct call *call, struct error *err) {
    const struct tokenize_options *o = call->options;
    if (!o->text == !o->file) {
        error_set(err, "give one of --text T and --file F");
        return EXIT_USAGE;
    }
    struct tokenizer *t = open_tokenizer(call->words[0], err);
    if (!t)
        return EXIT_FAILED;
    char *text = o->text ? xstrdup(o->text) : NULL;
    size_t len = text ? strlen(text) : 0;
    int64_t invalid = 0;
    struct token_list ids = {0};
    int status = text ? 0 : file_read(o->file, &text, &len, err);
    if (status == 0) {
        tokenizer_encode(t, text, len, o->special ? TOKENIZE_SPECIAL : 0, &ids, &invalid);
        print_ids(&ids, invalid, o->json);
    }
    token_list_free(&ids);
    free(text);
    tokenizer_free(t);
    return status < 0 ? EXIT_FAILED : EXIT_FINE;
}

const struct command cmd_tokenize = {.name = "tokenize",
                                     .arguments = "MODEL --text T|--file F [--json]",
                                     .summary = "print the token ids of a text",
                                     .table = table,
                                     .size = sizeof(struct tokenize_options),
                                     .shared_table = common_option_table,
                                     .shared_size = sizeof(struct common_options),
                                     .min_words = 1,
                                     .max_words = 1,
                                     .run = run};
