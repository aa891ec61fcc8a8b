// Evaluation counted by hand; a model against itself and another; generation with and without the cache agree.
#include <criterion/criterion.h>
#include <math.h>

#include "common/base/log.h"
#include "common/base/threads.h"
#include "common/base/random.h"
#include "common/eval/cka.h"
#include "common/eval/evaluate.h"
#include "common/eval/generate.h"
#include "common/tensor/ops.h"
#include "tests/unit/tiny.h"
#include "tests/unit/tolerance.h"

// Loss of predicting ids[at] from ids[from .. at-1], in double from the logits.
static double naive_loss(struct model *m, const int32_t *ids, int64_t from, int64_t at, int32_t first)
{
    struct tape tape;
    tape_init(&tape, PRECISION_F32);
    int32_t window[256];
    for (int64_t i = from; i < at; i++)
        window[i - from] = ids[i];
    window[0] = first;
    const int64_t n = at - from, V = m->config.vocab;
    const struct forward f = {.ids = window, .B = 1, .T = n};
    const float *z = op_linear(&tape, model_forward(m, &tape, &f), model_head(m), NULL)->data + (n - 1) * V;
    double sum = 0, top = (double)z[0];
    for (int64_t v = 1; v < V; v++)
        top = fmax(top, (double)z[v]);
    for (int64_t v = 0; v < V; v++)
        sum += exp((double)z[v] - top);
    double loss = log(sum) + top - (double)z[ids[at]];
    tape_release(&tape);
    return loss;
}

struct bench {
    struct model *model;
    struct tokenizer *tokenizer;
    struct dataset data;
    struct eval_options options;
};

static void bench_init(struct bench *b, enum eval_protocol protocol, int64_t n, int64_t seq_len)
{
    log_level = LOG_QUIET;
    *b = (struct bench){.model = tiny_model(2, 32, 9), .tokenizer = tiny_tokenizer(), .data = tiny_data(n)};
    b->options = (struct eval_options){.protocol = protocol, .seq_len = seq_len, .quiet = 1};
}

static void bench_release(struct bench *b)
{
    model_free(b->model);
    tokenizer_free(b->tokenizer);
    dataset_release(&b->data);
}

static void run(struct bench *b, struct model *against, struct eval_result *r)
{
    struct error err;
    cr_assert_eq(evaluate(r, b->model, against, &b->data, b->tokenizer, &b->options, &err), 0, "%s", err.text);
}

#define LOSS_TOLERANCE 2e-5 // f32 logits of two shapes of the same product

Test(evaluate, windows_by_hand)
{
    struct bench b;
    struct eval_result r;
    bench_init(&b, EVAL_WINDOWS, 43, 10); // 4 windows of 9 predictions and one of 2
    run(&b, NULL, &r);
    cr_assert_eq(r.tokens, 38);
    int64_t k = 0;
    double sum = 0, square = 0;
    for (int64_t start = 0; start < 43; start += 10)
        for (int64_t at = start + 1; at < start + 10 && at < 43; at++, k++) {
            const double loss = naive_loss(b.model, b.data.token, start, at, b.data.token[start]);
            cr_assert_float_eq(r.token_nll[k], loss, LOSS_TOLERANCE, "token %ld: %g, expected %g", (long)k,
                               r.token_nll[k], loss);
            sum += r.token_nll[k];
            square += r.token_nll[k] * r.token_nll[k];
        }
    cr_assert_float_eq(r.nll, sum / 38, DOUBLE_SUM);
    cr_assert_float_eq(r.nll_se, sqrt((square - sum * sum / 38) / 37 / 38), DOUBLE_SUM);
    cr_assert_float_eq(r.ppl, exp(r.nll), DOUBLE_SUM * r.ppl);
    cr_assert_float_eq(r.bits_per_byte, r.nll / log(2), DOUBLE_SUM); // a token is a byte here
    cr_assert_not(r.compared);
    struct json *o = eval_result_json(&r);
    cr_assert_eq(json_number(json_get(o, "tokens")), 38);
    cr_assert_eq(json_number(json_get(o, "nll")), r.nll);
    cr_assert_eq(json_kind(json_get(o, "kld")), JSON_NULL);
    cr_assert_eq(json_kind(json_get(o, "top1")), JSON_NULL);
    json_free(o);
    // A limit takes the first tokens and changes nothing else.
    for (int64_t limit = 1; limit <= 40; limit += 13) {
        struct eval_result some;
        b.options.tokens = limit;
        run(&b, NULL, &some);
        cr_assert_eq(some.tokens, limit < 38 ? limit : 38);
        for (int64_t i = 0; i < some.tokens; i++)
            cr_assert_float_eq(some.token_nll[i], r.token_nll[i], LOSS_TOLERANCE);
        eval_result_release(&some);
    }
    eval_result_release(&r);
    bench_release(&b);
}

