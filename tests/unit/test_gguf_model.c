// Models in and out of GGUF: the reference file to the byte, logits through the file, types and fall-backs, refusals.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "common/base/threads.h"
#include "common/model/load.h"
#include "common/tensor/tape.h"
#include "quant/gguf_export.h"
#include "quant/gguf_mix.h"
#include "quant/gguf_model.h"
#include "tests/unit/shared_path.h"
#include "tests/unit/tolerance.h"

#define TOKENS 12

static char *scratch_path(const char *name)
{
    static char path[8][256];
    static int next;
    char *p = path[next++ % 8];
    snprintf(p, sizeof path[0], "/tmp/pdq-model-%ld-%s.gguf", (long)getpid(), name);
    return p;
}

// Criterion runs the tests side by side; threads of their own would only get into each other's way.
static void quiet_and_alone(void)
{
    log_level = LOG_QUIET;
    threads_set(1);
}
TestSuite(gguf_model, .init = quiet_and_alone);

// A copy with f32 storage and no hooks. The caller frees it.
static struct model *materialise(const struct model *m)
{
    struct model *copy = model_new(&m->config, 1);
    memcpy(copy->rope, m->rope, (size_t)(m->config.head_dim / 2) * sizeof *m->rope);
    for (int i = 0; i < m->n_parameter; i++) {
        const struct tensor *from = &m->parameter[i].t;
        float *to = copy->parameter[i].t.data;
        const int64_t rows = tensor_rows(from), columns = tensor_columns(from);
        if (!from->hook) {
            memcpy(to, from->data, (size_t)(rows * columns) * sizeof *to);
            continue;
        }
        for (int64_t r = 0; r < rows; r++)
            from->hook->rows(from->hook->context, from, r, 1, to + r * columns);
    }
    return copy;
}

struct shape {
    const char *type; // model_type
    int64_t heads, groups, ff;
    int tied, biases;
    enum rope_scaling_type rope;
};

// Three layers, hidden 256, head width 32, 300 tokens; layers may be changed by the caller before the weights are
// made.
static struct config make_config(const struct shape *s)
{
    struct config c = {.n_layer = 3,
                       .hidden = 256,
                       .head_dim = 32,
                       .vocab = 300,
                       .context = 64,
                       .norm_eps = 1e-5,
                       .rope_theta = 10000,
                       .bos_id = 1,
                       .eos_id = 2,
                       .tie_embeddings = s->tied};
    snprintf(c.model_type, sizeof c.model_type, "%s", s->type);
    c.qkv_bias = s->biases || strcmp(s->type, "qwen2") == 0;
    c.out_bias = c.mlp_bias = s->biases;
    if (s->rope == ROPE_LLAMA3)
        c.rope = (struct rope_scaling){ROPE_LLAMA3, 8, 1, 4, 8192};
    if (s->rope == ROPE_LINEAR)
        c.rope = (struct rope_scaling){ROPE_LINEAR, 4, 0, 0, 0};
    c.layer = calloc(3, sizeof *c.layer);
    for (int l = 0; l < 3; l++)
        c.layer[l] = (struct layer_shape){s->heads, s->groups, s->ff};
    return c;
}

// Weights large enough for every part to matter, vectors without a pattern.
static struct model *make_model(const struct config *c)
{
    struct model *m = model_new(c, 1);
    model_initialise(m, 5);
    for (int i = 0; i < m->n_parameter; i++) {
        struct tensor *t = &m->parameter[i].t;
        for (int64_t j = 0; j < tensor_count(t); j++)
            t->data[j] = t->n_dim == 2 ? t->data[j] * 4 : t->data[j] + 0.1f * (float)((j * 37 + i) % 11 - 5);
    }
    return m;
}

static struct model *make(const struct shape *s)
{
    struct config c = make_config(s);
    struct model *m = make_model(&c);
    config_release(&c);
    return m;
}

static double *logits(struct model *m, int64_t positions)
{
    struct tape tape;
    int32_t ids[TOKENS];
    for (int i = 0; i < TOKENS; i++)
        ids[i] = (i * 71 + 3) % (int32_t)m->config.vocab;
    tape_init(&tape, PRECISION_F32);
    struct tensor *y = model_forward(m, &tape, &(struct forward){.ids = ids, .B = 1, .T = positions});
    y = op_linear(&tape, y, model_head(m), NULL);
    const int64_t n = tensor_count(y);
    double *out = malloc((size_t)n * sizeof *out);
    for (int64_t i = 0; i < n; i++)
        out[i] = (double)y->data[i];
    tape_release(&tape);
    return out;
}

