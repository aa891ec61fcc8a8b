// machine_cache.h: the machine's measured speed, kept between runs in ${XDG_CACHE_HOME:-~/.cache}/pdq/machine.json.
#ifndef PDQ_MACHINE_CACHE_H
#define PDQ_MACHINE_CACHE_H

#include "common/base/json.h"
#include "common/tensor/gemm.h"

// GFLOP/s of products at the threads and the precision at hand: from the cache, or measured now (three seconds) and
// kept.
double machine_gflops(enum precision precision);
double machine_gbs(void); // the same for memory: 1e9 bytes read and written a second
// Measures and keeps. The caller frees.
struct json *machine_measured(void);

#endif
