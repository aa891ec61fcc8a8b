// rows.c: see rows.h.
#include "recipes/rows.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/threads.h"
#include "common/eval/cka.h"
#include "common/eval/evaluate.h"
#include "common/eval/evaluate_classes.h"
#include "common/eval/evaluate_images.h"
#include "common/eval/evaluate_masked.h"
#include "common/eval/evaluate_spans.h"
#include "common/eval/generate.h"
#include "common/eval/statistics.h"
#include "recipes/forecast.h"
#include "recipes/inputs.h"
#include "recipes/process.h"
#include "recipes/shape.h"
#include "recipes/weight_errors.h"

static char *kept_path(const struct row_source *s, const char *prefix, const char *suffix) {
    char *name = xasprintf("%s-%s%s", prefix, s->name, suffix), *path;
    for (char *p = name; *p; p++)
        *p = isalnum((unsigned char)*p) || *p == '.' ? *p : '-';
    path = path_join(s->folder, name);
    free(name);
    return path;
}

// A kept measurement, when it was made from the same things.
static struct json *take_kept(const char *path, const char *key) {
    struct error err;
    struct json *o = file_exists(path) ? json_read(path, &err) : NULL;
    const char *found = json_string(json_get(o, "key"));
    if (found && strcmp(found, key) == 0) {
        json_remove(o, "key");
        return o;
    }
    json_free(o);
    return NULL;
}

static int keep(const struct json *o, const char *path, const char *key, struct error *err) {
    struct json *copy = json_copy(o);
    json_set_string(copy, "key", key);
    char *text = json_text(copy, 1);
    int result = file_write(path, text, strlen(text), err);
    free(text);
    json_free(copy);
    return result;
}

// An evaluation's figures into the facts (o is used up), and the loss of every item into a file.
static int add_result(const struct row_source *s, struct json *facts, struct json *o, const double *losses, int64_t n, struct error *err) {
    for (const struct json *v = json_first(o); v; v = json_next(v))
        json_set(facts, json_key(v), json_copy(v));
    json_free(o);
    char *path = kept_path(s, "losses", ".f64");
    int status = file_write(path, losses, (size_t)n * sizeof *losses, err);
    free(path);
    return status;
}

static int evaluate_image_row(struct run *run, const struct row_source *s, struct opened *m, struct json *facts,
                              struct error *err) {
    struct image_result result;
    evaluate_images(&result, m->model, &run->inputs->images.test, 0, 0);
    int status = add_result(s, facts, image_result_json(&result), result.image_nll, result.n, err);
    image_result_release(&result);
    return status;
}

static int evaluate_masked_row(struct run *run, const struct row_source *s, struct opened *m, struct json *facts, struct error *err) {
    struct masked_result result;
    evaluate_masked(&result, m->model, &run->inputs->test, PRECISION_F32);
    int status = add_result(s, facts, masked_result_json(&result), result.nll, result.n, err);
    masked_result_release(&result);
    return status;
}

static int evaluate_span_row(struct run *run, const struct row_source *s, struct opened *m, struct json *facts, struct error *err) {
    struct span_result result;
    evaluate_spans(&result, m->model, &run->inputs->test, &run->inputs->test_texts, PRECISION_F32);
    int status = add_result(s, facts, span_result_json(&result), result.nll, result.n, err);
    span_result_release(&result);
    return status;
}

static int evaluate_example_row(struct run *run, const struct row_source *s, struct opened *m, struct json *facts, struct error *err) {
    const struct examples *test = &run->inputs->test;
    const enum model_head_kind head = m->model->config.head;
    struct class_result result;
    if (test->n == 0 || head != run->parent.model->config.head) // of stages on the way to a classifier the labels say nothing
        return 0;
    if (head == HEAD_MASKED)
        return evaluate_masked_row(run, s, m, facts, err);
    if (head == HEAD_SPANS)
        return evaluate_span_row(run, s, m, facts, err);
    evaluate_classes(&result, m->model, test, PRECISION_F32);
    int status = add_result(s, facts, class_result_json(&result), result.nll, result.n, err);
    class_result_release(&result);
    return status;
}

