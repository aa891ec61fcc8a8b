// log.h: levelled chatter on stderr. Results never go through here: they are for stdout.
#ifndef PDQ_LOG_H
#define PDQ_LOG_H

enum log_level { LOG_QUIET, LOG_WARN, LOG_INFO, LOG_DEBUG };
extern enum log_level log_level; // default LOG_INFO

void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));  // "warning: ..."
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
