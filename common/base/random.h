// random.h: a counter-based generator (Philox 4x32-10, Salmon et al. 2011): the numbers depend on
// (seed, name, step) and on nothing else, so any piece of work can be done again alone.
#ifndef PDQ_RANDOM_H
#define PDQ_RANDOM_H

#include <stdint.h>

struct random {
    uint32_t key[2];
    uint64_t stream, counter;
    uint32_t block[4];
    int left; // unused numbers in block
};

void random_init(struct random *r, uint64_t seed, const char *name, uint64_t step);
uint32_t random_u32(struct random *r);
double random_uniform(struct random *r); // [0, 1), 53 bits
double random_normal(struct random *r);  // mean 0, variance 1 (Box-Muller, both halves from one block)
int64_t random_below(struct random *r, int64_t n); // 0 .. n-1, without bias
// Item i of an endless sequence of passes over 0 .. n-1, each pass in an order of its own.
int64_t random_shuffled(uint64_t seed, const char *name, int64_t n, int64_t i);

#endif
