// test_ticket_mask.c: how many weights a mask keeps and which, in each scope and granularity; exchanges of dynamic training.
#include <criterion/criterion.h>
#include <math.h>

#include "prune/lottery.h"
#include "tests/unit/tiny.h"

static struct model *perceptron(void)
{
    struct layer_shape layer[] = {{.n_ff = 300}, {.n_ff = 100}};
    const struct config c = {
        .model_type = "lenet", .n_layer = 2, .hidden = 784, .vocab = 10, .layer = layer, .image_std = 1, .bos_id = -1, .eos_id = -1};
    struct model *m = model_new(&c, 1);
    model_initialise(m, 1);
    return m;
}

// A model, its weights' magnitudes as scores, and a mask that keeps all.
struct fixture {
    struct model *m;
    float *score;
    unsigned char *mask;
};

static float *magnitudes(const struct model *m)
{
    float *score = xmalloc((size_t)m->n_element * sizeof *score, "scores");
    for (int64_t i = 0; i < m->n_element; i++)
        score[i] = fabsf(m->data[i]);
    return score;
}

static struct fixture fixture_make(struct model *m)
{
    return (struct fixture){m, magnitudes(m), mask_ones(m)};
}

static void fixture_release(struct fixture *f)
{
    free(f->mask);
    free(f->score);
    model_free(f->m);
}

static int64_t kept_of(const struct model *m, const unsigned char *mask, const char *name)
{
    const struct parameter *p = model_find((struct model *)(uintptr_t)m, name);
    int64_t n = 0;
    for (int64_t k = 0; k < tensor_count(&p->t); k++)
        n += mask[p->offset + k];
    return n;
}

// The counts of Frankle and Carbin's figure captions: Pm 80.0, 64.1, 51.3, 41.1, 32.9, 26.3, 21.1 ... 3.6 %.
Test(ticket_mask, the_published_levels)
{
    static const double published[] = {80.0, 64.1, 51.3, 41.1, 32.9, 26.4, 21.1, 16.9, 13.5, 10.8, 8.7, 7.0, 5.6, 4.5, 3.6};
    struct fixture f = fixture_make(perceptron());
    struct model *m = f.m;
    float *score = f.score;
    unsigned char *mask = f.mask;
    const struct mask_options o = {.granularity = GRAIN_WEIGHTS, .scope = MASK_LAYER, .output_factor = 0.5};
    cr_assert_eq(mask_total(m), 266200);
    for (int round = 0; round < 15; round++) {
        mask_cut(m, mask, score, 0.2, &o);
        // one decimal is printed, and a round of the paper's rounds differently by a few weights: half of each
        cr_expect_float_eq(mask_pm(m, mask), published[round], 0.1, "round %d: %g", round + 1, mask_pm(m, mask));
    }
    cr_expect_eq(kept_of(m, mask, "head.bias"), 10, "biases are never cut");
    cr_expect_float_eq((double)kept_of(m, mask, "head.weight"), 1000 * pow(0.9, 15), 3); // rounded 15 times
    float least = 1, most = 0; // of what is kept, of what is not, in one matrix
    const struct parameter *p = model_find(m, "layers.1.weight");
    for (int64_t i = p->offset; i < p->offset + tensor_count(&p->t); i++) {
        least = mask[i] ? fminf(least, score[i]) : least;
        most = mask[i] ? most : fmaxf(most, score[i]);
    }
    cr_expect_geq(least, most);
    fixture_release(&f);
}

Test(ticket_mask, global_scope_ranks_all_matrices_together)
{
    struct fixture f = fixture_make(perceptron());
    struct model *m = f.m;
    float *score = f.score;
    unsigned char *mask = f.mask;
    const struct mask_options o = {.granularity = GRAIN_WEIGHTS, .scope = MASK_GLOBAL};
    mask_cut(m, mask, score, 0.9, &o);
    cr_expect_eq(mask_kept(m, mask), 26620);
    float least = 1, most = 0;
    for (int i = 0; i < m->n_parameter; i++)
        for (int64_t k = m->parameter[i].offset; mask_is_cut(m, &m->parameter[i]) && k < m->parameter[i].offset + tensor_count(&m->parameter[i].t); k++) {
            least = mask[k] ? fminf(least, score[k]) : least;
            most = mask[k] ? most : fmaxf(most, score[k]);
        }
    cr_expect_geq(least, most);
    fixture_release(&f);
}

Test(ticket_mask, another_choice_keeps_as_many_of_each_matrix)
{
    struct fixture f = fixture_make(perceptron());
    struct model *m = f.m;
    float *score = f.score;
    unsigned char *mask = f.mask, *other = mask_ones(m);
    const struct mask_options o = {.granularity = GRAIN_WEIGHTS, .scope = MASK_LAYER, .output_factor = 0.5};
    mask_cut(m, mask, score, 0.7, &o);
    mask_random_scores(m, 4, "other", score);
    mask_like(m, mask, score, GRAIN_WEIGHTS, other);
    int64_t differ = 0;
    for (int64_t i = 0; i < m->n_element; i++)
        differ += mask[i] != other[i];
    cr_expect_gt(differ, 50000);
    for (int i = 0; i < m->n_parameter; i++)
        cr_expect_eq(kept_of(m, mask, m->parameter[i].name), kept_of(m, other, m->parameter[i].name));
    free(other);
    fixture_release(&f);
}

