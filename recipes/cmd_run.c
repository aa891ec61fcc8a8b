// cmd_run.c: `pdq run RECIPE`, and what all commands share.
#include <stdio.h>
#include <stdlib.h>

#include "common/base/log.h"
#include "common/base/threads.h"
#include "common/tensor/cpu.h"
#include "common/tensor/gemm.h"
#include "recipes/command.h"
#include "recipes/runner.h"

const struct option common_option_table[] = {COMMON_ROWS, {.name = NULL}};

void header_print(int precision) {
    const char *why = "";
    gemm_init();
    enum precision used = gemm_precision((enum precision)precision, &why);
    log_info("pdq %s; %s; %s; %d threads; precision %s", PDQ_VERSION, cpu_get()->name, gemm_description(),
             threads_count(), used == PRECISION_BF16 ? "bf16" : "f32");
    if (precision != (int)used)
        log_warn("precision bf16 was asked for, f32 is used: %s", why);
}

struct run_options {
    struct option_list set;
    char *output;
    int dry_run, json, force;
};
#define ROW(name, kind, field) name, kind, offsetof(struct run_options, field)
static const struct option table[] = {
    {ROW("output", OPTION_STRING, output), NULL, 0, 0, NULL, "DIR",
     "folder of the run (default: the recipe's, else runs/NAME)"},
    {ROW("set", OPTION_LIST, set), NULL, 0, 0, NULL, "KEY=VALUE",
     "override a key: data.seq_len=128, prune.ffn=0.5, stages[1].prune.ffn=0.5 (may be repeated)"},
    {ROW("dry_run", OPTION_BOOL, dry_run), "false", 0, 0, NULL, NULL,
     "only say what would be done, and what it takes"},
    {ROW("json", OPTION_BOOL, json), "false", 0, 0, NULL, NULL, "with --dry-run: print one JSON object"},
    {ROW("force", OPTION_BOOL, force), "false", 0, 0, NULL, NULL, "replace the output of another run"},
    {.name = NULL}};
#undef ROW

static int run(struct call *call, struct error *err) {
    const struct run_options *o = call->options;
    struct recipe recipe;
    if (o->json && !o->dry_run) {
        error_set(err, "--json goes with --dry-run; a run's figures are in its report.json");
        return EXIT_USAGE;
    }
    if (recipe_read(&recipe, call->words[0], &o->set, err) < 0)
        return EXIT_FAILED;
    struct runner_options options = {.out = o->output, .force = o->force, .dry_run = o->dry_run, .json = o->json};
    int status = runner_run(&recipe, &options, NULL, err);
    recipe_release(&recipe);
    return status < 0 ? EXIT_FAILED : EXIT_FINE;
}

const struct command cmd_run = {.name = "run",
                                .arguments = "RECIPE [--set KEY=VALUE]... [-o DIR] [--dry-run]",
                                .summary = "run a recipe's stages, measure what they made, write the report",
                                .notes =
                                    "Run again with the same recipe and folder, finished stages are skipped and an "
                                    "interrupted one goes on where it was.\n"
                                    "Paths in the recipe start at its folder, those given here at the current one.\n",
                                .table = table,
                                .size = sizeof(struct run_options),
                                .shared_table = common_option_table,
                                .shared_size = sizeof(struct common_options),
                                .min_words = 1,
                                .max_words = 1,
                                .run = run};
