// sampled.h: texts that a model wrote, as token ids in a file: drawn in batches, gone on with after a kill, read as text to learn from.
#ifndef PDQ_SAMPLED_H
#define PDQ_SAMPLED_H

#include "common/eval/sample.h"
#include "recipes/inputs.h"

#define SAMPLE_BATCH 32           // documents at a time
#define SAMPLED_TOKENS "tokens"   // in a sample stage's folder: i32 ids, little-endian, one document after the other
#define SAMPLED_TEXT "text.jsonl" // the same for people and other programs: {"text"} a document

// Draws all documents of the plan into the file at path. The same bytes at any number of threads and after any kill; ^C is an error that says
// how to go on.
int sampled_write(const char *path, struct model *m, const struct sample_plan *p, struct error *err);
// All of the file; the hash is the caller's to fill.
int sampled_read(struct text_input *to, const char *path, const struct tokenizer *t, struct error *err);

#endif
