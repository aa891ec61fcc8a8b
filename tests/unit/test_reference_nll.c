// test_reference_nll.c: two real checkpoints on eight stories against reference values that were made outside the
// project (a float64 NumPy forward pass): token ids equal, summed losses within 1e-5 in f32, the same bits with 1 and
// 2 threads.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/threads.h"
#include "common/eval/evaluate.h"
#include "common/model/load.h"
#include "common/text/tokenizer.h"
#include "tests/unit/shared_path.h"

// Of the sum: acceptance's bound. A single loss or logit is a sum of some hundred f32 products: 1e-4 of a few units.
#define SUM_TOLERANCE 1e-5
#define SINGLE_TOLERANCE 1e-4

#define LONGEST 256 // the reference's ids and losses are the first 256 tokens

struct subject {
    const char *name;
    struct tokenizer *tokenizer;
    struct model *model;
};

// ids from the text, checked against the reference's; returns how many the reference has.
static int64_t check_ids(const struct subject *s, const struct json *story, int number, int32_t *ids) {
    const char *text = json_string(json_get(story, "text"));
    struct token_list list = {0};
    int64_t invalid = 0, n = 0;
    tokenizer_encode(s->tokenizer, text, strlen(text), TOKENIZE_SPECIAL, &list, &invalid);
    for (struct json *id = json_first(json_get(story, "ids")); id; id = json_next(id), n++) {
        cr_assert(n < (int64_t)list.count, "%s, story %d: only %zu tokens", s->name, number, list.count);
        cr_assert_eq(list.id[n], (int32_t)json_number(id), "%s, story %d: token %ld is %d, wanted %d", s->name,
                     number, (long)n, list.id[n], (int)json_number(id));
        ids[n] = list.id[n];
    }
    cr_assert(n <= LONGEST);
    if (n < LONGEST)
        cr_expect_eq((int64_t)list.count, n, "%s, story %d: %zu tokens, wanted %ld", s->name, number, list.count,
                     (long)n);
    cr_expect_eq(invalid, 0);
    token_list_free(&list);
    return n;
}

static void expect_first8(const char *what, const char *name, int number, const struct json *wanted,
                          const double *found) {
    int i = 0;
    for (struct json *v = json_first(wanted); v; v = json_next(v), i++)
        cr_expect(fabs(found[i] - json_number(v)) <= SINGLE_TOLERANCE, "%s, story %d: %s %d is %.9g, wanted %.9g",
                  name, number, what, i, found[i], json_number(v));
}

// Losses of ids 1 .. n-1 into nll, and the first eight logits of the last position that predicts one.
static void run_forward(const struct subject *s, const int32_t *ids, int64_t n, double *nll, double *logits) {
    struct tape tape;
    tape_init(&tape, PRECISION_F32);
    tape.recording = 0;
    struct forward f = {.ids = ids, .B = 1, .T = n - 1};
    struct tensor *x = model_forward(s->model, &tape, &f);
    struct tensor *head = model_head(s->model);
    struct head_eval eval = {.targets = ids + 1, .nll = nll};
    op_head_eval(&tape, x, head, &eval);
    struct tensor *z = op_linear(&tape, x, head, NULL);
    for (int i = 0; i < 8; i++)
        logits[i] = (double)z->data[(n - 2) * head->dim[0] + i];
    tape_release(&tape);
}

static void check_story(const struct subject *s, const struct json *story, int number) {
    int32_t ids[LONGEST];
    int64_t n = check_ids(s, story, number, ids);
    double nll[2][LONGEST], logits[2][8], wanted = json_number(json_get(story, "nll_sum"));
    cr_assert_eq(n - 1, (int64_t)json_number(json_get(story, "n")));
    for (int threads = 1; threads <= 2; threads++) {
        threads_set(threads);
        run_forward(s, ids, n, nll[threads - 1], logits[threads - 1]);
        double sum = 0;
        for (int64_t i = 0; i < n - 1; i++)
            sum += nll[threads - 1][i];
        cr_expect(fabs(sum / wanted - 1) <= SUM_TOLERANCE, "%s, story %d, %d threads: loss %.12g, wanted %.12g",
                  s->name, number, threads, sum, wanted);
        expect_first8("loss", s->name, number, json_get(story, "nll_first8"), nll[threads - 1]);
        expect_first8("logit", s->name, number, json_get(story, "last_logits_first8"), logits[threads - 1]);

        struct dataset stream = {.token = ids, .n_token = n, .text_bytes = 1};
        struct eval_options options = {.protocol = EVAL_WINDOWS, .seq_len = LONGEST, .quiet = 1};
        struct eval_result r;
        struct error err;
        cr_assert_eq(evaluate(&r, s->model, NULL, &stream, s->tokenizer, &options, &err), 0, "%s", err.text);
        cr_expect_eq(r.tokens, n - 1);
        cr_expect(fabs(r.nll * (double)r.tokens / wanted - 1) <= SUM_TOLERANCE, "%s, story %d: evaluate has %.12g",
                  s->name, number, r.nll * (double)r.tokens);
        eval_result_release(&r);
    }
    cr_expect(memcmp(nll[0], nll[1], (size_t)(n - 1) * sizeof(double)) == 0, "%s, story %d: 1 and 2 threads differ",
              s->name, number);
    cr_expect(memcmp(logits[0], logits[1], sizeof logits[0]) == 0);
}

static void check_model(const char *name) {
    char relative[128];
    snprintf(relative, sizeof relative, "models/%s", name);
    const char *folder = shared_path(relative), *reference = shared_path("reference/llama_nll.json");
    if (!folder || !reference)
        cr_skip("models/%s or reference/llama_nll.json is not in PDQ_SHARED or ../shared", name);
    struct error err;
    struct json *root = json_read(reference, &err);
    cr_assert(root, "%s", err.text);
    gemm_init();
    struct subject s = {name, tokenizer_open(folder, &err), NULL};
    cr_assert(s.tokenizer, "%s", err.text);
    s.model = model_load(folder, &err);
    cr_assert(s.model, "%s", err.text);
    int number = 0;
    for (struct json *story = json_first(json_get(json_get(root, "models"), name)); story; story = json_next(story))
        check_story(&s, story, number++);
    cr_expect_eq(number, 8);
    model_free(s.model);
    tokenizer_free(s.tokenizer);
    json_free(root);
}

Test(reference_nll, tinystories_656k) { check_model("tinystories-656k"); }

Test(reference_nll, stories260k) { check_model("stories260k"); }
