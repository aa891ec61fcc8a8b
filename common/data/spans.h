// spans.h: questions and the texts that answer them (squad.h) as sequences for an encoder: [CLS] question [SEP] context [SEP], a context that is
// too long in windows that overlap (Devlin et al. 2019, section 4.2, and its code: there doc_stride).
#ifndef PDQ_SPANS_H
#define PDQ_SPANS_H

#include "common/data/examples.h"

struct span_question {
    char *id;       // NULL: none
    char *context;
    char **answer;  // [n_answer] texts that are right
    int64_t n_answer;
};

struct span_texts { // what evaluation needs beside the examples; process lifetime; owned
    struct span_question *question;
    int64_t n, room, n_place, place_room;
    int64_t n_without;         // questions without an answer
    struct token_place *place; // of each token of examples->token: bytes of its question's context; start -1: it is no part of that
};

// Reads them into e, whose spans are targets: the first answer's tokens, the first one that holds a part of it and the last; position 0, [CLS],
// in a window that does not hold all of it, and where there is no answer. `most` tokens in a sequence, windows begin every `stride` tokens
// (0: 128, at most half of the room beside the question). texts: NULL: not wanted.
int spans_read(struct examples *e, struct span_texts *texts, const struct tokenizer *t, const char *const *paths, size_t n_paths, int64_t most,
               int64_t stride, const char *where, struct error *err);
void span_texts_release(struct span_texts *t); // fine on a zeroed one

#endif
