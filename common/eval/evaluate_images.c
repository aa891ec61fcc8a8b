// evaluate_images.c: see evaluate_images.h.
#include "common/eval/evaluate_images.h"

#include <stdlib.h>

#include "common/base/json.h"
#include "common/eval/statistics.h"

#define BATCH 1000 // images that go through the model at once

void evaluate_images(struct image_result *r, struct model *m, const struct images *images, int64_t shift_class, double bias_shift)
{
    const int64_t n = images->n, size = images->height * images->width, classes = m->config.vocab;
    struct tensor *bias = model_head_bias(m);
    struct tape tape;
    *r = (struct image_result){.n = n, .classes = classes};
    r->of_class = xcalloc((size_t)classes, sizeof *r->of_class, "an evaluation");
    r->errors_of_class = xcalloc((size_t)classes, sizeof *r->errors_of_class, "an evaluation");
    r->image_nll = xmalloc((size_t)(n + 1) * sizeof *r->image_nll, "an evaluation");
    struct tensor x = {.name = "images", .n_dim = 2, .dim = {BATCH, size, 1}};
    x.data = xmalloc((size_t)(BATCH * size) * sizeof *x.data, "images");
    int32_t *top = xmalloc(BATCH * sizeof *top, "an evaluation");
    tape_init(&tape, PRECISION_F32);
    if (bias)
        bias->data[shift_class] += (float)bias_shift;
    for (int64_t first = 0; first < n; first += BATCH) {
        const int64_t count = n - first < BATCH ? n - first : BATCH;
        x.dim[0] = count;
        for (int64_t i = 0; i < count; i++)
            image_read(images, first + i, 0, 0, x.data + i * size);
        const struct forward f = {.x = &x, .B = count, .T = 1};
        const struct head_eval e = {
            .targets = images->label + first, .nll = r->image_nll + first, .bias = bias, .top = top};
        const struct tensor *states = model_forward(m, &tape, &f);
        op_head_eval(&tape, states, model_head(m), &e);
        for (int64_t i = 0; i < count; i++) {
            const int32_t label = images->label[first + i];
            r->of_class[label]++;
            r->errors_of_class[label] += top[i] != label;
            r->errors += top[i] != label;
        }
        tape_reset(&tape);
    }
    if (bias)
        bias->data[shift_class] -= (float)bias_shift;
    r->nll = mean_of(r->image_nll, n);
    r->nll_se = standard_error(r->image_nll, NULL, r->nll, n);
    tape_release(&tape);
    free(x.data);
    free(top);
}

void image_result_release(struct image_result *r)
{
    free(r->of_class);
    free(r->errors_of_class);
    free(r->image_nll);
    *r = (struct image_result){0};
}

struct json *image_result_json(const struct image_result *r)
{
    struct json *o = json_object(), *classes = json_array();
    json_set_number(o, "images", (double)r->n);
    json_set_number(o, "errors", (double)r->errors);
    json_set_number(o, "accuracy", 100 * (1 - (double)r->errors / (double)r->n));
    json_set_number(o, "nll", r->nll);
    json_set_number(o, "nll_se", r->nll_se);
    for (int64_t c = 0; c < r->classes; c++)
        json_push(classes, json_from_number((double)r->errors_of_class[c]));
    json_set(o, "errors_by_class", classes);
    return o;
}
