// test_model_golden.c: whole small models, read from Hugging Face directories that tests/ref/make_golden.py wrote,
// against PyTorch: logits, losses and the gradient of every parameter. Between them the models have tied and untied
// heads, grouped queries with a head_dim of their own, biases, three rope rules, three dtypes and shards.
#include "tests/unit/golden.h"

#include "common/base/threads.h"
#include "common/model/load.h"
#include "common/tensor/gradcheck.h"
#include "tests/unit/tolerance.h"

// PyTorch computed in float64 on the same weights; two layers in f32 leave some 1e-6 of the largest value.
#define LOGITS_TOLERANCE 5e-6
#define LOSS_TOLERANCE 1e-6
#define GRADIENT_TOLERANCE 2e-5

static struct model *open_model(const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/tests/golden/model-%s", PDQ_SOURCE_DIR, name);
    struct error err;
    gemm_init();
    struct model *m = model_load(path, &err);
    cr_assert(m, "%s", err.text);
    return m;
}

static struct golden open_golden(const char *name, const char *kind) {
    char relative[128];
    snprintf(relative, sizeof relative, "model-%s/%s.txt", name, kind);
    return golden_open(relative);
}

struct setting {
    int threads, checkpoint;
};

static void compare_gradients(struct model *m, const struct golden *g) {
    int seen = 0;
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        const struct golden_tensor *wanted = golden_get(g, NULL, p->name);
        cr_assert_eq(tensor_count(&p->t), wanted->count, "%s has %ld values", p->name, (long)tensor_count(&p->t));
        seen++;
        if (!strstr(p->name, ".attn.k.bias")) {
            golden_expect(wanted, p->t.grad, GRADIENT_TOLERANCE, g->path);
            continue;
        }
        for (int64_t k = 0; k < wanted->count; k++) // it moves all scores of a query alike: the gradient is 0, but for rounding
            cr_expect(fabs((double)p->t.grad[k]) < FLOAT_FEW && fabs(wanted->value[k]) < DOUBLE_SUM, "%s[%ld] is %g", p->name, (long)k, (double)p->t.grad[k]);
    }
    int parameters = 0;
    for (int i = 0; i < g->n; i++)
        parameters += strstr(g->tensor[i].name, ".weight") || strstr(g->tensor[i].name, ".bias");
    cr_expect_eq(seen, parameters, "%s: %d parameters, the model has %d", g->path, parameters, seen);
}

static void compare_logits(struct model *m, const struct golden *g, const struct tensor *x) {
    struct tape tape;
    tape_init(&tape, PRECISION_F32);
    tape.recording = 0;
    struct tensor hidden = *x;
    hidden.needs_grad = 0;
    golden_expect(golden_get(g, NULL, "logits"), model_logits(m, &tape, &hidden)->data,
                  LOGITS_TOLERANCE, g->path);
    tape_release(&tape);
}

// The student's loss, with CE alone or, with a teacher, as the golden file was made.
static void check_model(const char *name, const char *teacher_name, struct setting setting) {
    struct golden g = open_golden(name, teacher_name ? "loss-kd" : "loss-ce");
    struct model *m = open_model(name), *teacher = teacher_name ? open_model(teacher_name) : NULL;
    model_want_gradients(m);
    threads_set(setting.threads);
    int32_t *ids = golden_ids(&g, NULL, "ids"), *targets = golden_ids(&g, NULL, "targets");
    const struct golden_tensor *shape = golden_get(&g, NULL, "ids");
    struct forward f = {.ids = ids, .B = shape->dim[0], .T = shape->dim[1]};
    struct head_spec spec = {.targets = targets, .alpha = 0.7, .temperature = 2, .weight = 1, .cap = m->config.logit_cap};
    struct tape tape;
    tape_init(&tape, PRECISION_F32);
    if (teacher) {
        tape.recording = 0;
        spec.teacher_x = model_forward(teacher, &tape, &f)->data;
        spec.teacher_w = model_head(teacher);
        spec.teacher_cap = teacher->config.logit_cap;
    }
    tape.recording = 1;
    f.checkpoint = setting.checkpoint;
    struct tensor *x = model_forward(m, &tape, &f);
    compare_logits(m, &g, x);
    struct head_result result;
    struct tensor *loss = op_head_loss(&tape, x, model_head(m), &spec, &result);
    double wanted = golden_number(&g, NULL, "loss");
    cr_expect(fabs(result.loss / wanted - 1) < LOSS_TOLERANCE, "%s: loss %.9g, PyTorch %.9g", name, result.loss,
              wanted);
    if (teacher)
        cr_expect(fabs(result.kl / golden_number(&g, NULL, "kl") - 1) < LOSS_TOLERANCE, "%s: kl %.9g", name,
                  result.kl);
    tape_backward(&tape, loss);
    compare_gradients(m, &g);
    tape_release(&tape);
    free(ids);
    free(targets);
    model_free(m);
    model_free(teacher);
    golden_close(&g);
}

