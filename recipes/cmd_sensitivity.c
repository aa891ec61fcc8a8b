// cmd_sensitivity.c: `pdq sensitivity MODEL --data FILE`: the loss without each head, group and slice of channels alone.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/threads.h"
#include "common/eval/sensitivity.h"
#include "recipes/command.h"
#include "recipes/html.h"
#include "recipes/open_model.h"

struct sensitivity_options {
    struct option_list data;
    char *output;
    int precision, json, force;
    int64_t seq_len, tokens, slices;
};
#define ROW(name, kind, field) name, kind, offsetof(struct sensitivity_options, field)
static const struct option table[] = {
    {ROW("data", OPTION_LIST, data), NULL, 0, 0, NULL, "FILE", "text: .txt or .jsonl, may be gzipped (may be repeated)"},
    {ROW("tokens", OPTION_INT, tokens), "4096", 1, 1e12, NULL, "N", "predicted tokens that each unit is measured on"},
    {ROW("seq_len", OPTION_INT, seq_len), "256", 2, 1 << 20, NULL, "N", "tokens in a window"},
    {ROW("slices", OPTION_INT, slices), "8", 1, 4096, NULL, "N", "parts that a layer's feed-forward channels are cut into"},
    {ROW("precision", OPTION_CHOICE, precision), "f32", 0, 0, "f32|bf16", NULL, "operands of products"},
    {ROW("output", OPTION_STRING, output), NULL, 0, 0, NULL, "FILE.html", "write a heat map there"},
    {ROW("force", OPTION_BOOL, force), "false", 0, 0, NULL, NULL, "replace the file if it is there"},
    {ROW("json", OPTION_BOOL, json), "false", 0, 0, NULL, NULL, "print one JSON object and nothing else"},
    {.name = NULL}};
#undef ROW

static void print_table(const struct sensitivity *s) {
    printf("loss with everything there: %.6f nats per token on %ld tokens\n\n", s->nll, (long)s->tokens);
    printf("%-10s %5s %5s %9s  95 %% interval\n", "without", "layer", "index", "loss");
    for (int64_t i = 0; i < s->n; i++) {
        const struct unit_loss *u = &s->unit[i];
        printf("%-10s %5ld %5ld %+9.4f  %+.4f to %+.4f\n", unit_kind_name[u->kind], (long)u->layer, (long)u->index, u->rise,
               u->low, u->high);
    }
}

// White at no rise, red at the kind's largest, blue where the loss falls.
static void put_cell(FILE *f, const struct unit_loss *u, double largest) {
    double share = largest > 0 ? fabs(u->rise) / largest : 0;
    int other = (int)lround(255 * (1 - 0.85 * fmin(1, sqrt(share))));
    int red = u->rise >= 0 ? 255 : other, blue = u->rise >= 0 ? other : 255;
    fprintf(f, "<td style='background:rgb(%d,%d,%d)' title='%s %ld of layer %ld: %+.5f (%+.5f to %+.5f)'>%+.3f</td>", red, other,
            blue, unit_kind_name[u->kind], (long)u->index, (long)u->layer, u->rise, u->low, u->high, u->rise);
}

static void put_map(FILE *f, const struct sensitivity *s, enum unit_kind kind, const char *title) {
    double largest = 0;
    int64_t layer = -1;
    for (int64_t i = 0; i < s->n; i++)
        if (s->unit[i].kind == kind)
            largest = fmax(largest, fabs(s->unit[i].rise));
    fprintf(f, "<h2>%s</h2><table>", title);
    for (int64_t i = 0; i < s->n; i++) {
        const struct unit_loss *u = &s->unit[i];
        if (u->kind != kind)
            continue;
        if (u->layer != layer)
            fprintf(f, "%s<tr><th>layer %ld</th>", layer >= 0 ? "</tr>\n" : "", (long)u->layer);
        layer = u->layer;
        put_cell(f, u, largest);
    }
    fputs("</tr></table>\n", f);
}

static int write_page(const struct sensitivity *s, const char *model, const char *path, struct error *err) {
    static const char *const titles[UNIT_KINDS] = {"Query heads", "Key/value groups", "Slices of feed-forward channels",
                                                   "Whole attention blocks", "Whole feed-forward blocks"};
    struct file_writer w;
    TRY(file_writer_open(&w, path, err));
    html_begin(w.stream, model);
    fprintf(w.stream, "<p>Rise of the loss (nats per token; %.4f with everything there, %ld tokens) without each unit alone. "
                      "Colours go up to each map's largest rise; a cell's interval stands in its tooltip.</p>\n",
            s->nll, (long)s->tokens);
    for (int kind = 0; kind < UNIT_KINDS; kind++)
        put_map(w.stream, s, (enum unit_kind)kind, titles[kind]);
    html_end(w.stream);
    return file_writer_commit(&w, err);
}

static void print_json(const struct sensitivity *s) {
    struct json *o = sensitivity_json(s);
    char *text = json_text(o, 0);
    puts(text);
    free(text);
    json_free(o);
}

static int measure(const struct sensitivity_options *o, struct opened *m, struct error *err) {
    struct eval_options options = {
        .protocol = EVAL_WINDOWS, .seq_len = o->seq_len, .tokens = o->tokens, .precision = (enum precision)o->precision};
    struct dataset stream = {0};
    struct sensitivity s;
    int64_t context = m->model->config.context;
    if (context > 0 && o->seq_len > context)
        return error_set(err, "--seq-len %ld: expected at most the model's context, %ld", (long)o->seq_len, (long)context);
    TRY(eval_stream(&stream, m->tokenizer, EVAL_WINDOWS, (const char *const *)o->data.item, o->data.count, err));
    log_info("%ld units, %ld tokens each: %.3g TFLOP", (long)sensitivity_units(&m->model->config, o->slices), (long)o->tokens,
             (double)(sensitivity_units(&m->model->config, o->slices) * o->tokens) *
                 model_flops_per_token(&m->model->config, o->seq_len) / 1e12);
    int status = sensitivity_measure(&s, m->model, &stream, m->tokenizer, &options, o->slices, err);
    dataset_release(&stream);
    TRY(status);
    if (o->output)
        status = write_page(&s, m->path, o->output, err);
    if (o->json)
        print_json(&s);
    else
        print_table(&s);
    sensitivity_release(&s);
    return status;
}

static int run(struct call *call, struct error *err) {
    const struct sensitivity_options *o = call->options;
    struct opened m = {0};
    if (o->data.count == 0) {
        error_set(err, "--data is missing: the text to measure on");
        return EXIT_USAGE;
    }
    interrupt_catch();
    header_print(o->precision);
    int status = o->output ? output_check(o->output, o->force, err) : 0;
    if (status == 0)
        status = opened_open(&m, call->words[0], err);
    if (status == 0)
        status = measure(o, &m, err);
    opened_release(&m);
    return status < 0 ? EXIT_FAILED : EXIT_FINE;
}

const struct command cmd_sensitivity = {.name = "sensitivity",
                                        .arguments = "MODEL --data FILE [--tokens N] [--slices N] [-o FILE.html]",
                                        .summary = "measure the loss without each head, group and slice of channels alone",
                                        .table = table,
                                        .size = sizeof(struct sensitivity_options),
                                        .shared_table = common_option_table,
                                        .shared_size = sizeof(struct common_options),
                                        .min_words = 1,
                                        .max_words = 1,
                                        .run = run};
