// test_prune_rank.c: one ranking over all layers, budgets, layers and blocks, hidden width, zeros in place.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/random.h"
#include "prune/score.h"
#include "tests/unit/tolerance.h"

#define LAYERS 4
#define TOKENS 4000

static struct model *tiny(int biases)
{
    static struct layer_shape shape[LAYERS] = {{8, 4, 64}, {8, 4, 64}, {8, 4, 64}, {8, 4, 64}};
    struct config c = {.n_layer = LAYERS, .hidden = 32, .head_dim = 8, .vocab = 97, .context = 128, .layer = shape, .norm_eps = 1e-5,
                       .rope_theta = 10000, .tie_embeddings = 1, .qkv_bias = biases, .mlp_bias = biases, .out_bias = biases};
    strcpy(c.model_type, "llama");
    struct model *m = model_new(&c, 1);
    model_initialise(m, 7);
    for (int64_t i = 0; i < m->n_element; i++)
        m->data[i] = m->data[i] * 10 + (biases ? 0.01f * (float)(i % 7) : 0);
    return m;
}

static struct calibration calibration(void)
{
    static int32_t token[TOKENS];
    static struct dataset d;
    struct random r;
    random_init(&r, 3, "text", 0);
    for (int i = 0; i < TOKENS; i++)
        token[i] = (int32_t)random_below(&r, 97);
    d = (struct dataset){.token = token, .n_token = TOKENS, .text_bytes = TOKENS};
    return (struct calibration){.data = &d, .seq_len = 64, .tokens = 512, .batch = 2, .seed = 5};
}

static int score_named(const char *name)
{
    int i = 0;
    while (strcmp(prune_score_table[i].name, name))
        i++;
    return i;
}

static struct model *prune(struct model *m, const struct prune_options *o, const struct prune_budget *budget, struct prune_state *state)
{
    const struct calibration c = calibration();
    struct model *out;
    struct error err;
    *state = (struct prune_state){.original = &m->config};
    cr_assert_eq(prune_step(m, state, o, 1, budget, &c, &out, &err), 0, "%s", err.text);
    return out;
}

static void scores_in_order(struct prune_scores *s, const struct config *c)
{
    prune_scores_init(s, c);
    for (int l = 0; l < LAYERS; l++) {
        for (int i = 0; i < 8; i++)
            s->head[l][i] = 1 + l + 0.1 * i;
        for (int i = 0; i < 64; i++)
            s->ff[l][i] = 1 + l + 0.01 * i;
    }
}

// With a score that is a loss the first layers, whose scores are smallest, lose most, down to the floor; the sum is what was asked.
Test(prune_rank, a_global_ranking_takes_the_worst_of_all)
{
    struct model *m = tiny(0);
    struct prune_scores s;
    struct layer_shape n[LAYERS];
    struct error err;
    scores_in_order(&s, &m->config);
    struct prune_options o = {.heads = 0.5, .ffn = 0.5, .align = 8, .scope = SCOPE_GLOBAL, .floor = 0.25, .score = score_named("fisher")};
    cr_assert_eq(rank_counts(&m->config, m->config.layer, &o, &s, 1, NULL, n, &err), 0, "%s", err.text);
    const struct layer_shape expected[LAYERS] = {{2, 1, 16}, {2, 1, 16}, {4, 2, 32}, {8, 4, 64}};
    for (int l = 0; l < LAYERS; l++)
        cr_expect_eq(memcmp(&n[l], &expected[l], sizeof n[l]), 0, "layer %d: %ld/%ld %ld", l, (long)n[l].n_head, (long)n[l].n_kv_head,
                     (long)n[l].n_ff);
    // half of the way
    cr_assert_eq(rank_counts(&m->config, m->config.layer, &o, &s, 0.5, NULL, n, &err), 0);
    cr_expect_eq(n[0].n_ff + n[1].n_ff + n[2].n_ff + n[3].n_ff, 192);
    // relative to their layers the same scores are alike: all lose about the same
    o.score = score_named("l2");
    cr_assert_eq(rank_counts(&m->config, m->config.layer, &o, &s, 1, NULL, n, &err), 0);
    for (int l = 0; l < LAYERS; l++)
        cr_expect(n[l].n_ff >= 16 && n[l].n_ff <= 48, "layer %d: %ld", l, (long)n[l].n_ff);
    s.ff[2][7] = (double)NAN;
    cr_expect_eq(rank_counts(&m->config, m->config.layer, &o, &s, 1, NULL, n, &err), -1);
    cr_expect(strstr(err.text, "channel 7 in layer 2"), "%s", err.text);
    prune_scores_release(&s);
    model_free(m);
}

