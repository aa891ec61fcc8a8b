// What the dry run says a step takes, against what the ops really take: FLOPs of the products, bytes of activations.
#include <criterion/criterion.h>

#include "common/tensor/gemm.h"
#include "common/tensor/ops.h"
#include "distill/distill.h"
#include "distill/feature.h"
#include "recipes/stage.h"
#include "tests/unit/tiny.h"

#define WITHIN 0.1 // of the real figure; the promise to users is 0.2

struct shape {
    int64_t layers, hidden, heads, kv_heads, ffn, vocab;
};
static const struct shape large = {6, 96, 6, 2, 384, 300}, small = {6, 96, 3, 1, 192, 300};

static struct model *make_model(const struct shape *s) {
    char text[400];
    struct error err;
    struct config c;
    int n = snprintf(text, sizeof text,
                     "{\"model_type\":\"llama\",\"num_hidden_layers\":%d,\"hidden_size\":%d,\"intermediate_size\":%d,"
                     "\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"head_dim\":16,\"vocab_size\":%d,"
                     "\"max_position_embeddings\":512,\"rms_norm_eps\":1e-5,\"tie_word_embeddings\":true}",
                     (int)s->layers, (int)s->hidden, (int)s->ffn, (int)s->heads, (int)s->kv_heads, (int)s->vocab);
    struct json *o = json_parse(text, (size_t)n, "test", 0, &err);
    cr_assert(o && config_from_json(&c, o, "test", &err) == 0, "%s", err.text);
    struct model *m = model_new(&c, 1);
    model_initialise(m, 1);
    config_release(&c);
    json_free(o);
    return m;
}

static void check_near(const char *what, double predicted, double real) {
    cr_assert(predicted > real * (1 - WITHIN) && predicted < real * (1 + WITHIN), "%s: predicted %g, real %g", what,
              predicted, real);
}

#define BATCH 4
#define SEQ_LEN 64
#define ROWS (BATCH * SEQ_LEN)

static int32_t ids[ROWS], targets[ROWS];

static void fill(void) {
    for (int i = 0; i < ROWS; i++) {
        ids[i] = i * 7 % 300;
        targets[i] = i * 11 % 300;
    }
}

// list: the recipe's losses on features; NULL: none.
// several: a second teacher beside the first, for the mean of their answers.
static void check_step(int checkpoint, const char *list, int several) {
    struct model *student = make_model(&small), *teacher = make_model(&large), *second = make_model(&small);
    struct tape tape, teacher_tape, second_tape;
    fill();
    tape_init(&second_tape, PRECISION_F32);
    tape_init(&tape, PRECISION_F32);
    tape_init(&teacher_tape, PRECISION_F32);
    tape.recording = 1;
    model_want_gradients(student);
    gemm_count_reset();
    struct error err;
    struct distill_options options = {.features = list ? json_parse(list, strlen(list), "test", 0, &err) : NULL};
    struct features features;
    struct shown student_shown, teacher_shown;
    unsigned shows;
    const struct config *const teachers[] = {&teacher->config};
    const int64_t more = distill_feature_bytes(&options, &student->config, teachers, 1, ROWS, &shows);
    cr_assert_eq(features_read(&features, &options, &student->config, teachers, 1, "distill", &err), 0, "%s", err.text);
    shown_init(&student_shown, &student->config, shows);
    shown_init(&teacher_shown, &teacher->config, shows);
    const struct forward read = {.ids = ids, .B = BATCH, .T = SEQ_LEN, .checkpoint = !(shows & TAP_QKV), .taps = &teacher_shown.taps};
    const struct forward learn = {.ids = ids, .B = BATCH, .T = SEQ_LEN, .checkpoint = checkpoint, .taps = shows ? &student_shown.taps : NULL};
    struct tensor *reference = model_forward(teacher, &teacher_tape, &read),
                  *x = model_forward(student, &tape, &learn);
    const struct forward also = {.ids = ids, .B = BATCH, .T = SEQ_LEN, .checkpoint = 1};
    const struct head_teacher further = {several ? model_forward(second, &second_tape, &also)->data : NULL, model_head(second), NULL, 0.3, 0};
    const struct head_spec spec = {.targets = targets,
                                   .teacher_x = reference->data,
                                   .teacher_w = model_head(teacher),
                                   .further = &further,
                                   .n_further = several,
                                   .alpha = 0.5,
                                   .temperature = 2,
                                   .weight = 1};
    struct tensor *loss = op_head_loss(&tape, x, model_head(student), &spec, NULL);
    if (list) {
        const struct feature_batch b = {&read, &student_shown, &teacher_shown, &student->config, &teacher->config, 1, 0};
        double value[LOSS_TERMS];
        struct tensor *sum = features_loss(&features, &tape, &b, 1, 0, value);
        loss = op_sum(&tape, loss, sum);
    }
    tape_backward(&tape, loss);
    const struct train_options o = {.batch = BATCH, .accumulate = 1, .checkpoint = checkpoint};
    struct step_cost cost = step_cost(&student->config, &teacher->config, &o, SEQ_LEN);
    if (several)
        step_cost_add_teacher(&cost, &student->config, &second->config, &o, SEQ_LEN);
    const int64_t kept = cost.activations + more + shown_memory(&teacher->config, ROWS, shows);
    if (!list)
        check_near("FLOPs", cost.flops, gemm_counted().flops);
    check_near("activations", (double)kept, (double)(tape.arena.peak + teacher_tape.arena.peak + second_tape.arena.peak));
    shown_release(&student_shown);
    shown_release(&teacher_shown);
    features_release(&features);
    json_free(options.features);
    tape_release(&tape);
    tape_release(&teacher_tape);
    tape_release(&second_tape);
    model_free(student);
    model_free(teacher);
    model_free(second);
}

