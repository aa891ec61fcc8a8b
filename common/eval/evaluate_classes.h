// evaluate_classes.h: what a classifier of texts makes of labelled examples: loss, accuracy, F1, Matthews' correlation, alone or against
// another classifier on the same examples.
#ifndef PDQ_EVALUATE_CLASSES_H
#define PDQ_EVALUATE_CLASSES_H

#include "common/base/json.h"
#include "common/data/examples.h"
#include "common/eval/statistics.h"
#include "common/model/model.h"

struct class_result {
    int64_t n, classes;
    int64_t *confusion;  // [classes, classes] by label, then by answer; owned
    int32_t *answer;     // [n], owned
    double *nll;         // [n], owned: for paired comparisons between runs
    double mean_nll, nll_se;
    struct share accuracy;
    double f1;           // of class 1 where there are two, else the mean over the classes
    double matthews;     // (Gorodkin 2004, for any number of classes)
};

// Runs the examples in batches of like lengths; nothing depends on how they are put together.
void evaluate_classes(struct class_result *r, struct model *m, const struct examples *e, enum precision precision);
void class_result_release(struct class_result *r);
// The parent beside it on the same examples (NULL: none).
struct class_versus {
    int64_t only_own, only_against; // examples that one alone has right
    double mcnemar;                 // p of so uneven a split
};
struct class_versus class_compare(const struct class_result *r, const struct class_result *against, const struct examples *e);
// {"examples", "errors", "accuracy", "accuracy_low", "accuracy_high", "f1", "matthews", "nll", "nll_se"}; all shares but the correlation in
// per cent.
struct json *class_result_json(const struct class_result *r);

#endif
