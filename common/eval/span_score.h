// span_score.h: how right an answer is, by the rules of SQuAD's official evaluation (evaluate-v2.0: Rajpurkar et al. 2018): both texts in lower
// case, without ASCII's punctuation, without the words a, an and the, white space as single spaces; exact match of that, and F1 over its words as
// bags; of several right answers the best counts. No answer is the empty text. (Version 1's script differs only where an answer is
// nothing but articles and punctuation.)
#ifndef PDQ_SPAN_SCORE_H
#define PDQ_SPAN_SCORE_H

#include <stdint.h>

struct span_score {
    int exact;
    double f1; // 0 to 1
};

// The text as it is compared; the caller frees.
char *span_normalized(const char *text);
// answer [n]: what is right; 0: there is no answer.
struct span_score span_score_of(const char *found, char *const *answer, int64_t n);

#endif
