// evaluate.c: see evaluate.h.
//
// Several windows go through the model at once; of the hidden states only the rows that predict something go on to
// the output head. The per-token values are kept in the order of the text, so that statistics are paired and sums
// have one order.
#include "common/eval/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/log.h"
#include "common/base/progress.h"
#include "common/base/threads.h"
#include "common/eval/statistics.h"

#define BATCH_ROWS 2048 // tokens that go through the model at once, about

struct encoding {
    const struct tokenizer *tokenizer;
    struct dataset *dataset;
    char *text; // llama.cpp: all documents as one text
    size_t len;
    struct error *err;
    int status;
};

static void encode_document(void *context, const struct document *d)
{
    struct encoding *e = context;
    if (e->status == 0)
        e->status = dataset_add(e->dataset, e->tokenizer, d, 0, "evaluation text", e->err);
}

static void collect_document(void *context, const struct document *d)
{
    struct encoding *e = context;
    e->text = xrealloc(e->text, e->len + d->len + 1, "the text to evaluate on");
    memcpy(e->text + e->len, d->text, d->len);
    e->len += d->len;
}

// One text, in which names of control tokens are ordinary text.
static void encode_literally(struct encoding *e)
{
    struct token_list list = {0};
    const struct tokenizer *t = e->tokenizer;
    if (tokenizer_bos(t) >= 0 && tokenizer_adds_bos(t))
        token_list_push(&list, tokenizer_bos(t));
    tokenizer_encode(t, e->text ? e->text : "", e->len, TOKENIZE_LITERAL, &list, &e->dataset->invalid_bytes);
    e->dataset->text_bytes = (int64_t)e->len;
    e->dataset->token = list.id;
    e->dataset->n_token = (int64_t)list.count;
}

int eval_stream(struct dataset *d, const struct tokenizer *t, enum eval_protocol protocol, const char *const *paths,
                size_t n_paths, struct error *err)
{
    *d = (struct dataset){0};
    struct encoding e = {.tokenizer = t, .dataset = d, .err = err};
    int whole = protocol == EVAL_LLAMA_CPP;
    int status =
        dataset_documents(paths, n_paths, "evaluation text", whole ? collect_document : encode_document, &e, err);
    if (status == 0)
        status = e.status;
    if (status == 0 && whole) {
        if (e.len && e.text[e.len - 1] == '\n')
            e.len--;
        encode_literally(&e);
    }
    free(e.text);
    if (status == 0 && d->n_token < 2)
        status = error_set(err, "evaluation text: %s: found %lld token%s, need at least 2; give more text",
                           n_paths ? paths[0] : "no file", (long long)d->n_token, d->n_token == 1 ? "" : "s");
    if (status < 0)
        dataset_release(d);
    return status;
}

int64_t eval_batch_rows(int64_t seq_len) { return seq_len < BATCH_ROWS ? BATCH_ROWS / seq_len * seq_len : seq_len; }

struct run { // one call of evaluate
    struct model *model, *against;
    const struct dataset *stream;
    const struct tokenizer *tokenizer;
    const struct eval_options *options;
    struct tape tape;
    int64_t window, first;          // tokens in a window, at most; targets of a text's window begin at position first + 1
    int64_t n_window;               // the last may be shorter
    int64_t limit, done;            // tokens to predict; predicted
    int32_t *ids;                   // [rows of a batch]
    int32_t *target;                // [limit]
    int64_t *row;                   // [rows of a batch]: rows that predict
    double *nll, *against_nll, *kl; // [limit]
    unsigned char *agree;           // [limit]
    int32_t *top;                   // [limit] what the model says, of questions; NULL: of a text
    int32_t *id_bytes;              // [V]: bytes that an id adds to a text; -1: not looked up yet
    int states_are_there;           // of the other model
    double bytes, sum;              // of the text predicted; of the losses so far, for the progress line
};

