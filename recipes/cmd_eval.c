// cmd_eval.c: `pdq eval MODEL --data FILE`: loss, perplexity and, against a parent, what was lost; accuracy of classifiers, exact match and F1 of answers.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/eval/evaluate.h"
#include "common/eval/evaluate_classes.h"
#include "common/eval/evaluate_images.h"
#include "common/eval/evaluate_masked.h"
#include "common/eval/evaluate_spans.h"
#include "common/eval/statistics.h"
#include "recipes/command.h"
#include "recipes/open_model.h"

struct eval_command_options {
    struct option_list data, versus;
    char *against, *text, *pair, *label, *answers;
    int task, protocol, precision, json;
    int64_t seq_len, tokens, stride;
};
#define ROW(name, kind, field) name, kind, offsetof(struct eval_command_options, field)
static const struct option table[] = {
    {ROW("data", OPTION_LIST, data), NULL, 0, 0, NULL, "FILE",
     "text: .txt, .jsonl, or .jsonl of questions (prompt, answer), may be gzipped (may be repeated); for a classifier the folder of idx files, whose test images count; for spans SQuAD's .json, or .jsonl"},
    {ROW("task", OPTION_CHOICE, task), "auto", 0, 0, "auto|text|classification|masked|spans", NULL,
     "what is measured; auto: what the model's head is for"},
    {ROW("text", OPTION_STRING, text), "sentence", 0, 0, NULL, "COLUMN", "classification, masked: the column of the text (.tsv, .csv, .jsonl)"},
    {ROW("pair", OPTION_STRING, pair), NULL, 0, 0, NULL, "COLUMN", "classification: the column of a second text"},
    {ROW("label", OPTION_STRING, label), "label", 0, 0, NULL, "COLUMN", "classification: the column of the class, a number or a name"},
    {ROW("stride", OPTION_INT, stride), "0", 0, 1 << 20, NULL, "N",
     "spans: tokens from one window of a long context to the next; 0: 128, at most half of one"},
    {ROW("answers", OPTION_STRING, answers), NULL, 0, 0, NULL, "FILE", "spans: write the answers there, as SQuAD's evaluation reads them"},
    {ROW("protocol", OPTION_CHOICE, protocol), "windows", 0, 0, "windows|llama.cpp", NULL,
     "windows: every token but a window's first; llama.cpp: as llama-perplexity counts"},
    {ROW("seq_len", OPTION_INT, seq_len), "0", 0, 1 << 20, NULL, "N",
     "tokens in a window; 0: the model's context, at most 512"},
    {ROW("tokens", OPTION_INT, tokens), "0", 0, 1e15, NULL, "N", "stop after so many predicted tokens; 0: all"},
    {ROW("against", OPTION_STRING, against), NULL, 0, 0, NULL, "PARENT",
     "compare with this model on the same tokens"},
    {ROW("versus", OPTION_LIST, versus), NULL, 0, 0, NULL, "MODEL",
     "with --against: is this other model of the same parent nearer to it? the difference of the KL divergences, paired (may be repeated)"},
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

struct versus { // another model's distance from the parent, and by how much the measured one's is larger
    double kld;
    struct paired difference;
};

static void print_versus(const struct eval_command_options *o, const struct versus *v) {
    for (size_t i = 0; i < o->versus.count; i++)
        printf("%s\n  KL divergence  %.9g\n  difference     %+.9g (95 %% interval %+.9g to %+.9g)\n", o->versus.item[i], v[i].kld,
               v[i].difference.mean, v[i].difference.low, v[i].difference.high);
}

static void print_json(const struct eval_command_options *o, const struct eval_result *r, const struct versus *v) {
    struct json *object = eval_result_json(r), *list = json_array();
    for (size_t i = 0; i < o->versus.count; i++) {
        struct json *one = json_object();
        json_set_string(one, "model", o->versus.item[i]);
        json_set_number(one, "kld", v[i].kld);
        json_set_number(one, "difference", v[i].difference.mean);
        json_set_number(one, "difference_low", v[i].difference.low);
        json_set_number(one, "difference_high", v[i].difference.high);
        json_push(list, one);
    }
    if (o->versus.count)
        json_set(object, "versus", list);
    else
        json_free(list);
    char *text = json_text(object, 0);
    puts(text);
    free(text);
    json_free(object);
}

// Before the work: models that are there and can be compared.
static int check_versus(const struct eval_command_options *o, const struct opened *parent, struct error *err) {
    for (size_t i = 0; i < o->versus.count; i++) {
        struct opened other;
        if (opened_look(&other, o->versus.item[i], 1, err) < 0)
            return error_prefix(err, "--versus");
        const long own = (long)other.model->config.vocab, expected = (long)parent->model->config.vocab;
        opened_release(&other);
        if (own != expected)
            return error_set(err, "--versus %s: a vocabulary of %ld entries, the parent's has %ld; compare models with the same tokenizer",
                             o->versus.item[i], own, expected);
    }
    return 0;
}

static int measure_versus(struct versus *v, const char *path, const struct eval_result *r, struct opened *parent, const struct dataset *stream,
                          const struct eval_options *options, struct error *err) {
    struct opened other = {0};
    struct eval_result result;
    if (opened_open(&other, path, err) < 0)
        return error_prefix(err, "--versus");
    const int status = evaluate(&result, other.model, parent->model, stream, other.tokenizer, options, err);
    if (status == 0) {
        v->kld = result.kld;
        v->difference = paired_compare(r->token_kl, result.token_kl, r->tokens);
        eval_result_release(&result);
    }
    opened_release(&other);
    return status;
}

static int measure(const struct eval_command_options *o, struct opened *m, struct opened *parent, struct error *err) {
    struct eval_states states = {0};
    struct eval_options options = {.protocol = (enum eval_protocol)o->protocol, .tokens = o->tokens, .precision = (enum precision)o->precision,
                                   .against_states = o->versus.count ? &states : NULL};
    struct eval_result result = {0};
    struct dataset stream = {0};
    TRY(check_window(o, m, &options.seq_len, err));
    TRY(check_versus(o, parent, err));
    TRY(eval_stream(&stream, m->tokenizer, options.protocol, (const char *const *)o->data.item, o->data.count, err));
    struct versus *versus = xcalloc(o->versus.count + 1, sizeof *versus, "comparisons");
    int status = evaluate(&result, m->model, parent->model, &stream, m->tokenizer, &options, err);
    for (size_t i = 0; i < o->versus.count && status == 0; i++)
        status = measure_versus(&versus[i], o->versus.item[i], &result, parent, &stream, &options, err);
    if (status == 0 && o->json) {
        print_json(o, &result, versus);
    } else if (status == 0) {
        print_result(&result);
        print_versus(o, versus);
    }
    eval_states_release(&states);
    eval_result_release(&result);
    dataset_release(&stream);
    free(versus);
    return status;
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

static void print_classes(const struct class_result *r, const struct class_result *parent, const struct class_versus *v) {
    printf("examples       %ld\nloss           %.9g nats per example (standard error %.3g)\naccuracy       %.2f %% (95 %% interval %.2f to "
           "%.2f)\nF1             %.2f %%%s\nMatthews       %.4f\n",
           (long)r->n, r->mean_nll, r->nll_se, 100 * r->accuracy.share, 100 * r->accuracy.low, 100 * r->accuracy.high, 100 * r->f1,
           r->classes == 2 ? " (of class 1)" : " (mean over the classes)", r->matthews);
    if (parent)
        printf("parent         %.2f %%; right alone: the model on %ld, the parent on %ld examples (McNemar p = %.3g)\n",
               100 * parent->accuracy.share, (long)v->only_own, (long)v->only_against, v->mcnemar);
}

static int check_classifier(const struct opened *m, struct error *err) {
    if (m->model->config.head == HEAD_CLASSES)
        return 0;
    return error_set(err, "%s: no head for classes (architectures in config.json); expected one for classification, as BertForSequenceClassification",
                     m->path);
}

static int measure_classes(const struct eval_command_options *o, struct opened *m, struct opened *parent, struct error *err) {
    const struct config *c = &m->model->config;
    const struct example_classes classes = {c->n_label, json_get(c->source, "id2label")};
    const struct example_columns columns = {o->text, o->pair, o->label};
    const int64_t most = o->seq_len ? o->seq_len : c->context;
    struct examples e;
    struct class_result own, other;
    struct class_versus versus = {0};
    TRY(check_classifier(m, err));
    if (parent->model)
        TRY(check_classifier(parent, err));
    if (most > c->context || (parent->model && (parent->model->config.n_label != c->n_label || parent->model->config.vocab != c->vocab)))
        return most > c->context ? error_set(err, "--seq-len %ld: the model has positions for %ld tokens", (long)most, (long)c->context)
                                 : error_set(err, "--against: other classes, or another vocabulary");
    TRY(examples_read(&e, m->tokenizer, &classes, (const char *const *)o->data.item, o->data.count, &columns, most, "--data", err));
    if (e.n_cut)
        log_warn("%ld of %ld examples are longer than %ld tokens and were cut", (long)e.n_cut, (long)e.n, (long)most);
    evaluate_classes(&own, m->model, &e, (enum precision)o->precision);
    if (parent->model) {
        evaluate_classes(&other, parent->model, &e, (enum precision)o->precision);
        versus = class_compare(&own, &other, &e);
    }
    if (o->json) {
        struct json *object = class_result_json(&own);
        if (parent->model) {
            json_set_number(object, "against_accuracy", 100 * other.accuracy.share);
            json_set_number(object, "only_own", (double)versus.only_own);
            json_set_number(object, "only_against", (double)versus.only_against);
            json_set_number(object, "mcnemar", versus.mcnemar);
        }
        char *text = json_text(object, 0);
        puts(text);
        free(text);
        json_free(object);
    } else {
        print_classes(&own, parent->model ? &other : NULL, &versus);
    }
    class_result_release(&own);
    if (parent->model)
        class_result_release(&other);
    examples_release(&e);
    return 0;
}

static int print_masked(const struct eval_command_options *o, const struct masked_result *r, const struct masked_result *parent) {
    if (o->json) {
        struct json *object = masked_result_json(r);
        if (parent)
            json_set_number(object, "against_nll", parent->mean_nll);
        char *text = json_text(object, 0);
        puts(text);
        free(text);
        json_free(object);
        return 0;
    }
    printf("hidden words   %ld\nloss           %.9g nats per word (standard error %.3g)\naccuracy       %.2f %% (95 %% interval %.2f to %.2f)\n",
           (long)r->n, r->mean_nll, r->nll_se, 100 * r->accuracy.share, 100 * r->accuracy.low, 100 * r->accuracy.high);
    if (parent) {
        const struct paired p = paired_compare(r->nll, parent->nll, r->n);
        printf("parent's loss  %.9g\ndifference     %+.9g (95 %% interval %+.9g to %+.9g)\n", parent->mean_nll, p.mean, p.low, p.high);
    }
    return 0;
}

static int measure_masked(const struct eval_command_options *o, struct opened *m, struct opened *parent, struct error *err) {
    const int64_t context = m->model->config.context, most = o->seq_len ? o->seq_len : context;
    struct examples e;
    struct masked_result own, other = {0};
    struct opened *const both[] = {m, parent};
    for (int i = 0; i < 2; i++)
        if (both[i]->model && both[i]->model->config.head != HEAD_MASKED)
            return error_set(err, "%s: no head for masked words (architectures in config.json); expected one, as BertForMaskedLM", both[i]->path);
    if (most > context)
        return error_set(err, "--seq-len %ld: the model has positions for %ld tokens", (long)most, (long)context);
    if (parent->model && parent->model->config.vocab != m->model->config.vocab)
        return error_set(err, "--against: another vocabulary");
    TRY(examples_read_unlabelled(&e, m->tokenizer, (const char *const *)o->data.item, o->data.count, o->text, most, "--data", err));
    evaluate_masked(&own, m->model, &e, (enum precision)o->precision);
    if (parent->model)
        evaluate_masked(&other, parent->model, &e, (enum precision)o->precision);
    const int status = print_masked(o, &own, parent->model ? &other : NULL);
    masked_result_release(&own);
    masked_result_release(&other);
    examples_release(&e);
    return status;
}

#define DEFAULT_ANSWERS 384 // tokens of a window, as in BERT's code

static void print_spans(const struct eval_command_options *o, const struct span_result *r, const struct span_result *parent, int64_t without) {
    struct span_versus v = {0};
    if (parent)
        v = span_compare(r, parent);
    if (o->json) {
        struct json *object = span_result_json(r);
        if (parent) {
            json_set_number(object, "against_accuracy", 100 * parent->exact_share.share);
            json_set_number(object, "against_f1", 100 * parent->mean_f1);
            json_set_number(object, "only_own", (double)v.only_own);
            json_set_number(object, "only_against", (double)v.only_against);
            json_set_number(object, "mcnemar", v.mcnemar);
            json_set_number(object, "f1_difference", 100 * v.f1.mean);
            json_set_number(object, "f1_difference_low", 100 * v.f1.low);
            json_set_number(object, "f1_difference_high", 100 * v.f1.high);
        }
        char *text = json_text(object, 0);
        puts(text);
        free(text);
        json_free(object);
        return;
    }
    printf("questions      %ld in %ld windows, %ld without an answer\nloss           %.9g nats per question (standard error %.3g)\n"
           "exact match    %.2f %% (95 %% interval %.2f to %.2f)\nF1             %.2f %% (95 %% interval %.2f to %.2f)\n",
           (long)r->n, (long)r->windows, (long)without, r->mean_nll, r->nll_se, 100 * r->exact_share.share, 100 * r->exact_share.low,
           100 * r->exact_share.high, 100 * r->mean_f1, 100 * r->f1_low, 100 * r->f1_high);
    if (parent)
        printf("parent         %.2f %% exact, F1 %.2f %%; exact alone: the model on %ld, the parent on %ld questions (McNemar p = %.3g); F1 %+.2f (95 %% "
               "interval %+.2f to %+.2f)\n", 100 * parent->exact_share.share, 100 * parent->mean_f1, (long)v.only_own, (long)v.only_against,
               v.mcnemar, 100 * v.f1.mean, 100 * v.f1.low, 100 * v.f1.high);
}

static int write_answers(const char *path, const struct span_result *r, const struct span_texts *texts, struct error *err) {
    struct json *o = span_answers_json(r, texts);
    char *text = json_text(o, 1);
    const int status = file_write(path, text, strlen(text), err);
    free(text);
    json_free(o);
    return status;
}

static int measure_spans(const struct eval_command_options *o, struct opened *m, struct opened *parent, struct error *err) {
    const int64_t context = m->model->config.context, usual = context < DEFAULT_ANSWERS ? context : DEFAULT_ANSWERS;
    const int64_t most = o->seq_len ? o->seq_len : usual;
    struct examples e;
    struct span_texts texts;
    struct span_result own, other = {0};
    struct opened *const both[] = {m, parent};
    for (int i = 0; i < 2; i++)
        if (both[i]->model && both[i]->model->config.head != HEAD_SPANS)
            return error_set(err, "%s: no head for answers' spans (architectures in config.json); expected one, as BertForQuestionAnswering",
                             both[i]->path);
    for (int i = 0; i < 2; i++)
        if (both[i]->model && most > both[i]->model->config.context)
            return error_set(err, "--seq-len %ld: %s has positions for %ld tokens", (long)most, both[i]->path, (long)both[i]->model->config.context);
    if (parent->model && parent->model->config.vocab != m->model->config.vocab)
        return error_set(err, "--against: another vocabulary");
    TRY(spans_read(&e, &texts, m->tokenizer, (const char *const *)o->data.item, o->data.count, most, o->stride, "--data", err));
    evaluate_spans(&own, m->model, &e, &texts, (enum precision)o->precision);
    if (parent->model)
        evaluate_spans(&other, parent->model, &e, &texts, (enum precision)o->precision);
    const int status = o->answers ? write_answers(o->answers, &own, &texts, err) : 0;
    if (status == 0)
        print_spans(o, &own, parent->model ? &other : NULL, texts.n_without);
    span_result_release(&own);
    span_result_release(&other);
    span_texts_release(&texts);
    examples_release(&e);
    return status;
}

enum task { TASK_AUTO, TASK_TEXT, TASK_CLASSIFICATION, TASK_MASKED, TASK_SPANS };

static int run(struct call *call, struct error *err) {
    const struct eval_command_options *o = call->options;
    struct opened m = {0}, parent = {0};
    if (o->data.count == 0) {
        error_set(err, "--data is missing: the text to measure on");
        return EXIT_USAGE;
    }
    if (o->versus.count && !o->against) {
        error_set(err, "--versus %s: nearer to what? give the parent of both with --against", o->versus.item[0]);
        return EXIT_USAGE;
    }
    header_print(o->precision);
    int status = o->answers ? output_check(o->answers, 1, err) : 0;
    if (status == 0)
        status = opened_any(&m, call->words[0], err);
    const int is_language = status == 0 && model_is_language(&m.model->config);
    const int reads_both_ways = is_language && !model_is_causal(&m.model->config);
    if (status == 0 && is_language && o->against && opened_any(&parent, o->against, err) < 0)
        status = error_prefix(err, "--against");
    if (status == 0 && o->task == TASK_TEXT && (reads_both_ways || !is_language))
        status = error_set(err, "%s: no model that predicts the next token; expected one for --task text", m.path);
    if (status == 0 && o->answers && o->task != TASK_SPANS && m.model->config.head != HEAD_SPANS)
        status = error_set(err, "--answers %s: %s gives no answers in texts; leave the option out", o->answers, m.path);
    const enum model_head_kind head = status == 0 && o->task == TASK_AUTO ? m.model->config.head : HEAD_NONE;
    if (status == 0 && (head == HEAD_MASKED || o->task == TASK_MASKED))
        status = measure_masked(o, &m, &parent, err);
    else if (status == 0 && (head == HEAD_SPANS || o->task == TASK_SPANS))
        status = measure_spans(o, &m, &parent, err);
    else if (status == 0 && (o->task == TASK_CLASSIFICATION || reads_both_ways))
        status = measure_classes(o, &m, &parent, err);
    else if (status == 0 && !is_language)
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