static const struct setting settings[] = {{1, 0}, {2, 0}, {2, 1}};
#define SETTINGS (sizeof settings / sizeof settings[0])

Test(model_golden, llama_tied_llama3_rope) {
    for (size_t i = 0; i < SETTINGS; i++)
        check_model("llama", NULL, settings[i]);
}

Test(model_golden, llama_untied_biases_linear_rope_f16) {
    for (size_t i = 0; i < SETTINGS; i++)
        check_model("biases", NULL, settings[i]);
}

Test(model_golden, mistral_untied_bf16_shards) {
    for (size_t i = 0; i < SETTINGS; i++)
        check_model("mistral", NULL, settings[i]);
}

Test(model_golden, qwen2_tied) {
    for (size_t i = 0; i < SETTINGS; i++)
        check_model("qwen2", NULL, settings[i]);
}

Test(model_golden, gpt2_untied) {
    for (size_t i = 0; i < SETTINGS; i++)
        check_model("gpt2", NULL, settings[i]);
}

Test(model_golden, gpt2_bare_names_tied_erf_buffers) {
    for (size_t i = 0; i < SETTINGS; i++)
        check_model("gpt2-bare", NULL, settings[i]);
}

Test(model_golden, distillation) {
    for (size_t i = 0; i < SETTINGS; i++)
        check_model("llama", "mistral", settings[i]);
}

// Norms of q and k, the four norms of a Gemma layer, soft caps, windows shorter than the sequence, factors everywhere.
Test(model_golden, relatives_of_llama) {
    static const char *const names[] = {"qwen3", "windows", "gemma2", "minicpm", "granite"};
    for (int n = 0; n < 5; n++)
        for (size_t i = 0; i < SETTINGS; i++)
            check_model(names[n], NULL, settings[i]);
}

Test(model_golden, distillation_with_soft_caps) {
    for (size_t i = 0; i < SETTINGS; i++) {
        check_model("gemma2", "minicpm", settings[i]);
        check_model("minicpm", "gemma2", settings[i]);
    }
}

// A model wide enough that products have several panels: gradients have the same bits with 1 and 2 threads, and with
// blocks computed again, in f32 and in bf16.
static void gradients_of(struct model *m, enum precision precision, struct setting setting, float *to) {
    enum { B = 4, T = 96 };
    int32_t ids[B * T + 1];
    for (int i = 0; i <= B * T; i++)
        ids[i] = (int32_t)((i * 37 + i * i / 3) % m->config.vocab);
    threads_set(setting.threads);
    memset(m->grad, 0, (size_t)m->n_element * sizeof(float));
    struct tape tape;
    tape_init(&tape, precision);
    tape.recording = 1;
    struct forward f = {.ids = ids, .B = B, .T = T, .checkpoint = setting.checkpoint};
    struct head_spec spec = {.targets = ids + 1, .temperature = 1, .weight = 1};
    struct head_result result;
    struct tensor *x = model_forward(m, &tape, &f);
    struct tensor *loss = op_head_loss(&tape, x, model_head(m), &spec, &result);
    tape_backward(&tape, loss);
    tape_release(&tape);
    memcpy(to, m->grad, (size_t)m->n_element * sizeof(float));
}

Test(model_golden, bits_do_not_depend_on_threads) {
    gemm_init();
    struct layer_shape layer[2] = {{8, 4, 384}, {8, 4, 384}};
    struct config c = {.model_type = "llama",
                       .n_layer = 2,
                       .hidden = 128,
                       .head_dim = 16,
                       .vocab = 1024,
                       .context = 512,
                       .layer = layer,
                       .norm_eps = 1e-5,
                       .rope_theta = 10000,
                       .bos_id = -1,
                       .eos_id = -1};
    struct model *m = model_new(&c, 1);
    model_initialise(m, 3);
    model_want_gradients(m);
    size_t bytes = (size_t)m->n_element * sizeof(float);
    float *first = xmalloc(bytes, "a test's gradients"), *next = xmalloc(bytes, "a test's gradients");
    for (int precision = 0; precision < 2; precision++) {
        enum precision p = precision ? PRECISION_BF16 : PRECISION_F32;
        gradients_of(m, p, settings[0], first);
        for (size_t i = 1; i < SETTINGS; i++) {
            gradients_of(m, p, settings[i], next);
            cr_expect(memcmp(first, next, bytes) == 0, "%s, %d threads, checkpoint %d: other bits",
                      precision ? "bf16" : "f32", settings[i].threads, settings[i].checkpoint);
        }
    }
    free(first);
    free(next);
    model_free(m);
}