Test(cost, distillation_step) { check_step(0, NULL, 0); }

Test(cost, distillation_step_with_checkpoints) { check_step(1, NULL, 0); }

Test(cost, distillation_step_of_two_teachers) { check_step(0, NULL, 1); }

Test(cost, losses_on_features) {
    check_step(0, "[{\"loss\": \"hidden_mse\"}, {\"loss\": \"fsp\"}]", 0);
    check_step(1, "[{\"loss\": \"hidden_mse\"}, {\"loss\": \"fsp\"}]", 0);
    check_step(0, "[{\"loss\": \"value_relation\", \"map\": \"uniform\"}, {\"loss\": \"query_relation\"}]", 0);
}

// What a whole training multiplies, with parts of the model frozen, factors beside it, or each batch twice.
Test(cost, training_options) {
    static const char *const options[] = {"{}", "{\"freeze\": [\"*embed*\", \"*mlp*\"]}", "{\"freeze\": \"*self_attn*\"}", "{\"lora\": {\"rank\": 4}}",
                                          "{\"lora\": {\"rank\": 4}, \"keep_zeros\": true}", "{\"fgm\": 0.1}", "{\"fgm\": 0.1, \"checkpoint\": true}"};
    for (size_t k = 0; k < sizeof options / sizeof *options; k++) {
        struct model *m = make_model(&large);
        struct dataset data = tiny_data(4 * ROWS);
        struct trainer t = {.model = m, .data = &data, .seq_len = SEQ_LEN, .seed = 1, .title = "train", .quiet = 1, .loss = train_cross_entropy,
                            .context = m};
        struct train_result r;
        struct error err;
        struct json *o = json_parse(options[k], strlen(options[k]), "test", 0, &err);
        options_init(train_option_table, &t.options);
        cr_assert_eq(options_read_json(train_option_table, &t.options, o, "test", &err), 0, "%s", err.text);
        t.options.steps = 2;
        t.options.batch = BATCH;
        gemm_count_reset();
        cr_assert_eq(trainer_run(&t, &r, &err), 0, "%s", err.text);
        check_near(options[k], step_cost(&m->config, NULL, &t.options, SEQ_LEN).flops, gemm_counted().flops / 2);
        options_release(train_option_table, &t.options);
        dataset_release(&data);
        json_free(o);
        model_free(m);
    }
}

Test(cost, scores) {
    struct model *m = make_model(&large);
    struct tape tape;
    fill();
    tape_init(&tape, PRECISION_F32);
    tape.recording = 1;
    model_add_gates(m, 1);
    const struct forward f = {.ids = ids, .B = BATCH, .T = SEQ_LEN};
    const struct head_spec spec = {.targets = targets, .temperature = 1, .weight = 1};
    tape_backward(&tape, op_head_loss(&tape, model_forward(m, &tape, &f), model_head(m), &spec, NULL));
    check_near("taylor", (double)score_memory(&m->config, ROWS, 1), (double)tape.arena.peak);
    tape_release(&tape);
    model_free(m);
}