static double parameters(void *context, const struct config *shape)
{
    ++*(int *)context;
    return (double)config_parameters(shape);
}

// Met, and by no more than one step of one layer (or, in all layers alike, one step of each).
Test(prune_rank, a_budget_is_met_and_hardly_missed)
{
    struct model *m = tiny(0);
    struct prune_scores s;
    struct error err;
    struct layer_shape n[LAYERS];
    int calls = 0;
    scores_in_order(&s, &m->config);
    for (int scope = SCOPE_LAYER; scope <= SCOPE_GLOBAL; scope++)
        for (int percent = 30; percent < 100; percent += 10) {
            const double all = (double)config_parameters(&m->config);
            const struct prune_budget b = {.limit = all * percent / 100, .cost = parameters, .context = &calls, .unit = "parameters"};
            struct prune_options o = {.align = 8, .scope = scope, .floor = 0, .score = score_named("fisher")};
            cr_assert_eq(rank_counts(&m->config, m->config.layer, &o, &s, 1, &b, n, &err), 0, "%s", err.text);
            struct config c = m->config;
            c.layer = n;
            const double got = (double)config_parameters(&c), step = 8 * 32 * 6; // a group of two heads; 8 channels are less
            cr_expect(got <= b.limit && got > b.limit - (scope == SCOPE_GLOBAL ? 1 : 2 * LAYERS) * step, "%d %%: %g of %g", percent, got,
                      b.limit);
            for (int l = 1; l < LAYERS && scope == SCOPE_LAYER; l++)
                cr_expect_eq(memcmp(&n[0], &n[l], sizeof n[0]), 0);
        }
    const struct prune_budget b = {.limit = 100, .cost = parameters, .context = &calls, .unit = "parameters"};
    struct prune_options o = {.align = 8, .scope = SCOPE_GLOBAL, .floor = 0.5, .score = score_named("fisher")};
    cr_expect_eq(rank_counts(&m->config, m->config.layer, &o, &s, 1, &b, n, &err), -1);
    cr_expect(strstr(err.text, "100 parameters cannot be reached") && strstr(err.text, "are left, the smallest"), "%s", err.text);
    prune_scores_release(&s);
    model_free(m);
}

// Each is checked against the masked model inside (1e-5); here the shapes, with and without biases.
Test(prune_rank, layers_blocks_and_hidden_width)
{
    for (int biases = 0; biases < 2; biases++)
        for (int score = 0; depth_score_table[score].name; score++) {
            struct model *m = tiny(biases);
            struct prune_state state;
            struct prune_options o = {.layers = 0.25, .attention_blocks = 1.0 / 3, .ffn_blocks = 1.0 / 3, .steps = 1, .align = 8,
                                      .depth_score = score};
            struct model *out = prune(m, &o, NULL, &state);
            cr_expect(out->config.n_layer == 3 || out->config.n_layer == 2); // two blocks may be of one layer
            int attention = 0, ff = 0, gone = 0;
            for (int l = 0; l < out->config.n_layer; l++) {
                attention += out->config.layer[l].n_head > 0;
                ff += out->config.layer[l].n_ff > 0;
            }
            cr_expect(attention == 2 && ff == 2);
            for (int l = 0; l < LAYERS; l++)
                gone += !state.kept.layer[l].n_head && !state.kept.layer[l].n_ff;
            cr_expect_eq(gone, LAYERS - out->config.n_layer);
            cr_expect_eq(config_parameters(&out->config), out->n_element);
            model_free(out);
            plan_release(&state.kept);
            o = (struct prune_options){.hidden = 0.5, .heads = 0.5, .ffn = 0.5, .steps = 1, .align = 8, .score = score_named("taylor")};
            out = prune(m, &o, NULL, &state);
            cr_expect(out->config.hidden == 16 && out->config.layer[3].n_ff == 32 && state.kept.n_hidden == 16);
            model_free(out);
            plan_release(&state.kept);
            model_free(m);
        }
}

