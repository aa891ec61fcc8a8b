// cmd_sweep.c: `pdq sweep RECIPE --vary KEY=...`: one recipe at every point of a grid.
#include <stdlib.h>
#include <string.h>

#include "recipes/command.h"
#include "recipes/sweep.h"

struct sweep_options {
    struct option_list vary, set;
    int64_t seeds, jobs;
    char *output;
    int dry_run, force;
};
#define ROW(name, kind, field) name, kind, offsetof(struct sweep_options, field)
static const struct option table[] = {
    {ROW("vary", OPTION_LIST, vary), NULL, 0, 0, NULL, "KEY=LIST",
     "a key and its values: prune.score=taylor,random or prune.ffn=0.1:0.9:0.1 (may be repeated)"},
    {ROW("seeds", OPTION_INT, seeds), "1", 1, 1000, NULL, "N", "seeds, from the recipe's on"},
    {ROW("jobs", OPTION_INT, jobs), "1", 1, 256, NULL, "N", "points worked on at once; the threads are shared among them"},
    {ROW("output", OPTION_STRING, output), NULL, 0, 0, NULL, "DIR",
     "folder of the sweep (default: the recipe's, else runs/NAME)"},
    {ROW("set", OPTION_LIST, set), NULL, 0, 0, NULL, "KEY=VALUE", "override a key at every point (may be repeated)"},
    {ROW("dry_run", OPTION_BOOL, dry_run), "false", 0, 0, NULL, NULL,
     "only list the points, and say what they take"},
    {ROW("force", OPTION_BOOL, force), "false", 0, 0, NULL, NULL, "replace the output of another sweep"},
    {.name = NULL}};
#undef ROW

// The recipe is read as its first point: without the keys that are varied it need not be one.
static struct option_list first_point(const struct sweep_options *o, const struct grid *g) {
    struct option_list set = {.item = xcalloc(o->set.count + (size_t)g->n + 1, sizeof *set.item, "keys"), .count = o->set.count};
    memcpy(set.item, o->set.item, o->set.count * sizeof *set.item);
    for (int a = 0; a < g->n; a++) {
        const struct json *v = json_first(g->axis[a].values);
        char *text = json_kind(v) == JSON_STRING ? xstrdup(json_string(v)) : json_text(v, 0);
        set.item[set.count++] = xasprintf("%s=%s", g->axis[a].key, text);
        free(text);
    }
    return set;
}

static int run(struct call *call, struct error *err) {
    const struct sweep_options *o = call->options;
    struct recipe recipe = {0};
    struct grid grid;
    int status = grid_read(&grid, &o->vary, err);
    if (status < 0) {
        grid_release(&grid);
        return EXIT_USAGE;
    }
    struct option_list set = first_point(o, &grid);
    status = recipe_read(&recipe, call->words[0], &set, err);
    for (size_t i = o->set.count; i < set.count; i++)
        free(set.item[i]);
    free(set.item);
    if (status == 0 && recipe.variants)
        status = error_set(err, "%s: a sweep makes the variants itself; leave \"variants\" out", recipe.where);
    for (int a = 0; a < grid.n && status == 0; a++)
        if (o->seeds > 1 && strcmp(grid.axis[a].key, "seed") == 0)
            status = error_set(err, "--vary seed and --seeds %ld: give one of the two", (long)o->seeds);
    struct runner_options options = {
        .out = o->output, .force = o->force, .dry_run = o->dry_run, .grid = &grid, .seeds = o->seeds, .jobs = o->jobs};
    if (status == 0)
        status = runner_run(&recipe, &options, NULL, err);
    recipe_release(&recipe);
    grid_release(&grid);
    return status < 0 ? EXIT_FAILED : EXIT_FINE;
}

const struct command cmd_sweep = {.name = "sweep",
                                  .arguments = "RECIPE --vary KEY=LIST|A:B:STEP ... [--seeds N] [-o DIR]",
                                  .summary = "run a recipe at every point of a grid and compare what comes of it",
                                  .notes = "A random choice of what to remove is added as a control at every point. Stages that points "
                                           "share are run once; run again,\na sweep goes on where it was. A point that fails is "
                                           "reported, and the others are done.\n",
                                  .table = table,
                                  .size = sizeof(struct sweep_options),
                                  .shared_table = common_option_table,
                                  .shared_size = sizeof(struct common_options),
                                  .min_words = 1,
                                  .max_words = 1,
                                  .run = run};
