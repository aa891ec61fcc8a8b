// evaluate_classes.c: see evaluate_classes.h.
#include "common/eval/evaluate_classes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

static void summarise(struct class_result *r, const struct examples *e)
{
    const int64_t K = r->classes;
    int64_t right = 0;
    for (int64_t i = 0; i < r->n; i++) {
        r->confusion[e->label[i] * K + r->answer[i]]++;
        right += r->answer[i] == e->label[i];
    }
    r->accuracy = share_of(right, r->n);
    r->mean_nll = mean_of(r->nll, r->n);
    r->nll_se = standard_error(r->nll, NULL, r->mean_nll, r->n);
    double f1 = 0, product = 0, of_label = 0, of_answer = 0;
    for (int64_t k = 0; k < K; k++) {
        double label = 0, answer = 0;
        for (int64_t j = 0; j < K; j++) {
            label += (double)r->confusion[k * K + j];
            answer += (double)r->confusion[j * K + k];
        }
        const double own = (double)r->confusion[k * K + k], one = label + answer > 0 ? 2 * own / (label + answer) : 0;
        f1 += K == 2 ? (k == 1 ? one : 0) : one / (double)K;
        product += label * answer;
        of_label += label * label;
        of_answer += answer * answer;
    }
    const double n = (double)r->n, scale = sqrt((n * n - of_label) * (n * n - of_answer));
    r->f1 = f1;
    r->matthews = scale > 0 ? ((double)right * n - product) / scale : 0;
}

void evaluate_classes(struct class_result *r, struct model *m, const struct examples *e, enum precision precision)
{
    *r = (struct class_result){.n = e->n, .classes = m->config.n_label};
    r->confusion = xcalloc((size_t)(r->classes * r->classes), sizeof *r->confusion, "an evaluation");
    r->answer = xmalloc((size_t)(e->n + 1) * sizeof *r->answer, "an evaluation");
    r->nll = xmalloc((size_t)(e->n + 1) * sizeof *r->nll, "an evaluation");
    int64_t *order = examples_by_length(e);
    struct example_batch batch;
    struct tape tape;
    double nll[EXAMPLES_AT_ONCE];
    int32_t top[EXAMPLES_AT_ONCE];
    example_batch_init(&batch, EXAMPLES_AT_ONCE, e->longest);
    tape_init(&tape, precision);
    for (int64_t at = 0, B; at < e->n; at += B) {
        B = examples_at_once(e, order, at);
        examples_pick(e, order + at, B, &batch);
        const struct forward f = {
            .ids = batch.ids, .B = batch.B, .T = batch.T, .length = batch.length, .types = batch.types, .checkpoint = 1};
        const struct tensor *x = model_forward(m, &tape, &f);
        const struct head_eval head = {.targets = batch.label, .nll = nll, .bias = model_head_bias(m), .top = top};
        op_head_eval(&tape, x, model_head(m), &head);
        for (int64_t i = 0; i < B; i++) {
            r->nll[order[at + i]] = nll[i];
            r->answer[order[at + i]] = top[i];
        }
        tape_reset(&tape);
    }
    summarise(r, e);
    tape_release(&tape);
    example_batch_release(&batch);
    free(order);
}

void class_result_release(struct class_result *r)
{
    free(r->confusion);
    free(r->answer);
    free(r->nll);
    *r = (struct class_result){0};
}

static int64_t right_of(const struct class_result *r)
{
    int64_t right = 0;
    for (int64_t k = 0; k < r->classes; k++)
        right += r->confusion[k * r->classes + k];
    return right;
}

struct class_versus class_compare(const struct class_result *r, const struct class_result *against, const struct examples *e)
{
    struct class_versus v = {0};
    for (int64_t i = 0; i < e->n; i++) {
        const int own = r->answer[i] == e->label[i], other = against->answer[i] == e->label[i];
        v.only_own += own && !other;
        v.only_against += other && !own;
    }
    v.mcnemar = mcnemar(v.only_own, v.only_against);
    return v;
}

struct json *class_result_json(const struct class_result *r)
{
    struct json *o = json_object();
    json_set_number(o, "examples", (double)r->n);
    json_set_number(o, "errors", (double)(r->n - right_of(r)));
    json_set_number(o, "accuracy", 100 * r->accuracy.share);
    json_set_number(o, "accuracy_low", 100 * r->accuracy.low);
    json_set_number(o, "accuracy_high", 100 * r->accuracy.high);
    json_set_number(o, "f1", 100 * r->f1);
    json_set_number(o, "matthews", r->matthews);
    json_set_number(o, "nll", r->mean_nll);
    json_set_number(o, "nll_se", r->nll_se);
    return o;
}
