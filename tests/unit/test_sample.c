// test_sample.c: drawing a token, and many texts at once.
#include <criterion/criterion.h>
#include <math.h>

#include "common/base/threads.h"
#include "common/eval/generate.h"
#include "common/eval/sample.h"
#include "tests/unit/tiny.h"
#include "tests/unit/tolerance.h"

#define V 6
enum { DRAWS = 20000 };
static const float logits[V] = {0.0f, 2.0f, 1.0f, 2.0f, -1.0f, 0.5f};

// Shares of the tokens in many draws.
static void shares(const struct draw_options *o, double *share)
{
    struct random random;
    int32_t order[V];
    random_init(&random, 3, "draws", 0);
    memset(share, 0, V * sizeof *share);
    for (int i = 0; i < DRAWS; i++)
        share[draw_token(logits, V, o, &random, order)] += 1.0 / DRAWS;
}

// The distribution that the options mean, over the tokens in `kept`.
static void check(const struct draw_options *o, const char *kept)
{
    double found[V], wanted[V], sum = 0;
    for (int i = 0; i < V; i++)
        sum += wanted[i] = kept[i] == 'x' ? exp((double)logits[i] / o->temperature) : 0;
    shares(o, found);
    for (int i = 0; i < V; i++)
        cr_expect(wanted[i] == 0 ? found[i] == 0 : fabs(found[i] - wanted[i] / sum) < share_deviations(5, wanted[i] / sum, DRAWS) + DOUBLE_SUM, "T %g k %ld p %g: token %d has %.4f, wanted %.4f",
                  o->temperature, (long)o->top_k, o->top_p, i, found[i], wanted[i] / sum);
}

Test(draw, follows_temperature_top_k_and_top_p)
{
    check(&(struct draw_options){1, 0, 1}, "xxxxxx");
    check(&(struct draw_options){2, 0, 1}, "xxxxxx");
    check(&(struct draw_options){1, 3, 1}, ".xxx..");
    check(&(struct draw_options){1, 1, 1}, ".x....");  // of equal ones the first
    check(&(struct draw_options){1, 0, 0.1}, ".x...."); // the most likely one is always there
    check(&(struct draw_options){1, 0, 0.6}, ".x.x..");
    check(&(struct draw_options){1, 0, 0.9}, ".xxx.x");
    check(&(struct draw_options){1, 2, 0.9}, ".x.x..");
    check(&(struct draw_options){1, 100, 1}, "xxxxxx");
    cr_expect_eq(draw_token(logits, V, &(struct draw_options){.top_p = 1}, NULL, NULL), 1);
}

static struct sample_plan plan(int64_t documents, int64_t length, int64_t batch)
{
    return (struct sample_plan){.documents = documents, .length = length, .batch = batch, .bos = 1, .eos = 2, .draw = {1, 0, 1}, .seed = 5};
}

// Every sequence of a batch gets the token that it would get alone: greedily, against the decoder of one sequence.
static int collect(void *context, int32_t id)
{
    int32_t **to = context;
    *(*to)++ = id;
    return 0;
}

Test(sample, a_batch_is_its_sequences)
{
    enum { LENGTH = 30, BATCH = 4 };
    struct model *m = tiny_model(2, 32, 9);
    struct sample_plan p = plan(BATCH, LENGTH, BATCH);
    p.draw.temperature = 0;
    p.start = SAMPLE_TOKEN;
    p.eos = -1;
    int32_t out[BATCH * LENGTH], alone[LENGTH];
    sample_batch(m, &p, 0, BATCH, out);
    for (int b = 0; b < BATCH; b++) {
        int32_t *to = alone;
        const struct generate_options o = {.tokens = LENGTH - 2};
        generate(m, out + b * LENGTH, 2, &o, collect, &to);
        cr_expect_eq(out[b * LENGTH], 1);
        cr_expect_arr_eq(out + b * LENGTH + 2, alone, (LENGTH - 2) * sizeof *alone, "sequence %d", b);
    }
    cr_expect_neq(out[1], out[LENGTH + 1]); // they begin apart
    model_free(m);
}

Test(sample, the_same_at_any_number_of_threads_and_from_any_batch)
{
    enum { LENGTH = 20, BATCH = 3 };
    struct model *m = tiny_model(1, 32, 9);
    struct sample_plan p = plan(8, LENGTH, BATCH);
    int32_t all[9 * LENGTH], again[9 * LENGTH];
    threads_set(1);
    for (int64_t first = 0; first < 8; first += BATCH)
        sample_batch(m, &p, first, first + BATCH > 8 ? 8 - first : BATCH, all + first * LENGTH);
    threads_set(3);
    for (int64_t first = 6; first >= 0; first -= BATCH)
        sample_batch(m, &p, first, first + BATCH > 8 ? 8 - first : BATCH, again + first * LENGTH);
    cr_expect_arr_eq(all, again, 8 * LENGTH * sizeof *all);
    cr_expect_neq(memcmp(all, all + LENGTH, LENGTH * sizeof *all), 0);
    p.seed = 6;
    sample_batch(m, &p, 0, BATCH, again);
    cr_expect_neq(memcmp(all, again, LENGTH * sizeof *all), 0);
    model_free(m);
}

// A text that ends is followed by another one; without BOS a document begins anywhere.
Test(sample, ends_and_beginnings)
{
    enum { LENGTH = 40, BATCH = 8 };
    struct model *m = tiny_model(1, 32, 9);
    struct sample_plan p = plan(BATCH, LENGTH, BATCH);
    p.eos = 50;                // of 259 tokens some come up
    p.draw.temperature = 100; // nearly evenly
    int32_t out[BATCH * LENGTH];
    int ends = 0, firsts = 0;
    sample_batch(m, &p, 0, BATCH, out);
    for (int i = 0; i + 1 < BATCH * LENGTH; i++)
        if (out[i] == p.eos && i % LENGTH < LENGTH - 1) {
            cr_expect_eq(out[i + 1], p.bos);
            ends++;
        }
    cr_expect_gt(ends, 0);
    p.bos = -1;
    sample_batch(m, &p, 0, BATCH, out);
    for (int b = 1; b < BATCH; b++)
        firsts += out[b * LENGTH] != out[0];
    cr_expect_gt(firsts, BATCH / 2);
    model_free(m);
}
