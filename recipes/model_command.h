// model_command.h: a command that looks at one model and writes one new file, or none.
#ifndef PDQ_MODEL_COMMAND_H
#define PDQ_MODEL_COMMAND_H

#include "recipes/command.h"
#include "recipes/open_model.h"

typedef int model_work(const void *options, struct opened *m, struct error *err); // 0, or -1 with a message

// Opens the model words[0] and works on it with the call's options; ^C is caught. output: the file that is to be written (NULL: none), which must
// not be there already unless force allows it. Returns EXIT_*.
int model_command_run(const struct call *call, int precision, const char *output, int force, model_work *work, struct error *err);

#endif
