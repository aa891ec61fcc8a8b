// error.c: messages for the world outside, aborts for our own bugs, memory that dies loudly.
#include "common/base/error.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int error_set(struct error *err, const char *fmt, ...) {
    char text[ERROR_MAX]; // the arguments may point into err->text
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (err)
        memcpy(err->text, text, sizeof text);
    return -1;
}

int error_prefix(struct error *err, const char *fmt, ...) {
    char prefix[ERROR_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(prefix, sizeof prefix, fmt, args);
    va_end(args);
    if (err) {
        char *text = xasprintf("%s: %s", prefix, err->text);
        snprintf(err->text, sizeof err->text, "%s", text);
        free(text);
    }
    return -1;
}

void bug_at(const char *file, int line, const char *fmt, ...) {
    va_list args;
    fflush(stdout);
    fprintf(stderr, "pdq: bug at %s:%d: ", file, line);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    abort();
}

static _Noreturn void memory_die(size_t bytes, const char *purpose) {
    fprintf(stderr, "pdq: out of memory: %zu bytes for %s\n", bytes, purpose);
    exit(1);
}

void *xmalloc(size_t bytes, const char *purpose) {
    void *p = malloc(bytes ? bytes : 1);
    if (!p)
        memory_die(bytes, purpose);
    return p;
}

void *xmalloc_aligned(size_t bytes, const char *purpose) {
    void *p = aligned_alloc(64, (bytes / 64 + 1) * 64); // whole lines, at least one
    if (!p)
        memory_die(bytes, purpose);
    return p;
}

void *xcalloc(size_t count, size_t bytes, const char *purpose) {
    size_t total;
    if (__builtin_mul_overflow(count, bytes, &total))
        memory_die(SIZE_MAX, purpose);
    void *p = calloc(total ? total : 1, 1);
    if (!p)
        memory_die(total, purpose);
    return p;
}

void *xrealloc(void *old, size_t bytes, const char *purpose) {
    void *p = realloc(old, bytes ? bytes : 1);
    if (!p)
        memory_die(bytes, purpose);
    return p;
}

char *xstrdup(const char *s) {
    size_t bytes = strlen(s) + 1;
    return memcpy(xmalloc(bytes, "a string"), s, bytes);
}

char *xasprintf(const char *fmt, ...) {
    char *text;
    va_list args;
    va_start(args, fmt);
    int n = vasprintf(&text, fmt, args);
    va_end(args);
    if (n < 0)
        memory_die(0, "a formatted string");
    return text;
}
