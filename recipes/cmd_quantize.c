// cmd_quantize.c: `pdq quantize MODEL -o FILE.gguf|DIR --type T`: the quantize stage alone.
#include <string.h>

#include "quant/int_types.h"
#include "recipes/single.h"

static int run(struct call *call, struct error *err) {
    const struct single_options *s = call->shared;
    const int is_folder = int_type_find(((const struct quantize_options *)call->options)->type) != NULL;
    if (s->output && path_is_gguf(s->output) == is_folder) {
        error_set(err, is_folder ? "-o %s: expected the name of a folder, not of a .gguf file" : "-o %s: expected a name that ends in .gguf", s->output);
        return EXIT_USAGE;
    }
    return single_run(call, &stage_quantize, call->options, err);
}

const struct command cmd_quantize = {.name = "quantize",
                                     .arguments = "MODEL -o FILE.gguf|DIR --type T",
                                     .summary = "write a model quantized: a GGUF file, or a folder of integers in safetensors",
                                     .table = stage_quantize_table,
                                     .size = sizeof(struct quantize_options),
                                     .shared_table = file_option_table,
                                     .shared_size = sizeof(struct single_options),
                                     .min_words = 1,
                                     .max_words = 1,
                                     .run = run};
