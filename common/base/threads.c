// threads.c: see threads.h.
#include "common/base/threads.h"

#include <omp.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/error.h"

void threads_set(int n) {
    const char *share = getenv("PDQ_THREADS"); // of a job among others: goes before what the user asked for all of them
    if (share && atoi(share) > 0)
        n = atoi(share);
    if (n <= 0) {
        const char *wanted = getenv("OMP_NUM_THREADS");
        n = wanted ? atoi(wanted) : 0; // "4,2" is a list by nesting level: its first number counts
    }
    if (n <= 0)
        n = omp_get_num_procs();
    omp_set_dynamic(0);
    omp_set_num_threads(n);
}

int threads_count(void) { return omp_get_max_threads(); }

int thread_number(void) { return omp_get_thread_num(); }

static volatile sig_atomic_t stop_asked;

static void on_signal(int number) {
    if (stop_asked)
        _exit(128 + number);
    stop_asked = 1;
}

void interrupt_catch(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

int interrupted(void) { return stop_asked; }

int interrupt_check(struct error *err) {
    return stop_asked ? error_set(err, "interrupted; what was going on is not kept; run the same command again") : 0;
}
