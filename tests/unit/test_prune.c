// test_prune.c: counts and alignment, what a plan keeps, and masked model = sliced model for every score and family.
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "common/base/random.h"
#include "prune/prune.h"
#include "tests/unit/tolerance.h"

// Masked and sliced sums differ in length and order only; 1e-5 of the largest logit is ten times what was seen.
#define TOLERANCE FLOAT_SUM

static struct model *tiny(const char *model_type, int biases, int64_t seed)
{
    static struct layer_shape shape[2] = {{8, 4, 64}, {8, 4, 64}};
    struct config c = {.n_layer = 2, .hidden = 32, .head_dim = 8, .vocab = 97, .context = 128, .layer = shape, .norm_eps = 1e-5,
                       .rope_theta = 10000, .tie_embeddings = 1, .qkv_bias = biases, .mlp_bias = biases, .out_bias = biases};
    strcpy(c.model_type, model_type);
    struct model *m = model_new(&c, 1);
    model_initialise(m, (uint64_t)seed);
    for (int64_t i = 0; i < m->n_element; i++) // larger weights, and biases that are not zero
        m->data[i] = m->data[i] * 10 + (biases ? 0.01f * (float)(i % 7) : 0);
    return m;
}

static struct dataset text(int32_t *token, int64_t n)
{
    struct random r;
    random_init(&r, 3, "text", 0);
    for (int64_t i = 0; i < n; i++)
        token[i] = (int32_t)random_below(&r, 97);
    return (struct dataset){.token = token, .n_token = n, .text_bytes = n};
}

static struct prune_options options(double heads, double ffn, int64_t align)
{
    return (struct prune_options){.heads = heads, .ffn = ffn, .align = align, .steps = 1};
}

static void check_prune(struct model *m, const char *score, int heads_by)
{
    static int32_t token[4000];
    const struct dataset d = text(token, 4000);
    const struct calibration c = {.data = &d, .seq_len = 64, .tokens = 512, .batch = 2, .seed = 5};
    struct prune_options o = options(0.5, 0.5, 16);
    o.heads_by = heads_by;
    while (strcmp(prune_score_table[o.score].name, score))
        o.score++;
    struct error err;
    struct model *out;
    struct prune_state state = {.original = &m->config};
    cr_assert_eq(prune_step(m, &state, &o, 1, NULL, &c, &out, &err), 0, "%s: %s", score, err.text);
    cr_assert_eq(out->config.layer[0].n_head, 4);
    cr_assert_eq(out->config.layer[0].n_kv_head, heads_by == HEADS_BY_GROUP ? 2 : 4);
    cr_assert_eq(out->config.layer[1].n_ff, 32);
    cr_assert_leq(state.difference, TOLERANCE, "%s: %g", score, state.difference);
    model_free(out);
    plan_release(&state.kept);
}

Test(prune, masked_is_sliced_for_every_score)
{
    for (const struct prune_score *s = prune_score_table; s->name; s++) {
        struct model *m = tiny("llama", 0, 1);
        check_prune(m, s->name, HEADS_BY_GROUP);
        check_prune(m, s->name, HEADS_BY_QUERY);
        model_free(m);
    }
}

Test(prune, masked_is_sliced_with_biases)
{
    struct model *m = tiny("qwen2", 1, 2);
    check_prune(m, "taylor", HEADS_BY_GROUP);
    check_prune(m, "l2", HEADS_BY_QUERY);
    model_free(m);
}

// The check can fail: another plan's mask is another function.
Test(prune, a_wrong_slice_is_seen)
{
    struct model *m = tiny("llama", 0, 4);
    struct prune_scores s;
    prune_scores_init(&s, &m->config);
    const struct layer_shape counts[2] = {{4, 2, 32}, {4, 2, 32}};
    struct plan a, b;
    struct error err;
    cr_assert_eq(plan_make(&a, &m->config, &s, counts, HEADS_BY_GROUP, 0, &err), 0);
    s.ff[1][63] = 1;
    cr_assert_eq(plan_make(&b, &m->config, &s, counts, HEADS_BY_GROUP, 0, &err), 0);
    struct model *sliced = shrink(m, &b);
    const struct calibration c = {.seq_len = 64, .seed = 5};
    mask_apply(m, &b);
    cr_assert_leq(mask_difference(m, sliced, &c, 1000), TOLERANCE);
    mask_apply(m, &a);
    cr_assert_gt(mask_difference(m, sliced, &c, 1000), 100 * TOLERANCE);
    model_free(sliced);
    model_free(m);
    plan_release(&a);
    plan_release(&b);
    prune_scores_release(&s);
}

