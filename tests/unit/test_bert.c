// test_bert.c: BERT, DistilBERT and RoBERTa with their heads against PyTorch (tests/ref/bert_golden.py): logits, loss and the gradient of
// every parameter, over padded sequences; and what padding holds changes nothing.
#include "tests/unit/sequences.h"

Test(bert, heads_against_pytorch) {
    static const char *const heads[] = {"bert-classes", "bert-masked", "bert-spans", "distilbert-classes", "distilbert-masked", "roberta-classes",
                                        "roberta-masked"};
    for (size_t h = 0; h < sizeof heads / sizeof *heads; h++) {
        sequences_check(heads[h], 1, 0, 0);
        sequences_check(heads[h], 2, 0, 0);
        sequences_check(heads[h], 2, 1, 0);
    }
    sequences_check("bert-masked", 2, 0, 1);
    sequences_check("bert-masked", 2, 1, 1);
}

static void check_spans(int threads, int checkpoint) {
    struct sequences s;
    struct tape tape;
    struct head_result result;
    float *value[3];
    static const char *const names[] = {"teacher_x", "teacher_w", "teacher_bias"};
    sequences_open(&s, "bert-spans", "spans");
    threads_set(threads);
    model_want_gradients(s.model);
    tape_init(&tape, PRECISION_F32);
    tape.recording = 1;
    for (int k = 0; k < 3; k++) {
        const struct golden_tensor *g = golden_get(&s.golden, NULL, names[k]);
        value[k] = xmalloc((size_t)g->count * sizeof(float), "a teacher");
        for (int64_t i = 0; i < g->count; i++)
            value[k][i] = (float)g->value[i];
    }
    const struct golden_tensor *tw = golden_get(&s.golden, NULL, "teacher_w");
    const struct tensor w = {.name = "teacher", .n_dim = 2, .dim = {tw->dim[0], tw->dim[1], 1}, .data = value[1]};
    const struct tensor bias = {.name = "bias", .n_dim = 1, .dim = {tw->dim[0], 1, 1}, .data = value[2]};
    const struct forward f = {.ids = s.ids, .B = s.B, .T = s.T, .types = s.types, .length = s.length, .checkpoint = checkpoint};
    const struct head_spec spec = {.targets = s.targets, .teacher_x = value[0], .teacher_w = &w, .teacher_bias = &bias, .alpha = 0.5,
                                   .temperature = 2, .weight = 1, .bias = model_head_bias(s.model)};
    struct tensor *x = model_forward(s.model, &tape, &f);
    struct tensor *loss = model_head_loss(s.model, &tape, &f, x, &spec, &result);
    const double wanted = golden_number(&s.golden, NULL, "loss");
    cr_expect(fabs(result.loss / wanted - 1) < LOSS_TOLERANCE, "spans: loss %.9g, PyTorch %.9g", result.loss, wanted);
    tape_backward(&tape, loss);
    sequences_expect_gradients(&s);
    tape_release(&tape);
    for (int k = 0; k < 3; k++)
        free(value[k]);
    sequences_close(&s);
}

Test(bert, spans_with_a_teacher_against_pytorch) {
    check_spans(1, 0);
    check_spans(2, 1);
}

Test(bert, padding_changes_nothing) { sequences_check_padding("bert-classes"); }
