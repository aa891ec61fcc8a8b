// reading.h: how sequences are put together while files are read, for the readers of this folder only (examples.c, spans.c).
#ifndef PDQ_READING_H
#define PDQ_READING_H

#include "common/data/examples.h"

struct reading {
    struct examples *e;
    const struct tokenizer *t;
    const struct example_classes *classes; // NULL: no labels
    int has_pair, has_spans;
    int64_t most, n_token, token_room, room;
};

int reading_begin(struct reading *r, const char *where, struct error *err);
// Tokens that stand around one text, or around two and between them.
int64_t reading_ends(const struct reading *r, int has_pair);
// Adds a sequence of one text, or of two (second NULL: one). Returns the position in it at which the second begins.
int64_t reading_put(struct reading *r, const struct token_list *first, const struct token_list *second, int32_t label);
// Status -1: releases what was read. paths: of the files, for messages.
int reading_end(struct reading *r, int status, const char *const *paths, size_t n_paths, const char *where, struct error *err);

#endif
