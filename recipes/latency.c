// latency.c: see latency.h.
#include "recipes/latency.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/log.h"
#include "common/base/timer.h"
#include "common/eval/generate.h"
#include "common/eval/statistics.h"
#include "recipes/machine_cache.h"
#include "recipes/rows.h"

#define RUNS 9
#define TURNS 31
#define REPEATS 4  // of a block: one of them alone is too short to be measured
#define SMALLEST 0.01 // a block that takes less, in seconds, is run more often

static int64_t tokens_of(const struct config *c) {
    return c->context > 0 && c->context < SPEED_PREFILL ? c->context : SPEED_PREFILL;
}

double latency_measure(const struct config *c) {
    struct model *m = model_new(c, 1);
    model_initialise(m, 1);
    double ms = 1e3 * speed_prefill(m, tokens_of(c));
    model_free(m);
    return ms;
}

double latency_ratio(const struct config *c, const struct config *of) {
    struct model *m[2] = {model_new(c, 1), model_new(of, 1)};
    struct speed_timer timer[2];
    double seconds[2][TURNS];
    for (int i = 0; i < 2; i++) {
        model_initialise(m[i], 1);
        speed_timer_init(&timer[i], m[i], 1, tokens_of(c));
    }
    for (int turn = -2; turn < TURNS; turn++) // two to warm up
        for (int i = 0; i < 2; i++)
            seconds[i][turn < 0 ? 0 : turn] = speed_timer_run(&timer[i]);
    for (int i = 0; i < 2; i++) {
        sort_doubles(seconds[i], TURNS);
        speed_timer_release(&timer[i]);
        model_free(m[i]);
    }
    return seconds[0][TURNS / 2] / seconds[1][TURNS / 2];
}

// Seconds of one layer's forward pass, or (no layer) of embedding, last norm and head.
static double time_block(const struct config *c, const struct layer_shape *shape) {
    struct config one = *c;
    struct layer_shape layer = shape ? *shape : (struct layer_shape){0};
    one.layer = &layer;
    one.n_layer = 1;
    one.source = NULL;
    if (shape)
        one.vocab = 1;
    struct model *m = model_new(&one, 1);
    struct tape tape;
    int64_t T = tokens_of(c);
    int32_t *ids = xcalloc((size_t)T, sizeof *ids, "tokens");
    double seconds[RUNS];
    model_initialise(m, 1);
    tape_init(&tape, PRECISION_F32);
    int repeats = REPEATS;
    for (int i = -1; i < RUNS; i++) { // the first warms up
        double start = timer_now();
        for (int k = 0; k < repeats; k++) {
            struct forward f = {.ids = ids, .B = 1, .T = T, .last = shape ? 1 : 0, .checkpoint = 1};
            struct tensor *x = model_forward(m, &tape, &f);
            if (!shape) { // of the last position alone, as in a prefill
                struct tensor row = {.name = "last", .n_dim = 2, .dim = {1, c->hidden, 1}, .data = x->data + (T - 1) * c->hidden};
                model_logits(m, &tape, &row);
            }
            tape_reset(&tape);
        }
        double taken = timer_now() - start;
        if (i < 0 && taken < SMALLEST)
            repeats = (int)(SMALLEST / taken * repeats) + 1;
        else if (i >= 0)
            seconds[i] = taken / repeats;
    }
    tape_release(&tape);
    model_free(m);
    free(ids);
    sort_doubles(seconds, RUNS);
    return seconds[RUNS / 2];
}

// Milliseconds of a block from the table; what is not in it is measured now.
static double entry(struct json *table, const char *key, const struct config *c, const struct layer_shape *shape, int *grew) {
    const struct json *found = json_get(table, key);
    if (found && json_number(found) > 0)
        return json_number(found);
    double ms = 1e3 * time_block(c, shape);
    json_set_number(table, key, ms);
    *grew = 1;
    log_debug("latency: %s: %.4f ms", key, ms);
    return ms;
}

double latency_predict(const struct config *c) {
    struct json *table = machine_table_read("latency.json");
    int grew = 0;
    char *key = xasprintf("rest: hidden %ld, vocabulary %ld, %ld tokens", (long)c->hidden, (long)c->vocab, (long)tokens_of(c));
    double ms = entry(table, key, c, NULL, &grew);
    free(key);
    for (int64_t l = 0; l < c->n_layer; l++) {
        const struct layer_shape *s = &c->layer[l];
        if (s->n_head) {
            key = xasprintf("attention: hidden %ld, %ld/%ld heads of %ld, %ld tokens", (long)c->hidden, (long)s->n_head,
                            (long)s->n_kv_head, (long)c->head_dim, (long)tokens_of(c));
            ms += entry(table, key, c, &(struct layer_shape){s->n_head, s->n_kv_head, 0}, &grew);
            free(key);
        }
        if (s->n_ff) {
            key = xasprintf("ffn: hidden %ld, %ld channels, %ld tokens", (long)c->hidden, (long)s->n_ff, (long)tokens_of(c));
            ms += entry(table, key, c, &(struct layer_shape){0, 0, s->n_ff}, &grew);
            free(key);
        }
    }
    if (grew)
        machine_table_keep("latency.json", table);
    json_free(table);
    return ms;
}
