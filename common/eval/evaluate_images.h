// evaluate_images.h: what a classifier makes of labelled images: loss and errors.
#ifndef PDQ_EVALUATE_IMAGES_H
#define PDQ_EVALUATE_IMAGES_H

#include "common/data/images.h"
#include "common/model/model.h"

struct image_result {
    int64_t n, errors;    // images; wrong answers
    double nll, nll_se;   // nats per image, standard error of the mean
    int64_t classes;      // of the model
    int64_t *of_class, *errors_of_class; // [classes], owned
    double *image_nll;    // [n], owned: for paired comparisons between runs
};

// bias_shift: added to the head's bias of class shift_class in this evaluation alone (0: as the model is), for a class that was
// missing from what the model learned from (Hinton et al. 2015, section 3).
void evaluate_images(struct image_result *r, struct model *m, const struct images *images, int64_t shift_class, double bias_shift);
void image_result_release(struct image_result *r);
// {"images", "errors", "accuracy", "nll", "nll_se", "errors_by_class"}; accuracy in per cent.
struct json *image_result_json(const struct image_result *r);

#endif
