// test_integers.c: rounding to integers with scales, their layouts read back, rounded inputs, observers against numpy, factors and biases in
// double.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/model/packed.h"
#include "common/tensor/ops.h"
#include "quant/int_matrix.h"
#include "quant/observe.h"
#include "quant/overlay.h"
#include "quant/rescale.h"
#include "tests/unit/rounding.h"
#include "tests/unit/tiny.h"
#include "tests/unit/tolerance.h"

static const char *const names[] = {"W8A8", "W8A8_STATIC", "W8A16", "W4A16", "W4A16_ASYM", "GPTQ-4", "GPTQ-4_ASYM", "GPTQ-8"};
#define N_NAMES (sizeof names / sizeof *names)

// Half a step, and what the scale lost to 8 or 11 bits; scales of zeros, and of groups all of one sign.
Test(integers, values_lie_within_half_a_step)
{
    enum { D = 8, C = 128 };
    float W[D * C], row[C];
    fill(W, D * C, 1);
    memset(W + C, 0, C * sizeof *W);
    for (int c = 0; c < C; c++)
        W[2 * C + c] = fabsf(W[2 * C + c]);
    for (size_t k = 0; k < N_NAMES; k++) {
        struct int_matrix m;
        int_matrix_init(&m, int_type_find(names[k]), D, C, 32);
        int_matrix_round(&m, W, NULL);
        for (int d = 0; d < D; d++) {
            int_matrix_row(&m, d, row);
            for (int c = 0; c < C; c++) {
                const float scale = m.scale[d * (C / m.group) + c / m.group];
                cr_assert_leq(fabsf(row[c] - W[d * C + c]), 0.62f * scale + 0.004f * fabsf(W[d * C + c]), "%s row %d column %d: %g, %g, scale %g",
                              names[k], d, c, (double)row[c], (double)W[d * C + c], (double)scale);
            }
        }
        int_matrix_release(&m);
    }
}

// Weighted scales lose less than those of the largest values, and GPTQ leaves smaller errors of outputs than rounding does, with groups in
// the columns' order and in that of their inputs, and with a scale for a whole row.
static double damage_of(const struct int_matrix *m, const float *W, const double *H)
{
    static float V[8 * 128];
    for (int64_t d = 0; d < m->D; d++)
        int_matrix_row(m, d, V + d * m->C);
    return damage(W, V, H, m->D, m->C);
}

Test(integers, methods_lose_less)
{
    enum { D = 8, C = 128, N = 400 };
    static float W[D * C], used[D * C];
    static double H[C * C], squares[C * C]; // what the search for scales is told: the diagonal alone
    fill(W, D * C, 2);
    make_inputs(H, N, C, 3);
    float weight[C];
    for (int c = 0; c < C; c++)
        weight[c] = (float)(squares[c * C + c] = H[c * C + c]);
    for (size_t k = 0; k < N_NAMES; k++)
        for (int order = 0; order < 2; order++) {
            struct int_matrix m, searched, better;
            struct error err;
            const struct gptq_options o = {.damping = 0.01, .act_order = order, .refits = 2};
            const struct int_type *t = int_type_find(names[k]);
            int_matrix_init(&m, t, D, C, 32);
            int_matrix_init(&searched, t, D, C, 32);
            int_matrix_init(&better, t, D, C, 32);
            int_matrix_round(&m, W, NULL);
            int_matrix_round(&searched, W, weight);
            memcpy(used, W, sizeof used);
            cr_assert_eq(int_matrix_gptq(&better, used, H, &o, "w", &err), 0, "%s", err.text);
            cr_expect_lt(damage_of(&better, W, H), 0.8 * damage_of(&m, W, H), "%s order %d", names[k], order);
            // With 8 bits the largest value's scale may be the best there is; the f32 search may miss it by rounding.
            cr_expect_leq(damage_of(&searched, W, squares), (t->bits == 8 ? 1 + 1e-5 : 0.99) * damage_of(&m, W, squares), "%s", names[k]);
            cr_expect_eq(better.order != NULL, order && t->layout == PACKED_GPTQ, "%s", names[k]);
            int_matrix_release(&m);
            int_matrix_release(&searched);
            int_matrix_release(&better);
        }
}