Test(ticket_mask, erdos_renyi_keeps_the_share)
{
    struct fixture f = fixture_make(perceptron());
    struct model *m = f.m;
    float *score = f.score;
    unsigned char *mask = f.mask;
    mask_distribute(m, 0.1, 1, score, mask);
    cr_expect_float_eq(mask_pm(m, mask), 10, 0.01); // three matrices, each to the nearest weight: 2 of 266,200
    // densities in the ratio of (rows + columns) / (rows columns); the head's would be above 1
    const double first = (double)kept_of(m, mask, "layers.0.weight") / 235200, second = (double)kept_of(m, mask, "layers.1.weight") / 30000;
    cr_expect_float_eq(first / second, (1084.0 / 235200) / (400.0 / 30000), 1e-3); // to the nearest of about 3,600 weights
    cr_expect_eq(kept_of(m, mask, "head.weight"), 1000);
    mask_distribute(m, 0.1, 0, score, mask);
    cr_expect_eq(kept_of(m, mask, "head.weight"), 100);
    fixture_release(&f);
}

// A unit goes with all its weights, and nothing else goes.
Test(ticket_mask, units_are_heads_and_channels)
{
    struct fixture f = fixture_make(tiny_model(2, 16, 1));
    struct model *m = f.m;
    float *score = f.score;
    unsigned char *mask = f.mask;
    const struct mask_options o = {.granularity = GRAIN_UNITS, .scope = MASK_LAYER, .output_factor = 1};
    mask_cut(m, mask, score, 0.5, &o); // 2 of 4 heads, 20 of 40 channels in each layer
    cr_expect_eq(kept_of(m, mask, "model.layers.0.self_attn.q_proj.weight"), 2 * 8 * 16);
    cr_expect_eq(kept_of(m, mask, "model.layers.0.self_attn.o_proj.weight"), 2 * 8 * 16);
    cr_expect_eq(kept_of(m, mask, "model.layers.0.self_attn.k_proj.weight"), 2 * 8 * 16, "shared by a group: stays");
    cr_expect_eq(kept_of(m, mask, "model.layers.1.mlp.up_proj.weight"), 20 * 16);
    cr_expect_eq(kept_of(m, mask, "model.layers.1.mlp.down_proj.weight"), 20 * 16);
    const struct parameter *up = model_find(m, "model.layers.1.mlp.up_proj.weight");
    const struct parameter *down = model_find(m, "model.layers.1.mlp.down_proj.weight");
    for (int64_t u = 0; u < 40; u++)
        for (int64_t d = 0; d < 16; d++) {
            cr_assert_eq(mask[up->offset + u * 16 + d], mask[up->offset + u * 16]);
            cr_assert_eq(mask[down->offset + d * 40 + u], mask[up->offset + u * 16]);
        }
    mask_cut(m, mask, score, 0.5, &o); // of what is left
    cr_expect_eq(kept_of(m, mask, "model.layers.0.self_attn.q_proj.weight"), 8 * 16);
    cr_expect_eq(kept_of(m, mask, "model.layers.1.mlp.up_proj.weight"), 10 * 16);
    fixture_release(&f);
}

// RigL: the smallest weights go, the largest gradients come; counts stay; what comes begins at zero with empty moments.
Test(ticket_mask, dynamic_training_exchanges_weights)
{
    struct fixture f = fixture_make(perceptron());
    struct model *m = f.m;
    float *score = f.score;
    unsigned char *mask = f.mask, *is_zero = xcalloc((size_t)m->n_element, 1, "zeros");
    const struct dynamic d = {.grows_by_gradient = 1, .every = 10, .end = 100, .share = 0.3, .seed = 1};
    mask_distribute(m, 0.1, 1, score, mask);
    mask_zero(m, mask);
    model_want_gradients(m);
    float *first = xcalloc((size_t)m->n_element, sizeof *first, "moments");
    for (int64_t i = 0; i < m->n_element; i++) {
        is_zero[i] = !mask[i];
        m->grad[i] = (float)((i * 7919) % 10007);
        first[i] = 1;
    }
    dynamic_remask((void *)(uintptr_t)&d, 15, m, is_zero, first, NULL);
    for (int64_t i = 0; i < m->n_element; i++)
        cr_assert_eq(is_zero[i], !mask[i], "no exchange at step 15");
    dynamic_remask((void *)(uintptr_t)&d, 10, m, is_zero, first, NULL);
    const struct parameter *p = model_find(m, "layers.0.weight");
    int64_t kept = 0, dropped = 0, grown = 0;
    float least_grown = HUGE_VALF, most_left = 0;
    for (int64_t i = p->offset; i < p->offset + tensor_count(&p->t); i++) {
        kept += !is_zero[i];
        dropped += is_zero[i] && mask[i];
        if (!is_zero[i] && !mask[i]) {
            grown++;
            cr_assert(m->data[i] != 0.0f && fabsf(m->data[i]) < 1e-20f && first[i] == 0.0f);
            least_grown = fminf(least_grown, m->grad[i]);
        } else if (is_zero[i]) {
            most_left = fmaxf(most_left, m->grad[i]);
        }
    }
    cr_expect_eq(kept, kept_of(m, mask, "layers.0.weight"));
    cr_expect_geq(least_grown, most_left);
    // 0.15 (1 + cos(0.1 pi)) of the kept ones; some that go come back at once, for their gradient
    const double share = 0.15 * (1 + cos(0.1 * M_PI)) * (double)kept;
    cr_expect(dropped == grown && (double)dropped <= share + 1 && (double)dropped > 0.8 * share, "%ld of %g", (long)dropped, share);
    free(first);
    free(is_zero);
    fixture_release(&f);
}