Test(evaluate, llama_cpp_by_hand)
{
    struct bench b;
    struct eval_result r;
    bench_init(&b, EVAL_LLAMA_CPP, 35, 10); // 3 whole windows, targets at 6..9
    run(&b, NULL, &r);
    cr_assert_eq(r.tokens, 12);
    int64_t k = 0;
    for (int64_t start = 0; start < 30; start += 10)
        for (int64_t at = start + 6; at < start + 10; at++, k++) {
            const double loss = naive_loss(b.model, b.data.token, start, at, 1); // <s> first
            cr_assert_float_eq(r.token_nll[k], loss, LOSS_TOLERANCE, "token %ld", (long)k);
        }
    eval_result_release(&r);
    b.options.seq_len = 20;
    struct error err;
    cr_assert_eq(evaluate(&r, b.model, NULL, &b.data, b.tokenizer, &b.options, &err), -1);
    cr_assert_not_null(strstr(err.text, "two windows of 20"), "%s", err.text);
    bench_release(&b);
}

Test(evaluate, against_itself_and_another)
{
    struct bench b;
    struct eval_result r;
    bench_init(&b, EVAL_WINDOWS, 400, 32);
    run(&b, b.model, &r);
    cr_assert(r.compared);
    cr_assert_lt(fabs(r.kld), FLOAT_FEW); // roundings of sums that cancel
    cr_assert_eq(r.top1, 1);
    cr_assert_eq(r.difference, 0);
    eval_result_release(&r);

    struct model *other = tiny_model(1, 48, 4);
    run(&b, other, &r);
    cr_assert_gt(r.kld, 0.01);
    cr_assert_geq(r.kld_p95, r.kld);
    cr_assert_geq(r.kld_p99, r.kld_p95);
    cr_assert_lt(r.top1, 1);
    cr_assert_float_eq(r.difference, r.nll - r.against_nll, DOUBLE_SUM);
    cr_assert_float_eq(r.difference_high - r.difference, r.difference - r.difference_low, DOUBLE_SUM);
    double nll = r.nll, kld = r.kld;
    eval_result_release(&r);
    threads_set(1); // the same bits with another number of threads
    run(&b, other, &r);
    cr_assert_eq(r.nll, nll);
    cr_assert_eq(r.kld, kld);
    eval_result_release(&r);

    other->config.vocab--;
    struct error err;
    cr_assert_eq(evaluate(&r, b.model, other, &b.data, b.tokenizer, &b.options, &err), -1);
    cr_assert_not_null(strstr(err.text, "258"), "%s", err.text);
    other->config.vocab++;
    model_free(other);
    bench_release(&b);
}

Test(evaluate, streams)
{
    char *folder = tiny_folder(), *path = tiny_file(folder, "a.txt", "ab</s>\n\n");
    const char *paths[] = {path};
    struct tokenizer *t = tiny_tokenizer();
    struct dataset d;
    struct error err;
    cr_assert_eq(eval_stream(&d, t, EVAL_WINDOWS, paths, 1, &err), 0, "%s", err.text);
    cr_assert_eq(d.n_token, 1 + 2 + 1 + 2); // </s> is one token
    cr_assert_eq(d.token[0], 1);
    dataset_release(&d);
    cr_assert_eq(eval_stream(&d, t, EVAL_LLAMA_CPP, paths, 1, &err), 0, "%s", err.text);
    cr_assert_eq(d.n_token, 1 + 2 + 4 + 1); // here it is text, and one newline is gone
    cr_assert_eq(d.token[0], 1);
    cr_assert_eq(d.text_bytes, 7);
    dataset_release(&d);
    free(path);
    path = tiny_file(folder, "empty.txt", "");
    paths[0] = path;
    for (int protocol = EVAL_WINDOWS; protocol <= EVAL_LLAMA_CPP; protocol++) {
        cr_assert_eq(eval_stream(&d, t, (enum eval_protocol)protocol, paths, 1, &err), -1);
        cr_assert_not_null(strstr(err.text, "empty.txt"), "%s", err.text);
    }
    tokenizer_free(t);
    free(path);
    tiny_remove(folder);
}

