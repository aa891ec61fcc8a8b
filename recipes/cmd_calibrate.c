// cmd_calibrate.c: `pdq calibrate MODEL --data FILE -o FILE.imatrix`: how much each column of each matrix matters on a text, and what else can be
// said of what it is multiplied by.
#include <stdio.h>
#include <stdlib.h>

#include "common/base/file.h"
#include "common/base/threads.h"
#include "quant/calibrate.h"
#include "recipes/command.h"
#include "recipes/open_model.h"

struct calibrate_options {
    struct option_list data;
    char *output;
    int64_t tokens, seq_len, seed;
    int precision, gram, force;
};
#define ROW(name, kind, field) name, kind, offsetof(struct calibrate_options, field)
static const struct option table[] = {
    {ROW("data", OPTION_LIST, data), NULL, 0, 0, NULL, "FILE", "text: .txt or .jsonl, may be gzipped (may be repeated)"},
    {ROW("output", OPTION_STRING, output), NULL, 0, 0, NULL, "FILE",
     "importance matrix in llama.cpp's format (llama-quantize --imatrix); FILE.safetensors: ranges, means and mean squares"},
    {ROW("tokens", OPTION_INT, tokens), "65536", 1, 1e12, NULL, "N", "tokens of the text"},
    {ROW("seq_len", OPTION_INT, seq_len), "0", 0, 1 << 20, NULL, "N", "tokens in a window; 0: the model's context, at most 512"},
    {ROW("seed", OPTION_INT, seed), "1", 0, 1e15, NULL, "N", "decides which windows"},
    {ROW("precision", OPTION_CHOICE, precision), "f32", 0, 0, "f32|bf16", NULL, "operands of products"},
    {ROW("gram", OPTION_BOOL, gram), "false", 0, 0, NULL, NULL, "FILE.safetensors: also the mean of x x^T of each input, 4 C^2 bytes"},
    {ROW("force", OPTION_BOOL, force), "false", 0, 0, NULL, NULL, "replace the file if it is there"},
    {.name = NULL}};
#undef ROW

#define DEFAULT_WINDOW 512
#define BATCH_ROWS 2048

static int write_calibration(const struct calibrate_options *o, struct model *m, const struct walk_text *text, struct error *err) {
    struct importance importance = {.text = xstrdup(o->data.item[0])};
    struct calibration_result c;
    int rc;
    calibrate(&c, m, text, o->gram);
    if (interrupt_check(err) < 0) {
        rc = -1;
    } else if (path_ends_with(o->output, ".safetensors")) {
        rc = calibration_write(&c, m, o->data.item[0], o->output, err);
    } else {
        calibration_importance(&c, m, &importance);
        rc = importance_write(&importance, o->output, err);
    }
    importance_release(&importance);
    calibration_release(&c);
    return rc;
}

static int measure(const struct calibrate_options *o, struct opened *m, struct error *err) {
    struct dataset data = {0};
    const int64_t context = m->model->config.context, most = context > 0 && context < DEFAULT_WINDOW ? context : DEFAULT_WINDOW;
    struct walk_text text = {.data = &data, .seq_len = o->seq_len ? o->seq_len : most, .tokens = o->tokens, .seed = (uint64_t)o->seed,
                             .precision = (enum precision)o->precision};
    const int64_t rows = o->tokens < BATCH_ROWS ? o->tokens : BATCH_ROWS;
    text.batch = rows < text.seq_len ? 1 : rows / text.seq_len;
    int rc = text.seq_len < 2 || (context > 0 && text.seq_len > context)
                 ? error_set(err, "--seq-len %ld: expected 2 to the model's context, %ld", (long)text.seq_len, (long)context)
                 : dataset_read(&data, m->tokenizer, (const char *const *)o->data.item, o->data.count, "--data", err);
    if (rc == 0)
        rc = dataset_check(&data, m->model->config.vocab, "--data", err);
    if (rc == 0)
        rc = calibrate_check(&text, "--tokens", err);
    if (rc == 0)
        rc = write_calibration(o, m->model, &text, err);
    if (rc == 0)
        printf("%s\n", o->output);
    dataset_release(&data);
    return rc;
}

static int run(struct call *call, struct error *err) {
    const struct calibrate_options *o = call->options;
    struct opened m = {0};
    if (o->data.count == 0 || !o->output) {
        error_set(err, "%s is missing; usage: pdq calibrate %s", o->output ? "--data" : "-o", call->command->arguments);
        return EXIT_USAGE;
    }
    if (o->gram && !path_ends_with(o->output, ".safetensors")) {
        error_set(err, "--gram: llama.cpp's format has no room for it; give -o a name that ends in .safetensors");
        return EXIT_USAGE;
    }
    interrupt_catch();
    header_print(o->precision);
    int status = output_check(o->output, o->force, err);
    if (status == 0)
        status = opened_open(&m, call->words[0], err);
    if (status == 0)
        status = measure(o, &m, err);
    opened_release(&m);
    return status < 0 ? EXIT_FAILED : EXIT_FINE;
}

const struct command cmd_calibrate = {.name = "calibrate",
                                      .arguments = "MODEL --data FILE -o FILE",
                                      .summary = "measure how much each column of each matrix matters on a text",
                                      .table = table,
                                      .size = sizeof(struct calibrate_options),
                                      .shared_table = common_option_table,
                                      .shared_size = sizeof(struct common_options),
                                      .min_words = 1,
                                      .max_words = 1,
                                      .run = run};
