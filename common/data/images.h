// images.h: labelled images from idx files (MNIST's format, LeCun 1998), plain or gzipped.
//
// A folder holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each
// with or without .gz. Part of the training images is set aside for validation by a seeded draw.
#ifndef PDQ_IMAGES_H
#define PDQ_IMAGES_H

#include <stdint.h>

#include "common/base/error.h"
#include "common/base/hash.h"

struct images {     // process lifetime
    unsigned char *pixel; // [n, height * width], 0 .. 255
    int32_t *label; // [n]
    int64_t n, height, width;
    int64_t classes; // largest label + 1
    char hash[HASH_TEXT]; // of all the above
};

struct image_data { // process lifetime
    struct images train, validation, test;
};

// validation: how many training images are set aside, drawn by seed. Fails naming the file, what it holds and what was
// expected.
int image_data_read(struct image_data *d, const char *folder, int64_t validation, uint64_t seed, struct error *err);
void image_data_release(struct image_data *d); // fine on a zeroed one
// A copy without the images of one class (Hinton et al. 2015, section 3: a transfer set without the digit 3).
void images_copy_without(struct images *to, const struct images *from, int64_t label);
void images_release(struct images *images); // fine on a zeroed one

// Do images have as many pixels as a model has inputs, and labels below its classes? where: for messages.
int images_check(const struct images *images, int64_t inputs, int64_t classes, const char *where, struct error *err);

// Pixels of image i as f32 in [0, 1]: to[height * width], moved by dx, dy pixels (what moves in is 0).
void image_read(const struct images *images, int64_t i, int64_t dx, int64_t dy, float *to);
// Images number first .. first+B-1 of an endless sequence of shuffled passes: x [B, height * width], labels [B]; a pure
// function of (seed, first). jitter: each image is moved by up to so many pixels in each direction.
void images_batch(const struct images *images, uint64_t seed, int64_t jitter, int64_t first, int64_t B, float *x,
                  int32_t *labels);

#endif