static int evaluate_row(struct run *run, const struct recipe *r, const struct row_source *s, struct opened *m,
                        struct json *facts, struct error *err) {
    const struct dataset *text = &run->inputs->eval.data;
    if (run->inputs->has_images)
        return evaluate_image_row(run, s, m, facts, err);
    if (run->inputs->has_examples)
        return evaluate_example_row(run, s, m, facts, err);
    if (text->n_token == 0)
        return 0;
    struct eval_options options = {.protocol = EVAL_WINDOWS,
                                   .seq_len = r->data.seq_len,
                                   .tokens = r->data.eval_tokens,
                                   .precision = PRECISION_F32,
                                   .against_states = run->is_sweep ? &run->parent_states : NULL};
    struct eval_result result = {0};
    int is_parent = strcmp(s->path, run->parent.path) == 0;
    struct model *against = run->parent_is_shape || is_parent ? NULL : run_parent(run, err);
    if (!against && !run->parent_is_shape && !is_parent)
        return -1;
    if (evaluate(&result, m->model, against, text, run->parent.tokenizer, &options, err) < 0)
        return -1;
    int status = add_result(s, facts, eval_result_json(&result), result.token_nll, result.tokens, err);
    eval_result_release(&result);
    return status;
}

// The loss on each source's own held-out text, where it has some: "sources".
static int evaluate_sources(struct run *run, const struct recipe *r, struct opened *m, struct json *facts, struct error *err) {
    struct json *list = json_array();
    int status = 0;
    for (int k = 0; k < run->inputs->n_source && status == 0; k++) {
        double loss;
        int64_t tokens;
        if (!run->inputs->source_eval[k].n_token)
            continue;
        status = run_source_loss(run, r, m->model, k, &loss, &tokens, err);
        if (status < 0)
            break;
        struct json *o = json_object();
        json_set_string(o, "name", r->data.source[k].name);
        json_set_number(o, "tokens", (double)tokens);
        json_set_number(o, "nll", loss);
        json_push(list, o);
    }
    if (status == 0 && json_count(list))
        json_set(facts, "sources", list);
    else
        json_free(list);
    return status;
}

// The first tokens of the held-out text or examples; f points into what the caller frees. Returns how many positions count.
static int64_t cka_batch(const struct run *run, int64_t seq_len, struct example_batch *b, struct forward *f, int32_t position[CKA_TOKENS]) {
    const struct dataset *text = &run->inputs->eval.data;
    const struct examples *e = &run->inputs->test;
    int64_t number[CKA_TOKENS], n = 0;
    if (e->n) {
        const int64_t longest = e->longest, sequences = CKA_TOKENS / longest < 1 ? 1 : CKA_TOKENS / longest;
        const int64_t B = sequences < e->n ? sequences : e->n;
        for (int64_t i = 0; i < B; i++)
            number[i] = i;
        example_batch_init(b, B, longest);
        examples_pick(e, number, B, b);
    } else {
        const int64_t T = seq_len < CKA_TOKENS ? seq_len : CKA_TOKENS, B = CKA_TOKENS / T;
        if (text->n_token < B * T)
            return 0;
        example_batch_init(b, B, T);
        memcpy(b->ids, text->token, (size_t)(B * T) * sizeof *b->ids);
        b->B = B;
        b->T = T;
        for (int64_t i = 0; i < B; i++)
            b->length[i] = (int32_t)T;
    }
    *f = (struct forward){.ids = b->ids, .B = b->B, .T = b->T, .length = b->length, .types = e->n ? b->types : NULL};
    for (int64_t i = 0; i < b->B * b->T && n < CKA_TOKENS; i++)
        if (i % b->T < b->length[i / b->T])
            position[n++] = (int32_t)i;
    return n;
}

// "cka": rows are the model's layers, columns the parent's, each with the embeddings first; null where it cannot be told.
static int cka_facts(struct run *run, const struct recipe *r, const struct row_source *s, struct opened *m, struct json *facts,
                     struct error *err) {
    const struct config *c = &m->model->config, *p = &run->parent.model->config;
    if (run->is_sweep || run->parent_is_shape || strcmp(s->path, run->parent.path) == 0 || !model_has_blocks(c) || !model_has_blocks(p) || c->vocab != p->vocab)
        return 0;
    struct model *parent = run_parent(run, err);
    if (!parent)
        return -1;
    struct example_batch batch = {0};
    struct forward f;
    int32_t position[CKA_TOKENS];
    const int64_t n = cka_batch(run, r->data.seq_len, &batch, &f, position);
    if (n >= 4) {
        struct cka cka;
        struct json *table = json_array();
        cka_measure(&cka, m->model, parent, &f, position, n);
        for (int64_t i = 0; i < cka.rows; i++) {
            struct json *row = json_array();
            for (int64_t j = 0; j < cka.columns; j++)
                json_push(row, json_from_number(round(cka.value[i * cka.columns + j] * 1e4) / 1e4));
            json_push(table, row);
        }
        json_set(facts, "cka", table);
        cka_release(&cka);
    }
    example_batch_release(&batch);
    return 0;
}

