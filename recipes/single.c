// single.c: see single.h.
//
// The work is done in OUTPUT.run, a run's folder like any other, so an interrupted command goes on when it is given
// again; then the product is renamed to OUTPUT and the rest removed. OUTPUT is there whole or not at all.
#include "recipes/single.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "recipes/runner.h"

#define AT(field) offsetof(struct single_options, field)
#define OUTPUT_ROW(help) \
    { "output", OPTION_STRING, AT(output), NULL, 0, 0, NULL, "PATH", help }
#define FORCE_ROW \
    { "force", OPTION_BOOL, AT(force), "false", 0, 0, NULL, NULL, "replace an output that is there" }
const struct option single_option_table[] = {
    OUTPUT_ROW("folder of the new model"),
    {"data", OPTION_LIST, AT(data), NULL, 0, 0, NULL, "FILE",
     "text to learn from: .txt or .jsonl, may be gzipped (may be repeated)"},
    {"weights", OPTION_STRING, AT(weights), NULL, 0, 0, NULL, "W,W,...",
     "mix the texts: how much comes from each --data, in that order (default: all are laid end to end)"},
    {"eval", OPTION_LIST, AT(eval), NULL, 0, 0, NULL, "FILE",
     "held-out text, for --eval-every and --keep-best; one for each --data for --reweight-every (may be repeated)"},
    {"seq_len", OPTION_INT, AT(seq_len), "0", 0, 1 << 20, NULL, "N",
     "tokens in a window; 0: the model's context, at most 256"},
    {"eval_tokens", OPTION_INT, AT(eval_tokens), "50000", 1, 1e12, NULL, "N", "tokens of a held-out measurement"},
    {"seed", OPTION_INT, AT(seed), "1", 0, 1e15, NULL, "N", "decides all random choices"},
    {"precision", OPTION_CHOICE, AT(precision), "f32", 0, 0, "f32|bf16", NULL, "operands of products"},
    FORCE_ROW,
    COMMON_ROWS,
    {.name = NULL}};
const struct option file_option_table[] = {OUTPUT_ROW("what to write"), FORCE_ROW, COMMON_ROWS, {.name = NULL}};

static struct json *list_json(const struct option_list *list) {
    struct json *o = json_array();
    for (size_t i = 0; i < list->count; i++) {
        char *path = path_absolute(list->item[i]);
        json_push(o, json_from_string(path));
        free(path);
    }
    return o;
}

// The name of OUTPUT without folder and ending.
static char *output_name(const char *output) {
    const char *base = path_base(output);
    size_t n = strlen(base);
    return xasprintf("%.*s", (int)(path_ends_with(base, ".gguf") ? n - 5 : n), base);
}

// The stage's paths start at the current folder.
static void make_absolute(struct json *options) {
    static const char *const keys[] = {"teacher", "teacher_cache", "shape", "imatrix", "calibration", "plan"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        struct json *v = json_get(options, keys[i]), *list = json_kind(v) == JSON_ARRAY ? json_array() : NULL;
        for (const struct json *item = list ? json_first(v) : NULL; item; item = json_next(item)) {
            char *path = path_absolute(json_string(item));
            json_push(list, json_from_string(path));
            free(path);
        }
        const char *one = json_string(v);
        char *path = one && strcmp(one, "auto") != 0 ? path_absolute(one) : NULL; // "auto" is no path (teacher_answers.h)
        if (path || list)
            json_set(options, keys[i], list ? list : json_from_string(path));
        free(path);
    }
}

// {"name", "train", "eval", "weight"} of each --data, named as it was given.
static int add_sources(struct json *data, const struct single_options *s, struct error *err) {
    struct json *list = json_array();
    const char *at = s->weights;
    int fine = 1;
    for (size_t i = 0; i < s->data.count; i++) {
        struct json *one = json_object();
        char *train = path_absolute(s->data.item[i]), *eval = s->eval.count == s->data.count ? path_absolute(s->eval.item[i]) : NULL;
        json_set_string(one, "name", s->data.item[i]);
        json_set_string(one, "train", train);
        if (eval)
            json_set_string(one, "eval", eval);
        if (s->weights) {
            char *end = NULL;
            const double weight = fine ? strtod(at, &end) : 0;
            fine = fine && end > at && weight >= 0 && isfinite(weight) && *end == (i + 1 < s->data.count ? ',' : '\0');
            json_set_number(one, "weight", weight);
            at = fine ? end + 1 : at;
        }
        json_push(list, one);
        free(train);
        free(eval);
    }
    json_set(data, "sources", list);
    return fine ? 0 : error_set(err, "--weights: found \"%s\", expected %zu numbers from 0 with commas between, one for each --data", s->weights, s->data.count);
}

