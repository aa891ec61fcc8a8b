// Errors carry whole messages; bugs abort; the arena keeps its pointers, its alignment and its peak.
#include <criterion/criterion.h>
#include <criterion/redirect.h>

#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/arena.h"
#include "common/base/error.h"

Test(error, set_and_prefix) {
    struct error err;
    cr_assert_eq(error_set(&err, "expected %d", 3), -1);
    cr_assert_eq(error_prefix(&err, "%s", "config.json"), -1);
    cr_assert_str_eq(err.text, "config.json: expected 3");
    error_set(&err, "again: %s", err.text); // its own text as an argument
    cr_assert_str_eq(err.text, "again: config.json: expected 3");
    cr_assert_eq(error_set(NULL, "nobody listens"), -1);
}

Test(error, long_messages_are_cut) {
    struct error err;
    char *text = xcalloc(1, 2 * ERROR_MAX, "test");
    memset(text, 'x', 2 * ERROR_MAX - 1);
    error_set(&err, "%s", text);
    error_prefix(&err, "%s", text);
    cr_assert_eq(strlen(err.text), ERROR_MAX - 1);
    free(text);
}

Test(error, bug_aborts, .signal = SIGABRT) {
    cr_redirect_stderr();
    BUG("shape [%d]", 3);
}

Test(error, no_memory_dies, .exit_code = 1) {
    cr_redirect_stderr();
    xcalloc(SIZE_MAX / 2, 4, "an overflowing product");
}

Test(error, memory_of_nothing) {
    void *p = xmalloc(0, "nothing");
    cr_assert_not_null(p);
    p = xrealloc(p, 0, "nothing");
    cr_assert_not_null(p);
    free(p);
    char *s = xasprintf("%s-%d", "a", 1);
    cr_assert_str_eq(s, "a-1");
    free(s);
}

Test(arena, marks_and_alignment) {
    struct arena a;
    arena_init(&a, "test", ARENA_DEFAULT);
    char *first = arena_alloc(&a, 3);
    size_t mark = arena_mark(&a);
    char *second = arena_alloc(&a, 5 << 20);
    cr_assert_eq((uintptr_t)first % 64, 0);
    cr_assert_eq((uintptr_t)second % 64, 0);
    memset(second, 1, 5 << 20);
    arena_reset(&a, mark);
    cr_assert_eq(arena_alloc(&a, 1), second);
    cr_assert_geq(a.peak, (size_t)5 << 20);
    arena_reset(&a, mark);
    cr_assert_eq(((char *)arena_zalloc(&a, 100))[99], 0);
    arena_release(&a);
    cr_assert_null(a.base);
}

Test(arena, full_arena_dies, .exit_code = 1) {
    struct arena a;
    cr_redirect_stderr();
    arena_init(&a, "small", 1 << 20);
    arena_alloc(&a, 1000000);
    arena_alloc(&a, 100000);
}
