// cpu.h: what this CPU can do, asked of the CPU itself and of the operating system (which must save the registers).
#ifndef PDQ_CPU_H
#define PDQ_CPU_H

struct cpu {
    char name[64];
    int intel, amd, family, model; // the family with its extension
    int avx2, f16c;  // avx2 with FMA
    int avx512;      // F, DQ, BW and VL
    int two_fma;     // two 512-bit FMA units, as far as the model tells
    int avx512_bf16; // VDPBF16PS
    int avx512_vnni;
    int amx_bf16;
};

const struct cpu *cpu_get(void); // process lifetime

#endif