static int add_texts(struct json *data, const struct single_options *s, const struct json *options, struct error *err) {
    const int is_mixed = s->weights || json_number(json_get(options, "reweight_every")) > 0; // else laid end to end
    if (s->weights && !s->data.count)
        return error_set(err, "--weights: weights of texts, and there are none; give --data");
    if (is_mixed && s->data.count)
        TRY(add_sources(data, s, err));
    else
        json_set(data, "train", list_json(&s->data));
    if (!is_mixed || s->eval.count != s->data.count)
        json_set(data, "eval", list_json(&s->eval));
    json_set_number(data, "seq_len", (double)s->seq_len);
    json_set_number(data, "eval_tokens", (double)s->eval_tokens);
    return 0;
}

// NULL: what was given is wrong. The caller frees.
static struct json *make_recipe(const struct call *call, const struct stage_type *type, const void *stage_options,
                                const char *output, struct error *err) {
    const struct single_options *s = call->shared;
    struct json *o = json_object(), *data = json_object(), *stages = json_array(), *stage = json_object();
    char *model = path_absolute(call->words[0]), *name = output_name(output);
    json_set_string(o, "name", name);
    json_set_string(o, "model", model);
    struct json *options = options_json(type->table, stage_options);
    int status = 0;
    if (call->command->shared_table == single_option_table) {
        status = add_texts(data, s, options, err);
        json_set_number(o, "seed", (double)s->seed);
        json_set_string(o, "precision", s->precision == PRECISION_BF16 ? "bf16" : "f32");
    }
    make_absolute(options);
    json_set(stage, type->name, options);
    json_push(stages, stage);
    json_set(o, "data", data);
    json_set(o, "stages", stages);
    free(model);
    free(name);
    if (status == 0)
        return o;
    json_free(o);
    return NULL;
}

// What stands at the output may be replaced: a file, or a folder that holds a model and nothing that looks like more.
static int check_output(const char *output, int force, struct error *err) {
    if (!file_exists(output))
        return 0;
    if (!force)
        return error_set(err, "%s: is there already; --force replaces it", output);
    if (!file_is_directory(output))
        return 0;
    char *config = path_join(output, "config.json");
    int is_model = file_exists(config);
    free(config);
    return is_model
               ? 0
               : error_set(err, "%s: this folder holds no model, so it is not replaced; name another output", output);
}

static int move_product(const char *product, const char *output, const char *work, struct error *err) {
    char *inputs = path_join(product, "INPUTS");
    if (file_is_directory(product))
        remove(inputs);
    free(inputs);
    if (file_is_directory(output) || file_is_directory(product)) // rename replaces a file by a file alone
        TRY(directory_remove(output, err));
    if (rename(product, output) < 0)
        return error_set(err, "%s: cannot be moved to %s (%m); it stays where it is", product, output);
    return directory_remove(work, err);
}

int single_run(const struct call *call, const struct stage_type *type, const void *stage_options, struct error *err) {
    const struct single_options *s = call->shared;
    if (!s->output) {
        error_set(err, "-o is missing: what to write; usage: pdq %s %s", call->command->name,
                  call->command->arguments);
        return EXIT_USAGE;
    }
    size_t n = strlen(s->output);
    char *output = xasprintf("%.*s", (int)(n > 1 && s->output[n - 1] == '/' ? n - 1 : n), s->output);
    char *work = xasprintf("%s.run", output), *product = NULL;
    struct json *o = make_recipe(call, type, stage_options, output, err);
    struct recipe recipe = {0};
    struct runner_options options = {.out = work, .force = s->force, .no_report = 1};
    int status = o ? check_output(output, s->force, err) : -1;
    if (status == 0)
        status = recipe_from_json(&recipe, o, "options", ".", NULL, err);
    if (status == 0)
        status = runner_run(&recipe, &options, &product, err);
    if (status == 0)
        status = move_product(product, output, work, err);
    if (status == 0)
        puts(output);
    recipe_release(&recipe);
    json_free(o);
    free(output);
    free(work);
    free(product);
    return status < 0 ? EXIT_FAILED : EXIT_FINE;
}
