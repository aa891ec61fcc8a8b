// cmd_train.c: `pdq train RECIPE [-o DIR]`: a recipe that only trains, from given weights or from none.
#include <stdlib.h>

#include "recipes/command.h"
#include "recipes/runner.h"

struct train_command_options {
    struct option_list set;
    char *output;
    int dry_run, force;
};
#define ROW(name, kind, field) name, kind, offsetof(struct train_command_options, field)
static const struct option table[] = {
    {ROW("output", OPTION_STRING, output), NULL, 0, 0, NULL, "DIR",
     "folder of the run (default: the recipe's, else runs/NAME)"},
    {ROW("set", OPTION_LIST, set), NULL, 0, 0, NULL, "KEY=VALUE",
     "override a key, as in train.tokens=1e6 (may be repeated)"},
    {ROW("dry_run", OPTION_BOOL, dry_run), "false", 0, 0, NULL, NULL,
     "only say what would be done, and what it takes"},
    {ROW("force", OPTION_BOOL, force), "false", 0, 0, NULL, NULL, "replace the output of another run"},
    {.name = NULL}};
#undef ROW

static int run(struct call *call, struct error *err) {
    const struct train_command_options *o = call->options;
    struct recipe recipe;
    if (recipe_read(&recipe, call->words[0], &o->set, err) < 0)
        return EXIT_FAILED;
    struct runner_options options = {.out = o->output, .force = o->force, .dry_run = o->dry_run};
    int status = 0;
    for (int i = 0; i < recipe.n_stage && status == 0; i++)
        if (recipe.stage[i].type != &stage_train && !recipe.stage[i].type->keeps_model)
            status = error_set(err, "%s: stages[%d].%s: pdq train takes recipes that only train; use pdq run",
                               recipe.where, i, recipe.stage[i].type->name);
    if (status == 0)
        status = runner_run(&recipe, &options, NULL, err);
    recipe_release(&recipe);
    return status < 0 ? EXIT_FAILED : EXIT_FINE;
}

const struct command cmd_train = {.name = "train",
                                  .arguments = "RECIPE [--set KEY=VALUE]... [-o DIR]",
                                  .summary = "train a model on text, from its weights or (\"init\": true) from none",
                                  .notes = "A recipe whose first train stage has \"init\": true starts from a folder "
                                           "with config.json and a tokenizer alone.\n",
                                  .table = table,
                                  .size = sizeof(struct train_command_options),
                                  .shared_table = common_option_table,
                                  .shared_size = sizeof(struct common_options),
                                  .min_words = 1,
                                  .max_words = 1,
                                  .run = run};