// Largest difference of the logits relative to the largest logit.
static double distance(struct model *a, struct model *b, int64_t positions)
{
    double *x = logits(a, positions), *y = logits(b, positions), largest = 0, difference = 0;
    for (int64_t i = 0; i < positions * a->config.vocab; i++) {
        largest = fmax(largest, fabs(x[i]));
        difference = fmax(difference, fabs(x[i] - y[i]));
    }
    free(x);
    free(y);
    cr_assert_gt(largest, 0.1);
    return difference / largest;
}

static struct model *through_file(const struct model *m, const char *path, const struct gguf_export_options *o)
{
    struct error err = {""};
    struct tokenizer *tokenizer;
    cr_assert_eq(gguf_export(m, NULL, path, o, &err), 0, "%s", err.text);
    struct model *back = gguf_model_open(path, &tokenizer, &err);
    cr_assert_not_null(back, "%s", err.text);
    cr_assert(tokenizer && tokenizer_is_numbers(tokenizer)); // a file without a vocabulary
    tokenizer_free(tokenizer);
    return back;
}

// The same model through a file of each type. F32 differs by the order of sums only; F16 and BF16 by their rounding;
// the others by some times the weights' relative error (see test_quant_blocks.c), which the layers of a random model
// amplify. A wrong row order or scale gives about 1 in F32 and Q8_0 too.
static const struct {
    const char *type;
    double bound;
} types[] = {{"F32", FLOAT_SUM},  {"Q8_0", 0.1}, {"F16", 5e-3}, {"BF16", 5e-2},
             {"Q6_K", 0.25}, {"Q4_K", 0.6}, {"Q4_0", 0.8}, {"Q5_K", 0.4}, {"Q5_0", 0.4}, {"IQ4_XS", 0.8}, {"Q3_K", 1.2}, {"Q2_K", 1.5}};
#define N_TYPES (sizeof types / sizeof *types)

static const struct shape shapes[] = {
    // the first one with all types, the others with the first two
    {"llama", 8, 4, 256, 1, 0, ROPE_PLAIN},    {"llama", 16, 8, 512, 0, 0, ROPE_LLAMA3},
    {"mistral", 4, 2, 256, 0, 0, ROPE_LINEAR}, {"llama", 8, 2, 256, 1, 1, ROPE_PLAIN},
    {"qwen2", 8, 4, 256, 1, 0, ROPE_PLAIN},
};

static void check_through(struct model *m, const struct shape *s, size_t k, const char *path)
{
    struct model *back = through_file(m, path, &(struct gguf_export_options){.type = types[k].type});
    // One position goes through dot, twelve through rows.
    const double one = distance(m, back, 1), many = distance(m, back, TOKENS);
    cr_expect_lt(one, types[k].bound, "%s, %ld heads, %s, from blocks: %g", s->type, (long)s->heads, types[k].type,
                 one);
    cr_expect_lt(many, types[k].bound, "%s, %ld heads, %s, from rows: %g", s->type, (long)s->heads, types[k].type,
                 many);
    struct model *copy = materialise(back);
    cr_expect_lt(distance(back, copy, TOKENS), FLOAT_SUM, "%s, %s: materialised", s->type, types[k].type);
    cr_expect_eq(back->config.rope.type, s->rope);
    cr_expect_eq(back->config.bos_id, -1); // no tokenizer keys in this file
    model_free(copy);
    model_free(back);
}

Test(gguf_model, logits_through_the_file)
{
    char *path = scratch_path("types");
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        struct model *m = make(&shapes[s]);
        for (size_t k = 0; k < (s == 0 ? N_TYPES : 2); k++)
            check_through(m, &shapes[s], k, path);
        model_free(m);
    }
    unlink(path);
}

