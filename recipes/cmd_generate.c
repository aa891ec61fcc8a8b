// cmd_generate.c: `pdq generate MODEL --prompt TEXT`: what a model writes. Only what it adds is printed.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/threads.h"
#include "common/eval/generate.h"
#include "common/text/utf8.h"
#include "recipes/command.h"
#include "recipes/open_model.h"

struct generate_command_options {
    char *prompt, *ids;
    int64_t tokens, seed;
    double temperature, top_p;
    int64_t top_k;
    int json;
};
#define ROW(name, kind, field) name, kind, offsetof(struct generate_command_options, field)
static const struct option table[] = {
    {ROW("prompt", OPTION_STRING, prompt), NULL, 0, 0, NULL, "TEXT", "text to continue"},
    {ROW("ids", OPTION_STRING, ids), NULL, 0, 0, NULL, "I,I,...", "token ids to continue; ids are printed too"},
    {ROW("tokens", OPTION_INT, tokens), "128", 1, 1e9, NULL, "N", "how many new tokens at most"},
    {ROW("temperature", OPTION_DOUBLE, temperature), "0", 0, 100, NULL, "T", "0: always the most likely token"},
    {ROW("top_k", OPTION_INT, top_k), "0", 0, 1e9, NULL, "K", "draw from the K most likely tokens; 0: from all"},
    {ROW("top_p", OPTION_DOUBLE, top_p), "1", 1e-6, 1, NULL, "P", "draw from the most likely tokens that together reach this probability"},
    {ROW("seed", OPTION_INT, seed), "1", 0, 1e15, NULL, "N", "decides what is drawn when the temperature is above 0"},
    {ROW("json", OPTION_BOOL, json), "false", 0, 0, NULL, NULL, "print one JSON object: prompt, ids, text"},
    {.name = NULL}};
#undef ROW

struct writing { // lifetime: one generation
    const struct opened *opened;
    struct token_list ids;
    int as_ids, silent;
};

static int emit(void *context, int32_t id) {
    struct writing *w = context;
    if (w->ids.count == w->ids.capacity) {
        w->ids.capacity = w->ids.capacity ? 2 * w->ids.capacity : 64;
        w->ids.id = xrealloc(w->ids.id, w->ids.capacity * sizeof *w->ids.id, "new tokens");
    }
    w->ids.id[w->ids.count++] = id;
    if (w->silent)
        return interrupted();
    if (w->as_ids) {
        printf("%s%d", w->ids.count > 1 ? "," : "", (int)id);
    } else {
        size_t len;
        char *text = tokenizer_decode_next(w->opened->tokenizer, id, &len);
        fwrite(text, 1, len, stdout);
        free(text);
    }
    fflush(stdout);
    return interrupted();
}

static int read_ids(const char *text, int64_t vocab, struct token_list *out, struct error *err) {
    out->id = xmalloc((strlen(text) + 1) * sizeof *out->id, "ids");
    for (const char *p = text; *p;) {
        char *end;
        errno = 0;
        long id = strtol(p, &end, 10);
        if (end == p || (*end && *end != ','))
            return error_set(err, "--ids %s: expected whole numbers separated by commas", text);
        if (errno || id < 0 || id >= vocab)
            return error_set(err, "--ids: found %.*s, the vocabulary has ids 0 to %ld", (int)(end - p), p,
                             (long)vocab - 1);
        out->id[out->count++] = (int32_t)id;
        p = *end ? end + 1 : end;
    }
    return out->count ? 0 : error_set(err, "--ids is empty; expected whole numbers separated by commas");
}

static struct json *ids_json(const struct token_list *list) {
    struct json *o = json_array();
    for (size_t i = 0; i < list->count; i++)
        json_push(o, json_from_number(list->id[i]));
    return o;
}

static void print_json(const struct writing *w, const struct token_list *prompt) {
    struct json *o = json_object();
    size_t len;
    char *decoded = tokenizer_decode(w->opened->tokenizer, w->ids.id, w->ids.count, &len);
    json_set(o, "prompt", ids_json(prompt));
    json_set(o, "ids", ids_json(&w->ids));
    struct text valid = {0}; // byte tokens can end in any bytes
    text_append_valid(&valid, decoded, len);
    json_set_string(o, "text", valid.data);
    text_release(&valid);
    char *text = json_text(o, 0);
    puts(text);
    free(text);
    free(decoded);
    json_free(o);
}

static int write_text(const struct generate_command_options *o, const struct opened *m, struct error *err) {
    const struct config *c = &m->model->config;
    struct token_list prompt = {0};
    struct writing w = {.opened = m, .as_ids = o->ids != NULL, .silent = o->json};
    struct generate_options options = {
        .tokens = o->tokens, .draw = {o->temperature, o->top_k, o->top_p}, .seed = (uint64_t)o->seed, .stop_at_eos = o->ids == NULL};
    int status = 0;
    if (o->ids)
        status = read_ids(o->ids, c->vocab, &prompt, err);
    else if ((status = tokenizer_check_text(m->tokenizer, o->prompt, strlen(o->prompt), "--prompt", err)) == 0)
        tokenizer_encode(m->tokenizer, o->prompt, strlen(o->prompt), TOKENIZE_SPECIAL, &prompt, NULL);
    if (status == 0 && !o->ids && tokenizer_adds_eos(m->tokenizer) && prompt.count > 1)
        prompt.count--; // the text goes on: it has no end yet
    if (status == 0 && prompt.count == 0)
        status = error_set(
            err, "--prompt: it has no tokens, and this model has no BOS token to begin with; give some text");
    if (status == 0 && c->context > 0 && (int64_t)prompt.count > c->context)
        status = error_set(err, "the prompt has %zu tokens, the model's context %ld; give a shorter one",
                           prompt.count, (long)c->context);
    if (status == 0) {
        const int64_t room = c->context - (int64_t)prompt.count + 1; // the last token is not read again
        if (c->context > 0 && options.tokens > room)
            options.tokens = room;
        if (generate(m->model, prompt.id, (int64_t)prompt.count, &options, emit, &w) < 0)
            status = error_set(err, "%s: the model's logits are no numbers: it is broken (NaN, infinite or huge weights); fetch it again", m->path);
        else if (o->json)
            print_json(&w, &prompt);
        else
            putchar('\n');
    }
    token_list_free(&prompt);
    token_list_free(&w.ids);
    return status;
}

static int run(struct call *call, struct error *err) {
    const struct generate_command_options *o = call->options;
    struct opened m = {0};
    if (!o->prompt == !o->ids) {
        error_set(err, "give one of --prompt TEXT and --ids I,I,...");
        return EXIT_USAGE;
    }
    header_print(PRECISION_F32);
    interrupt_catch();
    if (opened_open(&m, call->words[0], err) < 0)
        return EXIT_FAILED;
    int status = write_text(o, &m, err);
    opened_release(&m);
    return status < 0 ? EXIT_FAILED : EXIT_FINE;
}

const struct command cmd_generate = {
    .name = "generate",
    .arguments = "MODEL --prompt TEXT|--ids I,I,... [--tokens N] [--temperature T] [--seed S]",
    .summary = "continue a text with a model",
    .table = table,
    .size = sizeof(struct generate_command_options),
    .shared_table = common_option_table,
    .shared_size = sizeof(struct common_options),
    .min_words = 1,
    .max_words = 1,
    .run = run};
