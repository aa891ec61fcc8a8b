// Random numbers depend on (seed, name, step) alone; Philox gives the values that its authors publish.
#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

#include "common/base/hash.h"
#include "common/base/random.h"

// Known answers of Philox 4x32-10 from the authors' test vectors (kat_vectors of Random123).
static void check_philox(const uint32_t counter[4], const uint32_t key[2], const uint32_t expected[4]) {
    struct random r = {.key = {key[0], key[1]},
                       .counter = counter[0] | (uint64_t)counter[1] << 32,
                       .stream = counter[2] | (uint64_t)counter[3] << 32};
    for (int i = 0; i < 4; i++)
        cr_assert_eq(random_u32(&r), expected[i]);
}

Test(random, philox_known_answers) {
    check_philox((uint32_t[]){0, 0, 0, 0}, (uint32_t[]){0, 0},
                 (uint32_t[]){0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    check_philox((uint32_t[]){0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, (uint32_t[]){0xffffffff, 0xffffffff},
                 (uint32_t[]){0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    check_philox((uint32_t[]){0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, (uint32_t[]){0xa4093822, 0x299f31d0},
                 (uint32_t[]){0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

Test(random, keyed_by_seed_name_and_step) {
    struct random a, b;
    random_init(&a, 1, "dropout", 7);
    random_init(&b, 1, "dropout", 7);
    for (int i = 0; i < 9; i++)
        cr_assert_eq(random_u32(&a), random_u32(&b));
    random_init(&a, 2, "dropout", 7);
    random_init(&b, 1, "dropout", 7);
    cr_assert_neq(random_u32(&a), random_u32(&b));
    random_init(&a, 1, "dropout", 8);
    random_init(&b, 1, "dropout", 7);
    cr_assert_neq(random_u32(&a), random_u32(&b));
    random_init(&a, 1, "shuffle", 7);
    random_init(&b, 1, "dropout", 7);
    cr_assert_neq(random_u32(&a), random_u32(&b));
}

Test(random, distributions) {
    struct random r;
    random_init(&r, 3, "test", 0);
    double sum = 0, squares = 0, fourth = 0, uniform = 0;
    int n = 200000, counts[6] = {0};
    for (int i = 0; i < n; i++) {
        double u = random_uniform(&r), z = random_normal(&r);
        cr_assert(u >= 0 && u < 1 && isfinite(z));
        uniform += u;
        sum += z;
        squares += z * z;
        fourth += z * z * z * z;
        counts[random_below(&r, 6)]++;
    }
    cr_assert_float_eq(uniform / n, 0.5, 0.004); // six standard errors each
    cr_assert_float_eq(sum / n, 0, 0.0135);
    cr_assert_float_eq(squares / n, 1, 0.019);
    cr_assert_float_eq(fourth / n, 3, 0.14);
    for (int i = 0; i < 6; i++)
        cr_assert_float_eq((double)counts[i] / n, 1.0 / 6, 0.005);
}

// Values of the reference implementation, because files of earlier runs hold them.
Test(hash, known_answers) {
    char a[HASH_TEXT], b[HASH_TEXT];
    hash_text("", a);
    cr_assert_str_eq(a, "99aa06d3014798d86001c324468d497f");
    struct hasher *h = hasher_new();
    hasher_add(h, "ab", 2);
    hasher_add(h, "c", 1);
    hasher_end(h, a);
    hash_text("abc", b);
    cr_assert_str_eq(a, b);
    h = hasher_new();
    hasher_add_text(h, "a");
    hasher_add_text(h, "b");
    hasher_end(h, a);
    h = hasher_new();
    hasher_add_text(h, "ab");
    hasher_add_text(h, "");
    hasher_end(h, b);
    cr_assert_str_neq(a, b);
    cr_assert_neq(hash_bytes("abc", 3, 0), hash_bytes("abc", 3, 1));
}
