// evaluate_spans.h: how well a model finds answers in texts: exact match and F1 (span_score.h), alone or against another on the same questions.
//
// Of all windows of a question the best pair of start and end counts, by the sum of their logits, at most 30 tokens apart, both in the context
// (Devlin et al. 2019, section 4.2; that code counted a token only in the window that shows most of what is around it). Where the data has
// questions without answers (SQuAD 2.0, section 4.3 there), there is none if the least score of [CLS] over the windows is above that.
#ifndef PDQ_EVALUATE_SPANS_H
#define PDQ_EVALUATE_SPANS_H

#include "common/base/json.h"
#include "common/data/spans.h"
#include "common/eval/statistics.h"
#include "common/model/model.h"

struct span_result {
    int64_t n, windows;     // questions
    double *nll;            // [n] mean over a question's windows of the losses of start and end; owned
    double mean_nll, nll_se;
    // Only where there were texts:
    char **answer;          // [n], owned; "": none
    unsigned char *exact;   // [n], owned
    double *f1;             // [n] 0 to 1, owned
    struct share exact_share;
    double mean_f1, f1_low, f1_high; // with a normal 95 % interval
};

// texts NULL: the losses alone. Nothing depends on how windows are put together.
void evaluate_spans(struct span_result *r, struct model *m, const struct examples *e, const struct span_texts *texts, enum precision precision);
void span_result_release(struct span_result *r);
struct span_versus {
    int64_t only_own, only_against; // questions that one alone has answered exactly
    double mcnemar;                 // p of so uneven a split
    struct paired f1;               // difference of F1, own - against
};
struct span_versus span_compare(const struct span_result *r, const struct span_result *against);
// {"examples", "windows", "errors", "accuracy" (exact match), "accuracy_low", "accuracy_high", "f1", "f1_low", "f1_high", "nll", "nll_se"}; shares in
// per cent. Names as of a classifier, so that reports and sweeps show both alike.
struct json *span_result_json(const struct span_result *r);
// {id: answer, ...} as SQuAD's official evaluation reads it; a question without an id goes by its number, from 1.
struct json *span_answers_json(const struct span_result *r, const struct span_texts *texts);

#endif
