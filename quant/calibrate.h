// calibrate.h: one pass of a model over a text: ranges, means and second moments of what each matrix is multiplied by.
#ifndef PDQ_CALIBRATE_H
#define PDQ_CALIBRATE_H

#include "common/eval/layer_walk.h"
#include "quant/importance.h"

// Fewer tokens than asked are an error naming both. option: for the message ("--calibration-tokens").
int calibrate_check(const struct walk_text *text, const char *option, struct error *err);

struct input_statistics { // of inputs x [rows, C]; C 0: nothing reads such
    struct moments moments; // sums of squares and, on request, of x x^T
    double *sum;            // [C]
    float *low, *high;      // [C] the smallest and the largest
};
struct calibration_result { // lifetime: the caller's
    struct input_statistics *layer, head; // [n_layer][LAYER_INPUTS]; of the output head
    int64_t n_layer, windows;
};
// Ends after a batch where the user asked to stop: before the result is used, interrupt_check.
// with_gram: x x^T too, 8 C^2 bytes for each input of each layer. In memory besides is one batch.
void calibrate(struct calibration_result *c, struct model *m, const struct walk_text *text, int with_gram);
void calibration_release(struct calibration_result *c); // fine on a zeroed one

// Mean squares: an entry for every matrix that a GGUF file of the model has, of the output head too.
void calibration_importance(const struct calibration_result *c, const struct model *m, struct importance *to);
// A safetensors file: for the same matrices, by GGUF's names, F32 NAME.low, .high, .mean and .mean_square, [C] each, and, where it was taken,
// NAME.gram [C, C], the mean of x x^T, at the first of the matrices that read the same inputs. text: what it was computed from, for the metadata.
// importance_read takes it as an importance matrix.
int calibration_write(const struct calibration_result *c, const struct model *m, const char *text, const char *path, struct error *err);

// The same entries, all columns alike: for encoders that search scales only where something is weighted.
void importance_of_ones(struct importance *to, const struct model *m);

#endif