static int64_t window_start(const struct run *r, int64_t w)
{
    return r->stream->n_question ? r->stream->start[w] : w * r->window;
}

// Tokens that go in, with those that are only predicted.
static int64_t window_length(const struct run *r, int64_t w)
{
    if (r->stream->n_question)
        return r->stream->start[w + 1] - r->stream->start[w];
    int64_t left = r->stream->n_token - w * r->window;
    return left < r->window ? left : r->window;
}

// Whole questions, as many as hold the tokens that are wanted.
static int plan_questions(struct run *r, struct error *err)
{
    const struct dataset *d = r->stream;
    const int64_t wanted = r->options->tokens;
    if (r->options->protocol == EVAL_LLAMA_CPP)
        return error_set(err, "evaluation: questions are not text for the llama.cpp protocol");
    TRY(dataset_fits(d, r->options->seq_len, "evaluation", err));
    r->window = r->options->seq_len + 1;
    r->limit = 0;
    for (; r->n_window < d->n_question && (!wanted || r->limit < wanted); r->n_window++)
        r->limit += d->start[r->n_window + 1] - d->answer[r->n_window];
    return 0;
}

static int plan_windows(struct run *r, struct error *err)
{
    int64_t n = r->stream->n_token, N = r->options->seq_len;
    if (r->stream->n_question)
        return plan_questions(r, err);
    r->window = N;
    if (N < 2)
        return error_set(err, "evaluation: a window has %lld tokens, need at least 2", (long long)N);
    int64_t predicted;
    if (r->options->protocol == EVAL_LLAMA_CPP) {
        r->n_window = n / N;
        r->first = N / 2;
        predicted = r->n_window * (N - 1 - r->first);
        if (r->n_window < 2)
            return error_set(
                err,
                "evaluation: the text has %lld tokens, but the llama.cpp protocol needs two windows of %lld; "
                "give more text or a smaller window",
                (long long)n, (long long)N);
        if (predicted < 1)
            return error_set(err,
                             "evaluation: a window of %lld tokens predicts none in the llama.cpp protocol; need 4",
                             (long long)N);
    } else {
        r->n_window = (n + N - 1) / N;
        predicted = n - r->n_window;
        if (predicted < 1)
            return error_set(err, "evaluation: found %lld tokens, need at least 2; give more text", (long long)n);
    }
    int64_t wanted = r->options->tokens;
    r->limit = wanted > 0 && wanted < predicted ? wanted : predicted;
    return 0;
}

// How much text a predicted token stands for. A text's first token loses the space that some tokenizers put there.
static int64_t token_bytes(struct run *r, int64_t position)
{
    int32_t id = r->stream->token[position];
    size_t len = 0;
    if (r->stream->token[position - 1] == tokenizer_bos(r->tokenizer)) {
        free(tokenizer_decode(r->tokenizer, &id, 1, &len));
        return (int64_t)len;
    }
    if (r->id_bytes[id] < 0) {
        free(tokenizer_decode_next(r->tokenizer, id, &len));
        r->id_bytes[id] = (int32_t)len;
    }
    return r->id_bytes[id];
}

// Fills ids with B windows of T tokens from window w on; notes the rows that predict and their targets. Returns their
// number.
static int64_t fill_batch(struct run *r, int64_t w, int64_t B, int64_t T)
{
    int replace = r->options->protocol == EVAL_LLAMA_CPP && tokenizer_adds_bos(r->tokenizer) &&
                  tokenizer_bos(r->tokenizer) >= 0;
    int64_t count = 0;
    for (int64_t b = 0; b < B; b++) {
        const int64_t start = window_start(r, w + b), length = window_length(r, w + b);
        const int64_t first = r->stream->n_question ? r->stream->answer[w + b] - start - 1 : r->first;
        for (int64_t j = 0; j < T; j++) {
            r->ids[b * T + j] = j < length ? r->stream->token[start + j] : 0;
            if (j < first || j + 1 >= length || r->done + count >= r->limit)
                continue;
            r->row[count] = b * T + j;
            r->target[r->done + count++] = r->stream->token[start + j + 1];
            r->bytes += (double)token_bytes(r, start + j + 1);
        }
        if (replace)
            r->ids[b * T] = tokenizer_bos(r->tokenizer);
    }
    return count;
}

