// test_inherit.c: what a student of another shape begins with: layers spread or averaged, the best part of wider ones.
#include <math.h>

#include "prune/prune.h"
#include "tests/unit/tiny.h"

static struct model *of_shape(const struct model *like, int64_t n_layer, int64_t hidden, struct layer_shape shape)
{
    struct config c;
    config_copy(&c, &like->config);
    c.n_layer = n_layer;
    c.hidden = hidden;
    for (int64_t l = 0; l < n_layer; l++)
        c.layer[l] = shape;
    struct model *m = model_new(&c, 1);
    model_initialise(m, 77);
    config_release(&c);
    return m;
}

Test(inherit, layers_spread_or_averaged)
{
    struct model *from = tiny_model(5, 32, 1);
    for (int layers = INHERIT_SPREAD; layers <= INHERIT_MEAN; layers++) {
        struct model *m = tiny_model(2, 32, 2);
        cr_assert_eq(model_inherit(m, from, (enum inherit_layers)layers), m->n_element);
        for (int i = 0; i < m->n_parameter; i++) {
            const struct parameter *p = &m->parameter[i];
            // 5 layers onto 2: 0 and 1, then 2, 3 and 4
            const int first = p->layer < 0 ? -1 : p->layer * 2, last = p->layer < 0 || layers == INHERIT_SPREAD ? first : p->layer ? 4 : 1;
            for (int64_t k = 0; k < tensor_count(&p->t); k++) {
                double sum = 0;
                for (int l = first; l <= last; l++)
                    sum += (double)model_weight(from, (int)(p->spec - m->arch->specs), l)->data[k];
                cr_assert_eq(p->t.data[k], (float)(sum / (last - first + 1)), "%s[%ld]", p->name, (long)k);
            }
        }
        model_free(m);
    }
    model_free(from);
}

static int has_row(const struct tensor *t, const float *row)
{
    const size_t bytes = (size_t)tensor_columns(t) * sizeof *row;
    for (int64_t r = 0; r < tensor_rows(t); r++)
        if (memcmp(t->data + r * tensor_columns(t), row, bytes) == 0)
            return 1;
    return 0;
}

// Of a wider and deeper model: heads of half the groups, some channels; the rows are the layer's own, the embedding is whole.
Test(inherit, widths_by_a_score)
{
    struct model *from = tiny_model(4, 32, 1), *part, *m = of_shape(from, 2, 32, (struct layer_shape){2, 1, 24});
    struct error err;
    const struct calibration none = {.seq_len = 16, .tokens = 64, .batch = 2, .seed = 1};
    cr_assert(prune_shape_fits(&from->config, &m->config));
    cr_assert_eq(prune_to_shape(from, &m->config, INHERIT_SPREAD, prune_score_named("magnitude"), &none, &part, &err), 0, "%s", err.text);
    cr_assert_eq(model_inherit(m, part, INHERIT_SPREAD), m->n_element);
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        const struct tensor *whole = model_weight(from, (int)(p->spec - m->arch->specs), p->layer < 0 ? -1 : p->layer * 2);
        if (p->spec->columns != AXIS_HIDDEN)
            continue; // cut along its columns
        for (int64_t r = 0; r < tensor_rows(&p->t); r++)
            cr_assert(has_row(whole, p->t.data + r * 32), "%s, row %ld", p->name, (long)r);
    }
    model_free(part);
    model_free(m);
    model_free(from);
}

Test(inherit, hidden_width_by_activations)
{
    struct model *from = tiny_model(3, 32, 1), *part, *m = of_shape(from, 3, 24, (struct layer_shape){4, 2, 40});
    struct dataset data = tiny_data(400);
    struct error err;
    const struct calibration c = {.data = &data, .seq_len = 16, .tokens = 64, .batch = 2, .seed = 1};
    cr_assert(prune_shape_fits(&from->config, &m->config));
    cr_assert_eq(prune_to_shape(from, &m->config, INHERIT_MEAN, prune_score_named("activation"), &c, &part, &err), 0, "%s", err.text);
    cr_assert_eq(part->config.hidden, 24);
    cr_assert_eq(model_inherit(m, part, INHERIT_SPREAD), m->n_element);
    model_free(part);
    model_free(m);
    model_free(from);
    dataset_release(&data);
}

Test(inherit, what_does_not_fit)
{
    struct model *from = tiny_model(2, 32, 1);
    const struct layer_shape shape[] = {{4, 2, 40}, {6, 2, 24}, {3, 2, 24}, {4, 2, 48}};
    for (int i = 0; i < 4; i++) { // nothing is narrower; more heads; heads that are not by groups of one size; more channels
        struct model *m = of_shape(from, 2, 32, shape[i]);
        cr_expect_not(prune_shape_fits(&from->config, &m->config), "shape %d", i);
        model_free(m);
    }
    cr_assert_null(prune_score_named("magnitudes"));
    model_free(from);
}