// Sizes after gzip say something where weights are zero or rounded, and of the parent beside such.
static int wants_gzip(const struct run *run, const struct recipe *r, const struct row_source *s) {
    int quantizes = 0;
    for (int i = 0; i < r->n_stage; i++)
        quantizes |= r->stage[i].type == &stage_quantize;
    return stage_after_sparsify(r, r->n_stage) || s->is_quantized || (quantizes && strcmp(s->path, run->parent.path) == 0);
}

// Left out where layers were filled up, so that shapes differ.
static void add_weight_errors(const struct row_source *s, struct opened *m, struct json *facts) {
    struct opened from = {0};
    struct error err;
    if (s->from && opened_look(&from, s->from, 1, &err) == 0 && opened_map(&from, &err) == 0) {
        struct json *list = weight_errors(m, &from, &err);
        if (list)
            json_set(facts, "weight_errors", list);
    }
    opened_release(&from);
}

static int facts_make(struct run *run, const struct recipe *r, const struct row_source *s, struct opened *m,
                      struct json *facts, struct error *err) {
    const struct config *c = &m->model->config;
    char hash[HASH_TEXT];
    TRY(model_hash(s->path, 0, hash, err));
    json_set_string(facts, "name", s->name);
    json_set_string(facts, "path", s->shown);
    json_set_string(facts, "hash", hash);
    json_set(facts, "shape", shape_json(c));
    json_set_number(facts, "parameters", (double)config_parameters(c));
    json_set_number(facts, "flops_per_token", model_flops_per_token(c, r->data.seq_len));
    json_set_number(facts, "prefill_flops_per_token",
                    model_flops_per_token(c, r->data.seq_len) - 2 * (double)c->vocab * (double)c->hidden);
    json_set_number(facts, "bytes", (double)model_bytes(s->path));
    json_set_number(facts, "bits_per_weight", 8 * (double)model_bytes(s->path) / (double)config_parameters(c));
    if (wants_gzip(run, r, s)) {
        int64_t gzip;
        TRY(model_gzip_bytes(s->path, &gzip, err));
        json_set_number(facts, "gzip_bytes", (double)gzip);
    }
    json_set(facts, "loads", loads_json(c, m->is_gguf));
    add_weight_errors(s, m, facts);
    TRY(evaluate_row(run, r, s, m, facts, err));
    TRY(evaluate_sources(run, r, m, facts, err));
    return cka_facts(run, r, s, m, facts, err);
}

// llama-bench's figures for the file, where that program is on PATH.
static void add_llama_bench(struct json *measured, const char *path) {
    char threads[16];
    snprintf(threads, sizeof threads, "%d", threads_count());
    const char *argv[] = {"llama-bench", "-m", path, "-p", "256", "-n", "64", "-t", threads, "-o", "json", NULL};
    size_t len;
    struct error err;
    char *text = process_output(argv, NULL, &len);
    struct json *list = text ? json_parse(text, len, "llama-bench", 0, &err) : NULL;
    for (const struct json *one = json_first(list); one; one = json_next(one)) {
        const char *key = json_number(json_get(one, "n_gen")) > 0 ? "llama_bench_decode" : "llama_bench_prefill";
        json_set_number(measured, key, json_number(json_get(one, "avg_ts")));
    }
    json_free(list);
    free(text);
}

#define LARGE 100000000 // parameters, of which more take minutes
#define BATCH 8       // sequences of a prefill at once, which uses the machine better than one
#define BATCH_RUNS 5  // of which the median counts

