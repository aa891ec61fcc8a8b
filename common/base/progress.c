// progress.c: see progress.h.
#include "common/base/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/base/timer.h"

#define PAUSE_TERMINAL (1.0 / 6)
#define PAUSE_PLAIN 10.0

void progress_begin(struct progress *p, const char *title, const char *unit, int64_t total, int64_t first) {
    *p = (struct progress){.title = title, .unit = unit, .total = total, .done = first, .first = first};
    p->started = p->shown = timer_now();
    p->terminal = isatty(STDERR_FILENO);
}

static void put_duration(char *out, size_t size, double seconds) {
    long long s = (long long)(seconds + 0.5);
    if (s >= 3600)
        snprintf(out, size, "%lldh%02lldm", s / 3600, s / 60 % 60);
    else if (s >= 60)
        snprintf(out, size, "%lldm%02llds", s / 60, s % 60);
    else
        snprintf(out, size, "%llds", s);
}

static void put_speed(char *out, size_t size, double speed) {
    if (speed >= 1e6)
        snprintf(out, size, "%.2fM", speed / 1e6);
    else if (speed >= 1e4)
        snprintf(out, size, "%.1fk", speed / 1e3);
    else
        snprintf(out, size, speed >= 100 ? "%.0f" : "%.3g", speed);
}

static void draw(struct progress *p, double now, int last, const char *fmt, va_list args) {
    char line[512], speed[32], time[32], note[256];
    double elapsed = now - p->started;
    double rate = elapsed > 0 ? (double)(p->done - p->first) / elapsed : 0;
    vsnprintf(note, sizeof note, fmt, args);
    put_speed(speed, sizeof speed, rate);
    if (last)
        put_duration(time, sizeof time, elapsed);
    else if (rate > 0 && p->total > p->done)
        put_duration(time, sizeof time, (double)(p->total - p->done) / rate);
    else
        snprintf(time, sizeof time, "?");
    int percent = p->total > 0 ? (int)(100.0 * (double)p->done / (double)p->total) : 0;
    snprintf(line, sizeof line, "%s  %lld/%lld %s  %d%%  %s %s/s%s%s  %s %s", p->title, (long long)p->done,
             (long long)p->total, p->unit, percent, speed, p->unit, *note ? "  " : "", note, time,
             last ? "in all" : "left");
    if (p->terminal) {
        struct winsize window; // a line that wraps cannot be redrawn
        if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1 && window.ws_col < sizeof line)
            line[window.ws_col - 1] = '\0';
    }
    fprintf(stderr, "%s%s%s", p->terminal ? "\r\033[K" : "", line, p->terminal && !last ? "" : "\n");
    fflush(stderr);
    p->drawn = !last;
    p->shown = now;
}

void progress_update(struct progress *p, int64_t done, const char *note, ...) {
    p->done = done;
    double now = timer_now();
    if (log_level == LOG_QUIET || now - p->shown < (p->terminal ? PAUSE_TERMINAL : PAUSE_PLAIN))
        return;
    if (p->total > 0 && done >= p->total)
        return; // progress_end says so
    va_list args;
    va_start(args, note);
    draw(p, now, 0, note, args);
    va_end(args);
}

void progress_end(struct progress *p, const char *note, ...) {
    if (log_level == LOG_QUIET)
        return;
    va_list args;
    va_start(args, note);
    draw(p, timer_now(), 1, note, args);
    va_end(args);
}