// BERT, and DistilBERT and RoBERTa as BERT: without token types, and with a table of positions that begins with two unused rows.
Test(gguf_model, encoders_through_the_file)
{
    static const struct {
        const char *type;
        int64_t types, offset;
    } families[] = {{"bert", 2, 0}, {"distilbert", 0, 0}, {"roberta", 1, 2}};
    char *path = scratch_path("encoders");
    for (int f = 0; f < 3; f++) {
        struct config c = make_config(&(struct shape){families[f].type, 8, 8, 256, 0, 1, ROPE_PLAIN});
        c.rope_theta = 0;
        c.head = HEAD_NONE;
        c.activation = ACTIVATION_GELU_ERF;
        c.n_type = families[f].types;
        c.position_offset = families[f].offset;
        struct model *m = make_model(&c);
        for (size_t k = 0; k < 3; k++) { // F32, Q8_0, F16
            struct model *back = through_file(m, path, &(struct gguf_export_options){.type = types[k].type});
            cr_expect_str_eq(back->config.model_type, "bert");
            cr_expect_eq(back->config.n_type, families[f].types ? families[f].types : 1);
            cr_expect_lt(distance(m, back, TOKENS), types[k].bound, "%s, %s", families[f].type, types[k].type);
            model_free(back);
        }
        c.activation = ACTIVATION_RELU;
        struct error err = {""};
        struct model *other = model_new(&c, 1);
        cr_expect(gguf_export(other, NULL, path, &(struct gguf_export_options){.type = "F32"}, &err) < 0 && strstr(err.text, "bert means GELU"), "%s", err.text);
        model_free(other);
        model_free(m);
        config_release(&c);
    }
    unlink(path);
}

Test(gguf_model, gguf_to_gguf_keeps_every_value)
{
    char *first = scratch_path("first"), *second = scratch_path("second");
    const struct shape s = {"llama", 8, 4, 256, 0, 1, ROPE_LLAMA3};
    struct model *m = make(&s);
    struct model *q8 = through_file(m, first, &(struct gguf_export_options){.type = "Q8_0"});
    struct model *f32 = through_file(q8, second, &(struct gguf_export_options){.type = "F32"});
    struct model *a = materialise(q8), *b = materialise(f32);
    cr_assert_eq(memcmp(a->data, b->data, (size_t)a->n_element * sizeof *a->data), 0);
    struct model *all[] = {m, q8, f32, a, b};
    for (int i = 0; i < 5; i++)
        model_free(all[i]);
    unlink(first);
    unlink(second);
}

// Heads missing from a family whose reader insists on all of them, and layers of different shapes: zeros fill up.
Test(gguf_model, padding_is_exact)
{
    char *path = scratch_path("padded");
    static const int64_t cut[][2] = {{4, 4}, {2, 2}, {6, 3}, {4, 1}}; // query heads, groups
    for (int i = 0; i < 4; i++) {
        struct config c = make_config(&(struct shape){"qwen2", cut[i][0], cut[i][1], 256, 1, 0, ROPE_PLAIN});
        c.layer[1].n_ff = 128;
        struct model *m = make_model(&c);
        struct model *back = through_file(m, path, &(struct gguf_export_options){.type = "F32", .padded = 1});
        cr_expect_eq(back->config.layer[1].n_head, 8);
        cr_expect_eq(back->config.layer[1].n_ff, 256);
        cr_expect_lt(distance(m, back, TOKENS), FLOAT_SUM, "%ld heads in %ld groups", (long)cut[i][0], (long)cut[i][1]);
        model_free(m);
        model_free(back);
        config_release(&c);
    }
    unlink(path);
}

// Layers of different shapes go into architecture deci, or are filled up; a layer without channels gets a block of zeros.
Test(gguf_model, uneven_layers_come_back)
{
    char *path = scratch_path("uneven");
    struct config c = make_config(&(struct shape){"llama", 8, 4, 256, 1, 0, ROPE_LLAMA3});
    for (int first = 0; first < 2; first++)
    for (int padded = 0; padded < 2; padded++) {
        c.layer[0] = first ? (struct layer_shape){0, 0, 256} : (struct layer_shape){8, 4, 256};
        c.layer[1] = (struct layer_shape){2, 2, 0};
        c.layer[2] = first ? (struct layer_shape){8, 4, 64} : (struct layer_shape){0, 0, 64};
        struct model *m = make_model(&c);
        const struct layer_shape full = {8, 4, 256}, third = padded ? full : first ? (struct layer_shape){8, 4, 64} : (struct layer_shape){0, 0, 64};
        const struct layer_shape expected[3] = {full, padded ? full : (struct layer_shape){2, 2, 32}, third};
        struct model *back = through_file(m, path, &(struct gguf_export_options){.type = "F32", .padded = padded});
        for (int l = 0; l < 3; l++)
            cr_expect_eq(memcmp(&back->config.layer[l], &expected[l], sizeof c.layer[l]), 0, "padded %d, layer %d", padded, l);
        cr_expect_lt(distance(m, back, TOKENS), FLOAT_SUM);
        model_free(back);
        model_free(m);
    }
    config_release(&c);
    unlink(path);
}