// A layer that adds nothing has no influence. (On random weights the loss may be lower without another.)
Test(prune_rank, a_useless_layer_goes_first)
{
    for (int score = 0; score < 1; score++) {
        struct model *m = tiny(0);
        struct prune_state state;
        memset(model_find(m, "model.layers.2.self_attn.o_proj.weight")->t.data, 0, 32 * 64 * sizeof(float));
        memset(model_find(m, "model.layers.2.mlp.down_proj.weight")->t.data, 0, 32 * 64 * sizeof(float));
        struct prune_options o = {.layers = 0.25, .steps = 1, .depth_score = score};
        struct model *out = prune(m, &o, NULL, &state);
        cr_expect(!state.kept.layer[2].n_head && state.kept.layer[1].n_head, "%s", depth_score_table[score].name);
        const struct calibration c = calibration();
        cr_expect_lt(mask_difference(m, out, &c, 256), FLOAT_SUM);
        model_free(out);
        plan_release(&state.kept);
        model_free(m);
    }
}

// Zeros in place: the same function as the cut, in the old shape; single heads of a group may go.
Test(prune_rank, a_mask_keeps_the_shape)
{
    struct model *m = tiny(1);
    struct prune_state state;
    struct prune_options o = {.heads = 0.4, .ffn = 0.3, .steps = 1, .align = 1, .scope = SCOPE_GLOBAL, .heads_by = HEADS_BY_QUERY, .mask = 1,
                              .score = score_named("taylor")};
    struct model *out = prune(m, &o, NULL, &state);
    int64_t heads = 0, ff = 0;
    for (int l = 0; l < LAYERS; l++) {
        heads += state.kept.layer[l].n_head;
        ff += state.kept.layer[l].n_ff;
    }
    cr_expect(heads == 19 && ff == 179, "%ld heads, %ld channels", (long)heads, (long)ff); // of 32 and 256
    cr_expect_eq(out->n_element, m->n_element);
    cr_expect_leq(state.difference, FLOAT_FEW);
    model_free(out);
    plan_release(&state.kept);
    model_free(m);
}

// Two steps leave what their plans together say: the indices count units of the original.
Test(prune_rank, steps_compose)
{
    struct model *m = tiny(0), *first, *second;
    const struct calibration c = calibration();
    struct prune_state state = {.original = &m->config};
    struct prune_options o = {.heads = 0.5, .ffn = 0.5, .layers = 0.5, .hidden = 0.25, .steps = 2, .align = 8, .score = score_named("fisher")};
    struct error err;
    cr_assert_eq(prune_step(m, &state, &o, 0.5, NULL, &c, &first, &err), 0, "%s", err.text);
    cr_assert_eq(prune_step(first, &state, &o, 1, NULL, &c, &second, &err), 0, "%s", err.text);
    struct json *text = plan_json(&state.kept);
    struct plan again;
    plan_from_json(&again, text);
    struct model *at_once = shrink(m, &again);
    cr_expect_eq(at_once->n_element, second->n_element);
    cr_expect_eq(memcmp(at_once->data, second->data, (size_t)second->n_element * sizeof(float)), 0);
    cr_expect(second->config.n_layer == 2 && second->config.hidden == 24);
    json_free(text);
    plan_release(&again);
    plan_release(&state.kept);
    model_free(m);
    model_free(first);
    model_free(second);
    model_free(at_once);
}

struct mean_inputs {
    double sum[LAYERS][64];
    int64_t rows;
};

static void sum_inputs(void *context, const struct taps *taps, int64_t rows)
{
    struct mean_inputs *s = context;
    for (int l = 0; l < LAYERS; l++)
        for (int64_t n = 0; n < rows; n++)
            for (int i = 0; i < 64; i++)
                s->sum[l][i] += (double)taps->ff[l]->data[n * 64 + i];
    s->rows += rows;
}