// The final hidden states of the rows that predict: [count, D].
static struct tensor *predicting_rows(struct run *r, struct model *m, const struct forward *f, int64_t count)
{
    struct tensor *x = model_forward(m, &r->tape, f);
    int64_t D = tensor_columns(x);
    struct tensor *y = tape_tensor(&r->tape, x->name, 2, count, D, 1);
    for (int64_t i = 0; i < count; i++)
        memcpy(y->data + i * D, x->data + r->row[i] * D, (size_t)D * sizeof(float));
    return y;
}

// The other model's rows, which go through it only where no earlier evaluation has kept them.
static const float *against_rows(struct run *r, const struct forward *f, int64_t count)
{
    struct eval_states *s = r->options->against_states;
    const int64_t D = r->against->config.hidden;
    if (s && r->states_are_there)
        return s->x + r->done * D;
    const float *x = predicting_rows(r, r->against, f, count)->data;
    if (s)
        memcpy(s->x + r->done * D, x, (size_t)(count * D) * sizeof *x);
    return x;
}

static void run_batch(struct run *r, int64_t w, int64_t B, int64_t T)
{
    int64_t count = fill_batch(r, w, B, T), at = r->done;
    if (!count)
        return;
    // With checkpoint a layer's inner values are dropped as soon as its output is there.
    const struct forward f = {.ids = r->ids, .B = B, .T = T, .checkpoint = 1};
    struct tensor *x = predicting_rows(r, r->model, &f, count);
    struct head_eval e = {.targets = r->target + at, .nll = r->nll + at, .top = r->top ? r->top + at : NULL,
                          .cap = r->model->config.logit_cap};
    if (r->against) {
        e.against_x = against_rows(r, &f, count);
        e.against_w = model_head(r->against);
        e.against_cap = r->against->config.logit_cap;
        e.against_nll = r->against_nll + at;
        e.kl = r->kl + at;
        e.agree = r->agree + at;
    }
    op_head_eval(&r->tape, x, model_head(r->model), &e);
    tape_reset(&r->tape);
    for (int64_t i = at; i < at + count; i++)
        r->sum += r->nll[i];
    r->done += count;
}

// Questions that the model, always taking the likeliest token, answers to the letter: each token is the likeliest one after those
// before it.
static int64_t count_answered(const struct run *r)
{
    int64_t answered = 0, at = 0;
    for (int64_t q = 0; r->top && q < r->n_window; q++) {
        const int64_t n = r->stream->start[q + 1] - r->stream->answer[q];
        answered += memcmp(r->top + at, r->target + at, (size_t)n * sizeof *r->top) == 0;
        at += n;
    }
    return answered;
}

static void summarise(struct run *r, struct eval_result *out)
{
    int64_t n = r->done;
    out->tokens = n;
    out->nll = mean_of(r->nll, n);
    out->nll_se = standard_error(r->nll, NULL, out->nll, n);
    out->ppl = exp(out->nll);
    out->bits_per_byte = r->bytes > 0 ? out->nll * (double)n / M_LN2 / r->bytes : (double)NAN;
    out->compared = r->against != NULL;
    out->questions = r->top ? r->n_window : 0;
    out->answered = count_answered(r);
    if (!r->against)
        return;
    out->against_nll = mean_of(r->against_nll, n);
    struct paired d = paired_compare(r->nll, r->against_nll, n);
    out->difference = d.mean;
    out->difference_low = d.low;
    out->difference_high = d.high;
    out->kld = mean_of(r->kl, n);
    int64_t agree = 0;
    for (int64_t i = 0; i < n; i++)
        agree += r->agree[i];
    out->top1 = (double)agree / (double)n;
    double *sorted = xmalloc((size_t)n * sizeof *sorted, "losses of an evaluation");
    memcpy(sorted, r->kl, (size_t)n * sizeof *sorted);
    sort_doubles(sorted, n);
    out->kld_p95 = percentile(sorted, n, 0.95);
    out->kld_p99 = percentile(sorted, n, 0.99);
    free(sorted);
}