static void plan_types(const struct shape *s, const char *type, int pure, const char *tensor, const char *expected)
{
    struct model *m = make(s);
    struct gguf_plan plan;
    struct error err = {""};
    const struct gguf_export_options o = {.type = type, .pure = pure, .allow_fallback = 1};
    cr_assert_eq(gguf_plan_make(&plan, m, NULL, &o, &err), 0, "%s", err.text);
    const char *found = "absent";
    for (int64_t i = 0; i < plan.n_tensor; i++)
        if (strcmp(plan.tensor[i].name, tensor) == 0)
            found = plan.tensor[i].format->name;
    cr_expect_str_eq(found, expected, "%s%s: %s is %s, expected %s", type, pure ? " pure" : "", tensor, found,
                     expected);
    gguf_plan_release(&plan);
    model_free(m);
}

// The matrices that a mix gives more bits, in three layers whose key and value heads serve two queries each (and four).
Test(gguf_model, mixes_by_matrix)
{
    const struct shape two = {"llama", 8, 4, 256, 0, 0, ROPE_PLAIN}, four = {"llama", 8, 2, 256, 0, 0, ROPE_PLAIN};
    static const struct {
        const char *mix, *v[3], *v_of_four, *down, *out, *gate;
    } expected[] = {
        {"Q2_K", {"Q3_K", "Q3_K", "Q3_K"}, "Q4_K", "Q3_K", "Q3_K", "Q2_K"},
        {"Q3_K_S", {"Q3_K", "Q3_K", "Q3_K"}, "Q3_K", "Q3_K", "Q3_K", "Q3_K"},
        {"Q3_K_M", {"Q5_K", "Q5_K", "Q4_K"}, "Q4_K", "Q4_K", "Q4_K", "Q3_K"},
        {"Q3_K_L", {"Q5_K", "Q5_K", "Q5_K"}, "Q5_K", "Q5_K", "Q5_K", "Q3_K"},
        {"Q4_K_S", {"Q5_K", "Q5_K", "Q5_K"}, "Q5_K", "Q4_K", "Q4_K", "Q4_K"},
        {"Q5_K_S", {"Q5_K", "Q5_K", "Q5_K"}, "Q5_K", "Q5_K", "Q5_K", "Q5_K"},
        {"Q5_K_M", {"Q5_K", "Q5_K", "Q6_K"}, "Q6_K", "Q5_K", "Q5_K", "Q5_K"},
        {"IQ4_NL", {"IQ4_NL", "IQ4_NL", "IQ4_NL"}, "Q5_K", "IQ4_NL", "IQ4_NL", "IQ4_NL"},
        {"IQ4_XS", {"IQ4_XS", "IQ4_XS", "IQ4_XS"}, "Q5_K", "IQ4_XS", "IQ4_XS", "IQ4_XS"},
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        const char *mix = expected[i].mix;
        plan_types(&two, mix, 0, "blk.0.attn_v.weight", expected[i].v[0]);
        plan_types(&two, mix, 0, "blk.1.attn_v.weight", expected[i].v[1]);
        plan_types(&two, mix, 0, "blk.2.attn_v.weight", expected[i].v[2]);
        plan_types(&four, mix, 0, "blk.2.attn_v.weight", expected[i].v_of_four);
        plan_types(&two, mix, 0, "blk.1.ffn_down.weight", expected[i].down);
        plan_types(&two, mix, 0, "blk.1.attn_output.weight", expected[i].out);
        plan_types(&two, mix, 0, "blk.1.ffn_gate.weight", expected[i].gate);
        plan_types(&two, mix, 0, "output.weight", "Q6_K");
    }
}

