// test_learned_rounding.c: signed descent against every rounding there is, its direction against finite differences, what it leaves behind;
// choices in the blocks of every format and in integers, and back.
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>

#include "common/tensor/ops.h"
#include "quant/block_choices.h"
#include "quant/block_codes.h"
#include "quant/int_matrix.h"
#include "quant/learned_rounding.h"
#include "tests/unit/rounding.h"
#include "tests/unit/tiny.h"
#include "tests/unit/tolerance.h"

enum { C = 8 };

struct quadratic { // (w - x) H (w - x)^T of one row, in double
    double H[C * C];
    float x[C], level[4];
    const struct rounding_choice *c;
    int n_level, strange; // values that are no level of theirs
};

static double quadratic_loss(const struct quadratic *q, const float *w) { return damage(q->x, w, q->H, 1, C); }

static double quadratic_measure(void *context)
{
    const struct quadratic *q = context;
    return quadratic_loss(q, q->c->w->data);
}

static double quadratic_learn(void *context, int64_t step)
{
    struct quadratic *q = context;
    (void)step;
    for (int i = 0; i < C; i++) {
        double g = 0;
        for (int k = 0; k < C; k++)
            g += 2 * q->H[i * C + k] * ((double)q->c->w->data[k] - (double)q->x[k]);
        q->c->w->grad[i] += (float)g;
        q->strange += q->c->w->data[i] != q->c->low[i] && q->c->w->data[i] != q->c->high[i];
    }
    return quadratic_measure(q);
}

// Of all 2^8 roundings to one of the two levels.
static double least(const struct quadratic *q)
{
    double best = DBL_MAX;
    for (int bits = 0; bits < 1 << C; bits++) {
        float w[C];
        for (int k = 0; k < C; k++)
            w[k] = bits >> k & 1 ? q->c->high[k] : q->c->low[k];
        best = fmin(best, quadratic_loss(q, w));
    }
    return best;
}

// Even and uneven levels, as IQ4_NL's are. Each is between two of them or beyond an end.
static void choose_levels(struct quadratic *q, struct rounding_choice *c, int uneven)
{
    static const float level[2][6] = {{-1.5f, -0.9f, -0.3f, 0.3f, 0.9f, 1.5f}, {-1.8f, -1.1f, -0.5f, 0.1f, 0.8f, 2.0f}};
    for (int k = 0; k < C; k++) {
        const int low = block_level_below(level[uneven], 6, q->x[k]);
        rounding_choice_set(c, k, level[uneven][low], level[uneven][low + 1], q->x[k]);
    }
}

// One row of 8 weights, strongly correlated inputs: never worse than rounding to nearest, and most of the way to the best of all roundings.
// Signed descent moves all weights at once and is no search, so it may miss the best: it met that in 13 of 40 rows, and the sum of its losses was
// 1.58 times the least there is, that of rounding to nearest 5.29 times.
Test(learned_rounding, one_row_against_every_rounding)
{
    double nearest = 0, learned = 0, best = 0;
    int met = 0;
    for (int seed = 0; seed < 40; seed++) {
        struct quadratic q = {0};
        float values[C];
        struct tensor w = {.name = "w", .n_dim = 2, .dim = {1, C, 1}, .data = values};
        struct learned_rounding r = {0};
        struct rounding_result result;
        const struct rounding_options o = {.steps = 200};
        const struct rounding_loss loss = {&q, quadratic_learn, quadratic_measure};
        make_inputs(q.H, 30, C, (uint64_t)seed);
        fill(q.x, C, 100 + (uint64_t)seed);
        struct rounding_choice *c = learned_rounding_add(&r, &w);
        q.c = c;
        choose_levels(&q, c, seed % 2);
        const double bound = least(&q);
        cr_assert_eq(learned_rounding_run(&r, &o, &loss, &result), 0);
        for (int k = 0; k < C; k++)
            cr_expect_eq(values[k], c->up[k] ? c->high[k] : c->low[k], "seed %d", seed);
        cr_expect_eq(q.strange, 0, "a loss was asked about what no file can hold");
        cr_expect_eq(result.after, quadratic_loss(&q, values));
        cr_expect_leq(result.after, result.before);
        nearest += result.before;
        learned += result.after;
        best += bound;
        met += result.after <= bound * (1 + DOUBLE_SUM);
        learned_rounding_release(&r);
    }
    cr_expect_geq(met, 9, "%d rows", met);
    cr_expect_lt(learned, 1.8 * best, "%g times the least", learned / best);
    cr_expect_gt(nearest, 4 * best, "the rows are too easy: %g times the least", nearest / best);
}

