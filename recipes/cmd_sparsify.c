// cmd_sparsify.c: `pdq sparsify MODEL -o DIR`: the sparsify stage alone.
#include "prune/sparse.h"
#include "recipes/single.h"

static int run(struct call *call, struct error *err) { return single_run(call, &stage_sparsify, call->options, err); }

const struct command cmd_sparsify = {.name = "sparsify",
                                     .arguments = "MODEL -o DIR --sparsity F | --pattern N:M [--score S] [--data FILE] ...",
                                     .summary = "set single weights to zero, anywhere or in a pattern such as 2:4",
                                     .table = sparse_option_table,
                                     .size = sizeof(struct sparse_options),
                                     .shared_table = single_option_table,
                                     .shared_size = sizeof(struct single_options),
                                     .min_words = 1,
                                     .max_words = 1,
                                     .run = run};
