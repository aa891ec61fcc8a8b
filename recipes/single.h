// single.h: a command that is one stage: it makes a recipe in memory, runs it beside the output, and moves the
// product into place.
#ifndef PDQ_SINGLE_H
#define PDQ_SINGLE_H

#include "recipes/command.h"
#include "recipes/stage.h"

struct single_options { // begins with the common ones
    struct common_options common;
    char *output;
    struct option_list data, eval;
    char *weights; // of the texts in `data`, numbers with commas between; NULL: these are laid end to end
    int64_t seq_len, eval_tokens, seed;
    int precision; // enum precision
    int force;
};
extern const struct option single_option_table[]; // for stages that read text
extern const struct option file_option_table[];   // for those that only convert

// Runs the stage on model words[0]; stage_options by type's table. The product ends at shared->output.
int single_run(const struct call *call, const struct stage_type *type, const void *stage_options, struct error *err);

#endif
