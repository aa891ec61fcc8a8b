// error.h: the three tiers of failure.
//
//   our bug            BUG("op_linear: x[%ld,%ld] ...")  prints where and aborts; ops return no codes
//   out of memory      xmalloc and friends die, naming size and purpose
//   the outside world  int f(..., struct error *err): 0, or -1 with a message that is complete as it
//                      stands: path, key or tensor, found, expected, what to do next
//
// Only main.c and cmd_*.c exit: 0 fine, 1 failed, 2 usage.
#ifndef PDQ_ERROR_H
#define PDQ_ERROR_H

#include <stddef.h>

#define ERROR_MAX 2048

struct error {
    char text[ERROR_MAX];
};

// Formats the message; always returns -1, so that `return error_set(err, ...)` reads well.
int error_set(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
// Puts "<formatted>: " in front of the message that is already there; returns -1.
int error_prefix(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// Forwards a failure from a function that owns nothing yet; functions with things to free use `goto out`.
#define TRY(call)              \
    do {                       \
        if ((call) < 0)        \
            return -1;         \
    } while (0)

_Noreturn void bug_at(const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
#define BUG(...) bug_at(__FILE__, __LINE__, __VA_ARGS__)

// Memory that dies with size and purpose when there is none. The caller frees with free().
void *xmalloc(size_t bytes, const char *purpose);
void *xmalloc_aligned(size_t bytes, const char *purpose); // to 64 bytes, a cache line
void *xcalloc(size_t count, size_t bytes, const char *purpose);
void *xrealloc(void *old, size_t bytes, const char *purpose);
char *xstrdup(const char *s);
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
