// log.c: see log.h. On a terminal the line is cleared first, because a progress line may stand there.
#include "common/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

enum log_level log_level = LOG_INFO;

static void log_line(const char *prefix, const char *fmt, va_list args) {
    flockfile(stderr);
    fputs(isatty(STDERR_FILENO) ? "\r\033[K" : "", stderr);
    fputs(prefix, stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    funlockfile(stderr);
}

void log_warn(const char *fmt, ...) {
    if (log_level < LOG_WARN)
        return;
    va_list args;
    va_start(args, fmt);
    log_line("warning: ", fmt, args);
    va_end(args);
}

void log_info(const char *fmt, ...) {
    if (log_level < LOG_INFO)
        return;
    va_list args;
    va_start(args, fmt);
    log_line("", fmt, args);
    va_end(args);
}

void log_debug(const char *fmt, ...) {
    if (log_level < LOG_DEBUG)
        return;
    va_list args;
    va_start(args, fmt);
    log_line("debug: ", fmt, args);
    va_end(args);
}