static int check_models(const struct model *m, const struct model *against, const struct dataset *stream,
                        const struct eval_options *o, struct error *err)
{
    if (against && against->config.vocab != m->config.vocab)
        return error_set(
            err,
            "evaluation: the model's vocabulary has %lld entries, the one it is compared with has %lld; compare "
            "models with the same tokenizer",
            (long long)m->config.vocab, (long long)against->config.vocab);
    for (int k = 0; k < 2; k++) {
        const int64_t most = k && !against ? 0 : model_positions(k ? &against->config : &m->config);
        if (most && o->seq_len > most)
            return error_set(err, "evaluation: windows of %lld tokens, and %s has learned positions for %lld; give a shorter seq_len",
                             (long long)o->seq_len, k ? "the model it is compared with" : "the model", (long long)most);
    }
    if (m->config.context > 0 && o->seq_len > m->config.context)
        log_warn("windows of %lld tokens are longer than the model's context of %lld", (long long)o->seq_len,
                 (long long)m->config.context);
    return dataset_check(stream, m->config.vocab, "evaluation text", err);
}

// A loss that is no number says that the weights are none, too, or that sums overflow.
static int check_losses(const struct run *r, struct error *err)
{
    for (int64_t i = 0; i < r->done; i++)
        for (int k = 0; k < (r->against ? 2 : 1); k++) {
            const double loss = k ? r->against_nll[i] : r->nll[i];
            if (!isfinite(loss))
                return error_set(err, "evaluation: the loss of predicted token %lld is %g: %s is broken (NaN, infinite or huge weights); fetch it again, or "
                                 "take one that was saved before its training diverged", (long long)i, loss,
                                 k ? "the model it is compared with" : "the model");
        }
    return 0;
}

// Positions that the longest of B questions needs: its last token is only predicted.
static int64_t longest(const struct run *r, int64_t w, int64_t B)
{
    int64_t T = 1;
    for (int64_t b = 0; b < B; b++)
        T = window_length(r, w + b) - 1 > T ? window_length(r, w + b) - 1 : T;
    return T;
}

static void run_windows(struct run *r)
{
    struct progress progress;
    int64_t most = eval_batch_rows(r->window) / r->window, predicted = r->stream->n_question ? 1 : r->window - 1 - r->first; // by a window
    if (!r->options->quiet)
        progress_begin(&progress, "eval", "tokens", r->limit, 0);
    for (int64_t w = 0, B; w < r->n_window && r->done < r->limit && !interrupted(); w += B) {
        int64_t wanted = (r->limit - r->done + predicted - 1) / predicted;
        B = r->n_window - w < most ? r->n_window - w : most;
        B = wanted < B ? wanted : B;
        if (!r->stream->n_question && B > 1 && window_length(r, w + B - 1) < r->window)
            B--; // the short one goes alone
        run_batch(r, w, B, r->stream->n_question ? longest(r, w, B) : window_length(r, w));
        if (!r->options->quiet)
            progress_update(&progress, r->done, "loss %.4f", r->sum / (double)r->done);
    }
    if (!r->options->quiet)
        progress_end(&progress, "loss %.4f", r->sum / (double)r->done);
}

