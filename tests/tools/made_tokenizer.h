// made_tokenizer.h: a tokenizer.json of any size, made up by rule.
//
// Merges join the letters of English by frequency, then what came of that, so that ordinary text really is shortened;
// which words they make means nothing. The same arguments give the same bytes.
#ifndef PDQ_MADE_TOKENIZER_H
#define PDQ_MADE_TOKENIZER_H

#include <stdint.h>

#include "common/base/error.h"

enum made_kind { MADE_BYTE_LEVEL, MADE_SPM_LIKE };
enum made_split { SPLIT_GPT2, SPLIT_SMOLLM, SPLIT_LLAMA_BPE }; // pre-tokenizer of the byte-level kind

#define MADE_BYTE_LEVEL_MIN 259 // <|endoftext|> <|im_start|> <|im_end|> and 256 bytes
#define MADE_SPM_LIKE_MIN 354   // <unk> <s> </s>, 256 byte tokens, 95 characters
#define MADE_SIZE_MAX 1000000

// What config.json should say.
#define MADE_BOS(kind) ((kind) == MADE_SPM_LIKE ? 1 : 0)
#define MADE_EOS(kind) ((kind) == MADE_SPM_LIKE ? 2 : 0)

// Writes tokenizer.json and tokenizer_config.json with `size` tokens into folder.
int made_tokenizer_write(const char *folder, enum made_kind kind, enum made_split split, int64_t size,
                         struct error *err);

#endif
