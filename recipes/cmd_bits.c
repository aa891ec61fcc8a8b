// cmd_bits.c: `pdq bits MODEL --data FILE --target-bits B -o PLAN.json`: which matrix gets which type, for a size with the least loss.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "quant/bit_plan.h"
#include "quant/importance.h"
#include "recipes/model_command.h"

struct bits_command_options {
    struct option_list data, types;
    char *output, *imatrix;
    double target_bits;
    int64_t target_bytes, tokens, seq_len;
    int precision, force, exact;
};
#define ROW(name, kind, field) name, kind, offsetof(struct bits_command_options, field)
static const struct option table[] = {
    {ROW("data", OPTION_LIST, data), NULL, 0, 0, NULL, "FILE", "text to measure on: .txt or .jsonl, may be gzipped (may be repeated)"},
    {ROW("output", OPTION_STRING, output), NULL, 0, 0, NULL, "PLAN.json", "the plan, for pdq quantize --plan"},
    {ROW("target_bits", OPTION_DOUBLE, target_bits), "0", 0, 32, NULL, "B", "bits per weight of the whole file, on average"},
    {ROW("target_bytes", OPTION_INT, target_bytes), "0", 0, 1e15, NULL, "N", "bytes of the whole file"},
    {ROW("types", OPTION_LIST, types), NULL, 0, 0, NULL, "TYPE",
     "a type that may be used (may be repeated; default: Q2_K, Q3_K, Q4_0, IQ4_XS, Q4_K, Q5_0, Q5_K, Q6_K, Q8_0)"},
    {ROW("imatrix", OPTION_STRING, imatrix), NULL, 0, 0, NULL, "FILE", "importance matrix that weights the errors"},
    {ROW("exact", OPTION_BOOL, exact), "false", 0, 0, NULL, NULL,
     "measure every type of every matrix; else one, the others by the ratio of their errors"},
    {ROW("tokens", OPTION_INT, tokens), "4096", 1, 1e12, NULL, "N", "predicted tokens that each matrix is measured on"},
    {ROW("seq_len", OPTION_INT, seq_len), "256", 2, 1 << 20, NULL, "N", "tokens in a window"},
    {ROW("precision", OPTION_CHOICE, precision), "f32", 0, 0, "f32|bf16", NULL, "operands of products"},
    {ROW("force", OPTION_BOOL, force), "false", 0, 0, NULL, NULL, "replace the file if it is there"},
    {.name = NULL}};
#undef ROW

static int choose_types(struct bit_options *to, const struct option_list *wanted, struct error *err) {
    static const char *const standard[] = {"Q2_K", "Q3_K", "Q4_0", "IQ4_XS", "Q4_K", "Q5_0", "Q5_K", "Q6_K", "Q8_0"};
    const size_t n = wanted->count ? wanted->count : sizeof standard / sizeof *standard;
    if (n > BIT_CHOICES_MAX)
        return error_set(err, "--types: %zu of them, expected at most %d", n, BIT_CHOICES_MAX);
    for (size_t i = 0; i < n; i++) {
        const char *name = wanted->count ? wanted->item[i] : standard[i];
        const struct block_format *f = block_format_find(name);
        if (!f)
            return error_set(err, "--types: \"%s\" is no type that pdq writes; expected one of a matrix, no mix: F16, Q8_0, Q6_K, Q5_K, Q4_K, Q4_0, ...", name);
        to->type[to->n_type++] = f;
    }
    return 0;
}

static void print_plan(const struct bit_plan *p) {
    for (int64_t i = 0; i < p->n_tensor; i++) {
        const struct bit_choice *c = &p->tensor[i].choice[p->tensor[i].chosen];
        printf("%-28s %-7s %10ld bytes  KL divergence alone %.3g%s\n", p->tensor[i].name, c->format->name, (long)c->bytes, c->kld,
               c->measured ? "" : " (predicted)");
    }
    printf("%ld bytes, %.3f bits per weight, predicted KL divergence %.4g\n", (long)p->bytes, 8 * (double)p->bytes / (double)p->weights,
           p->kld);
}

static int write_plan(const struct bit_plan *p, const char *path, struct error *err) {
    struct json *o = bit_plan_json(p);
    char *text = json_text(o, 1);
    const int rc = file_write(path, text, strlen(text), err);
    free(text);
    json_free(o);
    return rc;
}

static int plan_bits(const void *given, struct opened *m, struct error *err) {
    const struct bits_command_options *o = given;
    struct bit_options options = {
        .exact = o->exact,
        .bits = o->target_bits,
        .bytes = o->target_bytes,
        .eval = {.protocol = EVAL_WINDOWS, .seq_len = o->seq_len, .tokens = o->tokens, .precision = (enum precision)o->precision}};
    struct importance importance = {0};
    struct dataset stream = {0};
    struct bit_plan plan = {0};
    const int64_t context = m->model->config.context;
    if (context > 0 && o->seq_len > context)
        return error_set(err, "--seq-len %ld: expected at most the model's context, %ld", (long)o->seq_len, (long)context);
    TRY(choose_types(&options, &o->types, err));
    TRY(eval_stream(&stream, m->tokenizer, EVAL_WINDOWS, (const char *const *)o->data.item, o->data.count, err));
    int rc = o->imatrix ? importance_read(&importance, o->imatrix, err) : 0;
    options.importance = o->imatrix ? &importance : NULL;
    if (rc == 0)
        rc = bit_plan_make(&plan, m->model, m->tokenizer, &stream, &options, err);
    if (rc == 0)
        rc = write_plan(&plan, o->output, err);
    if (rc == 0)
        print_plan(&plan);
    bit_plan_release(&plan);
    importance_release(&importance);
    dataset_release(&stream);
    return rc;
}

static int run(struct call *call, struct error *err) {
    const struct bits_command_options *o = call->options;
    if (o->data.count == 0 || !o->output || (o->target_bits > 0) == (o->target_bytes > 0)) {
        error_set(err, "%s; usage: pdq bits %s",
                  o->data.count == 0 ? "--data is missing"
                  : !o->output       ? "-o is missing"
                                     : "one of --target-bits and --target-bytes is needed",
                  call->command->arguments);
        return EXIT_USAGE;
    }
    return model_command_run(call, o->precision, o->output, o->force, plan_bits, err);
}

const struct command cmd_bits = {.name = "bits",
                                 .arguments = "MODEL --data FILE --target-bits B -o PLAN.json",
                                 .summary = "choose each matrix's type for a size with the least loss",
                                 .table = table,
                                 .size = sizeof(struct bits_command_options),
                                 .shared_table = common_option_table,
                                 .shared_size = sizeof(struct common_options),
                                 .min_words = 1,
                                 .max_words = 1,
                                 .run = run};