enum { D = 3, I = 5, N = 7 };

struct regression { // mean square of x w^T - y, by the tape
    struct tape tape;
    struct tensor x, *w;
    float target[N * D], xs[N * I];
    int measured;
};

static double regression_loss(struct regression *g, int recording)
{
    g->tape.recording = recording;
    struct tensor *loss = op_mse(&g->tape, op_linear(&g->tape, &g->x, g->w, NULL), g->target, 1);
    const double value = (double)loss->data[0];
    if (recording)
        tape_backward(&g->tape, loss);
    tape_reset(&g->tape);
    return value;
}

static double regression_learn(void *context, int64_t step)
{
    (void)step;
    return regression_loss(context, 1);
}

// The start 3, the last step 1, the step of the least loss 2: the last one is kept.
static double last_is_best(void *context) { return (const double[]){3, 1, 2}[((struct regression *)context)->measured++]; }

// Made-up data, and in `at` [D, I] places for the weights.
static void regression_begin(struct regression *g, struct tensor *w, float *at)
{
    fill(g->xs, N * I, 1);
    fill(g->target, N * D, 2);
    fill(at, D * I, 3);
    g->x = (struct tensor){.name = "x", .n_dim = 2, .dim = {N, I, 1}, .data = g->xs};
    g->w = w;
    tape_init(&g->tape, PRECISION_F32);
}

// A single step has rate 1: every weight goes to the end that the loss falls towards, and the central difference says which that is. The loss
// is quadratic, so the difference has no error but f32's rounding: slopes below 1e-4 are left out.
Test(learned_rounding, a_step_goes_down_the_slope)
{
    struct regression g = {0};
    float values[D * I], at[D * I];
    struct tensor w = {.name = "w", .n_dim = 2, .dim = {D, I, 1}, .data = values};
    struct learned_rounding r = {0};
    struct rounding_result result;
    const struct rounding_options o = {.steps = 1};
    const struct rounding_loss loss = {&g, regression_learn, last_is_best};
    regression_begin(&g, &w, at);
    struct rounding_choice *c = learned_rounding_add(&r, &w);
    for (int k = 0; k < D * I; k++) // descending levels among them
        rounding_choice_set(c, k, k % 2 ? floorf(at[k]) : ceilf(at[k]), k % 2 ? ceilf(at[k]) : floorf(at[k]), at[k]);
    int expected[D * I], tried = 0;
    for (int k = 0; k < D * I; k++)
        values[k] = c->up[k] ? c->high[k] : c->low[k];
    for (int k = 0; k < D * I; k++) {
        const float here = values[k], h = 0.25f * (c->high[k] - c->low[k]);
        values[k] = here + h;
        const double above = regression_loss(&g, 0);
        values[k] = here - h;
        const double slope = above - regression_loss(&g, 0);
        values[k] = here;
        expected[k] = fabs(slope) < 1e-4 ? -1 : slope < 0;
        tried += expected[k] >= 0;
    }
    cr_assert_eq(learned_rounding_run(&r, &o, &loss, &result), 0);
    cr_expect_geq(tried, 12);
    for (int k = 0; k < D * I; k++)
        cr_expect(expected[k] < 0 || c->up[k] == expected[k], "weight %d", k);
    learned_rounding_release(&r);
    cr_expect_null(w.grad);
    cr_expect_eq(w.needs_grad, 0);
    tape_release(&g.tape);
}

static double broken(void *context)
{
    (void)context;
    return NAN;
}

static double start_is_best(void *context) { return ((struct regression *)context)->measured++; }

