// cmd_export.c: `pdq export MODEL -o DIR|FILE.gguf`: the export stage alone; the output's name says which format.
#include "recipes/single.h"

static int run(struct call *call, struct error *err) {
    const struct single_options *s = call->shared;
    struct export_options *o = call->options;
    const int is_gguf = s->output && path_is_gguf(s->output);
    if (s->output && (o->format == FORMAT_BOTH || (o->format == FORMAT_GGUF && !is_gguf))) {
        error_set(err, o->format == FORMAT_BOTH ? "-o %s: one name for two formats; export twice, or with a recipe" : "-o %s: expected a name that ends in .gguf",
                  s->output);
        return EXIT_USAGE;
    }
    o->format = is_gguf ? FORMAT_GGUF : FORMAT_HF;
    return single_run(call, &stage_export, o, err);
}

const struct command cmd_export = {
    .name = "export",
    .arguments = "MODEL -o DIR|FILE.gguf [--dtype T]",
    .summary = "write a model as a Hugging Face folder or a GGUF file, unquantized",
    .notes = "The output's name decides the format: a name that ends in .gguf is a GGUF file.\n",
    .table = stage_export_table,
    .size = sizeof(struct export_options),
    .shared_table = file_option_table,
    .shared_size = sizeof(struct single_options),
    .min_words = 1,
    .max_words = 1,
    .run = run};