// Every name stands in the text that messages and help show.
Test(gguf_model, mix_names)
{
    const char *at = GGUF_TYPES;
    int n = 0;
    while (*at) {
        const size_t length = strcspn(at, ", ");
        char *name = xasprintf("%.*s", (int)length, at);
        if (strcmp(name, "or") != 0) {
            const struct gguf_mix *mix = gguf_mix_find(name);
            cr_assert(mix && strcmp(mix->name, name) == 0, "%s", name);
            n++;
        }
        free(name);
        at += length + strspn(at + length, ", ");
    }
    cr_expect_eq(n, 19);
    cr_expect_str_eq(gguf_mix_find("q5_k_m")->name, "Q5_K");
    cr_expect_str_eq(gguf_mix_nearest("Q5_K_N")->name, "Q5_K_S");
    cr_expect_null(gguf_mix_find("IQ3_S"));
}

// What llama-quantize chose for the same shapes (three layers: more_bits holds for the layers 2 only).
Test(gguf_model, mixes)
{
    const struct shape tied = {"llama", 8, 4, 256, 1, 0, ROPE_PLAIN}, untied = {"llama", 8, 4, 256, 0, 0, ROPE_PLAIN};
    const struct shape short_rows = {"llama", 6, 3, 96, 1, 0, ROPE_PLAIN}; // o: 192, down: 96
    plan_types(&tied, "Q4_K", 0, "token_embd.weight", "Q6_K");
    plan_types(&tied, "q4_k_m", 0, "output.weight", "absent");
    plan_types(&untied, "Q4_K", 0, "token_embd.weight", "Q4_K");
    plan_types(&untied, "Q4_K", 0, "output.weight", "Q6_K");
    plan_types(&untied, "Q4_K", 1, "output.weight", "Q4_K");
    plan_types(&tied, "Q4_K", 0, "blk.2.attn_v.weight", "Q6_K");
    plan_types(&tied, "Q4_K", 0, "blk.2.ffn_down.weight", "Q6_K");
    plan_types(&tied, "Q4_K", 0, "blk.1.ffn_down.weight", "Q4_K");
    plan_types(&tied, "Q4_K", 1, "blk.2.ffn_down.weight", "Q4_K");
    plan_types(&tied, "Q4_0", 0, "token_embd.weight", "Q6_K");
    plan_types(&tied, "Q4_0", 1, "token_embd.weight", "Q4_0");
    plan_types(&tied, "Q8_0", 0, "token_embd.weight", "Q8_0");
    plan_types(&tied, "Q6_K", 0, "output_norm.weight", "F32");
    plan_types(&short_rows, "Q4_K", 0, "blk.0.ffn_down.weight", "Q5_0");
    plan_types(&short_rows, "Q4_K", 0, "blk.2.ffn_down.weight", "Q8_0");
    plan_types(&short_rows, "Q5_K_S", 0, "blk.0.ffn_down.weight", "Q5_1");
    plan_types(&short_rows, "Q3_K_S", 0, "blk.0.ffn_down.weight", "IQ4_NL");
    plan_types(&short_rows, "IQ4_XS", 0, "blk.0.ffn_down.weight", "IQ4_NL");
    plan_types(&short_rows, "Q6_K", 0, "blk.0.attn_output.weight", "Q8_0");
    plan_types(&short_rows, "Q6_K", 0, "blk.0.attn_q.weight", "Q6_K");
    const struct shape odd = {"llama", 8, 4, 100, 1, 0, ROPE_PLAIN};
    plan_types(&odd, "Q8_0", 0, "blk.0.ffn_down.weight", "F16");
}

static void plan_refused(const struct config *c, const char *type, const char *message)
{
    struct model *m = model_new(c, 0); // shapes are enough
    struct gguf_plan plan;
    struct error err = {""};
    cr_expect_eq(gguf_plan_make(&plan, m, NULL, &(struct gguf_export_options){.type = type}, &err), -1, "%s",
                 message);
    cr_expect(strstr(err.text, message), "got \"%s\", expected \"%s\"", err.text, message);
    model_free(m);
}

Test(gguf_model, plans_refused)
{
    struct config c = make_config(&(struct shape){"llama", 6, 3, 96, 1, 0, ROPE_PLAIN});
    plan_refused(&c, "IQ3_S", "\"IQ3_S\" is not known; expected F32");
    plan_refused(
        &c, "Q4_K",
        "blk.0.attn_output.weight has rows of 192 values, no multiple of Q4_K's block of 256, "
                 "so it would become Q5_0");
    c.layer[1].n_ff = 128;
    config_release(&c);
    c = make_config(&(struct shape){"qwen2", 8, 4, 256, 1, 0, ROPE_PLAIN});
    c.layer[1].n_ff = 128;
    plan_refused(&c, "Q8_0", "the layers differ");
    config_release(&c);
    c = make_config(&(struct shape){"qwen2", 4, 2, 256, 1, 0, ROPE_PLAIN});
    plan_refused(&c, "Q8_0", "4 heads of width 32 make 128, and llama.cpp wants the hidden size, 256, for qwen2");
    config_release(&c);
}

