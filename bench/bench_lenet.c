// bench_lenet.c: the step of LeNet-300-100 that a lottery makes a hundred thousand times, dense and at the sparsities of its rounds, beside
// its floor: the products' FLOPs at the speed that one large product has. One training has one thread, so take it with --threads 1.

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "common/base/error.h"
#include "common/base/threads.h"
#include "common/model/compact.h"
#include "common/train/trainer.h"
#include "prune/ticket_mask.h"

#define BATCH 60
#define STEPS 200
#define IMAGES 2000
#define SQUARE 1024 // of the product that the floor is taken from

struct product {
    float *a, *b, *c;
};

static void multiply(void *context) {
    const struct product *p = context;
    gemm(PRECISION_F32, PLAIN, TRANSPOSED, SQUARE, SQUARE, SQUARE, p->a, SQUARE, p->b, SQUARE, 0, p->c, SQUARE);
}

static double product_speed(void) {
    struct product p = {bench_floats(SQUARE * SQUARE, 1), bench_floats(SQUARE * SQUARE, 1), bench_floats(SQUARE * SQUARE, 1)};
    const double seconds = bench_time(multiply, &p, 1);
    free(p.a);
    free(p.b);
    free(p.c);
    return 2.0 * SQUARE * SQUARE * SQUARE / seconds;
}

struct training {
    struct trainer trainer;
    struct train_result result;
};

static void train(void *context) {
    struct training *t = context;
    struct error err;
    if (trainer_run(&t->trainer, &t->result, &err) < 0)
        BUG("bench: %s", err.text);
}

static void images_make(struct images *images) {
    *images = (struct images){.n = IMAGES, .height = 28, .width = 28, .classes = 10};
    images->pixel = xmalloc(IMAGES * 28 * 28, "images");
    images->label = xmalloc(IMAGES * sizeof *images->label, "labels");
    for (int64_t i = 0; i < IMAGES * 28 * 28; i++)
        images->pixel[i] = (unsigned char)(i * 7919 % 256);
    for (int64_t i = 0; i < IMAGES; i++)
        images->label[i] = (int32_t)(i % 10);
}

void bench_lenet(const struct bench_options *o) {
    struct layer_shape layer[] = {{.n_ff = 300}, {.n_ff = 100}};
    const struct config c = {.model_type = "lenet", .n_layer = 2, .hidden = 784, .vocab = 10, .layer = layer, .image_std = 1, .bos_id = -1, .eos_id = -1};
    const struct mask_options cut = {.granularity = GRAIN_WEIGHTS, .scope = MASK_LAYER, .output_factor = 0.5};
    static const int rounds[] = {0, 1, 2, 3, 4, 5, 7, 9, 12, 15};
    const double speed = product_speed();
    struct images images;
    struct table t;
    images_make(&images);
    table_open(&t, o->csv, "lenet", "LeNet-300-100, batch 60: a step with Adam; floor: the kept weights' products at the speed of a large one",
               "Pm %:6|threads:7|storage:-8|ms:8|floor ms:8|x floor:8|50,000 steps, s:16");
    struct model *dense = model_new(&c, 1);
    model_initialise(dense, 1);
    float *score = xmalloc((size_t)dense->n_element * sizeof *score, "scores");
    for (int64_t i = 0; i < dense->n_element; i++)
        score[i] = fabsf(dense->data[i]);
    unsigned char *mask = mask_ones(dense);
    for (size_t i = 0, done = 0; i < sizeof rounds / sizeof *rounds; i++) {
        for (; (int)done < rounds[i]; done++)
            mask_cut(dense, mask, score, 0.2, &cut);
        struct model *m = model_compact(dense, mask, COMPACT_SHARE);
        struct training one = {.trainer = {.model = m, .images = &images, .seq_len = 1, .seed = 1, .quiet = 1, .title = "bench",
                                           .loss = train_cross_entropy, .context = m}};
        options_init(train_option_table, &one.trainer.options);
        one.trainer.options.steps = STEPS;
        one.trainer.options.batch = BATCH;
        one.trainer.options.clip = 0;
        one.trainer.options.log_every = 100;
        one.trainer.options.keep_zeros = rounds[i] > 0;
        const double seconds = bench_time(train, &one, 3) / STEPS;
        // forward, the weights' gradient, and the inputs' but for the first matrix
        const double kept = mask_pm(dense, mask) / 100, flops = 2.0 * BATCH * kept * (2 * 266200.0 + 31000.0);
        table_number(&t, 100 * kept, 1);
        table_integer(&t, threads_count());
        table_text(&t, m->parameter[2].t.hook ? "sparse" : "dense");
        table_number(&t, 1e3 * seconds, 3);
        table_number(&t, 1e3 * flops / speed, 3);
        table_number(&t, seconds / (flops / speed), 2);
        table_number(&t, 50000 * seconds, 1);
        model_free(m);
    }
    table_close(&t);
    free(mask);
    free(score);
    model_free(dense);
    free(images.pixel);
    free(images.label);
}