// Prefills of several sequences, in turns with the parent's where that is at hand: a machine's speed drifts.
static void add_batch_speed(struct json *o, const struct run *run, struct model *m, int64_t tokens) {
    struct model *model[2] = {m, run->parent.model};
    int n = model[1] && model[1]->data && model[1] != m ? 2 : 1;
    struct speed_timer timer[2];
    double seconds[2][BATCH_RUNS];
    for (int i = 0; i < n; i++)
        speed_timer_init(&timer[i], model[i], BATCH, tokens);
    for (int turn = -1; turn < BATCH_RUNS; turn++) // the first warms up
        for (int i = 0; i < n; i++)
            seconds[i][turn < 0 ? 0 : turn] = speed_timer_run(&timer[i]);
    for (int i = 0; i < n; i++) {
        speed_timer_release(&timer[i]);
        sort_doubles(seconds[i], BATCH_RUNS);
    }
    double median = seconds[0][BATCH_RUNS / 2];
    json_set_number(o, "batch_prefill_tokens_per_second", (double)(BATCH * tokens) / median);
    if (n == 2)
        json_set_number(o, "batch_prefill_speedup", seconds[1][BATCH_RUNS / 2] / median);
}

static struct json *measure_speed(const struct run *run, const struct row_source *s, struct opened *m) {
    struct json *o = json_object();
    struct speed_result speed;
    if (!model_is_language(&m->model->config))
        return o;
    if (!model_is_causal(&m->model->config)) { // it reads whole sequences, and writes nothing
        if (!run->is_sweep && m->model->n_element <= LARGE)
            add_batch_speed(o, run, m->model, run->recipe->data.seq_len);
        return o;
    }
    int64_t room = m->model->config.context, prefill = SPEED_PREFILL, decode = SPEED_DECODE;
    if (room > 0 && room < prefill + decode) {
        decode = room / 5 > 0 ? room / 5 : 1;
        prefill = room - decode > 0 ? room - decode : 1;
    }
    log_debug("%s: prefill of %ld tokens, decoding of %ld", s->name, (long)prefill, (long)decode);
    speed_measure(m->model, prefill, decode, &speed);
    json_set_number(o, "prefill_tokens_per_second", speed.prefill);
    json_set_number(o, "decode_tokens_per_second", speed.decode);
    if (!run->is_sweep && m->model->n_element <= LARGE)
        add_batch_speed(o, run, m->model, prefill);
    if (m->is_gguf)
        add_llama_bench(o, s->path);
    return o;
}

int row_make(struct run *run, const struct recipe *r, const struct row_source *s, struct json **facts,
             struct json **measured, struct error *err) {
    char *key = xasprintf("%s %s %s %s %ld %ld %s", s->hash, run->parent_hash, wants_gzip(run, r, s) ? "gzip" : "plain", run->inputs->eval.hash,
                          (long)r->data.seq_len, (long)r->data.eval_tokens, PDQ_VERSION);
    char *speed_key = xasprintf("%s %d", key, threads_count());
    char *facts_path = kept_path(s, "eval", ".json"), *speed_path = kept_path(s, "speed", ".json");
    struct opened m = {0};
    int status = 0;
    *facts = take_kept(facts_path, key);
    if (measured)
        *measured = take_kept(speed_path, speed_key);
    if (!*facts || (measured && !*measured))
        status = run_borrow(run, &m, s->path, err);
    if (status == 0 && !*facts) {
        *facts = json_object();
        status = facts_make(run, r, s, &m, *facts, err);
        if (status == 0)
            status = keep(*facts, facts_path, key, err);
    }
    if (status == 0 && measured && !*measured) {
        *measured = measure_speed(run, s, &m);
        status = keep(*measured, speed_path, speed_key, err);
    }
    if (status < 0) {
        json_free(*facts);
        if (measured)
            json_free(*measured);
    } else if (json_get(*facts, "nll")) {
        log_info("%s: loss %.4f nats per %s", s->name, json_number(json_get(*facts, "nll")),
                 run->inputs->has_images ? "image" : run->inputs->has_examples ? "example" : "token");
    }
    opened_release(&m);
    free(key);
    free(speed_key);
    free(facts_path);
    free(speed_path);
    return status;
}

int row_losses(const struct row_source *s, double **losses, int64_t *n, struct error *err) {
    char *path = kept_path(s, "losses", ".f64");
    struct file_map map; // not file_read: that gunzips, and these bytes may begin with anything
    int status = file_map(&map, path, err);
    free(path);
    TRY(status);
    *n = (int64_t)(map.size / sizeof **losses);
    *losses = xmalloc((size_t)(*n + 1) * sizeof **losses, "losses of tokens");
    memcpy(*losses, map.data, (size_t)*n * sizeof **losses);
    file_unmap(&map);
    return 0;
}
