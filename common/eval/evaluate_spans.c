// evaluate_spans.c: see evaluate_spans.h.
#include "common/eval/evaluate_spans.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/eval/span_score.h"

#define MOST_TOKENS 30    // of an answer, as in BERT's code

struct found { // in one window, or in all of a question's
    double score, none; // of the best pair; of [CLS]
    int64_t first, last; // tokens, numbered as examples->token is
    double nll;
};

// z [length, 2]: the window's logits.
static void search(struct found *f, const float *z, int64_t length, const struct token_place *place, int64_t token0)
{
    f->none = (double)z[0] + (double)z[1];
    f->score = -HUGE_VAL;
    for (int64_t s = 0; s < length; s++)
        for (int64_t e = s; place[s].start >= 0 && e < length && e < s + MOST_TOKENS && place[e].start >= 0; e++) {
            const double score = (double)z[2 * s] + (double)z[2 * e + 1];
            if (score > f->score) {
                f->score = score;
                f->first = token0 + s;
                f->last = token0 + e;
            }
        }
}

static void run_windows(struct found *found, struct model *m, const struct examples *e, const struct span_texts *texts, enum precision precision)
{
    int64_t *order = examples_by_length(e);
    struct example_batch batch;
    struct tape tape;
    example_batch_init(&batch, EXAMPLES_AT_ONCE, e->longest);
    tape_init(&tape, precision);
    for (int64_t at = 0, B; at < e->n; at += B) {
        B = examples_at_once(e, order, at);
        examples_pick(e, order + at, B, &batch);
        const struct forward f = {.ids = batch.ids, .B = batch.B, .T = batch.T, .length = batch.length, .types = batch.types, .checkpoint = 1};
        struct tensor *x = model_forward(m, &tape, &f);
        const struct tensor *z = op_linear(&tape, x, model_head(m), model_head_bias(m));
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < B; i++) {
            const int64_t number = order[at + i], start = e->start[number];
            const float *own = z->data + 2 * i * batch.T;
            found[number].nll = (span_cross_entropy(own, batch.length[i], batch.span[2 * i]) +
                                 span_cross_entropy(own + 1, batch.length[i], batch.span[2 * i + 1])) / 2;
            if (texts)
                search(&found[number], own, batch.length[i], texts->place + start, start);
        }
        tape_reset(&tape);
    }
    tape_release(&tape);
    example_batch_release(&batch);
    free(order);
}

// The text from token `first` to token `last`, without spaces at its ends. The caller frees.
static char *text_of(const struct span_texts *t, const struct span_question *q, int64_t first, int64_t last)
{
    int64_t start = t->place[first].start, end = t->place[last].end;
    while (start < end && isspace((unsigned char)q->context[start]))
        start++;
    while (end > start && isspace((unsigned char)q->context[end - 1]))
        end--;
    return xasprintf("%.*s", (int)(end - start), q->context + start);
}

static void answer_question(struct span_result *r, int64_t i, const struct found *window, int64_t n, const struct span_texts *t)
{
    const struct span_question *q = &t->question[i];
    struct found best = window[0];
    for (int64_t w = 1; w < n; w++) {
        const double none = fmin(best.none, window[w].none);
        if (window[w].score > best.score)
            best = window[w];
        best.none = none;
    }
    const int is_none = t->n_without > 0 && best.none > best.score;
    r->answer[i] = is_none ? xstrdup("") : text_of(t, q, best.first, best.last);
    const struct span_score s = span_score_of(r->answer[i], q->answer, q->n_answer);
    r->exact[i] = (unsigned char)s.exact;
    r->f1[i] = s.f1;
}

void evaluate_spans(struct span_result *r, struct model *m, const struct examples *e, const struct span_texts *texts, enum precision precision)
{
    const int64_t n = e->n_question;
    struct found *found = xcalloc((size_t)e->n + 1, sizeof *found, "an evaluation");
    *r = (struct span_result){.n = n, .windows = e->n, .nll = xcalloc((size_t)n + 1, sizeof *r->nll, "an evaluation")};
    run_windows(found, m, e, texts, precision);
    if (texts) {
        r->answer = xcalloc((size_t)n + 1, sizeof *r->answer, "an evaluation");
        r->exact = xcalloc((size_t)n + 1, sizeof *r->exact, "an evaluation");
        r->f1 = xcalloc((size_t)n + 1, sizeof *r->f1, "an evaluation");
    }
    int64_t right = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t first = e->question[i], windows = e->question[i + 1] - first;
        for (int64_t w = 0; w < windows; w++)
            r->nll[i] += found[first + w].nll / (double)windows;
        if (texts) {
            answer_question(r, i, found + first, windows, texts);
            right += r->exact[i];
        }
    }
    r->mean_nll = mean_of(r->nll, n);
    r->nll_se = standard_error(r->nll, NULL, r->mean_nll, n);
    if (texts) {
        r->exact_share = share_of(right, n);
        r->mean_f1 = mean_of(r->f1, n);
        const double half = NORMAL_95 * standard_error(r->f1, NULL, r->mean_f1, n);
        r->f1_low = fmax(0, r->mean_f1 - half);
        r->f1_high = fmin(1, r->mean_f1 + half);
    }
    free(found);
}

void span_result_release(struct span_result *r)
{
    for (int64_t i = 0; r->answer && i < r->n; i++)
        free(r->answer[i]);
    free(r->answer);
    free(r->nll);
    free(r->exact);
    free(r->f1);
    *r = (struct span_result){0};
}

struct span_versus span_compare(const struct span_result *r, const struct span_result *against)
{
    struct span_versus v = {.f1 = paired_compare(r->f1, against->f1, r->n)};
    for (int64_t i = 0; i < r->n; i++) {
        v.only_own += r->exact[i] && !against->exact[i];
        v.only_against += against->exact[i] && !r->exact[i];
    }
    v.mcnemar = mcnemar(v.only_own, v.only_against);
    return v;
}

struct json *span_result_json(const struct span_result *r)
{
    struct json *o = json_object();
    int64_t right = 0;
    for (int64_t i = 0; i < r->n; i++)
        right += r->exact[i];
    json_set_number(o, "examples", (double)r->n);
    json_set_number(o, "windows", (double)r->windows);
    json_set_number(o, "errors", (double)(r->n - right));
    json_set_number(o, "accuracy", 100 * r->exact_share.share);
    json_set_number(o, "accuracy_low", 100 * r->exact_share.low);
    json_set_number(o, "accuracy_high", 100 * r->exact_share.high);
    json_set_number(o, "f1", 100 * r->mean_f1);
    json_set_number(o, "f1_low", 100 * r->f1_low);
    json_set_number(o, "f1_high", 100 * r->f1_high);
    json_set_number(o, "nll", r->mean_nll);
    json_set_number(o, "nll_se", r->nll_se);
    return o;
}

struct json *span_answers_json(const struct span_result *r, const struct span_texts *texts)
{
    struct json *o = json_object();
    for (int64_t i = 0; i < r->n; i++) {
        char number[32];
        const char *id = texts->question[i].id;
        snprintf(number, sizeof number, "%lld", (long long)i + 1);
        json_append(o, id ? id : number, json_from_string(r->answer[i]));
    }
    return o;
}
