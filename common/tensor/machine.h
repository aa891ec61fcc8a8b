// machine.h: what this machine does when asked, in numbers: `pdq doctor` prints them, the dry run predicts time with
// them.
#ifndef PDQ_MACHINE_H
#define PDQ_MACHINE_H

#include "common/base/json.h"
#include "common/tensor/cpu.h"

#define MACHINE_RATES 12

struct machine_rate {
    int threads;
    double f32_gflops, bf16_gflops; // on a middling product; bf16 0 where it is not used
    double copy_gbs, triad_gbs;     // a = b, a = b + s c: bytes read and written, 1e9 a second
};

struct machine {
    const struct cpu *cpu;
    int threads;                             // threads_count() when measured
    const char *bf16_why;                    // what bf16 runs on, or why it does not
    struct machine_rate rate[MACHINE_RATES]; // 1, 2, 4 ... threads; the last one has them all
    int n_rate;
};

// Takes up to about three seconds and keeps the number of threads as it was.
void machine_measure(struct machine *m);
const struct machine_rate *machine_full_rate(const struct machine *m);
struct json *machine_json(const struct machine *m); // the caller owns it

#endif
