// command.h: what a command of the program is. There are three things to do to add one: a file cmd_<name>.c with its
// option table and a `const struct command`, a line below, and a row in main.c's table.
#ifndef PDQ_COMMAND_H
#define PDQ_COMMAND_H

#include <stddef.h>

#include "common/base/error.h"
#include "common/base/options.h"

enum { EXIT_FINE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

struct common_options { // what every command takes; first member of a command's second options struct
    int64_t threads;
    int log; // enum log_level
};
// Rows for a struct T that begins with a struct common_options.
// clang-format off
#define COMMON_ROWS                                                                                                  \
    {"threads", OPTION_INT, offsetof(struct common_options, threads), "0", 0, 4096, NULL, "N",                       \
     "threads to work with; 0: OMP_NUM_THREADS, else the cores"},                                                    \
    {"log", OPTION_CHOICE, offsetof(struct common_options, log), "info", 0, 0, "quiet|warn|info|debug", NULL,        \
     "how much is told on stderr: quiet, warn, info or debug"}
// clang-format on
extern const struct option common_option_table[];

struct call { // process lifetime
    const struct command *command;
    void *options, *shared; // by command->table and command->shared_table
    const char **words;     // what was no option
    int n_words;
};

struct command {
    const char *name, *arguments, *summary;
    const char *notes; // more lines for the help; NULL: none
    const struct option *table;
    size_t size;
    const struct option *shared_table;
    size_t shared_size;
    int min_words, max_words;
    int (*run)(struct call *call, struct error *err); // EXIT_*; on failure the message is in err
};

extern const struct command cmd_run, cmd_sweep, cmd_sensitivity, cmd_prune, cmd_sparsify, cmd_distill, cmd_quantize, cmd_calibrate, cmd_bits, cmd_train, cmd_export, cmd_eval, cmd_speed,
    cmd_generate, cmd_tokenize, cmd_inspect, cmd_doctor;

// Whether a file can be written at path, so that work is not lost at its end: nothing there, or a file that may be replaced; a folder that takes one.
int output_check(const char *path, int replaces, struct error *err);

// One line on stderr with what decides the numbers of this process: version, CPU, kernels, threads, precision.
void header_print(int precision);

#endif