static int collect(void *context, int32_t id)
{
    struct token_list *list = context;
    list->id = xrealloc(list->id, (list->count + 1) * sizeof *list->id, "test");
    list->id[list->count++] = id;
    return 0;
}

Test(generate, greedy_is_the_likeliest_next_token)
{
    struct model *m = tiny_model(2, 32, 9);
    int32_t ids[32] = {1, 70, 80};
    struct token_list out = {0};
    const struct generate_options o = {.tokens = 12};
    cr_assert_eq(generate(m, ids, 3, &o, collect, &out), 12);
    struct tape tape;
    tape_init(&tape, PRECISION_F32);
    for (int64_t n = 3; n < 15; n++) { // the whole text again for each token, without a cache
        const struct forward f = {.ids = ids, .B = 1, .T = n};
        const float *z =
            op_linear(&tape, model_forward(m, &tape, &f), model_head(m), NULL)->data + (n - 1) * TINY_VOCAB;
        int32_t best = 0;
        for (int32_t v = 1; v < TINY_VOCAB; v++)
            best = z[v] > z[best] ? v : best;
        cr_assert_eq(out.id[n - 3], best);
        ids[n] = best;
    }
    tape_release(&tape);
    token_list_free(&out);
    model_free(m);
}

Test(generate, speed_is_measured)
{
    struct model *m = tiny_model(1, 32, 9);
    struct speed_result speed;
    speed_measure(m, 16, 4, &speed);
    cr_assert_gt(speed.prefill, 0);
    cr_assert_gt(speed.decode, 0);
    model_free(m);
}

// The U-statistic that the closed form sums up (Song et al. 2012, equation 4), over all four different items.
static double hsic_by_tuples(const float *a, const float *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            for (int64_t q = 0; q < n; q++)
                for (int64_t r = 0; r < n; r++)
                    if (i != j && i != q && i != r && j != q && j != r && q != r) {
                        const double k = (double)a[i * n + j];
                        sum += k * ((double)b[i * n + j] + (double)b[q * n + r] - 2 * (double)b[i * n + q]);
                    }
    return sum;
}

Test(evaluate, cka)
{
    enum { N = 9, D = 3 };
    float x[2][N * D], gram[2][N * N] = {{0}};
    struct random r;
    random_init(&r, 3, "cka", 0);
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < N * D; i++)
            x[k][i] = (float)random_normal(&r) + 2; // a mean that centring takes out
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++)
                for (int d = 0; d < D && i != j; d++)
                    gram[k][i * N + j] += x[k][i * D + d] * x[k][j * D + d];
    }
    const double ab = hsic_by_tuples(gram[0], gram[1], N), aa = hsic_by_tuples(gram[0], gram[0], N), bb = hsic_by_tuples(gram[1], gram[1], N);
    cr_expect_float_eq(cka_of(gram[0], gram[1], N), ab / sqrt(aa * bb), DOUBLE_SUM);

    struct model *m = tiny_model(2, 32, 1), *other = tiny_model(3, 24, 2);
    int32_t ids[64], position[64];
    for (int i = 0; i < 64; i++) {
        ids[i] = (int32_t)random_below(&r, TINY_VOCAB);
        position[i] = i;
    }
    const struct forward f = {.ids = ids, .B = 2, .T = 32};
    struct cka same, apart;
    cka_measure(&same, m, m, &f, position, 64);
    cka_measure(&apart, m, other, &f, position, 64);
    cr_assert_eq(same.rows, m->config.n_layer + 1);
    cr_assert_eq(apart.columns, other->config.n_layer + 1);
    for (int64_t i = 0; i < same.rows; i++) {
        cr_expect_float_eq(same.value[i * same.columns + i], 1, DOUBLE_SUM);
        cr_expect_lt(apart.value[i * apart.columns + i], 0.9);
    }
    cka_release(&same);
    cka_release(&apart);
    model_free(m);
    model_free(other);
}