// On the calibration text, the mean of what a feed-forward block adds stays what it was.
Test(prune_rank, biases_make_up_for_the_mean_of_what_goes)
{
    struct model *m = tiny(0);
    const struct calibration c = calibration();
    struct prune_state state;
    static struct mean_inputs s;
    struct prune_options o = {.ffn = 0.5, .steps = 1, .align = 8, .compensate = 1, .score = score_named("flap")};
    struct model *out = prune(m, &o, NULL, &state);
    cr_assert(out->config.mlp_bias);
    struct error err;
    cr_assert_eq(calibration_forward(m, &c, TAP_FF, sum_inputs, &s, &err), 0, "%s", err.text);
    for (int l = 0; l < LAYERS; l++) {
        char name[64];
        snprintf(name, sizeof name, "model.layers.%d.mlp.down_proj.weight", l);
        const float *before = model_find(m, name)->t.data, *after = model_find(out, name)->t.data;
        snprintf(name, sizeof name, "model.layers.%d.mlp.down_proj.bias", l);
        const float *bias = model_find(out, name)->t.data;
        for (int d = 0; d < 32; d++) {
            double want = 0, got = (double)bias[d];
            for (int i = 0; i < 64; i++)
                want += (double)before[d * 64 + i] * s.sum[l][i] / (double)s.rows;
            for (int k = 0; k < 32; k++)
                got += (double)after[d * 32 + k] * s.sum[l][state.kept.layer[l].ff[k]] / (double)s.rows;
            cr_expect_float_eq(got, want, FLOAT_SUM, "layer %d, output %d: %g, was %g", l, d, got, want);
        }
    }
    model_free(out);
    plan_release(&state.kept);
    model_free(m);
}

// One key/value head: its query heads may still be flat.
Test(prune_rank, flat_heads_of_one_group_are_seen)
{
    struct layer_shape shape = {8, 1, 64}, counts = {4, 1, 64};
    const struct config c = {.n_layer = 1, .hidden = 32, .head_dim = 8, .layer = &shape};
    struct prune_scores s;
    struct error err;
    prune_scores_init(&s, &c);
    cr_expect_eq(guard_scores(&s, &c, &counts, HEADS_BY_QUERY, &err), -1);
    cr_expect(strstr(err.text, "heads of layer 0 have the score 0"), "%s", err.text);
    s.head[0][3] = 1;
    cr_expect_eq(guard_scores(&s, &c, &counts, HEADS_BY_QUERY, &err), 0);
    counts.n_ff = 0;
    s.ff[0][3] = 1;
    cr_expect_eq(guard_scores(&s, &c, &counts, HEADS_BY_QUERY, &err), -1);
    cr_expect(strstr(err.text, "would lose all its feed-forward channels"), "%s", err.text);
    prune_scores_release(&s);
}

// A weight that is not a number is named as the score of its unit, by every score that looks at it.
Test(prune_rank, nan_is_named)
{
    static const char *const names[] = {"flap", "wanda", "l2", "taylor"};
    for (int i = 0; i < 4; i++) {
        struct model *m = tiny(0), *out;
        const struct calibration c = calibration();
        struct prune_state state = {.original = &m->config};
        struct prune_options o = {.ffn = 0.5, .steps = 1, .align = 8, .score = score_named(names[i])};
        struct error err;
        model_find(m, "model.layers.3.mlp.down_proj.weight")->t.data[5] = (float)NAN;
        cr_expect_eq(prune_step(m, &state, &o, 1, NULL, &c, &out, &err), -1, "%s", names[i]);
        cr_expect(strstr(err.text, "look for NaN in the checkpoint"), "%s: %s", names[i], err.text);
        model_free(m);
    }
}

// A fit that makes other text worse is refused.
Test(prune_rank, a_fit_that_harms_is_refused)
{
    struct model *plain = tiny(0), *fitted = tiny(0);
    const struct calibration c = calibration();
    struct error err;
    for (int64_t i = 0; i < tensor_count(model_head(fitted)); i++)
        model_head(fitted)->data[i] *= 3;
    cr_expect_eq(guard_reconstruction(plain, fitted, &c, &err), -1);
    cr_expect(strstr(err.text, "512 tokens of calibration are too few") && strstr(err.text, "\"guards\": false"), "%s", err.text);
    cr_expect_eq(guard_reconstruction(fitted, plain, &c, &err), 0);
    model_free(plain);
    model_free(fitted);
}