// What does not help is taken back; a loss that is no number is said.
Test(learned_rounding, the_start_stays_where_nothing_is_better)
{
    struct regression g = {0};
    float values[D * I], at[D * I];
    struct tensor w = {.name = "w", .n_dim = 2, .dim = {D, I, 1}, .data = values};
    regression_begin(&g, &w, at);
    for (int is_broken = 0; is_broken < 2; is_broken++) {
        struct learned_rounding r = {0};
        struct rounding_result result;
        const struct rounding_options o = {.steps = 3};
        const struct rounding_loss loss = {&g, regression_learn, is_broken ? broken : start_is_best};
        struct rounding_choice *c = learned_rounding_add(&r, &w);
        for (int k = 0; k < D * I; k++)
            rounding_choice_set(c, k, floorf(at[k]), ceilf(at[k]), at[k]);
        cr_expect_eq(learned_rounding_run(&r, &o, &loss, &result), is_broken ? -1 : 0);
        for (int k = 0; k < D * I && !is_broken; k++) {
            cr_expect_eq(values[k], rintf(at[k]));
            cr_expect_eq(c->up[k], rintf(at[k]) == ceilf(at[k]));
        }
        cr_expect(is_broken || (result.changed == 0 && result.after == result.before));
        learned_rounding_release(&r);
    }
    tape_release(&g.tape);
}

// ---- choices in files ----

static const char *const types[] = {"Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"};

static struct model *two_layers(void)
{
    struct layer_shape layer[2] = {{.n_head = 8, .n_kv_head = 4, .n_ff = 256}, {.n_head = 8, .n_kv_head = 4, .n_ff = 96}}; // the second is padded
    const struct config c = {.model_type = "llama", .n_layer = 2, .hidden = 256, .head_dim = 32, .vocab = TINY_VOCAB, .context = 64, .layer = layer,
                             .norm_eps = 1e-5, .rope_theta = 10000, .tie_embeddings = 1, .bos_id = 1, .eos_id = 2};
    struct model *m = model_new(&c, 1);
    model_initialise(m, 1);
    return m;
}

// Of a tensor: at first the nearest levels are chosen, then any. What the blocks decode to are the levels, bit for bit; other bits stay.
static void check_tensor(const struct gguf_plan *plan, const struct gguf_plan_tensor *t)
{
    const int64_t n = t->dim[0] * t->dim[1], row_bytes = block_row_bytes(t->format, t->dim[1]);
    struct gguf_rows rows;
    struct error err;
    struct random random;
    random_init(&random, 5, t->name, 0);
    gguf_rows_init(&rows, plan, t);
    unsigned char *blocks = gguf_rows_encode(&rows, NULL, &err);
    float *W = xcalloc((size_t)(n + rows.own_columns), sizeof *W, "test");
    float *row = xmalloc((size_t)(t->dim[1] + rows.own_columns) * sizeof *row, "test");
    uint8_t *low_code = xmalloc((size_t)n, "test");
    for (int64_t d = 0; d < t->dim[0]; d++)
        gguf_rows_read(&rows, d, W + d * t->dim[1], W + n);
    cr_assert_eq(t->n_part, 1);
    struct tensor w = t->source[0]->t;
    w.data = xmalloc((size_t)tensor_count(&w) * sizeof *w.data, "test");
    struct learned_rounding r = {0};
    struct rounding_choice *c = learned_rounding_add(&r, &w);
    block_choices_find(&rows, W, blocks, &c, low_code);
    int wrong = 0;
    for (int any = 0; any < 2; any++) {
        for (int64_t k = 0; k < tensor_count(&w); k++) {
            const double x = (double)t->source[0]->t.data[k], up = fabs((double)c->high[k] - x), low = fabs((double)c->low[k] - x);
            wrong += !any && (c->up[k] ? up > low * (1 + 1e-5) : low > up * (1 + 1e-5)); // the place is f32's
            c->up[k] = any ? random_below(&random, 2) == 1 : c->up[k];
        }
        block_choices_put(&rows, &c, low_code, blocks);
        for (int64_t d = 0; d < t->dim[0]; d++) {
            int64_t own;
            const struct parameter *p = gguf_rows_source(&rows, d, &own);
            t->format->decode(blocks + d * row_bytes, row, t->dim[1]);
            if (p)
                gguf_rows_to_own(&rows, row, row + t->dim[1]);
            for (int64_t k = 0; k < (p ? rows.own_columns : 0); k++)
                wrong += row[t->dim[1] + k] != (c->up[own * rows.own_columns + k] ? c->high : c->low)[own * rows.own_columns + k];
        }
    }
    cr_expect_eq(wrong, 0, "%s in %s: %d", t->format->name, t->name, wrong);
    learned_rounding_release(&r);
    gguf_rows_release(&rows);
    free(w.data);
    free(W);
    free(row);
    free(low_code);
    free(blocks);
}

