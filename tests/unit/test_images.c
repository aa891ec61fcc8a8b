// test_images.c: idx files: what is read, the split, batches, and files that lie.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/data/images.h"

static void put32(unsigned char *at, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        at[i] = (unsigned char)(v >> (24 - 8 * i));
}

// An idx file of n items of H x W bytes (H 0: labels), value by position. cut: bytes missing at the end.
static void write_idx(const char *folder, const char *name, uint32_t n, uint32_t H, uint32_t W, int cut)
{
    const size_t header = H ? 16 : 8, size = (size_t)n * (H ? H * W : 1);
    unsigned char *data = xcalloc(header + size, 1, "idx");
    data[2] = 8;
    data[3] = H ? 3 : 1;
    put32(data + 4, n);
    if (H) {
        put32(data + 8, H);
        put32(data + 12, W);
    }
    for (size_t i = 0; i < size; i++)
        data[header + i] = (unsigned char)(H ? i * 7 % 251 : i % 10);
    struct error err;
    char *path = path_join(folder, name);
    cr_assert_eq(file_write(path, data, header + size - (size_t)cut, &err), 0, "%s", err.text);
    free(path);
    free(data);
}

static char folder[] = "/tmp/pdq-images-XXXXXX";

static void write_all(void)
{
    write_idx(folder, "train-images-idx3-ubyte", 50, 4, 3, 0);
    write_idx(folder, "train-labels-idx1-ubyte", 50, 0, 0, 0);
    write_idx(folder, "t10k-images-idx3-ubyte", 20, 4, 3, 0);
    write_idx(folder, "t10k-labels-idx1-ubyte", 20, 0, 0, 0);
}

static void setup(void)
{
    cr_assert_not_null(mkdtemp(folder));
    write_all();
}

static void teardown(void)
{
    struct error err;
    directory_remove(folder, &err);
}

TestSuite(images, .init = setup, .fini = teardown);

Test(images, every_image_is_somewhere_once)
{
    struct image_data d;
    struct error err;
    cr_assert_eq(image_data_read(&d, folder, 8, 1, &err), 0, "%s", err.text);
    cr_assert(d.train.n == 42 && d.validation.n == 8 && d.test.n == 20);
    cr_assert(d.train.height == 4 && d.train.width == 3 && d.train.classes == 10);
    int seen[50] = {0};
    const struct images *parts[] = {&d.train, &d.validation};
    for (int p = 0; p < 2; p++)
        for (int64_t i = 0; i < parts[p]->n; i++)
            for (int k = 0; k < 50; k++) // the image that begins with this value and has this label
                if (parts[p]->pixel[i * 12] == k * 84 % 251 && parts[p]->pixel[i * 12 + 11] == (k * 84 + 77) % 251) {
                    cr_assert_eq(parts[p]->label[i], k % 10);
                    seen[k]++;
                }
    for (int k = 0; k < 50; k++)
        cr_assert_eq(seen[k], 1, "image %d", k);
    struct image_data other;
    cr_assert_eq(image_data_read(&other, folder, 8, 2, &err), 0);
    cr_assert_str_neq(other.validation.hash, d.validation.hash, "another seed draws others");
    cr_assert_str_eq(other.test.hash, d.test.hash);
    image_data_release(&other);
    image_data_release(&d);
}

Test(images, batches_pass_over_all_and_depend_on_their_number_alone)
{
    struct image_data d;
    struct error err;
    cr_assert_eq(image_data_read(&d, folder, 8, 1, &err), 0);
    float x[42 * 12], one[12];
    int32_t label[42], first;
    images_batch(&d.train, 3, 0, 42, 42, x, label); // the second pass
    int count[10] = {0}, expected[10] = {0};
    for (int i = 0; i < 42; i++) {
        count[label[i]]++;
        expected[d.train.label[i]]++;
        images_batch(&d.train, 3, 0, 42 + i, 1, one, &first);
        cr_assert(first == label[i] && memcmp(one, x + 12 * i, sizeof one) == 0);
    }
    cr_assert_arr_eq(count, expected, sizeof count);
    image_data_release(&d);
}

Test(images, moving_an_image_keeps_its_middle)
{
    struct image_data d;
    struct error err;
    cr_assert_eq(image_data_read(&d, folder, 8, 1, &err), 0);
    float plain[12], moved[12];
    image_read(&d.test, 2, 0, 0, plain);
    image_read(&d.test, 2, 1, -1, moved);
    for (int y = 0; y < 4; y++)
        for (int x = 0; x < 3; x++)
            cr_assert_eq(moved[y * 3 + x], y < 3 && x > 0 ? plain[(y + 1) * 3 + x - 1] : 0.0f);
    image_data_release(&d);
}

Test(images, labels_and_pixels_are_held_against_a_model)
{
    struct image_data d;
    struct error err;
    cr_assert_eq(image_data_read(&d, folder, 8, 1, &err), 0);
    cr_assert_eq(images_check(&d.test, 12, 10, "here", &err), 0);
    cr_assert_eq(images_check(&d.test, 12, 9, "here", &err), -1);
    cr_assert_not_null(strstr(err.text, "here: images of 4 x 3 pixels in 10 classes; the model has 12 inputs and 9 classes"));
    cr_assert_eq(images_check(&d.test, 13, 10, "here", &err), -1);
    image_data_release(&d);
}

Test(images, a_class_can_be_left_out)
{
    struct image_data d;
    struct images without;
    struct error err;
    cr_assert_eq(image_data_read(&d, folder, 8, 1, &err), 0);
    images_copy_without(&without, &d.train, 3);
    int64_t threes = 0;
    for (int64_t i = 0; i < d.train.n; i++)
        threes += d.train.label[i] == 3;
    for (int64_t i = 0; i < without.n; i++)
        cr_assert_neq(without.label[i], 3);
    cr_assert(threes > 0 && without.n + threes == d.train.n && without.classes == 10);
    images_release(&without);
    image_data_release(&d);
}

static void refused(const char *pattern)
{
    struct image_data d;
    struct error err;
    cr_assert_eq(image_data_read(&d, folder, 8, 1, &err), -1);
    cr_assert_not_null(strstr(err.text, pattern), "%s", err.text);
    write_all();
}

Test(images, files_that_lie_are_refused_by_name)
{
    write_idx(folder, "train-images-idx3-ubyte", 50, 4, 3, 1);
    refused("train-images-idx3-ubyte: 599 values after the header, which announces 600");
    write_idx(folder, "train-images-idx3-ubyte", 50, 4, 3, 605);
    refused("do not begin as an idx file does");
    write_idx(folder, "train-images-idx3-ubyte", 0xfffffff0u, 4096, 0, 0); // no values: H x W is 0
    refused("dimension 2 is 0");
    write_idx(folder, "t10k-labels-idx1-ubyte", 19, 0, 0, 0);
    refused("has 20 images and t10k-labels-idx1-ubyte 19 labels");
    write_idx(folder, "t10k-images-idx3-ubyte", 20, 3, 4, 0);
    refused("expected one size");
    write_idx(folder, "train-labels-idx1-ubyte", 50, 4, 3, 0);
    refused("idx type 8 with 3 dimensions; expected type 8 (unsigned bytes) with 1");
    struct image_data d;
    struct error err;
    cr_assert_eq(image_data_read(&d, folder, 50, 1, &err), -1);
    cr_assert_not_null(strstr(err.text, "of which 50 are wanted for validation"));
    char *path = path_join(folder, "t10k-images-idx3-ubyte");
    unlink(path);
    free(path);
    refused("nor");
}
