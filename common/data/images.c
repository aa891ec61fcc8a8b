// images.c: see images.h.
//
// An idx file: two zero bytes, a type (8: unsigned bytes), the number of dimensions, each dimension as a big-endian 32-bit
// number, the values. Everything is checked against the file's length before anything is believed.
#include "common/data/images.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/random.h"

#define IDX_BYTES 8 // the type of unsigned bytes
#define SIDE_MAX 4096

struct idx { // a file's values; process lifetime
    char *data;
    const unsigned char *value;
    int64_t dim[3];
};

static uint32_t big_endian(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3];
}

// folder/name or folder/name.gz; the caller frees.
static char *find_file(const char *folder, const char *name, struct error *err)
{
    char *path = path_join(folder, name), *gz = xasprintf("%s.gz", path), *found = NULL;
    if (file_exists(path) || file_exists(gz))
        found = xstrdup(file_exists(path) ? path : gz);
    else
        error_set(err,
                  "%s: no such file, nor %s.gz; expected a folder with MNIST's four idx files (Debian's package "
                  "dataset-fashion-mnist has such a folder: /usr/share/datasets/fashion-mnist)",
                  path, name);
    free(path);
    free(gz);
    return found;
}

static int idx_check(struct idx *x, const char *path, size_t len, int n_dim, struct error *err)
{
    const unsigned char *p = (const unsigned char *)x->data;
    const size_t header = 4 + 4 * (size_t)n_dim;
    if (len < header || p[0] || p[1])
        return error_set(err, "%s: %zu bytes that do not begin as an idx file does (two zeros, a type, the dimensions)", path,
                         len);
    if (p[2] != IDX_BYTES || p[3] != n_dim)
        return error_set(err, "%s: idx type %d with %d dimensions; expected type %d (unsigned bytes) with %d", path, p[2],
                         p[3], IDX_BYTES, n_dim);
    int64_t count = 1;
    for (int i = 0; i < n_dim; i++) {
        x->dim[i] = (int64_t)big_endian(p + 4 + 4 * i);
        if (x->dim[i] < 1 || (i > 0 && x->dim[i] > SIDE_MAX))
            return error_set(err, "%s: dimension %d is %lld; expected 1 to %d", path, i, (long long)x->dim[i], SIDE_MAX);
        count *= x->dim[i]; // at most 2^32 * 2^24
    }
    if ((int64_t)(len - header) != count)
        return error_set(err, "%s: %lld values after the header, which announces %lld; the file is cut off or damaged", path,
                         (long long)(len - header), (long long)count);
    x->value = p + header;
    return 0;
}

static int idx_read(struct idx *x, const char *folder, const char *name, int n_dim, struct error *err)
{
    size_t len;
    *x = (struct idx){0};
    char *path = find_file(folder, name, err);
    int status = !path || file_read(path, &x->data, &len, err) < 0 ? -1 : idx_check(x, path, len, n_dim, err);
    free(path);
    return status;
}

static void add_hash(struct images *images)
{
    struct hasher *h = hasher_new();
    const int64_t numbers[] = {images->n, images->height, images->width};
    hasher_add(h, numbers, sizeof numbers);
    hasher_add(h, images->pixel, (size_t)(images->n * images->height * images->width));
    hasher_add(h, images->label, (size_t)images->n * sizeof *images->label);
    hasher_end(h, images->hash);
}

// Takes images order[0 .. n-1] (NULL: the first n).
static void take(struct images *to, const struct idx *pixel, const struct idx *label, const int64_t *order, int64_t n)
{
    *to = (struct images){.n = n, .height = pixel->dim[1], .width = pixel->dim[2]};
    const int64_t size = to->height * to->width;
    to->pixel = xmalloc((size_t)(n * size) + 1, "images");
    to->label = xmalloc((size_t)(n + 1) * sizeof *to->label, "labels");
    for (int64_t i = 0; i < n; i++) {
        const int64_t from = order ? order[i] : i;
        memcpy(to->pixel + i * size, pixel->value + from * size, (size_t)size);
        to->label[i] = label->value[from];
        to->classes = to->label[i] >= to->classes ? to->label[i] + 1 : to->classes;
    }
    add_hash(to);
}

static int read_pair(struct idx *pixel, struct idx *label, const char *folder, const char *part, struct error *err)
{
    char *images = xasprintf("%s-images-idx3-ubyte", part), *labels = xasprintf("%s-labels-idx1-ubyte", part);
    int status = idx_read(pixel, folder, images, 3, err);
    *label = (struct idx){0};
    if (status == 0)
        status = idx_read(label, folder, labels, 1, err);
    if (status == 0 && pixel->dim[0] != label->dim[0])
        status = error_set(err, "%s: %s has %lld images and %s %lld labels; expected as many", folder, images,
                           (long long)pixel->dim[0], labels, (long long)label->dim[0]);
    free(images);
    free(labels);
    return status;
}

