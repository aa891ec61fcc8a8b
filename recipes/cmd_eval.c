// cmd_eval.c: `pdq eval MODEL --data FILE`: loss, perplexity and, against a parent, what was lost.
#include <stdio.h>
#include <stdlib.h>

#include "common/eval/evaluate.h"
#include "common/eval/evaluate_images.h"
#include "recipes/command.h"
#include "recipes/open_model.h"

struct eval_command_options {
    struct option_list data;
    char *against;
    int protocol, precision, json;
    int64_t seq_len, tokens;
};
#define ROW(name, kind, field) name, kind, offsetof(struct eval_command_options, field)
static const struct option table[] = {
    {ROW("data", OPTION_LIST, data), NULL, 0, 0, NULL, "FILE",
     "text: .txt, .jsonl, or .jsonl of questions (prompt, answer), may be gzipped (may be repeated); for a classifier the folder of idx files, whose test images count"},
    {ROW("protocol", OPTION_CHOICE, protocol), "windows", 0, 0, "windows|llama.cpp", NULL,
     "windows: every token but a window's first; llama.cpp: as llama-perplexity counts"},
    {ROW("seq_len", OPTION_INT, seq_len), "0", 0, 1 << 20, NULL, "N",
     "tokens in a window; 0: the model's context, at most 512"},
    {ROW("tokens", OPTION_INT, tokens), "0", 0, 1e15, NULL, "N", "stop after so many predicted tokens; 0: all"},
    {ROW("against", OPTION_STRING, against), NULL, 0, 0, NULL, "PARENT",
     "compare with this model on the same tokens"},
    {ROW("precision", OPTION_CHOICE, precision), "f32", 0, 0, "f32|bf16", NULL, "operands of products"},
    {ROW("json", OPTION_BOOL, json), "false", 0, 0, NULL, NULL, "print one JSON object and nothing else"},
    {.name = NULL}};
#undef ROW

#define DEFAULT_WINDOW 512

static void print_result(const struct eval_result *r) {
    printf("tokens         %ld\nloss           %.9g nats per token (standard error %.3g)\nperplexity     %.9g\n"
           "bits per byte  %.9g\n",
           (long)r->tokens, r->nll, r->nll_se, r->ppl, r->bits_per_byte);
    if (r->questions)
        printf("answered       %ld of %ld questions, to the letter (%.2f %%)\n", (long)r->answered, (long)r->questions,
               100 * (double)r->answered / (double)r->questions);
    if (r->compared)
        printf("parent's loss  %.9g\ndifference     %+.9g (95 %% interval %+.9g to %+.9g)\nKL divergence  %.9g (95th "
               "percentile %.6g, "
               "99th %.6g)\ntop-1          %.9g\n",
               r->against_nll, r->difference, r->difference_low, r->difference_high, r->kld, r->kld_p95, r->kld_p99,
               r->top1);
}

static int check_window(const struct eval_command_options *o, const struct opened *m, int64_t *seq_len,
                        struct error *err) {
    int64_t context = m->model->config.context;
    *seq_len = o->seq_len;
    if (*seq_len == 0)
        *seq_len = context > 0 && context < DEFAULT_WINDOW ? context : DEFAULT_WINDOW;
    if (*seq_len < 2 || (context > 0 && *seq_len > context))
        return error_set(err, "--seq-len %ld: expected 2 to the model's context, %ld", (long)*seq_len, (long)context);
    return 0;
}

static int measure(const struct eval_command_options *o, struct opened *m, struct opened *parent, struct error *err) {
    struct eval_options options = {
        .protocol = (enum eval_protocol)o->protocol, .tokens = o->tokens, .precision = (enum precision)o->precision};
    struct eval_result result = {0};
    struct dataset stream = {0};
    TRY(check_window(o, m, &options.seq_len, err));
    TRY(eval_stream(&stream, m->tokenizer, options.protocol, (const char *const *)o->data.item, o->data.count, err));
    int status = evaluate(&result, m->model, parent->model, &stream, m->tokenizer, &options, err);
    dataset_release(&stream);
    TRY(status);
    if (o->json) {
        struct json *object = eval_result_json(&result);
        char *text = json_text(object, 0);
        puts(text);
        free(text);
        json_free(object);
    } else {
        print_result(&result);
    }
    eval_result_release(&result);
    return 0;
}

static int measure_images(const struct eval_command_options *o, struct opened *m, struct error *err) {
    struct image_data data;
    struct image_result r;
    if (o->data.count != 1 || o->against)
        return error_set(err, "%s: a classifier of images; expected one --data, the folder of the idx files, and no --against", m->path);
    TRY(image_data_read(&data, o->data.item[0], 1, 1, err));
    const struct images *test = &data.test;
    int status = images_check(test, m->model->config.hidden, m->model->config.vocab, o->data.item[0], err);
    if (status == 0) {
        evaluate_images(&r, m->model, test, 0, 0);
        struct json *object = image_result_json(&r);
        char *text = json_text(object, 0);
        if (o->json)
            puts(text);
        else
            printf("test images    %ld\nloss           %.9g nats per image (standard error %.3g)\nerrors         %ld\n"
                   "accuracy       %.2f %%\n",
                   (long)r.n, r.nll, r.nll_se, (long)r.errors, 100 * (1 - (double)r.errors / (double)r.n));
        free(text);
        json_free(object);
        image_result_release(&r);
    }
    image_data_release(&data);
    return status;
}

static int run(struct call *call, struct error *err) {
    const struct eval_command_options *o = call->options;
    struct opened m = {0}, parent = {0};
    if (o->data.count == 0) {
        error_set(err, "--data is missing: the text to measure on");
        return EXIT_USAGE;
    }
    header_print(o->precision);
    int status = opened_any(&m, call->words[0], err);
    const int is_language = status == 0 && model_is_language(&m.model->config);
    if (status == 0 && is_language && o->against && opened_open(&parent, o->against, err) < 0)
        status = error_prefix(err, "--against");
    if (status == 0 && !is_language)
        status = measure_images(o, &m, err);
    else if (status == 0)
        status = measure(o, &m, &parent, err);
    opened_release(&m);
    opened_release(&parent);
    return status < 0 ? EXIT_FAILED : EXIT_FINE;
}

const struct command cmd_eval = {.name = "eval",
                                 .arguments = "MODEL --data FILE [--against PARENT] [--json]",
                                 .summary = "measure a model's loss on text, alone or against another",
                                 .table = table,
                                 .size = sizeof(struct eval_command_options),
                                 .shared_table = common_option_table,
                                 .shared_size = sizeof(struct common_options),
                                 .min_words = 1,
                                 .max_words = 1,
                                 .run = run};
