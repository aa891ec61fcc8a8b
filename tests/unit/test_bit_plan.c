// test_bit_plan.c: the solver against all combinations, plans' files, and an overlay against the file that holds the same blocks.
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>

#include "common/base/random.h"
#include "quant/bit_plan.h"
#include "quant/gguf_model.h"
#include "quant/overlay.h"
#include "tests/unit/tiny.h"
#include "tests/unit/tolerance.h"

#define TENSORS 5
#define CHOICES 4

static struct bit_plan made_up(uint64_t seed)
{
    static const char *const types[CHOICES] = {"Q2_K", "Q3_K", "Q4_K", "Q8_0"};
    struct bit_plan p = {.tensor = xcalloc(TENSORS, sizeof *p.tensor, "test"), .n_tensor = TENSORS, .fixed_bytes = 500, .weights = 20000};
    struct random r;
    random_init(&r, seed, "bits", 0);
    for (int i = 0; i < TENSORS; i++) {
        struct bit_tensor *t = &p.tensor[i];
        snprintf(t->name, sizeof t->name, "blk.%d.attn_q.weight", i);
        t->n_choice = CHOICES;
        for (int c = 0; c < CHOICES; c++)
            t->choice[c] = (struct bit_choice){.format = block_format_find(types[c]),
                                               .bytes = 300 * (i + 1) + 200 * c * (i + 1),
                                               .kld = exp(-c - 2 + random_normal(&r))};
    }
    return p;
}

static double best_of_all(const struct bit_plan *p, int64_t bytes)
{
    double best = DBL_MAX;
    for (int n = 0; n < 1 << (2 * TENSORS); n++) {
        int64_t size = p->fixed_bytes;
        double kld = 0;
        for (int i = 0; i < TENSORS; i++) {
            size += p->tensor[i].choice[n >> 2 * i & 3].bytes;
            kld += p->tensor[i].choice[n >> 2 * i & 3].kld;
        }
        best = size <= bytes && kld < best ? kld : best;
    }
    return best;
}

Test(bit_plan, the_least_of_all_combinations)
{
    struct error err;
    for (uint64_t seed = 1; seed < 5; seed++) {
        struct bit_plan p = made_up(seed);
        const int64_t least = 500 + 300 * 15, most = least + 600 * 15;
        for (int64_t bytes = least; bytes <= most; bytes += 700) {
            cr_assert_eq(bit_plan_check(&p, bytes, &err), 0, "%s", err.text);
            bit_plan_solve(&p, bytes);
            cr_expect_leq(p.bytes, bytes);
            cr_expect_float_eq(p.kld, best_of_all(&p, bytes), DOUBLE_SUM, "%ld bytes: %g", (long)bytes, p.kld);
        }
        bit_plan_solve(&p, 1000000);
        cr_expect_leq(p.bytes, most);
        cr_expect_eq(bit_plan_check(&p, least - 1, &err), -1);
        cr_expect(strstr(err.text, "4999 bytes") && strstr(err.text, "the file has 5000 bytes (2.000 bits"), "%s", err.text);
        bit_plan_release(&p);
    }
}

Test(bit_plan, files_are_read_as_written_and_as_edited)
{
    char *folder = tiny_folder();
    struct bit_plan p = made_up(1);
    struct gguf_types types;
    struct error err;
    bit_plan_solve(&p, 9000);
    struct json *o = bit_plan_json(&p);
    char *text = json_text(o, 1), *path = tiny_file(folder, "plan.json", text);
    cr_assert_eq(gguf_types_read(&types, path, &err), 0, "%s", err.text);
    cr_expect_eq(types.n_tensor, TENSORS);
    for (int i = 0; i < TENSORS; i++)
        cr_expect_eq(gguf_types_find(&types, p.tensor[i].name), p.tensor[i].choice[p.tensor[i].chosen].format);
    cr_expect_null(gguf_types_find(&types, "output.weight"));
    gguf_types_release(&types);
    static const char *const bad[][2] = {{"[]", "\"tensors\": found"}, {"{\"tensors\": {\"a\": 3}}", "found type \"a number\""},
                                         {"{\"tensors\": {\"a\": {\"type\": \"Q4_K_M\"}}}", "found type \"Q4_K_M\""}};
    for (int i = 0; i < 3; i++) {
        char *file = tiny_file(folder, "bad.json", bad[i][0]);
        cr_expect_eq(gguf_types_read(&types, file, &err), -1);
        cr_expect(strstr(err.text, bad[i][1]), "%s", err.text);
        free(file);
    }
    free(text);
    free(path);
    json_free(o);
    bit_plan_release(&p);
    tiny_remove(folder);
}

static void expect_same(const struct tensor *a, const struct tensor *b, const char *what)
{
    const int64_t n = tensor_count(a);
    float *x = xmalloc((size_t)(2 * n) * sizeof *x, "test");
    tensor_read_rows(a, 0, tensor_rows(a), x);
    tensor_read_rows(b, 0, tensor_rows(b), x + n);
    cr_expect_eq(memcmp(x, x + n, (size_t)n * sizeof *x), 0, "%s of %s", what, a->name);
    free(x);
}

// Rows are reordered in the file, and here back again: an overlay of a file's blocks is the model in that file.
Test(overlay, is_the_model_in_the_file)
{
    char *folder = tiny_folder(), *path = path_join(folder, "m.gguf");
    struct model *m = tiny_model(2, 32, 5);
    struct tokenizer *t = tiny_tokenizer(), *t2 = NULL;
    struct gguf_export_options o = {.type = "Q4_0", .allow_fallback = 1};
    struct gguf_plan plan;
    struct error err;
    cr_assert_eq(gguf_export(m, t, path, &o, &err), 0, "%s", err.text);
    struct model *file = gguf_model_open(path, &t2, &err);
    cr_assert_not_null(file, "%s", err.text);
    cr_assert_eq(gguf_plan_make(&plan, m, t, &o, &err), 0, "%s", err.text);
    struct model *overlay = overlay_new(m);
    for (int64_t i = 0; i < plan.n_tensor; i++) {
        const struct gguf_plan_tensor *p = &plan.tensor[i];
        struct gguf_rows rows;
        if (p->n_dim != 2)
            continue;
        gguf_rows_init(&rows, &plan, p);
        unsigned char *blocks = gguf_rows_encode(&rows, NULL, &err);
        cr_assert_not_null(blocks, "%s", err.text);
        overlay_replace(overlay, &plan, p, blocks);
        free(blocks);
        gguf_rows_release(&rows);
    }
    for (int i = 0; i < m->n_parameter; i++)
        expect_same(&overlay->parameter[i].t, &file->parameter[i].t, "the file's values");
    for (int64_t i = 0; i < plan.n_tensor; i++)
        overlay_restore(overlay, &plan.tensor[i]);
    for (int i = 0; i < m->n_parameter; i++)
        expect_same(&overlay->parameter[i].t, &m->parameter[i].t, "the model's values");
    model_free(overlay);
    gguf_plan_release(&plan);
    model_free(file);
    tokenizer_free(t);
    tokenizer_free(t2);
    model_free(m);
    free(path);
    tiny_remove(folder);
}
