// teacher_block.h: one window of a teacher's answers as bytes: a block of a teacher cache. Internal to distill.
//
// A gzip member, which holds (little-endian):
//   u64 window; u32 first; u32 n       the rows first .. first + n - 1 of the window have answers
//   u8 tail_low[n], tail_high[n]       log of the mass of all other entries
//   u8 entropy_low[n], entropy_high[n] of all other entries by themselves, in steps of 1/32 nat; not where m is 0
//   u8 p_low[n k], p_high[n k]         log-probabilities of the entries
//   id[n k]                            rising in a row: each one less the one before, less 1 (the first as it is), 7 bits a byte, low ones
//                                      first, bit 7 set where more follow
//   n times: draws, drawn[draws]       of all other entries, at most m, written as ids are, but that each may be the one before; not where m
//                                      is 0
// A log-probability is a whole number of 1/32 nats below 0 in 16 bits, so it is at most 1/64 off; 65535 is a mass of 0. Finer steps would
// cost bytes that do more as draws (README.md). Low and high bytes lie apart because deflate finds little in the former and much in the
// latter. A reader brings the masses of a row to a sum of 1, which moves each by at most 1/64 more.
#ifndef PDQ_TEACHER_BLOCK_H
#define PDQ_TEACHER_BLOCK_H

#include <stddef.h>
#include <stdint.h>

#include "common/tensor/ops.h"

struct block_shape {
    int64_t seq_len, k, m, vocab; // m: draws at most
};
struct block_head {
    int64_t window, first, n;
};

// Packs rows first .. first + n - 1 of a window's answers [seq_len]. The caller frees.
void *block_pack(const struct block_shape *s, const struct block_head *head, const struct head_top *from, size_t *packed);
// Unpacks the block at `packed`, of which at most n bytes may be its, into rows [seq_len]; rows without answers stay as they are. *used: its
// bytes. -1: damaged, or of another shape.
int block_unpack(const struct block_shape *s, const void *packed, size_t n, struct block_head *head, const struct head_top *to, size_t *used);

#endif
