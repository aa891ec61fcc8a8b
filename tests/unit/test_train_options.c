// test_train_options.c: low-rank factors, the adversarial move, the average of the weights, frozen tensors and rates against PyTorch in
// float64 (tests/ref/train_options_golden.py says what the runs are), and what they promise beside the numbers.
#include "tests/unit/golden.h"

#include "common/base/threads.h"
#include "common/model/load.h"
#include "common/model/name_pattern.h"
#include "common/train/groups.h"
#include "common/train/lora.h"
#include "common/train/trained.h"
#include "common/train/trainer.h"
#include "tests/unit/tiny.h"
#include "tests/unit/tolerance.h"

#define STEPS 10
#define ONE_PASS 2e-5 // of the largest value: f32 sums of a pass through two layers
#define TEN_STEPS 2e-3 // AdamW's first steps divide small gradients by their own size
#define LOSSES FLOAT_SUM // means, of which TEN_STEPS moves hardly anything: seen 1.4e-7

static struct json *object(const char *text)
{
    struct error err;
    struct json *o = json_parse(text, strlen(text), "test", 0, &err);
    cr_assert(o, "%s", err.text);
    return o;
}

struct fixture {
    struct golden golden, training;
    struct model *model;
    struct trainer trainer;
    struct dataset data;
    int64_t B, T, calls;
    int32_t *stream; // batch `step` begins at step * B * T; targets are one further
    double loss[STEPS], fgm;
};

// The golden file's batches instead of the trainer's own, shuffled ones.
static struct tensor *golden_loss(void *context, struct tape *tape, const struct forward *forward, const int32_t *targets, double weight,
                                  int64_t step, struct loss_parts *parts)
{
    struct fixture *f = context;
    struct forward golden = *forward;
    (void)targets;
    golden.ids = f->stream + step * f->B * f->T;
    struct tensor *loss = train_cross_entropy(f->model, tape, &golden, golden.ids + 1, weight, step, parts);
    *(forward->again ? &f->fgm : &f->loss[step]) = parts->ce;
    return loss;
}

static void fixture_init(struct fixture *f)
{
    char path[512];
    struct error err;
    gemm_init();
    *f = (struct fixture){.golden = golden_open("model-llama/options.txt"), .training = golden_open("model-llama/training.txt")};
    const double *shape = golden_get(&f->training, NULL, "shape")->value;
    f->B = (int64_t)shape[1];
    f->T = (int64_t)shape[2];
    f->stream = golden_ids(&f->training, NULL, "stream");
    snprintf(path, sizeof path, "%s/tests/golden/model-llama", PDQ_SOURCE_DIR);
    f->model = model_load(path, &err);
    cr_assert(f->model, "%s", err.text);
    f->data = (struct dataset){.token = f->stream, .n_token = STEPS * f->B * f->T + 1, .text_bytes = 1};
    f->trainer = (struct trainer){.model = f->model, .data = &f->data, .seq_len = f->T, .seed = 1, .title = "golden", .quiet = 1,
                                  .loss = golden_loss, .context = f};
    struct train_options *o = &f->trainer.options;
    options_init(train_option_table, o);
    o->steps = STEPS;
    o->batch = f->B;
    o->learning_rate = 0.01;
    o->schedule = SCHEDULE_CONSTANT;
    o->warmup = 0;
}

static void fixture_release(struct fixture *f)
{
    options_release(train_option_table, &f->trainer.options);
    free(f->stream);
    model_free(f->model);
    golden_close(&f->golden);
    golden_close(&f->training);
}

static void train(struct fixture *f)
{
    struct train_result r;
    struct error err;
    cr_assert_eq(trainer_run(&f->trainer, &r, &err), 0, "%s", err.text);
}

static void expect_losses(const struct fixture *f, const char *run)
{
    const struct golden_tensor *wanted = golden_get(&f->golden, run, "loss");
    for (int i = 0; i < STEPS; i++)
        cr_expect_float_eq(f->loss[i], wanted->value[i], LOSSES * wanted->value[i], "%s: step %d: %.9g, PyTorch %.9g", run, i, f->loss[i],
                           wanted->value[i]);
}

static void expect_weights(const struct fixture *f, const char *run)
{
    static const char *const shown[] = {"model.norm.weight", "model.layers.1.mlp.down_proj.weight"};
    for (int i = 0; i < 2; i++)
        golden_expect(golden_get(&f->golden, run, shown[i]), model_find(f->model, shown[i])->t.data, TEN_STEPS, f->golden.path);
}

// ---- low-rank factors ----