// Rows that no power of two divides: a scale for a row, in parts of four columns.
Test(integers, gptq_of_odd_widths)
{
    enum { D = 3, C = 172 };
    static float W[D * C];
    static double H[C * C];
    struct int_matrix m;
    struct error err;
    const struct gptq_options o = {.damping = 0.01, .act_order = 1};
    fill(W, D * C, 4);
    for (int i = 0; i < C; i++)
        H[i * C + i] = 1 + i % 5;
    int_matrix_init(&m, int_type_find("W8A8"), D, C, 0);
    cr_assert_eq(int_matrix_gptq(&m, W, H, &o, "w", &err), 0);
    cr_expect_gt(m.scale[0], 0);
    int_matrix_release(&m);
}

static void hook_rows(void *context, const struct tensor *w, int64_t row0, int64_t n, float *to)
{
    (void)context;
    memcpy(to, w->data + row0 * tensor_columns(w), (size_t)(n * tensor_columns(w)) * sizeof *to);
}

// x to the nearest of 255 integers of its row's largest magnitude; zeros stay zeros.
Test(integers, inputs_are_rounded_by_row)
{
    struct tape tape;
    float xs[2 * 4] = {0.1f, -2.54f, 1.27f, 0.013f, 0, 0, 0, 0}, ws[3 * 4] = {1, 0, 0, 0, 0, 1, 0, 0, 1, 1, 1, 1};
    const struct input_rounding rounding = {.bits = 8};
    struct tensor x = {.name = "x", .n_dim = 2, .dim = {2, 4, 1}, .data = xs};
    const struct tensor plain = {.name = "w", .n_dim = 2, .dim = {3, 4, 1}, .data = ws};
    struct tensor w = plain;
    const struct weight_hook hook = {.inputs = &rounding, .rows = hook_rows};
    w.hook = &hook;
    tape_init(&tape, PRECISION_F32);
    const float *y = op_linear(&tape, &x, &w, NULL)->data, s = 2.54f / 127;
    cr_expect_float_eq(y[0], 5 * s, FLOAT_FEW);
    cr_expect_float_eq(y[1], -127 * s, FLOAT_FEW);
    cr_expect_float_eq(y[2], (5 - 127 + 64 + 1) * s, FLOAT_FEW); // 63.5 to even, 0.65 to 1
    cr_expect_eq(y[3], 0);
    tape_release(&tape);
}

static float made_up(const char *kind, int64_t i)
{
    const double u = (double)((uint64_t)i * 2654435761U % 4294967296U) / 4294967296.0 - 0.5;
    if (kind[0] == 'f')
        return (float)u;
    return (float)(kind[0] == 'p' ? u * u * u * 8 : i % 1000 == 7 ? u * 40 : u * u * u);
}

// Against numpy, tests/ref/observers_golden.py.
Test(integers, observers_as_numpy_finds_them)
{
    static float x[20000];
    static struct histogram h;
    char kind[16];
    int bits, n = 0;
    double want[4];
    FILE *f = fopen(PDQ_SOURCE_DIR "/tests/golden/observers.txt", "r");
    cr_assert(f);
    while (fscanf(f, "%15s %d %lf %lf %lf %lf", kind, &bits, &want[0], &want[1], &want[2], &want[3]) == 6) {
        for (int i = 0; i < 20000; i++)
            x[i] = made_up(kind, i);
        h = (struct histogram){0};
        histogram_see(&h, x, 20000);
        histogram_count(&h, x, 20000);
        for (int i = 0; i < 4; i++) // printed with nine digits: 5e-9, and the last of a double
            cr_expect(fabs(observer_at(i)->range(&h, bits) - want[i]) <= 1e-8 * want[i], "%s, %d bits, %s: %.9g, numpy %.9g", kind, bits,
                      observer_at(i)->name, observer_at(i)->range(&h, bits), want[i]);
        n++;
    }
    fclose(f);
    cr_expect_eq(n, 6);
}

// ---- factors of channels ----

static struct rounding to_ints(void *context, const struct parameter *p)
{
    (void)p;
    return (struct rounding){.ints = int_type_find(context), .group = 8};
}

static const float *states(struct model *m, struct tape *tape, const int32_t *ids)
{
    const struct forward f = {.ids = ids, .B = 1, .T = 32};
    return model_forward(m, tape, &f)->data;
}

