// squad.h: questions whose answers are spans of a text, from SQuAD's own files (Rajpurkar et al. 2016; 2018 for version 2, in which a question
// may have no answer) or as rows:
//
//   .json   {"data": [{"paragraphs": [{"context", "qas": [{"id", "question", "answers": [{"text", "answer_start"}, ...]}, ...]}, ...]}, ...]}
//   .jsonl  {"id", "question", "context", "answers": {"text": [...], "answer_start": [...]}} a line, as the Hugging Face data sets have it
//
// plain or gzipped. answer_start counts characters (code points), from 0; no answers: the question has none.
#ifndef PDQ_SQUAD_H
#define PDQ_SQUAD_H

#include <stdint.h>

#include "common/base/error.h"

struct squad_question { // its texts live while it is taken
    const char *id, *question, *context; // id: NULL where there is none
    int64_t n_answer;
    const char *const *answer;  // texts, [n_answer]
    const int64_t *start, *end; // bytes of the context
};
// Returns -1, with err set, to stop. where: the file and the question's number, from 1, or the line's.
typedef int take_question(void *context, const struct squad_question *q, const char *where, struct error *err);

// An answer that does not stand at its answer_start is an error.
int squad_read(const char *path, take_question *take, void *context, struct error *err);

#endif