// One sequence through the key/value cache, a few positions first and then one by one, as decoding does.
static void check_cache(const char *name, int64_t first) {
    struct golden g = open_golden(name, "loss-ce");
    struct model *m = open_model(name);
    int32_t *ids = golden_ids(&g, NULL, "ids");
    const struct golden_tensor *logits = golden_get(&g, NULL, "logits");
    int64_t T = golden_get(&g, NULL, "ids")->dim[1], V = logits->dim[1];
    struct golden_tensor wanted = *logits; // the first sequence
    wanted.dim[0] = T;
    wanted.count = T * V;
    float *found = xcalloc((size_t)wanted.count, sizeof(float), "a test's values");
    struct kv_cache cache;
    kv_cache_init(&cache, m, T);
    for (int64_t t = 0, n; t < T; t += n) {
        n = t == 0 ? first : 1;
        struct tape tape;
        tape_init(&tape, PRECISION_F32);
        tape.recording = 0;
        struct forward f = {.ids = ids + t, .B = 1, .T = n, .cache = &cache};
        struct tensor *x = model_forward(m, &tape, &f);
        memcpy(found + t * V, model_logits(m, &tape, x)->data, (size_t)(n * V) * sizeof(float));
        tape_release(&tape);
        cr_expect_eq(cache.length, t + n);
    }
    golden_expect(&wanted, found, LOGITS_TOLERANCE, g.path);
    kv_cache_release(&cache);
    free(found);
    free(ids);
    model_free(m);
    golden_close(&g);
}

Test(model_golden, key_value_cache) {
    static const char *const names[] = {"llama", "biases", "mistral", "qwen2", "qwen3", "windows", "gemma2", "minicpm", "granite"};
    for (int i = 0; i < 9; i++)
        for (int64_t first = 1; first <= 9; first += 4)
            check_cache(names[i], first);
}

// The whole model against finite differences of itself, gates included: what Taylor scores differentiate.
struct whole {
    struct model *m;
    const int32_t *ids, *targets;
};

static double whole_loss(void *context, struct tape *tape, struct tensor **root) {
    struct whole *w = context;
    struct forward f = {.ids = w->ids, .B = 2, .T = 9};
    struct head_spec spec = {.targets = w->targets, .temperature = 1, .weight = 1, .cap = w->m->config.logit_cap};
    struct head_result result;
    struct tensor *x = model_forward(w->m, tape, &f);
    *root = op_head_loss(tape, x, model_head(w->m), &spec, &result);
    return result.loss;
}

static void check_differences(const char *name, double step, double tolerance) {
    struct golden g = open_golden(name, "loss-ce");
    struct model *m = open_model(name);
    model_want_gradients(m);
    model_add_gates(m, 1);
    int32_t *ids = golden_ids(&g, NULL, "ids"), *targets = golden_ids(&g, NULL, "targets");
    struct whole whole = {m, ids, targets};
    struct tensor *input[128];
    int n = 0;
    for (int i = 0; i < m->n_parameter; i++)
        input[n++] = &m->parameter[i].t;
    for (int64_t l = 0; l < m->config.n_layer; l++) {
        input[n++] = m->gate[l].heads;
        input[n++] = m->gate[l].ff;
    }
    // Short steps, because a direction moves every parameter at once and the loss bends. It is near 4 and its f32
    // parts round at some 1e-8 of it, so that differences over 2^-10 are good to 1e-4 of the slope, of order 1.
    threads_set(1);
    struct gradcheck all = {whole_loss, &whole, input, n, PRECISION_F32, step, 5, 0, 1};
    struct gradcheck_result r;
    gradcheck_run(&all, &r);
    cr_expect(r.worst < tolerance, "%s: %s: finite differences %.7g, the tape %.7g", name, r.where, r.expected, r.found);
    struct gradcheck gates = {whole_loss,
                              &whole,
                              input + n - 2 * m->config.n_layer,
                              (int)(2 * m->config.n_layer),
                              PRECISION_F32,
                              1.0 / 256,
                              3,
                              100,
                              1};
    gradcheck_run(&gates, &r);
    cr_expect(r.worst < 2 * BY_DIFFERENCES, "%s: %s: finite differences %.7g, the tape %.7g", name, r.where, r.expected, r.found);
    model_drop_gates(m);
    free(ids);
    free(targets);
    model_free(m);
    golden_close(&g);
}

Test(model_golden, finite_differences_with_gates) {
    static const char *const names[] = {"qwen2", "windows", "granite"};
    for (int i = 0; i < 3; i++)
        check_differences(names[i], 1.0 / 1024, 5e-4);
    check_differences("gemma2", 1.0 / 16384, 3e-3); // soft caps bend the loss sooner: shorter steps, more rounding
}
