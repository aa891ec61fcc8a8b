// cmd_train.c: `pdq train MODEL --data FILE -o DIR`: the train stage alone.
#include "recipes/single.h"
#include "recipes/stage_train.h"

static int run(struct call *call, struct error *err) { return single_run(call, &stage_train, call->options, err); }

const struct command cmd_train = {.name = "train",
                                  .arguments = "MODEL --data FILE --tokens N -o DIR ...",
                                  .summary = "train a model on text, from its weights or (--init) from none",
                                  .notes = "With --init MODEL is a folder with config.json and a tokenizer alone.\n",
                                  .table = stage_train_option_table,
                                  .size = sizeof(struct stage_train_options),
                                  .shared_table = single_option_table,
                                  .shared_size = sizeof(struct single_options),
                                  .min_words = 1,
                                  .max_words = 1,
                                  .run = run};
