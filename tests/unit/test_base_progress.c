// What a pipe sees of progress and chatter; the process's own numbers; stopping.
#include <criterion/criterion.h>
#include <criterion/redirect.h>

#include <omp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/base/progress.h"
#include "common/base/threads.h"
#include "common/base/timer.h"

// Runs `work` with stderr in a file and gives what was written there.
static char *stderr_of(void (*work)(void)) {
    FILE *file = tmpfile();
    char *text = xcalloc(1, 4096, "captured text");
    fflush(stderr);
    int kept = dup(STDERR_FILENO);
    dup2(fileno(file), STDERR_FILENO);
    work();
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    rewind(file);
    text[fread(text, 1, 4095, file)] = '\0';
    fclose(file);
    return text;
}

static void short_work(void) {
    struct progress p;
    progress_begin(&p, "distill", "tokens", 1000, 0);
    for (int i = 1; i <= 1000; i++)
        progress_update(&p, i, "loss %.3f", 2.5);
    progress_end(&p, "loss %.3f", 2.25);
}

static void long_work(void) {
    struct progress p;
    progress_begin(&p, "train", "steps", 100, 20);
    p.started -= 40; // as if the first 40 steps of this run had taken 40 s
    p.shown -= 40;
    progress_update(&p, 60, "loss %.1f", 3.0);
    progress_update(&p, 61, "loss %.1f", 3.0);
}

Test(progress, plain_lines) {
    char *text = stderr_of(short_work);
    cr_assert_eq(strncmp(text, "distill  1000/1000 tokens  100%  ", 33), 0, "%s", text);
    cr_assert(strstr(text, "loss 2.250") && strstr(text, "in all\n"), "%s", text);
    cr_assert_eq(strchr(text, '\n')[1], '\0', "more than one line: %s", text);
    cr_assert_null(strchr(text, '\r'));
    free(text);
    text = stderr_of(long_work);
    cr_assert_str_eq(text, "train  60/100 steps  60%  1 steps/s  loss 3.0  40s left\n");
    free(text);
    log_level = LOG_QUIET;
    text = stderr_of(short_work);
    cr_assert_str_eq(text, "");
    free(text);
}

static void chatter(void) {
    log_warn("a %d", 1);
    log_info("b");
    log_debug("c");
}

Test(log, levels) {
    char *text = stderr_of(chatter);
    cr_assert_str_eq(text, "warning: a 1\nb\n");
    free(text);
    log_level = LOG_WARN;
    text = stderr_of(chatter);
    cr_assert_str_eq(text, "warning: a 1\n");
    free(text);
    log_level = LOG_DEBUG;
    text = stderr_of(chatter);
    cr_assert_str_eq(text, "warning: a 1\nb\ndebug: c\n");
    free(text);
}

Test(threads, count) {
    threads_set(3);
    cr_assert_eq(threads_count(), 3);
    setenv("OMP_NUM_THREADS", "2,4", 1);
    threads_set(0);
    cr_assert_eq(threads_count(), 2);
    unsetenv("OMP_NUM_THREADS");
    threads_set(0);
    cr_assert_eq(threads_count(), omp_get_num_procs());
}

Test(threads, interrupt) {
    interrupt_catch();
    cr_assert_not(interrupted());
    raise(SIGTERM);
    cr_assert(interrupted());
}

Test(threads, second_interrupt, .exit_code = 130) {
    interrupt_catch();
    raise(SIGTERM);
    raise(SIGINT);
}

Test(timer, process) {
    double t = timer_now();
    cr_assert_geq(timer_now(), t);
    int64_t before = memory_peak();
    cr_assert_gt(before, 1 << 20);
    size_t bytes = 32 << 20;
    volatile char *block = xmalloc(bytes, "test");
    for (size_t i = 0; i < bytes; i += 4096)
        block[i] = 1;
    cr_assert_gt(memory_peak(), before + (16 << 20));
    free((void *)block);
    cr_assert_gt(memory_available(), 1 << 20);
}
