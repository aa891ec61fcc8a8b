// cpu.c: CPUID, because BLIS looks at names and the choice between f32 and bf16 needs features.
//
// PDQ_CPU=avx2 in the environment hides AVX-512 and AMX: results and speed of an older CPU, seen on a newer one.

#include "common/tensor/cpu.h"

#include <cpuid.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state_saved_by_os(void) {
    unsigned a, d;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (uint64_t)d << 32 | a;
}

// No feature bit tells the number of 512-bit FMA units, so these are lists. Intel: server cores since Ice Lake have two,
// client cores one, and the Skylake generation's servers differ by product line.
static int intel_two_fma(const struct cpu *cpu) {
    static const int two[] = {0x6a, 0x6c, 0x8f, 0xad, 0xae, 0xcf};
    static const char *const one[] = {"Silver", "Bronze", "Gold 5", " D-", " W-21"};

    if (cpu->family != 6)
        return 0;
    for (size_t i = 0; i < sizeof two / sizeof *two; i++)
        if (cpu->model == two[i])
            return 1;
    if (cpu->model != 0x55 || !strstr(cpu->name, "Xeon"))
        return cpu->amx_bf16;
    for (size_t i = 0; i < sizeof one / sizeof *one; i++)
        if (strstr(cpu->name, one[i]))
            return 0;
    return 1;
}

// Zen 4 cuts 512-bit operations in two. Zen 5 does not in servers (models up to 0x1f) and desktops (0x40 to 0x4f); in
// its mobile parts it does.
static int amd_two_fma(const struct cpu *cpu) {
    return cpu->family > 0x1a || (cpu->family == 0x1a && (cpu->model < 0x20 || (cpu->model & 0xf0) == 0x40));
}

static int has_two_fma(const struct cpu *cpu) {
    return cpu->avx512 && ((cpu->intel && intel_two_fma(cpu)) || (cpu->amd && amd_two_fma(cpu)));
}

static void read_name(struct cpu *cpu) {
    unsigned r[12] = {0};

    for (unsigned i = 0; i < 3; i++)
        if (!__get_cpuid(0x80000002u + i, r + 4 * i, r + 4 * i + 1, r + 4 * i + 2, r + 4 * i + 3))
            memcpy(r, "unknown", 8);
    const char *name = (const char *)r;
    while (*name == ' ')
        name++;
    size_t n = strnlen(name, (size_t)((const char *)(r + 12) - name));
    while (n && name[n - 1] == ' ')
        n--;
    memcpy(cpu->name, name, n);
}

static void detect(struct cpu *cpu) {
    unsigned a, b, c, d, a1 = 0, b1, c1, d1;

    read_name(cpu);
    __cpuid(0, a, b, c, d);
    cpu->intel = b == signature_INTEL_ebx && c == signature_INTEL_ecx && d == signature_INTEL_edx;
    cpu->amd = b == signature_AMD_ebx && c == signature_AMD_ecx && d == signature_AMD_edx;
    __cpuid(1, a, b, c, d);
    cpu->family = (int)(a >> 8 & 15);
    if (cpu->family == 15)
        cpu->family += (int)(a >> 20 & 255);
    cpu->model = (int)((a >> 4 & 15) | (a >> 12 & 0xf0));
    uint64_t os = c & bit_OSXSAVE ? state_saved_by_os() : 0;
    int ymm = (os & 0x6) == 0x6, zmm = (os & 0xe6) == 0xe6, tiles = (os & 0x60000) == 0x60000;
    cpu->f16c = ymm && (c & bit_F16C);
    int fma = (c & bit_FMA) != 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return;
    unsigned all = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    cpu->avx2 = ymm && fma && (b & bit_AVX2);
    const char *as = getenv("PDQ_CPU");
    if (as && strcmp(as, "avx2") == 0)
        return;
    cpu->avx512 = zmm && (b & all) == all;
    cpu->avx512_vnni = cpu->avx512 && (c >> 11 & 1);
    cpu->amx_bf16 = tiles && (d >> 22 & 1);
    if (a >= 1)
        __cpuid_count(7, 1, a1, b1, c1, d1);
    cpu->avx512_bf16 = cpu->avx512 && (a1 >> 5 & 1);
    cpu->two_fma = has_two_fma(cpu);
}

const struct cpu *cpu_get(void) {
    static struct cpu cpu;

    if (!cpu.name[0])
        detect(&cpu);
    return &cpu;
}