Test(gguf_model, plan_knows_the_size)
{
    char *path = scratch_path("size");
    const struct shape s = {"llama", 8, 4, 256, 0, 0, ROPE_LLAMA3};
    struct model *m = make(&s);
    struct json *provenance = json_object();
    json_set_string(provenance, "recipe", "made up");
    const struct gguf_export_options o = {.type = "Q4_K", .provenance = provenance, .name = "small"};
    struct gguf_plan plan;
    struct error err;
    cr_assert_eq(gguf_plan_make(&plan, m, NULL, &o, &err), 0, "%s", err.text);
    struct model *back = through_file(m, path, &o);
    cr_assert_eq(plan.file_bytes, file_size(path));
    struct gguf g;
    char *text;
    cr_assert_eq(gguf_open(&g, path, &err), 0, "%s", err.text);
    cr_assert_eq(gguf_get_string(&g, "pdq.provenance", &text, &err), 0);
    cr_assert_str_eq(text, "{\"recipe\":\"made up\"}");
    free(text);
    cr_assert_not_null(gguf_find_tensor(&g, "rope_freqs.weight"));
    gguf_close(&g);
    gguf_plan_release(&plan);
    json_free(provenance);
    model_free(m);
    model_free(back);
    unlink(path);
}

Test(gguf_model, values_that_do_not_fit)
{
    char *path = scratch_path("bad");
    const struct shape s = {"llama", 8, 4, 256, 1, 0, ROPE_PLAIN};
    struct model *m = make(&s);
    struct error err = {""};
    struct tensor *t = &model_find(m, "model.layers.1.mlp.up_proj.weight")->t;
    t->data[5 * 256 + 7] = 70000;
    cr_expect_eq(gguf_export(m, NULL, path, &(struct gguf_export_options){.type = "F16"}, &err), -1);
    cr_expect(
        strstr(err.text,
               "blk.1.ffn_up.weight: the value at row 5, column 7 is 70000, which F16 cannot hold; choose BF16"),
        "%s", err.text);
    cr_expect(!file_exists(path));
    t->data[5 * 256 + 7] = NAN;
    cr_expect_eq(gguf_export(m, NULL, path, &(struct gguf_export_options){.type = "Q8_0"}, &err), -1);
    cr_expect(strstr(err.text, "the model is broken"), "%s", err.text);
    cr_expect(!file_exists(path));
    model_free(m);
}

// Writes a good file, changes the first occurrence of `from` into `to` (as long), and opens it.
static void change_refused(const char *from, const char *to, size_t length, const char *message)
{
    char *path = scratch_path("changed"), *data;
    const struct shape s = {"llama", 8, 4, 256, 1, 0, ROPE_PLAIN};
    struct model *m = make(&s);
    model_free(through_file(m, path, &(struct gguf_export_options){.type = "Q8_0"}));
    model_free(m);
    size_t size;
    struct error err = {""};
    struct tokenizer *tokenizer;
    cr_assert_eq(file_read(path, &data, &size, &err), 0);
    char *at = memmem(data, size, from, length);
    cr_assert_not_null(at);
    memcpy(at, to, length);
    cr_assert_eq(file_write(path, data, size, &err), 0);
    cr_expect_null(gguf_model_open(path, &tokenizer, &err), "%s", message);
    cr_expect(strstr(err.text, message), "got \"%s\", expected \"%s\"", err.text, message);
    free(data);
    unlink(path);
}

#define CHANGE(from, to, message) change_refused(from, to, sizeof(from) - 1, message)