static void run_allocate(struct run *r)
{
    size_t n = (size_t)r->limit, rows = (size_t)eval_batch_rows(r->window);
    r->ids = xmalloc(rows * sizeof *r->ids, "tokens of an evaluation");
    r->row = xmalloc(rows * sizeof *r->row, "tokens of an evaluation");
    r->target = xmalloc(n * sizeof *r->target, "tokens of an evaluation");
    r->nll = xmalloc(n * sizeof *r->nll, "losses of an evaluation");
    if (r->stream->n_question)
        r->top = xmalloc(n * sizeof *r->top, "answers of an evaluation");
    if (r->against) {
        r->against_nll = xmalloc(n * sizeof *r->nll, "losses of an evaluation");
        r->kl = xmalloc(n * sizeof *r->kl, "losses of an evaluation");
        r->agree = xmalloc(n, "losses of an evaluation");
    }
    struct eval_states *s = r->options->against_states;
    if (r->against && s) {
        r->states_are_there = s->x && s->rows == r->limit && s->seq_len == r->window && s->stream == r->stream && s->model == r->against;
        if (!r->states_are_there) {
            eval_states_release(s);
            *s = (struct eval_states){.rows = r->limit, .seq_len = r->window, .stream = r->stream, .model = r->against};
            s->x = xmalloc(n * (size_t)r->against->config.hidden * sizeof *s->x, "the parent's hidden states");
        }
    }
    size_t vocab = (size_t)r->model->config.vocab;
    r->id_bytes = xmalloc(vocab * sizeof *r->id_bytes, "lengths of tokens");
    memset(r->id_bytes, 0xff, vocab * sizeof *r->id_bytes);
    tape_init(&r->tape, r->options->precision);
}

void eval_states_release(struct eval_states *s)
{
    free(s->x);
    *s = (struct eval_states){0};
}

int evaluate(struct eval_result *r, struct model *m, struct model *against, const struct dataset *stream,
             const struct tokenizer *t, const struct eval_options *o, struct error *err)
{
    *r = (struct eval_result){0};
    struct run run = {.model = m, .against = against, .stream = stream, .tokenizer = t, .options = o};
    TRY(check_models(m, against, stream, o, err));
    TRY(plan_windows(&run, err));
    run_allocate(&run);
    run_windows(&run);
    int status = run.done < run.limit ? error_set(err, "evaluation: interrupted; run the same command again") : check_losses(&run, err);
    if (status < 0) {
        if (o->against_states)
            eval_states_release(o->against_states); // not all of them are there
        free(run.nll);
        free(run.kl);
    } else {
        summarise(&run, r);
        r->token_nll = run.nll;
        r->token_kl = run.kl;
    }
    tape_release(&run.tape);
    free(run.ids);
    free(run.row);
    free(run.target);
    free(run.against_nll);
    free(run.agree);
    free(run.top);
    free(run.id_bytes);
    return status;
}

void eval_result_release(struct eval_result *r)
{
    free(r->token_nll);
    free(r->token_kl);
    *r = (struct eval_result){0};
}

struct json *eval_result_json(const struct eval_result *r)
{
    struct json *o = json_object();
    const double compared = r->compared ? 1 : (double)NAN; // NaN is written as null
    json_set_number(o, "tokens", (double)r->tokens);
    json_set_number(o, "nll", r->nll);
    json_set_number(o, "nll_se", r->nll_se);
    json_set_number(o, "ppl", r->ppl);
    json_set_number(o, "bits_per_byte", r->bits_per_byte);
    if (r->questions) {
        json_set_number(o, "questions", (double)r->questions);
        json_set_number(o, "answered", (double)r->answered);
    }
    json_set_number(o, "kld", compared * r->kld);
    json_set_number(o, "top1", compared * r->top1);
    json_set_number(o, "kld_p95", compared * r->kld_p95);
    json_set_number(o, "kld_p99", compared * r->kld_p99);
    json_set_number(o, "against_nll", compared * r->against_nll);
    json_set_number(o, "ppl_ratio", compared * exp(r->nll - r->against_nll));
    json_set_number(o, "difference", compared * r->difference);
    json_set_number(o, "difference_low", compared * r->difference_low);
    json_set_number(o, "difference_high", compared * r->difference_high);
    return o;
}