static void idx_release(struct idx *x) { free(x->data); }

int image_data_read(struct image_data *d, const char *folder, int64_t validation, uint64_t seed, struct error *err)
{
    struct idx pixel[2] = {0}, label[2] = {0};
    int status = read_pair(&pixel[0], &label[0], folder, "train", err);
    *d = (struct image_data){0};
    if (status == 0)
        status = read_pair(&pixel[1], &label[1], folder, "t10k", err);
    if (status == 0 && (pixel[0].dim[1] != pixel[1].dim[1] || pixel[0].dim[2] != pixel[1].dim[2]))
        status = error_set(err, "%s: training images of %lld x %lld pixels, test images of %lld x %lld; expected one size",
                           folder, (long long)pixel[0].dim[1], (long long)pixel[0].dim[2], (long long)pixel[1].dim[1],
                           (long long)pixel[1].dim[2]);
    const int64_t n = pixel[0].dim[0];
    if (status == 0 && validation >= n)
        status = error_set(err, "%s: %lld training images, of which %lld are wanted for validation; expected fewer", folder,
                           (long long)n, (long long)validation);
    if (status == 0) {
        int64_t *order = xmalloc((size_t)n * sizeof *order, "the order of the images");
        for (int64_t i = 0; i < n; i++)
            order[i] = random_shuffled(seed, "validation images", n, i);
        take(&d->validation, &pixel[0], &label[0], order, validation);
        take(&d->train, &pixel[0], &label[0], order + validation, n - validation);
        take(&d->test, &pixel[1], &label[1], NULL, pixel[1].dim[0]);
        free(order);
    }
    for (int i = 0; i < 2; i++) {
        idx_release(&pixel[i]);
        idx_release(&label[i]);
    }
    return status;
}

void images_release(struct images *images)
{
    free(images->pixel);
    free(images->label);
    *images = (struct images){0};
}

void image_data_release(struct image_data *d)
{
    images_release(&d->train);
    images_release(&d->validation);
    images_release(&d->test);
    *d = (struct image_data){0};
}

void images_copy_without(struct images *to, const struct images *from, int64_t label)
{
    const int64_t size = from->height * from->width;
    *to = *from;
    to->n = 0;
    to->pixel = xmalloc((size_t)(from->n * size) + 1, "images");
    to->label = xmalloc((size_t)(from->n + 1) * sizeof *to->label, "labels");
    for (int64_t i = 0; i < from->n; i++) {
        if (from->label[i] == label)
            continue;
        memcpy(to->pixel + to->n * size, from->pixel + i * size, (size_t)size);
        to->label[to->n++] = from->label[i];
    }
    add_hash(to);
}

int images_check(const struct images *images, int64_t inputs, int64_t classes, const char *where, struct error *err)
{
    if (images->height * images->width == inputs && images->classes <= classes)
        return 0;
    return error_set(err, "%s: images of %lld x %lld pixels in %lld classes; the model has %lld inputs and %lld classes", where,
                     (long long)images->height, (long long)images->width, (long long)images->classes, (long long)inputs,
                     (long long)classes);
}

void image_read(const struct images *images, int64_t i, int64_t dx, int64_t dy, float *to)
{
    const int64_t H = images->height, W = images->width;
    const unsigned char *from = images->pixel + i * H * W;
    if (dx == 0 && dy == 0) {
        for (int64_t k = 0; k < H * W; k++)
            to[k] = (float)from[k] * (1.0f / 255.0f);
        return;
    }
    for (int64_t y = 0; y < H; y++)
        for (int64_t x = 0; x < W; x++) {
            const int64_t v = y - dy, u = x - dx;
            const int inside = v >= 0 && v < H && u >= 0 && u < W;
            to[y * W + x] = inside ? (float)from[v * W + u] * (1.0f / 255.0f) : 0.0f;
        }
}

void images_batch(const struct images *images, uint64_t seed, int64_t jitter, int64_t first, int64_t B, float *x,
                  int32_t *labels)
{
    const int64_t size = images->height * images->width;
    for (int64_t b = 0; b < B; b++) {
        const int64_t i = random_shuffled(seed, "order of the data", images->n, first + b);
        int64_t dx = 0, dy = 0;
        if (jitter) {
            struct random random;
            random_init(&random, seed, "jitter", (uint64_t)(first + b));
            dx = random_below(&random, 2 * jitter + 1) - jitter;
            dy = random_below(&random, 2 * jitter + 1) - jitter;
        }
        image_read(images, i, dx, dy, x + b * size);
        labels[b] = images->label[i];
    }
}
