// cmd_quantize.c: `pdq quantize MODEL -o FILE.gguf --type T`: the quantize stage alone.
#include <string.h>

#include "recipes/single.h"

static int run(struct call *call, struct error *err) {
    const struct single_options *s = call->shared;
    if (s->output && !path_is_gguf(s->output)) {
        error_set(err, "-o %s: expected a name that ends in .gguf", s->output);
        return EXIT_USAGE;
    }
    return single_run(call, &stage_quantize, call->options, err);
}

const struct command cmd_quantize = {.name = "quantize",
                                     .arguments = "MODEL -o FILE.gguf --type T",
                                     .summary = "write a model as a quantized GGUF file",
                                     .table = stage_quantize_table,
                                     .size = sizeof(struct quantize_options),
                                     .shared_table = file_option_table,
                                     .shared_size = sizeof(struct single_options),
                                     .min_words = 1,
                                     .max_words = 1,
                                     .run = run};
