// The storage types: blocks made by hand, error bounds, and row products against decoded rows.
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "common/base/random.h"
#include "common/tensor/cpu.h"
#include "common/tensor/dtype.h"
#include "quant/blocks.h"
#include "tests/unit/golden.h"
#include "tests/unit/tolerance.h"

#define N 1024

static const char *const names[] = {"F32",  "F16",  "BF16", "Q8_0", "Q4_0", "Q4_1",   "Q5_0",  "Q5_1",
                                    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"};
#define N_NAMES (sizeof names / sizeof *names)

static void fill_normal(float *x, int64_t n, double scale, uint64_t step)
{
    struct random r;
    random_init(&r, 7, "blocks", step);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(scale * random_normal(&r));
}

static void put_f16(unsigned char *p, float v)
{
    uint16_t h = f32_to_f16(v);
    memcpy(p, &h, 2);
}

Test(quant_blocks, q8_0_by_hand)
{
    float x[32] = {0};
    x[0] = 63.5f; // 127 * 0.5: d is 0.5
    x[1] = -63.5f;
    x[2] = 0.25f; // half a step: away from zero, to 1
    x[3] = -0.25f;
    x[31] = 0.24f; // below half a step
    unsigned char b[34];
    block_format_find("q8_0")->encode(x, NULL, 32, b);
    unsigned char want[34] = {0x00, 0x38, 127, 0x81, 1, 0xff};
    cr_assert_arr_eq(b, want, 34);
}

Test(quant_blocks, q4_0_by_hand)
{
    float x[32] = {0};
    x[0] = 2;      // the largest magnitude: d = 2 / -8 = -0.25 and its code is 0
    x[1] = -1.75f; // 7 steps of -0.25 above: code 15
    x[2] = -2;     // 8 steps do not fit: cut to 15
    x[16] = 0.25f; // code 7, in the high half of byte 0
    unsigned char b[18];
    block_format_find("Q4_0")->encode(x, NULL, 32, b);
    unsigned char want[18];
    memset(want, 0x88, 18);
    put_f16(want, -0.25f);
    want[2] = 0x70;
    want[3] = 0x8f;
    want[4] = 0x8f;
    cr_assert_arr_eq(b, want, 18);
}

Test(quant_blocks, q4_k_by_hand)
{
    unsigned char b[144] = {0};
    put_f16(b, 0.5f);
    put_f16(b + 2, 0.25f);
    // Sub-block 1: scale 33, min 10. Sub-block 6: scale 0x2a = 42, min 0x35 = 53, whose top bits lie in bytes 2 and
    // 6.
    b[4 + 1] = 33;
    b[4 + 5] = 10;
    b[4 + 10] = 0x5a;       // low halves: scale 0xa, min 0x5
    b[4 + 2] = 2 << 6;      // top bits of the scale
    b[4 + 6] = 3 << 6;      // top bits of the min
    b[16 + 3] = 0x90;       // sub-block 1, value 3: 9
    b[16 + 96 + 31] = 0x0f; // sub-block 6, value 31: 15
    float y[256];
    block_format_find("Q4_K")->decode(b, y, 256);
    for (int i = 0; i < 256; i++) {
        float want = i / 32 == 1 ? -2.5f : i / 32 == 6 ? -13.25f : 0;
        want += i == 32 + 3 ? 0.5f * 33 * 9 : i == 192 + 31 ? 0.5f * 42 * 15 : 0;
        cr_assert_eq(y[i], want, "value %d: %g, expected %g", i, (double)y[i], (double)want);
    }
}

Test(quant_blocks, q6_k_by_hand)
{
    unsigned char b[210] = {0};
    put_f16(b + 208, 0.5f);
    for (int j = 0; j < 16; j++)
        b[192 + j] = (unsigned char)(j - 8); // scales of both signs
    b[64 + 32 + 5] = 0xc0;                   // second half, quarter 3, value 5: low bits 12
    b[128 + 32 + 5] = 0xc0;                  // its high bits 3: q = 60
    float y[256];
    block_format_find("Q6_K")->decode(b, y, 256);
    for (int i = 0; i < 256; i++) {
        const int q = i == 128 + 96 + 5 ? 60 : 0;
        cr_assert_eq(y[i], 0.5f * (float)(i / 16 - 8) * (float)(q - 32), "value %d: %g", i, (double)y[i]);
    }
}

// Bytes and values of llama.cpp's own decoder in NumPy: equal to the bit.
Test(quant_blocks, decoders_are_llama_cpp_s)
{
    struct golden g = golden_open("blocks/blocks.txt");
    for (size_t k = 0; k < N_NAMES; k++) {
        const struct block_format *f = block_format_find(names[k]);
        if (f->elements == 1)
            continue;
        const struct golden_tensor *bytes = golden_get(&g, f->name, "bytes"), *values = golden_get(&g, f->name, "values");
        unsigned char *b = xmalloc((size_t)bytes->count, "blocks");
        float *y = xmalloc((size_t)values->count * sizeof *y, "values");
        for (int64_t i = 0; i < bytes->count; i++)
            b[i] = (unsigned char)bytes->value[i];
        cr_assert_eq(bytes->count / f->bytes * f->elements, values->count);
        f->decode(b, y, values->count);
        for (int64_t i = 0; i < values->count; i++) {
            const float want = (float)values->value[i];
            cr_assert_eq(memcmp(&y[i], &want, sizeof want), 0, "%s, value %ld: %.9g, expected %.9g", f->name, (long)i,
                         (double)y[i], (double)want);
        }
        free(b);
        free(y);
    }
    golden_close(&g);
}

// Root mean square error on normal values relative to their deviation. The steps of a uniform grid over a block's
// range explain the size: a step of s gives s / sqrt(12), and the range of 32 normal values is about 4.1 deviations.
static const struct {
    const char *name;
    double bound;
    const char *why;
} bounds[] = {
    {"F32", 0, "exact"},
    {"F16", 0.0003, "11 bits: at most 2^-12 of a value"},
    {"BF16", 0.002, "8 bits: at most 2^-9 of a value"},
    {"Q8_0", 0.006, "254 steps over twice the largest of 32, about 2.1 deviations: 0.0048"},
    {"Q4_0", 0.095, "16 steps over the same: 0.077, and one end is cut"},
    {"Q4_1", 0.082, "15 steps over the range of 32, about 4.1 deviations: 0.079"},
    {"Q5_0", 0.045, "32 steps over twice the largest: 0.038, and one end is cut"},
    {"Q5_1", 0.041, "31 steps over the range: 0.038"},
    {"Q2_K", 0.32, "3 steps over the range of 16, about 3.5 deviations: 0.34, less what the search gains"},
    {"Q3_K", 0.17, "7 steps over twice the largest of 16, about 1.8 deviations: 0.15, and one end is cut"},
    {"Q4_K", 0.078, "15 steps over the range of 32: 0.079, less what the search gains"},
    {"Q5_K", 0.038, "31 steps over the range: 0.038, less what the search gains"},
    {"IQ4_NL", 0.085, "levels denser near zero than Q4_0's"},
    {"IQ4_XS", 0.085, "the same, with a scale of 6 bits"},
    {"Q6_K", 0.018, "63 steps over twice the largest of 16, about 1.8 deviations: 0.0165"},
};

Test(quant_blocks, error_bounds)
{
    static float x[N], y[N];
    static unsigned char b[N * 4];
    fill_normal(x, N, 0.02, 1);
    cr_assert_eq(sizeof bounds / sizeof *bounds, N_NAMES);
    for (size_t k = 0; k < N_NAMES; k++) {
        const struct block_format *f = block_format_find(bounds[k].name);
        f->encode(x, NULL, N, b);
        f->decode(b, y, N);
        double error = 0;
        for (int i = 0; i < N; i++)
            error += pow((double)y[i] - (double)x[i], 2);
        error = sqrt(error / N) / 0.02;
        cr_expect_leq(error, bounds[k].bound, "%s: error %.5f above %.5f (%s)", f->name, error, bounds[k].bound,
                      bounds[k].why);
    }
}

static double weighted_error(const struct block_format *f, const float *x, const float *importance, const float *w)
{
    static unsigned char b[N * 4];
    static float y[N];
    double error = 0;
    f->encode(x, importance, N, b);
    f->decode(b, y, N);
    for (int i = 0; i < N; i++)
        error += (double)w[i] * pow((double)y[i] - (double)x[i], 2);
    return error;
}

// Columns that matter a hundred times more than others get the better values; all alike, the weights change little, however
// large they are.
Test(quant_blocks, importance)
{
    static float x[N], w[N], ones[N];
    fill_normal(x, N, 0.02, 4);
    for (int i = 0; i < N; i++) {
        w[i] = i * 7 % 5 == 0 ? 1e12f : 1e10f;
        ones[i] = 3e-20f;
    }
    for (size_t k = 0; k < N_NAMES; k++) {
        const struct block_format *f = block_format_find(names[k]);
        const double without = weighted_error(f, x, NULL, w), with = weighted_error(f, x, w, w);
        const int searches = f->elements > 1 && strcmp(f->name, "Q8_0") != 0;
        cr_expect_leq(with, searches ? 0.98 * without : without, "%s: weighted error %g, without the weights %g", f->name, with, without);
        cr_expect_leq(weighted_error(f, x, ones, ones), 1.001 * weighted_error(f, x, NULL, ones), "%s", f->name);
    }
}

// An importance of zeros, for a block or for the whole row, says nothing: the values still come back. Nor does one so small that its mean
// has no inverse (the last turn), which once made blocks of NaN.
Test(quant_blocks, importance_of_zeros)
{
    static float x[N], w[N], ones[N];
    fill_normal(x, N, 0.02, 5);
    for (int i = 0; i < N; i++)
        ones[i] = 1;
    for (size_t k = 0; k < N_NAMES; k++) {
        const struct block_format *f = block_format_find(names[k]);
        for (int turn = 0; turn < 3; turn++) {
            for (int i = 0; i < N; i++)
                w[i] = turn == 2 ? 1e-42f : (float)(i < 256 * turn);
            cr_expect_leq(weighted_error(f, x, w, ones), 1.1 * weighted_error(f, x, NULL, ones), "%s", f->name);
        }
    }
}

Test(quant_blocks, special_rows)
{
    static float x[256], y[256];
    unsigned char b[1024];
    static const float constants[] = {0, 1, -1, 1e-9f, -3e4f};
    for (size_t k = 0; k < N_NAMES; k++) {
        const struct block_format *f = block_format_find(names[k]);
        for (size_t c = 0; c < sizeof constants / sizeof *constants; c++) {
            for (int i = 0; i < 256; i++)
                x[i] = constants[c];
            f->encode(x, NULL, 256, b);
            f->decode(b, y, 256);
            for (int i = 0; i < 256; i++) // a scale in f16, 8 bits in BF16: 2^-9 at most; 1e-9 is below half of the smallest f16
                cr_assert_float_eq((double)y[i], (double)x[i], 0x1p-9 * fabs((double)x[i]) + 1e-8,
                                   "%s: a row of %g gave %g", f->name, (double)x[i], (double)y[i]);
        }
        memset(x, 0, sizeof x);
        f->encode(x, NULL, 256, b);
        f->decode(b, y, 256);
        for (int i = 0; i < 256; i++) // Q4_0 gives -0, as the reference does
            cr_assert_eq(y[i], 0, "%s: a row of zeros must stay exactly zero", f->name);
    }
}

// Whole multiples of one f16 number, whether or not the format's end is among them, with both signs of it and of zero; other values behind
// them are rounded as ever.
Test(quant_blocks, values_on_a_grid_encode_to_themselves)
{
    static const struct { const char *name; int low, high; } of[] = {{"Q4_0", -8, 7}, {"Q5_0", -16, 15}, {"Q8_0", -128, 127}};
    for (size_t k = 0; k < 3; k++) {
        const struct block_format *f = block_format_find(of[k].name);
        for (uint64_t trial = 0; trial < 400; trial++) {
            float g[65], x[64], y[64];
            unsigned char blocks[2 * 34], plain[34];
            fill_normal(g, 65, 1, trial);
            const float d = f16_to_f32(f32_to_f16(0.01f * g[64]));
            for (int i = 0; i < 64; i++)
                x[i] = i < 32 ? (fminf(fmaxf(rintf(g[i] * (float)-of[k].low / 3), (float)of[k].low), (float)of[k].high) + 0.0f) * d : g[i];
            f->encode(x, NULL, 64, blocks);
            f->decode(blocks, y, 64);
            cr_assert_arr_eq(x, y, 32 * sizeof *x, "%s, trial %d, scale %g", f->name, (int)trial, (double)d);
            f->encode(x + 32, NULL, 32, plain);
            cr_assert_arr_eq(blocks + f->bytes, plain, (size_t)f->bytes);
        }
    }
}

// f->dot against float64, by bytes where the CPU can and by floats. Bytes hold x to 2^-22 of the largest of each 256,
// evenly spread errors, of whose sum six standard deviations are allowed. Float sums lose about 2^-24 for each of the N / 8 additions
// of a lane at the very worst. What lies behind the row and behind x would make it no number.
static void check_dot(const struct block_format *f, const unsigned char *blocks, const float *input, int64_t n, const char *what)
{
    static float y[N], x[N + 256];
    static unsigned char row[N * 4 + 512];
    memset(x, 0xff, sizeof x);
    memset(row, 0xff, sizeof row);
    memcpy(x, input, (size_t)n * sizeof *x);
    memcpy(row, blocks, (size_t)block_row_bytes(f, n));
    struct cpu *cpu = (struct cpu *)(uintptr_t)cpu_get();
    const int vnni = cpu->avx512_vnni;
    double want = 0, magnitude = 0, in_bytes = 0;
    f->decode(row, y, n);
    for (int64_t i = 0, end; i < n; i = end) {
        double largest = 0, squares = 0;
        for (end = i; end < n && end < i + 256; end++) {
            const double product = (double)y[end] * (double)x[end];
            want += product;
            magnitude += fabs(product);
            squares += (double)y[end] * (double)y[end];
            largest = fmax(largest, fabs((double)x[end]));
        }
        in_bytes += 36 * largest * largest * ldexp(squares, -44) / 3;
    }
    for (cpu->avx512_vnni = 0; cpu->avx512_vnni <= vnni; cpu->avx512_vnni++) {
        void *arranged = xmalloc_aligned((size_t)block_arranged_bytes(f, n), "an input in order");
        block_arrange(f, x, n, arranged);
        cr_expect_float_eq((double)f->dot(row, arranged, n), want, FLOAT_FEW * magnitude + (cpu->avx512_vnni ? sqrt(in_bytes) : 0), "%s, %s, %s",
                           f->name, what, cpu->avx512_vnni ? "bytes" : "floats");
        free(arranged);
    }
    cpu->avx512_vnni = vnni;
}

Test(quant_blocks, dot_is_decode_times_x)
{
    static float w[N], x[N], ends[N];
    static unsigned char b[N * 4];
    fill_normal(w, N, 0.02, 2);
    for (size_t k = 0; k < N_NAMES; k++) {
        const struct block_format *f = block_format_find(names[k]);
        // F types: lengths that are no multiples of a register; blocks of 32: four lengths of what is behind the last 128
        for (int64_t less = 0; less < 4; less++) {
            const int64_t n = f->elements == 1 ? N - 3 - 32 * less : N - less * f->elements;
            fill_normal(x, N, 1, 3);
            f->encode(w, NULL, n, b);
            check_dot(f, b, x, n, "normal");
            x[5] = 3000; // beside it the others have fewer bits
            check_dot(f, b, x, n, "an outlier");
            for (int sign = -1; sign <= 1; sign += 2) { // the largest codes times the largest inputs, all of one sign
                for (int64_t i = 0; i < n; i++) {
                    ends[i] = (float)(i % 2 ? sign : -sign);
                    x[i] = ends[i] * 7;
                }
                f->encode(ends, NULL, n, b);
                check_dot(f, b, x, n, "ends");
                for (int64_t i = 0; i < n; i++)
                    ends[i] = x[i] = (float)sign;
                f->encode(ends, NULL, n, b);
                check_dot(f, b, x, n, "one end");
            }
            memset(x, 0, sizeof x);
            check_dot(f, b, x, n, "zeros");
        }
    }
}

// The bits that inputs have in bytes: beside one of 3000, which meets weights of zero, the others are rounded to 3000 / 2^21, evenly spread.
// Of the squares of 200 errors the mean is that of such errors (one bit less: four times as much); f32 sums add next to nothing.
Test(quant_blocks, inputs_in_bytes_have_21_bits)
{
    static float w[256], x[256], y[256];
    static unsigned char b[256 * 4], arranged[4096] __attribute__((aligned(64)));
    if (!cpu_get()->avx512_vnni)
        cr_skip_test("this CPU has no AVX512-VNNI, or PDQ_CPU hides it");
    for (size_t k = 0; k < N_NAMES; k++) {
        const struct block_format *f = block_format_find(names[k]);
        if (f->centre == 0) // floats, and formats with a minimum: errors meet scale * code there, not the weight
            continue;
        double errors = 0, expected = 0;
        for (uint64_t trial = 0; trial < 200; trial++) {
            fill_normal(w, 256, 0.02, trial);
            fill_normal(x, 256, 1, trial + 1000);
            memset(w, 0, 128 * sizeof *w);
            x[5] = 3000;
            f->encode(w, NULL, 256, b);
            f->decode(b, y, 256);
            if (y[5] != 0)
                continue;
            block_arrange(f, x, 256, arranged);
            double want = 0, squares = 0;
            for (int i = 0; i < 256; i++) {
                want += (double)y[i] * (double)x[i];
                squares += (double)y[i] * (double)y[i];
            }
            errors += pow((double)f->dot(b, arranged, 256) - want, 2);
            expected += squares * pow(3000 * 0x1p-21, 2) / 12;
        }
        cr_expect_lt(errors, 1.5 * expected, "%s: %g times the errors of 21 bits", f->name, errors / expected);
    }
}

// A model that has come apart says so: what is not finite stays so.
Test(quant_blocks, dot_of_no_number_is_no_number)
{
    static float w[256], x[256];
    static unsigned char b[256 * 4], arranged[4096] __attribute__((aligned(64)));
    fill_normal(w, 256, 0.02, 2);
    for (size_t k = 0; k < N_NAMES; k++) {
        const struct block_format *f = block_format_find(names[k]);
        f->encode(w, NULL, 256, b);
        cr_assert_leq(block_arranged_bytes(f, 256), (int64_t)sizeof arranged);
        for (int inf = 0; inf < 2; inf++) {
            fill_normal(x, 256, 1, 3);
            x[77] = inf ? INFINITY : NAN;
            block_arrange(f, x, 256, arranged);
            cr_expect(!isfinite(f->dot(b, arranged, 256)), "%s", f->name);
        }
    }
}

// Any bits that a block can have, by the AVX-512 decoders and by those of AVX2: the same values, to the bit.
Test(quant_blocks, both_decoders_give_the_same_bits)
{
    struct cpu *cpu = (struct cpu *)(uintptr_t)cpu_get();
    if (!cpu->avx512)
        cr_skip_test("this CPU has no AVX-512, or PDQ_CPU hides it");
    static float wide[N], narrow[N];
    static unsigned char b[N * 4];
    struct random r;
    random_init(&r, 7, "bits", 0);
    for (size_t k = 0; k < N_NAMES; k++) {
        const struct block_format *f = block_format_find(names[k]);
        for (int trial = 0; trial < 20; trial++) {
            for (size_t i = 0; i < sizeof b; i++)
                b[i] = (unsigned char)random_below(&r, 256);
            cpu->avx512 = 1;
            f->decode(b, wide, N);
            cpu->avx512 = 0;
            f->decode(b, narrow, N);
            for (int i = 0; i < N; i++)
                if (!isnan(narrow[i]))
                    cr_assert_arr_eq(&wide[i], &narrow[i], 4, "%s, value %d: %g and %g", f->name, i, (double)wide[i], (double)narrow[i]);
        }
    }
}

Test(quant_blocks, table)
{
    cr_assert_null(block_format_find("IQ3_S"));
    cr_assert_null(block_format_by_type(21));
    cr_assert_str_eq(block_type_name(21), "IQ3_S");
    cr_assert_str_eq(block_type_name(4), "unknown");
    cr_assert_str_eq(block_type_name(4000000000u), "unknown");
    const struct block_format *f = block_format_find("q4_k");
    cr_assert_eq(block_format_by_type(12), f);
    cr_assert_eq(block_row_bytes(f, 512), 288);
    cr_assert_eq(block_row_bytes(f, 576), -1);
}