Test(gguf_model, files_refused)
{
    CHANGE("general.architecture\x8\0\0\0\5\0\0\0\0\0\0\0llama", "general.architecture\x8\0\0\0\5\0\0\0\0\0\0\0lamba",
           "general.architecture is \"lamba\"");
    CHANGE("llama.block_count", "llama.block_cound", "key llama.block_count is missing");
    CHANGE("block_count\4\0\0\0\3", "block_count\4\0\0\0\4", "tensor blk.3.attn_norm.weight is missing");
    CHANGE("block_count\4\0\0\0\3", "block_count\4\0\0\0\2", "tensor blk.2.attn_k.weight is not one");
    CHANGE("length\4\0\0\0\0\1\0\0", "length\4\0\0\0\0\0\0\x7f", "expected 1 to");
    CHANGE("head_count\4\0\0\0\x8", "head_count\4\0\0\0\x9", "expected a multiple");
    CHANGE("dimension_count\4\0\0\0\x20", "dimension_count\4\0\0\0\x10", "expected the same even number");
    CHANGE("forward_length\4\0\0\0\0\1", "forward_length\4\0\0\0\0\2",
           "ffn_gate.weight is 256 x 256; its keys say 512 x 256");
}

// Files with changed bytes among keys and tensor headers: refused with a message or opened, never a crash (run under
// ASan too).
Test(gguf_model, mutated)
{
    char *path = scratch_path("mutated"), *data;
    const struct shape s = {"qwen2", 8, 4, 32, 0, 0, ROPE_LLAMA3};
    struct model *m = make(&s);
    model_free(through_file(m, path, &(struct gguf_export_options){.type = "Q8_0"}));
    model_free(m);
    size_t size;
    struct error err;
    struct random r;
    cr_assert_eq(file_read(path, &data, &size, &err), 0);
    random_init(&r, 1, "mutated models", 0);
    for (int i = 0; i < 400; i++) {
        static const unsigned char wild[] = {0, 1, 2, 0x20, 0x7f, 0x80, 0xff};
        const int64_t at = random_below(&r, 3000);
        const char kept = data[at];
        data[at] = (char)wild[random_below(&r, sizeof wild)];
        cr_assert_eq(file_write(path, data, size, &err), 0);
        data[at] = kept;
        struct tokenizer *tokenizer;
        err.text[0] = 0;
        m = gguf_model_open(path, &tokenizer, &err);
        cr_assert(m || err.text[0]);
        tokenizer_free(tokenizer);
        model_free(m);
    }
    free(data);
    unlink(path);
}

// The same weights as llama.cpp's own converter and quantizer wrote them.
Test(gguf_model, reference_q8_0_to_the_byte)
{
    const char *folder = shared_path("models/tinystories-656k");
    const char *reference = shared_path("models/tinystories-656k-gguf-q8_0/TinyStories-656K-Q8_0.gguf");
    if (!folder || !reference)
        cr_skip("the shared models are not here");
    struct error err = {""};
    char *path = scratch_path("reference");
    struct model *m = model_load(folder, &err);
    cr_assert_not_null(m, "%s", err.text);
    struct tokenizer *tokenizer = tokenizer_open(folder, &err);
    cr_assert_not_null(tokenizer, "%s", err.text);
    cr_assert_eq(gguf_export(m, tokenizer, path, &(struct gguf_export_options){.type = "Q8_0"}, &err), 0, "%s",
                 err.text);
    tokenizer_free(tokenizer);
    struct gguf ours, theirs;
    cr_assert_eq(gguf_open(&ours, path, &err), 0, "%s", err.text);
    cr_assert_eq(gguf_open(&theirs, reference, &err), 0, "%s", err.text);
    cr_assert_eq(ours.n_tensor, theirs.n_tensor);
    for (int64_t i = 0; i < ours.n_tensor; i++) {
        const struct gguf_tensor *a = &ours.tensor[i], *b = &theirs.tensor[i];
        cr_assert_str_eq(a->name, b->name);
        cr_assert(a->format == b->format && a->bytes == b->bytes, "%s", a->name);
        cr_assert_eq(memcmp(a->data, b->data, (size_t)a->bytes), 0, "%s differs", a->name);
    }
    gguf_close(&ours);
    gguf_close(&theirs);
    struct model *back = gguf_model_open(path, &tokenizer, &err);
    cr_assert_not_null(back, "%s", err.text);
    cr_assert_not_null(tokenizer);
    cr_assert_eq(tokenizer_size(tokenizer), 2048);
    cr_assert_eq(back->config.bos_id, 1);
    cr_assert_lt(distance(m, back, TOKENS), 0.05); // Q8_0's rounding, as in `types`; seen: 0.015
    tokenizer_free(tokenizer);
    model_free(back);
    model_free(m);
    unlink(path);
}
