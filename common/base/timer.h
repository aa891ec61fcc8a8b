// timer.h: seconds and bytes of this process.
#ifndef PDQ_TIMER_H
#define PDQ_TIMER_H

#include <stdint.h>

double timer_now(void);          // seconds, monotonic
int64_t memory_peak(void);       // largest resident size so far, bytes
int64_t memory_available(void);  // what the machine (or its cgroup) can still give, bytes

#endif
