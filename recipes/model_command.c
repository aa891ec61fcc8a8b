// model_command.c: see model_command.h.
#include "recipes/model_command.h"

#include "common/base/threads.h"

int model_command_run(const struct call *call, int precision, const char *output, int force, model_work *work, struct error *err) {
    struct opened m = {0};
    interrupt_catch();
    header_print(precision);
    int status = output ? output_check(output, force, err) : 0;
    if (status == 0)
        status = opened_open(&m, call->words[0], err);
    if (status == 0)
        status = work(call->options, &m, err);
    opened_release(&m);
    return status < 0 ? EXIT_FAILED : EXIT_FINE;
}
