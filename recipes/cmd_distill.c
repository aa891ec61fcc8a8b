// cmd_distill.c: `pdq distill STUDENT --teacher TEACHER -o DIR`: the distill stage alone.
#include "distill/distill.h"
#include "recipes/single.h"

static int run(struct call *call, struct error *err) {
    const struct distill_options *o = call->options;
    if (!o->teacher.count) {
        error_set(err, "--teacher is missing: the model to learn from");
        return EXIT_USAGE;
    }
    return single_run(call, &stage_distill, call->options, err);
}

const struct command cmd_distill = {.name = "distill",
                                    .arguments = "STUDENT --teacher MODEL --data FILE --tokens N -o DIR ...",
                                    .summary = "let a smaller model learn from a larger one with the same vocabulary",
                                    .table = distill_option_table,
                                    .size = sizeof(struct distill_options),
                                    .shared_table = single_option_table,
                                    .shared_size = sizeof(struct single_options),
                                    .min_words = 1,
                                    .max_words = 1,
                                    .run = run};