// Heads of two query heads for a key/value head; the function stays, the weights do not.
static void keeps_the_function(enum rescale_kind kind, int changed_least)
{
    struct model *m = tiny_model(2, 32, 5);
    struct dataset data = tiny_data(2000);
    struct error err;
    struct tape tape, other;
    const struct walk_text text = {.data = &data, .seq_len = 32, .tokens = 512, .batch = 4, .seed = 1};
    char type[] = "W4A16";
    const struct rescale_options o = {.kind = kind, .alpha = 0.5, .rounding = to_ints, .context = type};
    struct model *changed = rescale(m, &text, &o, &err);
    cr_assert_not_null(changed, "%s", err.text);
    tape_init(&tape, PRECISION_F32);
    tape_init(&other, PRECISION_F32);
    const float *a = states(m, &tape, data.token), *b = states(changed, &other, data.token);
    double most = 0, largest = 0;
    for (int i = 0; i < 32 * 32; i++) {
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
        largest = fmax(largest, fabs((double)a[i]));
    }
    cr_expect_leq(most, FLOAT_SUM * largest, "kind %d: off by %g of %g", (int)kind, most, largest); // f32, two layers
    int n = 0;
    for (int i = 0; i < m->n_parameter; i++)
        n += changed->parameter[i].t.data != m->parameter[i].t.data || changed->parameter[i].t.hook != m->parameter[i].t.hook;
    cr_expect_geq(n, changed_least);
    tape_release(&tape);
    tape_release(&other);
    model_free(changed);
    model_free(m);
    dataset_release(&data);
}

static int same_rows(const struct model *m, int i, const float *want)
{
    const struct tensor *t = &m->parameter[i].t;
    float *got = malloc((size_t)tensor_count(t) * sizeof *got);
    tensor_read_rows(t, 0, tensor_rows(t), got);
    const int same = memcmp(got, want, (size_t)tensor_count(t) * sizeof *got) == 0;
    free(got);
    return same;
}

// Columns, rows, then cuts, each rounded to f32, whether the layer is held, dropped or held later; vectors stay changed.
Test(integers, factors_are_computed_where_rows_are_read)
{
    struct model *m = tiny_model(2, 32, 5), *o = overlay_new(m);
    const struct parameter *p = model_find(m, "model.layers.1.mlp.up_proj.weight");
    const int i = (int)(p - m->parameter);
    const int64_t D = tensor_rows(&p->t), C = tensor_columns(&p->t), n = D * C;
    double *column = malloc((size_t)C * sizeof *column), *row = malloc((size_t)D * sizeof *row);
    uint8_t *cut = malloc((size_t)(n / 8));
    float *want = malloc((size_t)n * sizeof *want);
    for (int64_t c = 0; c < C; c++)
        column[c] = 0.5 + (double)(c % 7) / 3;
    for (int64_t d = 0; d < D; d++)
        row[d] = 0.25 + (double)(d % 5) / 7;
    for (int64_t g = 0; g < n / 8; g++)
        cut[g] = (uint8_t)(g % SCALED_ROWS_CUTS);
    for (int64_t k = 0; k < n; k++)
        want[k] = (float)((double)(float)((double)p->t.data[k] * column[k % C]) / row[k / C]);
    overlay_multiply_columns(o, p, column);
    overlay_hold_layer(o, 1);
    overlay_divide_rows(o, p, row);
    cr_expect(!o->parameter[i].t.hook && same_rows(o, i, want), "held");
    for (int64_t g = 0; g < n / 8; g++) {
        const float range = scaled_rows_range(want + g * 8, 8, cut[g]);
        for (int64_t k = g * 8; k < g * 8 + 8; k++)
            want[k] = want[k] > range ? range : want[k] < -range ? -range : want[k];
    }
    overlay_cut(o, p, 8, cut);
    cr_expect(same_rows(o, i, want), "held and cut");
    overlay_drop_layer(o, 1);
    cr_expect(o->parameter[i].t.hook && same_rows(o, i, want), "dropped");
    struct model *on_top = overlay_new(o);
    overlay_hold_layer(on_top, 1);
    cr_expect(!on_top->parameter[i].t.hook && same_rows(on_top, i, want), "held by another");
    model_free(on_top);
    model_free(o);
    model_free(m);
    free(column);
    free(row);
    free(cut);
    free(want);
}

Test(integers, smooth_keeps_the_function) { keeps_the_function(RESCALE_SMOOTH, 14); } // two norms, q, k, v, gate, up in each layer
Test(integers, awq_keeps_the_function) { keeps_the_function(RESCALE_AWQ, 18); }       // o and down as well
