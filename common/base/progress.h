// progress.h: how far a long piece of work is, with speed, a note (loss, ...) and the time left.
//
// On a terminal one line is redrawn at most six times a second; otherwise a plain line is printed at most every
// ten seconds and one at the end. All on stderr; silent at LOG_QUIET.
#ifndef PDQ_PROGRESS_H
#define PDQ_PROGRESS_H

#include <stdint.h>

struct progress {
    const char *title, *unit; // "distill", "tokens"
    int64_t total, done, first; // first: where a resumed run began
    double started, shown;      // seconds
    int terminal, drawn;
};

void progress_begin(struct progress *p, const char *title, const char *unit, int64_t total, int64_t first);
void progress_update(struct progress *p, int64_t done, const char *note, ...) __attribute__((format(printf, 3, 4)));
void progress_end(struct progress *p, const char *note, ...) __attribute__((format(printf, 2, 3)));

#endif
