// training_log.c: see training_log.h.
#include "common/train/training_log.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEAN_STEPS 10 // first_loss and last_loss are means over so many steps

static void add(struct snapshot *s, const char *text, size_t n)
{
    if (s->log_bytes + n + 1 > s->log_capacity) {
        s->log_capacity = 2 * (s->log_bytes + n + 1);
        s->log = xrealloc(s->log, s->log_capacity, "the log of a training run");
    }
    memcpy(s->log + s->log_bytes, text, n + 1);
    s->log_bytes += n;
}

void training_log_text(struct snapshot *s, const char *text) { add(s, text, strlen(text)); }

static void add_line(struct snapshot *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add_line(struct snapshot *s, const char *fmt, ...)
{
    char line[512];
    va_list args;
    va_start(args, fmt);
    size_t n = (size_t)vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    add(s, line, n);
}

void training_log_step(struct snapshot *s, int64_t tokens, const struct loss_parts *parts, double rate, double norm)
{
    add_line(s,
             "{\"step\":%lld,\"tokens\":%lld,\"loss\":%.9g,\"ce\":%.9g,\"kl\":%.9g,\"mse\":%.9g,\"lr\":%.9g,"
             "\"norm\":%.9g",
             (long long)s->step, (long long)tokens, parts->loss, parts->ce, parts->kl,
             parts->mse, rate, norm);
    for (int k = 0; k < parts->n_term; k++)
        add_line(s, ",\"%s\":%.9g", parts->term[k].name, parts->term[k].value);
    add_line(s, "}\n");
}

void training_log_held_out(struct snapshot *s, double loss, const char *note)
{
    add_line(s, "{\"step\":%lld,\"held_out\":%.9g%s}\n", (long long)s->step, loss, note);
}

// The log knows, so a resumed run does, too.
int training_log_out_of_patience(const struct snapshot *s, int64_t patience)
{
    static const char key[] = "\"held_out\":";
    int64_t since = 0;
    double best = HUGE_VAL;
    if (!patience || s->evaluated != s->step)
        return 0;
    for (const char *at = s->log; at && (at = strstr(at, key));) {
        at += sizeof key - 1;
        double loss = strtod(at, NULL);
        since = loss < best ? 0 : since + 1;
        best = loss < best ? loss : best;
    }
    return since >= patience;
}

static int64_t count_lines(const char *log, const char *key)
{
    int64_t n = 0;
    for (const char *at = log; at && (at = strstr(at, key)); at++)
        n++;
    return n;
}

// First and last losses come from the log, so that a resumed run reports what an uninterrupted one does.
void training_log_curve(const struct snapshot *s, struct train_result *result)
{
    static const char key[] = "\"loss\":";
    const int64_t lines = count_lines(s->log, key), n = lines < MEAN_STEPS ? lines : MEAN_STEPS;
    int64_t line = 0;
    result->first_loss = result->last_loss = 0;
    for (const char *at = s->log; at && (at = strstr(at, key)); line++) {
        at += sizeof key - 1;
        double loss = strtod(at, NULL);
        if (line < n)
            result->first_loss += loss / (double)n;
        if (line >= lines - n)
            result->last_loss += loss / (double)n;
    }
}
