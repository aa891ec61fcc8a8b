// cmd_prune.c: `pdq prune MODEL -o DIR`: the prune stage alone.
#include "prune/prune.h"
#include "recipes/single.h"

static int run(struct call *call, struct error *err) { return single_run(call, &stage_prune, call->options, err); }

const struct command cmd_prune = {.name = "prune",
                                  .arguments = "MODEL -o DIR [--heads F] [--ffn F] [--layers F] [--data FILE] ...",
                                  .summary = "remove heads, channels, layers or hidden width, to fractions",
                                  .table = prune_option_table,
                                  .size = sizeof(struct prune_options),
                                  .shared_table = single_option_table,
                                  .shared_size = sizeof(struct single_options),
                                  .min_words = 1,
                                  .max_words = 1,
                                  .run = run};