static void attach_golden(struct fixture *f, struct lora *l, int masked)
{
    struct error err;
    struct lora_options o;
    struct json *text = object("{\"rank\": 3, \"alpha\": 6, \"targets\": [\"*q_proj*\", \"*down_proj*\"]}");
    cr_assert_eq(lora_options_read(&o, text, "test", &err), 0, "%s", err.text);
    lora_attach(l, f->model, &o, 1, masked);
    lora_options_release(&o);
    json_free(text);
    for (int k = 0; k < l->n; k++) {
        for (int64_t i = 0; masked && i < tensor_count(l->weight[k].w); i += 3)
            l->weight[k].w->data[i] = 0;
        struct tensor *t[2] = {l->weight[k].a, l->weight[k].b};
        for (int j = 0; j < 2; j++) {
            char name[128];
            snprintf(name, sizeof name, "%s.%c", l->weight[k].w->name, "AB"[j]);
            const struct golden_tensor *g = golden_get(&f->golden, "lora", name);
            for (int64_t i = 0; i < g->count; i++)
                t[j]->data[i] = (float)g->value[i];
        }
    }
    model_want_gradients(l->factors);
}

static double loss_of(const struct fixture *f, int recording)
{
    struct tape tape;
    struct loss_parts parts;
    const struct forward forward = {.ids = f->stream, .B = f->B, .T = f->T};
    tape_init(&tape, PRECISION_F32);
    tape.recording = recording;
    struct tensor *loss = train_cross_entropy(f->model, &tape, &forward, f->stream + 1, 1, 0, &parts);
    if (recording)
        tape_backward(&tape, loss);
    tape_release(&tape);
    return parts.ce;
}

static void check_factors(int masked, int threads)
{
    struct fixture f;
    struct lora l;
    const char *run = masked ? "masked" : "lora";
    threads_set(threads);
    fixture_init(&f);
    attach_golden(&f, &l, masked);
    cr_assert_eq(l.n, 4);
    const double loss = loss_of(&f, 1), wanted = golden_number(&f.golden, run, "loss");
    cr_expect_float_eq(loss, wanted, ONE_PASS * wanted, "%s: %.9g, PyTorch %.9g", run, loss, wanted);
    for (int k = 0; k < l.n; k++)
        for (int j = 0; j < 2; j++) {
            char name[128];
            snprintf(name, sizeof name, "%s.%c.gradient", l.weight[k].w->name, "AB"[j]);
            golden_expect(golden_get(&f.golden, run, name), j ? l.weight[k].b->grad : l.weight[k].a->grad, ONE_PASS, f.golden.path);
        }
    lora_merge(&l);
    lora_detach(&l, f.model);
    const double merged = loss_of(&f, 0);
    cr_expect_float_eq(merged, wanted, ONE_PASS * wanted, "%s, merged: %.9g, PyTorch %.9g", run, merged, wanted);
    const struct parameter *p = model_find(f.model, "model.layers.0.mlp.down_proj.weight");
    for (int64_t i = 0; masked && i < tensor_count(&p->t); i++)
        cr_assert_eq(p->t.data[i] == 0, i % 3 == 0, "element %ld", (long)i);
    fixture_release(&f);
}

Test(train_options, factors_against_pytorch)
{
    check_factors(0, 1);
    check_factors(0, 2);
}

Test(train_options, masked_factors_against_pytorch)
{
    check_factors(1, 1);
    check_factors(1, 2);
}

// The factors learn, the weights that are no targets stay, and the model is as any other afterwards.
Test(train_options, a_training_of_factors)
{
    struct fixture f[2];
    for (int k = 0; k < 2; k++) {
        threads_set(k + 1);
        fixture_init(&f[k]);
        f[k].trainer.options.lora = object("{\"rank\": 4, \"alpha\": 8, \"targets\": \"*mlp*\"}");
        float *before = xmalloc((size_t)f[k].model->n_element * sizeof *before, "test");
        memcpy(before, f[k].model->data, (size_t)f[k].model->n_element * sizeof *before);
        train(&f[k]);
        for (int i = 0; i < f[k].model->n_parameter; i++) {
            const struct parameter *p = &f[k].model->parameter[i];
            const int same = memcmp(p->t.data, before + p->offset, (size_t)p->n_stored * sizeof *before) == 0;
            cr_expect_eq(same, strstr(p->name, "mlp") == NULL, "%s", p->name);
            cr_expect(!p->t.hook && !p->t.needs_grad && !p->frozen, "%s", p->name);
        }
        free(before);
    }
    cr_expect_arr_eq(f[0].model->data, f[1].model->data, (size_t)f[0].model->n_element * sizeof(float));
    fixture_release(&f[0]);
    fixture_release(&f[1]);
}

// ---- the adversarial move ----

