// cmd_speed.c: `pdq speed MODEL ...`: how fast models take text in, measured in turns, beside what their FLOPs promise; and how
// fast they go on token by token.
#include <stdio.h>
#include <stdlib.h>

#include "common/eval/generate.h"
#include "common/eval/statistics.h"
#include "recipes/command.h"
#include "recipes/open_model.h"

struct speed_options {
    int64_t batch, tokens, decode, runs;
    int json;
};
#define ROW(name, kind, field) name, kind, offsetof(struct speed_options, field)
static const struct option table[] = {
    {ROW("batch", OPTION_INT, batch), "1", 1, 4096, NULL, "N", "sequences at once"},
    {ROW("tokens", OPTION_INT, tokens), "256", 1, 1 << 20, NULL, "N", "tokens in each"},
    {ROW("decode", OPTION_INT, decode), "0", 0, 1 << 20, NULL, "N", "tokens one by one after an empty context, as well (causal models)"},
    {ROW("runs", OPTION_INT, runs), "9", 1, 10000, NULL, "N", "runs of each model, in turns; the median counts"},
    {ROW("json", OPTION_BOOL, json), "false", 0, 0, NULL, NULL, "print one JSON object and nothing else"},
    {.name = NULL}};
#undef ROW

struct entry { // one model; lifetime: the command
    struct opened opened;
    struct speed_timer timer;
    double *seconds, flops; // of one run
    double *decode;         // seconds of one run of --decode tokens
};

// Of a prefill: the head meets the last position of each sequence only.
static double prefill_flops(const struct config *c, int64_t B, int64_t T) {
    double head = model_is_causal(c) ? 2 * (double)c->vocab * (double)c->hidden : 0;
    return (double)(B * T) * (model_flops_per_token(c, T) - head) + (double)B * head;
}

static int open_entry(struct entry *e, const char *path, const struct speed_options *o, struct error *err) {
    TRY(opened_any(&e->opened, path, err));
    const struct config *c = &e->opened.model->config;
    if (!model_is_language(c))
        return error_set(err, "%s: a classifier of images (model_type %s); this works on models of text", path, c->model_type);
    if (c->context > 0 && o->tokens > c->context)
        return error_set(err, "--tokens %ld: the context of %s is %ld", (long)o->tokens, path, (long)c->context);
    if (c->context > 0 && o->decode > c->context)
        return error_set(err, "--decode %ld: the context of %s is %ld", (long)o->decode, path, (long)c->context);
    if (o->decode && !model_is_causal(c))
        return error_set(err, "--decode: %s is an encoder, which does not go on with a text; leave the option out", path);
    e->flops = prefill_flops(c, o->batch, o->tokens);
    e->seconds = xcalloc((size_t)o->runs, sizeof *e->seconds, "times");
    e->decode = xcalloc((size_t)o->runs, sizeof *e->decode, "times");
    speed_timer_init(&e->timer, e->opened.model, o->batch, o->tokens);
    return 0;
}

static struct json *result(const struct entry *e, const struct entry *first, const struct speed_options *o) {
    struct json *j = json_object();
    double median = e->seconds[o->runs / 2], speedup = first->seconds[o->runs / 2] / median, promised = first->flops / e->flops;
    json_set_string(j, "model", e->opened.path);
    json_set_number(j, "ms", 1e3 * median);
    json_set_number(j, "tokens_per_second", (double)(o->batch * o->tokens) / median);
    if (o->decode)
        json_set_number(j, "decode_tokens_per_second", (double)o->decode / e->decode[o->runs / 2]);
    json_set_number(j, "gflops", e->flops / median / 1e9);
    json_set_number(j, "speedup", speedup);
    json_set_number(j, "flops_promise", promised);
    json_set_number(j, "share_of_promise", speedup / promised);
    return j;
}

#define ENOUGH 0.9 // of what the FLOPs promise; less is said

static void print(const struct json *list) {
    const int decode = json_get(json_first(list), "decode_tokens_per_second") != NULL;
    printf("%-40s %9s %11s %9s %8s %8s %6s%s\n", "", "ms", "tokens/s", "GFLOP/s", "speed-up", "by FLOPs", "share", decode ? "  decode, tokens/s" : "");
    for (const struct json *v = json_first(list); v; v = json_next(v)) {
        double share = json_number(json_get(v, "share_of_promise"));
        printf("%-40s %9.3f %11.0f %9.1f %8.2f %8.2f %6.2f", json_string(json_get(v, "model")), json_number(json_get(v, "ms")),
               json_number(json_get(v, "tokens_per_second")), json_number(json_get(v, "gflops")),
               json_number(json_get(v, "speedup")), json_number(json_get(v, "flops_promise")), share);
        if (decode)
            printf("%18.1f", json_number(json_get(v, "decode_tokens_per_second")));
        puts(share < ENOUGH ? "  less than 0.9 of what the FLOPs promise" : "");
    }
}

static int run(struct call *call, struct error *err) {
    const struct speed_options *o = call->options;
    int n = call->n_words, status = 0, opened = 0;
    struct entry *e = xcalloc((size_t)n, sizeof *e, "models");
    for (; opened < n && status == 0; opened++)
        status = open_entry(&e[opened], call->words[opened], o, err);
    for (int64_t turn = -1; turn < o->runs && status == 0; turn++) // the first warms up
        for (int i = 0; i < n; i++) {
            e[i].seconds[turn < 0 ? 0 : turn] = speed_timer_run(&e[i].timer);
            if (o->decode)
                e[i].decode[turn < 0 ? 0 : turn] = speed_decode(e[i].opened.model, o->decode);
        }
    struct json *list = json_array();
    for (int i = 0; i < n && status == 0; i++) {
        sort_doubles(e[i].seconds, o->runs);
        sort_doubles(e[i].decode, o->runs);
    }
    for (int i = 0; i < n && status == 0; i++)
        json_push(list, result(&e[i], &e[0], o));
    if (status == 0 && o->json) {
        struct json *all = json_object();
        json_set(all, "models", list);
        char *text = json_text(all, 1);
        puts(text);
        free(text);
        json_free(all);
    } else {
        if (status == 0)
            print(list);
        json_free(list);
    }
    for (int i = 0; i < opened; i++) {
        if (e[i].seconds)
            speed_timer_release(&e[i].timer);
        free(e[i].seconds);
        free(e[i].decode);
        opened_release(&e[i].opened);
    }
    free(e);
    return status < 0 ? EXIT_FAILED : EXIT_FINE;
}

const struct command cmd_speed = {.name = "speed",
                                  .arguments = "MODEL [MODEL ...] [--batch N] [--tokens N] [--decode N] [--runs N]",
                                  .summary = "measure how fast models take text in, in turns, beside what their FLOPs promise",
                                  .table = table,
                                  .size = sizeof(struct speed_options),
                                  .shared_table = common_option_table,
                                  .shared_size = sizeof(struct common_options),
                                  .min_words = 1,
                                  .max_words = 32,
                                  .run = run};
