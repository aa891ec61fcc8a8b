// process.h: another program's output. Used for gnuplot and llama-bench, which may be absent.
#ifndef PDQ_PROCESS_H
#define PDQ_PROCESS_H

#include <stddef.h>

// Runs argv[0] (looked up on PATH) with `input` (may be NULL) on its standard input. Returns its standard output,
// NUL-terminated, for the caller to free; NULL when it is not there or fails.
char *process_output(const char *const *argv, const char *input, size_t *len);

#endif