Test(train_options, adversarial_move_against_pytorch)
{
    for (int threads = 1; threads <= 2; threads++) {
        struct fixture f;
        threads_set(threads);
        fixture_init(&f);
        f.trainer.options.fgm = 0.5;
        model_want_gradients(f.model);
        const double sum = trainer_gradient(&f.trainer, 0, 1);
        const double *wanted = golden_get(&f.golden, "fgm", "loss")->value;
        cr_expect_float_eq(f.loss[0], wanted[0], ONE_PASS * wanted[0], "%.9g, PyTorch %.9g", f.loss[0], wanted[0]);
        cr_expect_float_eq(f.fgm, wanted[1], ONE_PASS * wanted[1], "moved: %.9g, PyTorch %.9g", f.fgm, wanted[1]);
        cr_expect_float_eq(sum, wanted[0] + wanted[1], ONE_PASS * sum);
        for (int i = 0; i < f.model->n_parameter; i++) {
            const struct parameter *p = &f.model->parameter[i];
            char name[128];
            double squares = 0;
            for (int64_t k = 0; k < p->n_stored; k++)
                squares += (double)p->t.grad[k] * (double)p->t.grad[k];
            snprintf(name, sizeof name, "%s.norm", p->name);
            const double norm = golden_number(&f.golden, "fgm", name);
            cr_expect_float_eq(sqrt(squares), norm, ONE_PASS * norm, "%s: %.9g, PyTorch %.9g", p->name, sqrt(squares), norm);
            snprintf(name, sizeof name, "fgm.%s.gradient", p->name);
            if (golden_find(&f.golden, NULL, name))
                golden_expect(golden_find(&f.golden, NULL, name), p->t.grad, ONE_PASS, f.golden.path);
        }
        fixture_release(&f);
    }
}

// ---- average, groups ----

Test(train_options, average_against_pytorch)
{
    struct fixture f;
    fixture_init(&f);
    f.trainer.options.ema = 0.8;
    train(&f);
    expect_losses(&f, "average");
    expect_weights(&f, "average");
    fixture_release(&f);
}

Test(train_options, the_average_is_warmed_up)
{
    cr_expect_eq(average_decay(0.999, 0), 0.1);
    cr_expect_eq(average_decay(0.999, 10), 11.0 / 20);
    cr_expect_eq(average_decay(0.5, 10), 0.5);
    cr_expect_eq(average_decay(0.999, 1000000), 0.999);
}

Test(train_options, groups_against_pytorch)
{
    struct fixture f;
    struct error err;
    fixture_init(&f);
    struct train_options *o = &f.trainer.options;
    float *before = xmalloc((size_t)f.model->n_element * sizeof *before, "test");
    memcpy(before, f.model->data, (size_t)f.model->n_element * sizeof *before);
    for (const struct option *row = train_option_table; row->name; row++)
        if (!strcmp(row->name, "freeze")) {
            cr_assert_eq(option_set_text(row, o, "*embed*", "test", &err), 0);
            cr_assert_eq(option_set_text(row, o, "layers.0.*", "test", &err), 0);
        }
    o->rates = object("{\"*norm*\": 0.1, \"*down_proj*\": 3}");
    struct train_extent extent;
    cr_assert_eq(train_check_model(o, f.model, "test", &extent, &err), 0, "%s", err.text);
    cr_expect_lt(extent.trained, f.model->n_element / 2);
    train(&f);
    expect_losses(&f, "groups");
    expect_weights(&f, "groups");
    for (int i = 0; i < f.model->n_parameter; i++) {
        const struct parameter *p = &f.model->parameter[i];
        const int same = memcmp(p->t.data, before + p->offset, (size_t)p->n_stored * sizeof *before) == 0;
        cr_expect_eq(same, strstr(p->name, "embed") || strstr(p->name, "layers.0."), "%s", p->name);
    }
    free(before);
    fixture_release(&f);
}

// ---- what is refused ----

static void refused(struct train_options *o, const struct model *m, const char *says)
{
    struct error err = {0};
    struct train_extent extent;
    const int fine = train_check(o, "train", &err) == 0 && train_check_model(o, m, "train", &extent, &err) == 0;
    cr_expect(!fine && strstr(err.text, says), "expected \"%s\", found: %s", says, err.text);
}

Test(train_options, refusals)
{
    struct model *m = tiny_model(2, 32, 1);
    static const struct {
        const char *key, *value, *says;
    } bad[] = {
        {"freeze", "\"*embd*\"", "train.freeze: \"*embd*\" matches no tensor; expected a pattern of whole names (* stands for any characters), near: model.embed_tokens.weight"},
        {"freeze", "\"*\"", "nothing is left to train"},
        {"rates", "{\"lm_heat*\": 2}", "train.rates: \"lm_heat*\" matches no tensor"},
        {"rates", "{\"*norm*\": 0}", "expected a number above 0"},
        {"rates", "3", "found a number, expected an object"},
        {"lora", "{\"rnk\": 3}", "did you mean \"rank\""},
        {"lora", "{\"rank\": 0}", "expected a whole number from 1"},
        {"lora", "{\"targets\": \"*norm*\"}", "train.lora.targets: \"*norm*\" matches no tensor that it can be for"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[256];
        struct train_options o;
        struct error err;
        options_init(train_option_table, &o);
        snprintf(text, sizeof text, "{\"steps\": 3, \"%s\": %s}", bad[i].key, bad[i].value);
        struct json *j = object(text);
        cr_assert_eq(options_read_json(train_option_table, &o, j, "train", &err), 0, "%s", err.text);
        refused(&o, m, bad[i].says);
        json_free(j);
        options_release(train_option_table, &o);
    }
    struct train_options o;
    options_init(train_option_table, &o);
    o.steps = 3;
    o.lora = object("{}");
    o.rates = object("{\"*norm*\": 2}");
    refused(&o, m, "leave \"rates\" out");
    options_release(train_option_table, &o);
    model_free(m);
}