Test(learned_rounding, blocks_hold_what_was_chosen)
{
    struct model *m = two_layers();
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        struct gguf_plan plan;
        struct error err;
        const struct gguf_export_options o = {.type = types[i], .pure = 1, .padded = 1};
        int checked = 0;
        cr_assert_eq(gguf_plan_make(&plan, m, NULL, &o, &err), 0, "%s", err.text);
        for (int64_t k = 0; k < plan.n_tensor; k++)
            if (plan.tensor[k].written && plan.tensor[k].written->layer >= 0 && plan.tensor[k].n_dim == 2) {
                cr_assert_str_eq(plan.tensor[k].format->name, types[i]);
                check_tensor(&plan, &plan.tensor[k]);
                checked++;
            }
        cr_expect_eq(checked, 14);
        gguf_plan_release(&plan);
    }
    model_free(m);
}

// The same for integers, in groups that follow the columns' order, too.
Test(learned_rounding, integers_hold_what_was_chosen)
{
    enum { ROWS = 6, COLUMNS = 64 };
    static const char *const names[] = {"W8A8", "W8A16", "W4A16", "W4A16_ASYM", "GPTQ-4", "GPTQ-4_ASYM", "GPTQ-8"};
    static float W[ROWS * COLUMNS], turn[ROWS * COLUMNS], row[COLUMNS], values[ROWS * COLUMNS];
    static double H[COLUMNS * COLUMNS];
    struct random random;
    random_init(&random, 6, "integers", 0);
    fill(W, ROWS * COLUMNS, 1);
    make_inputs(H, 100, COLUMNS, 2);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct gptq_options o = {.damping = 0.01, .act_order = 1, .refits = 2};
        struct tensor w = {.name = "w", .n_dim = 2, .dim = {ROWS, COLUMNS, 1}, .data = values};
        struct learned_rounding r = {0};
        struct int_matrix m;
        struct error err;
        int changed = 0, wrong = 0;
        int_matrix_init(&m, int_type_find(names[i]), ROWS, COLUMNS, 16);
        memcpy(turn, W, sizeof W);
        cr_assert_eq(int_matrix_gptq(&m, turn, H, &o, "w", &err), 0, "%s", err.text);
        struct rounding_choice *c = learned_rounding_add(&r, &w);
        static uint8_t code[ROWS * COLUMNS];
        memcpy(code, m.code, sizeof code);
        int_matrix_find_choices(&m, turn, c);
        for (int k = 0; k < ROWS * COLUMNS; k++) { // what GPTQ chose is the nearest to what it had then
            changed += m.code[k] + c->up[k] != code[k];
            c->up[k] = random_below(&random, 2) == 1;
        }
        int_matrix_put_choices(&m, c);
        for (int d = 0; d < ROWS; d++) {
            int_matrix_row(&m, d, row);
            for (int k = 0; k < COLUMNS; k++)
                wrong += row[k] != (c->up[d * COLUMNS + k] ? c->high : c->low)[d * COLUMNS + k];
        }
        cr_expect_eq(changed, 0, "%s", names[i]);
        cr_expect_eq(wrong, 0, "%s", names[i]);
        learned_rounding_release(&r);
        int_matrix_release(&m);
    }
}