Test(prune, the_best_stay_and_ties_keep_their_order)
{
    struct model *m = tiny("llama", 0, 1);
    struct prune_scores s;
    prune_scores_init(&s, &m->config);
    const int64_t best[4] = {3, 17, 18, 60};
    for (int i = 0; i < 4; i++)
        s.ff[0][best[i]] = 1;
    s.head[1][7] = 2; // lifts group 3
    s.group[1][0] = 3; // lifts group 0
    const struct layer_shape counts[2] = {{4, 2, 6}, {4, 2, 6}};
    struct plan p;
    struct error err;
    cr_assert_eq(plan_make(&p, &m->config, &s, counts, HEADS_BY_GROUP, 0, &err), 0);
    const int64_t expected[6] = {0, 1, 3, 17, 18, 60};
    cr_assert_arr_eq(p.layer[0].ff, expected, sizeof expected);
    const int64_t groups[2] = {0, 3}, heads[4] = {0, 1, 6, 7};
    cr_assert_arr_eq(p.layer[1].group, groups, sizeof groups);
    cr_assert_arr_eq(p.layer[1].head, heads, sizeof heads);
    plan_release(&p);
    s.ff[0][5] = (double)NAN;
    cr_assert_eq(plan_make(&p, &m->config, &s, counts, HEADS_BY_GROUP, 0, &err), -1);
    cr_assert(strstr(err.text, "channel 5"), "%s", err.text);
    prune_scores_release(&s);
    model_free(m);
}

Test(prune, counts_are_the_nearest_multiples_and_at_least_one)
{
    struct model *m = tiny("llama", 0, 1); // 4 groups of 2 heads of 8: 16 elements a group; 64 channels
    struct layer_shape n[2];
    struct error err;
    struct prune_options o = options(0.99, 0.99, 32);
    cr_assert_eq(plan_counts(&m->config, m->config.layer, &o, 1, n, &err), 0);
    cr_assert_eq(n[0].n_kv_head, 2); // 32 is the smallest multiple
    cr_assert_eq(n[0].n_ff, 32);
    o = options(0.4, 0.3, 8);
    cr_assert_eq(plan_counts(&m->config, m->config.layer, &o, 1, n, &err), 0);
    cr_assert_eq(n[0].n_kv_head, 2); // 2.4 wanted
    cr_assert_eq(n[0].n_ff, 48);     // 44.8 wanted: 48 is nearer than 40
    o = options(0, 0.5, 256);
    cr_assert_eq(plan_counts(&m->config, m->config.layer, &o, 1, n, &err), -1);
    cr_assert(strstr(err.text, "align = 256"), "%s", err.text);
    cr_assert_eq(n[0].n_head, 8);
    model_free(m);
}

Test(prune, progress_follows_the_schedule)
{
    cr_assert_float_eq(prune_progress(PRUNE_LINEAR, 1, 4, 0.5), 0.25, DOUBLE_FEW);
    cr_assert_float_eq(prune_progress(PRUNE_CUBIC, 1, 4, 0.5), 1 - 27.0 / 64, DOUBLE_FEW);
    cr_assert_float_eq(prune_progress(PRUNE_CUBIC, 4, 4, 0.5), 1, DOUBLE_FEW);
    cr_assert_float_eq(1 - 0.75 * prune_progress(PRUNE_EXPONENTIAL, 1, 2, 0.75), 0.5, DOUBLE_FEW); // half, then half of it
    cr_assert_float_eq(prune_progress(PRUNE_EXPONENTIAL, 2, 2, 0.75), 1, DOUBLE_FEW);
}

// A unit that one of its tensors does not hold (all zeros, as in padded checkpoints) does nothing, whatever the others hold.
Test(prune, magnitude_takes_a_dead_unit_for_the_worst)
{
    struct model *m = tiny("llama", 0, 1);
    struct parameter *gate = model_find(m, "model.layers.0.mlp.gate_proj.weight");
    struct parameter *q = model_find(m, "model.layers.1.self_attn.q_proj.weight");
    cr_assert(gate && q);
    memset(gate->t.data + 9 * 32, 0, 32 * sizeof(float));
    memset(q->t.data + 5 * 8 * 32, 0, 8 * 32 * sizeof(float));
    struct prune_scores s;
    struct error err;
    prune_scores_init(&s, &m->config);
    const struct prune_score *magnitude = prune_score_table;
    cr_assert_str_eq(magnitude->name, "magnitude");
    cr_assert_eq(magnitude->compute(m, NULL, &s, &err), 0);
    cr_expect_eq(s.ff[0][9], 0);
    cr_expect_eq(s.head[1][5], 0);
    cr_expect_gt(s.ff[0][8], 0);
    cr_expect_gt(s.head[1][4], 0);
    cr_expect_gt(s.group[1][0], 0);
    prune_scores_release(&s);
    model_free(m);
}

// Numbers that follow a NaN do not hide it: one row of the head is NaN, so one logit of each token is.
Test(prune, a_nan_fails_the_check)
{
    struct model *m = tiny("llama", 0, 1), *same = tiny("llama", 0, 1);
    const struct calibration c = {.seq_len = 64, .seed = 5};
    model_head(same)->data[40 * 32] = (float)NAN;
    cr_expect(isnan(mask_difference(m, same, &c, 64)));
    model_free(m);
    model_free(same);
}
