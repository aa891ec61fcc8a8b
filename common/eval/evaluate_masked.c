// evaluate_masked.c: see evaluate_masked.h.
#include "common/eval/evaluate_masked.h"

#include <stdlib.h>

#include "common/base/error.h"

#define BATCH 32 // sequences, of like lengths
#define SEED 1   // of the choice of hidden words

void evaluate_masked(struct masked_result *r, struct model *m, const struct examples *e, enum precision precision)
{
    *r = (struct masked_result){0};
    r->nll = xmalloc((size_t)(e->start[e->n] + 1) * sizeof *r->nll, "an evaluation");
    int32_t *top = xmalloc((size_t)(BATCH * e->longest) * sizeof *top, "an evaluation");
    int64_t *order = examples_by_length(e), right = 0;
    struct example_batch batch;
    struct tape tape;
    example_batch_init(&batch, BATCH, e->longest);
    tape_init(&tape, precision);
    for (int64_t at = 0; at < e->n; at += BATCH) {
        examples_pick(e, order + at, at + BATCH < e->n ? BATCH : e->n - at, &batch);
        examples_mask(e, SHARE_HIDDEN, SEED, (uint64_t)at, &batch);
        const struct forward f = {.ids = batch.ids, .B = batch.B, .T = batch.T, .length = batch.length, .types = batch.types, .checkpoint = 1,
                                  .rows = batch.hidden, .n_rows = batch.n_hidden};
        const struct tensor *x = model_forward(m, &tape, &f);
        const struct head_eval head = {.targets = batch.word, .nll = r->nll + r->n, .bias = model_head_bias(m), .top = top};
        op_head_eval(&tape, x, model_head(m), &head);
        for (int64_t i = 0; i < batch.n_hidden; i++)
            right += top[i] == batch.word[i];
        r->n += batch.n_hidden;
        tape_reset(&tape);
    }
    r->errors = r->n - right;
    r->accuracy = share_of(right, r->n);
    r->mean_nll = mean_of(r->nll, r->n);
    r->nll_se = standard_error(r->nll, NULL, r->mean_nll, r->n);
    tape_release(&tape);
    example_batch_release(&batch);
    free(order);
    free(top);
}

void masked_result_release(struct masked_result *r)
{
    free(r->nll);
    *r = (struct masked_result){0};
}

struct json *masked_result_json(const struct masked_result *r)
{
    struct json *o = json_object();
    json_set_number(o, "words", (double)r->n);
    json_set_number(o, "errors", (double)r->errors);
    json_set_number(o, "accuracy", 100 * r->accuracy.share);
    json_set_number(o, "accuracy_low", 100 * r->accuracy.low);
    json_set_number(o, "accuracy_high", 100 * r->accuracy.high);
    json_set_number(o, "nll", r->mean_nll);
    json_set_number(o, "nll_se", r->nll_se);
    return o;
}
