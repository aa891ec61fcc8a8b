// random.c: Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// The counter's low half counts blocks, its high half is the stream: the hash of (name, step).
#include "common/base/random.h"

#include <math.h>
#include <string.h>

#include "common/base/error.h"
#include "common/base/hash.h"

static void philox_block(const uint32_t key[2], uint64_t counter, uint64_t stream, uint32_t out[4]) {
    uint32_t k0 = key[0], k1 = key[1];
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

void random_init(struct random *r, uint64_t seed, const char *name, uint64_t step) {
    *r = (struct random){.key = {(uint32_t)seed, (uint32_t)(seed >> 32)}};
    r->stream = hash_bytes(name, strlen(name), step);
}

uint32_t random_u32(struct random *r) {
    if (r->left == 0) {
        philox_block(r->key, r->counter++, r->stream, r->block);
        r->left = 4;
    }
    return r->block[4 - r->left--];
}

static uint64_t random_u64(struct random *r) {
    uint64_t low = random_u32(r);
    uint64_t high = random_u32(r);
    return high << 32 | low;
}

double random_uniform(struct random *r) { return (double)(random_u64(r) >> 11) * 0x1p-53; }

double random_normal(struct random *r) {
    r->left = 0;                             // both uniform numbers come from one fresh block
    double radius = 1.0 - random_uniform(r); // (0, 1]: the logarithm is finite
    double angle = random_uniform(r);
    return sqrt(-2.0 * log(radius)) * cos(2.0 * 3.14159265358979323846 * angle);
}

int64_t random_below(struct random *r, int64_t n) {
    if (n <= 0)
        BUG("random_below: n = %lld", (long long)n);
    uint64_t range = (uint64_t)n;
    uint64_t excess = (0 - range) % range; // 2^64 mod n: that many values would make the small results likelier
    uint64_t x;
    do
        x = random_u64(r);
    while (x < excess);
    return (int64_t)(x % range);
}

static uint64_t mix(uint64_t x) // splitmix64's finaliser (Steele et al. 2014)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

// Where index i of 0..n-1 goes in the permutation named by key.
static int64_t permuted(uint64_t key, int64_t n, int64_t i)
{
    int half = 1;
    while (((int64_t)1 << (2 * half)) < n)
        half++;
    uint64_t mask = ((uint64_t)1 << half) - 1, x = (uint64_t)i;
    do {
        uint64_t left = x >> half, right = x & mask;
        for (uint64_t round = 1; round <= 8; round++) {
            uint64_t next = left ^ (mix(key + (round << 56) + right) & mask);
            left = right;
            right = next;
        }
        x = left << half | right;
    } while (x >= (uint64_t)n);
    return (int64_t)x;
}

int64_t random_shuffled(uint64_t seed, const char *name, int64_t n, int64_t i)
{
    struct random random;
    random_init(&random, seed, name, (uint64_t)(i / n));
    uint64_t key = (uint64_t)random_u32(&random) << 32;
    key |= random_u32(&random);
    return permuted(key, n, i % n);
}
