// block_choices.h: the blocks of a tensor as choices between neighbouring levels (learned_rounding.h), and what was chosen as blocks.
#ifndef PDQ_BLOCK_CHOICES_H
#define PDQ_BLOCK_CHOICES_H

#include "quant/gguf_rows.h"
#include "quant/learned_rounding.h"

// W [D, C of the file] and blocks, in a format that has codes: for each value the levels around it under its block's scales, and where it
// lies between them. choice[k]: of the tensor's part k, NULL where the model has none. low_code [D, C]: the lower levels' codes; of padding
// the nearest, which stays.
void block_choices_find(const struct gguf_rows *rows, const float *W, const unsigned char *blocks, struct rounding_choice *const choice[],
                        uint8_t *low_code);
// Puts what `up` says into the blocks. Scales and minima stay, so the blocks decode to the levels that were chosen, bit for bit.
void block_choices_put(const struct gguf_rows *rows, struct rounding_choice *const choice[], const uint8_t *low_code, unsigned char *blocks);

#endif
