// machine_cache.h: the machine's measured speed, kept between runs in ${XDG_CACHE_HOME:-~/.cache}/pdq/machine.json.
#ifndef PDQ_MACHINE_CACHE_H
#define PDQ_MACHINE_CACHE_H

#include "common/base/json.h"
#include "common/tensor/gemm.h"

// GFLOP/s of products at the threads and the precision at hand: from the cache, or measured now (three seconds) and
// kept.
double machine_gflops(enum precision precision);
double machine_gbs(void); // the same for memory: 1e9 bytes read and written a second
int machine_bf16_is_slow(void); // by more than a tenth slower than f32, as measured before; 0 where nothing is kept
// Measures and keeps. The caller frees.
struct json *machine_measured(void);

// A table of measurements in the same folder, of this machine, its number of threads and this version; empty where there is
// none. The caller frees. Keeping it may fail: then it is measured again.
struct json *machine_table_read(const char *name);
void machine_table_keep(const char *name, const struct json *table);

#endif
