// test_ops_losses.c: mean squares, the losses and the evaluation on the head, answers' spans.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/base/threads.h"
#include "tests/unit/ops_check.h"
#include "tests/unit/tolerance.h"

TestSuite(ops, .init = gemm_init);

// ---- mse and sum -------------------------------------------------------------------------------------------------

static struct tensor *mse_build(struct op_case *c, struct tape *tape) {
    return op_mse(tape, c->in[0], c->constant, c->number);
}

static void mse_forward(const struct op_case *c, double *const *x, double *y) {
    int64_t n = tensor_count(c->in[0]);
    for (int64_t i = 0; i < n; i++)
        y[0] += c->number / (double)n * (x[0][i] - (double)c->constant[i]) * (x[0][i] - (double)c->constant[i]);
}

static void mse_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    int64_t n = tensor_count(c->in[0]);
    for (int64_t i = 0; i < n; i++)
        dx[0][i] += dy[0] * 2 * c->number / (double)n * (x[0][i] - (double)c->constant[i]);
}

// Two losses on one tensor, as the hidden states' losses are summed.
static struct tensor *sum_build(struct op_case *c, struct tape *tape) {
    struct tensor *a = op_mse(tape, c->in[0], c->constant, c->number);
    struct tensor *b = op_mse(tape, c->in[0], c->constant, 2 * c->number);
    return op_sum(tape, a, b);
}

static void sum_forward(const struct op_case *c, double *const *x, double *y) {
    mse_forward(c, x, y);
    y[0] *= 3;
}

static void sum_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    double three = 3 * dy[0];
    mse_backward(c, x, &three, dx);
}

Test(ops, mse_and_sum) {
    static const int64_t shape[][2] = {{1, 1}, {9, 20}, {130, 77}};
    for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++)
        for (int sum = 0; sum < 2; sum++) {
            struct op_case c = {.name = "mse",
                                .build = mse_build,
                                .forward = mse_forward,
                                .backward = mse_backward,
                                .f32 = POINTWISE_F32,
                                .bf16 = POINTWISE_F32};
            if (sum) {
                c.name = "sum of two mse";
                c.build = sum_build;
                c.forward = sum_forward;
                c.backward = sum_backward;
            }
            c.is_root = 1;
            c.one_precision = 1;
            c.n_in = 1;
            c.number = 0.3;
            c.in[0] = tensor_make("x", shape[s][0], shape[s][1], 1);
            struct tensor *target = tensor_make("target", shape[s][0], shape[s][1], 1);
            c.constant = target->data;
            c.n_out = 1;
            check_op(&c, shape[s][0] < 100);
            tensor_drop(target);
        }
}

// ---- the output head and its losses ------------------------------------------------------------------------------

static struct tensor *head_build(struct op_case *c, struct tape *tape) {
    return op_head_loss(tape, c->in[0], c->in[1], &c->head, &c->result);
}

// z[V] = row of x times w, capped; the weight's hook, where it has one, is the one above.
static void naive_logits(const double *x, const double *w, const struct tensor *weight, double cap, double *z) {
    int64_t V = weight->dim[0], D = weight->dim[1];
    for (int64_t v = 0; v < V; v++) {
        z[v] = 0;
        for (int64_t d = 0; d < D; d++)
            z[v] += x[d] * w[v * D + d] * (weight->hook ? hook_factor(v * D + d) : 1);
        z[v] = capped(cap, z[v]);
    }
}

struct head_scratch {
    double *z, *z_teacher, *logp, *log_student, *log_teacher;
};

static void head_scratch_init(struct head_scratch *s, const struct op_case *c) {
    int64_t V = c->in[1]->dim[0];
    s->z = zeros(V);
    s->z_teacher = zeros(V);
    s->logp = zeros(V);
    s->log_student = zeros(V);
    s->log_teacher = zeros(V);
}

static void head_scratch_drop(struct head_scratch *s) {
    free(s->z);
    free(s->z_teacher);
    free(s->logp);
    free(s->log_student);
    free(s->log_teacher);
}

// What all teachers say about row n: the mean of their probabilities and of their logits, into s.
static void naive_teachers(const struct op_case *c, int64_t n, struct head_scratch *s) {
    const struct head_spec *h = &c->head;
    const int64_t V = c->in[1]->dim[0];
    struct head_teacher first = {h->teacher_x, h->teacher_w, NULL, 1, h->teacher_cap};
    double *p = zeros(V), *z = zeros(V);
    for (int i = 0; i < h->n_further; i++)
        first.weight -= h->further[i].weight;
    for (int i = 0; i <= h->n_further; i++) {
        const struct head_teacher *t = i ? &h->further[i - 1] : &first;
        double *w = to_double(t->w->data, tensor_count(t->w)), *row = to_double(t->x + n * t->w->dim[1], t->w->dim[1]);
        naive_logits(row, w, t->w, t->cap, s->z_teacher);
        naive_log_softmax(s->z_teacher, V, h->temperature, s->log_teacher);
        for (int64_t v = 0; v < V; v++) {
            p[v] += t->weight * exp(s->log_teacher[v]);
            z[v] += t->weight * s->z_teacher[v];
        }
        free(w);
        free(row);
    }
    memcpy(s->z_teacher, z, (size_t)V * sizeof *z);
    if (h->mean_logits)
        naive_log_softmax(z, V, h->temperature, s->log_teacher);
    for (int64_t v = 0; v < V && !h->mean_logits; v++)
        s->log_teacher[v] = log(p[v]);
    free(p);
    free(z);
}

// CE and KL of row n; leaves the log probabilities in s.
static void naive_row(const struct op_case *c, double *const *x, int64_t n, struct head_scratch *s, double *ce,
                      double *kl) {
    int64_t V = c->in[1]->dim[0], D = c->in[1]->dim[1];
    const struct tensor *teacher = c->head.teacher_w;
    if (teacher)
        naive_teachers(c, n, s);
    naive_logits(x[0] + n * D, x[1], c->in[1], c->head.cap, s->z);
    naive_log_softmax(s->z, V, 1, s->logp);
    *ce = -s->logp[c->head.targets[n]];
    *kl = 0;
    if (teacher) {
        naive_log_softmax(s->z, V, c->head.temperature, s->log_student);
        for (int64_t v = 0; v < V; v++)
            *kl += exp(s->log_teacher[v]) * (s->log_teacher[v] - s->log_student[v]);
    }
}

// A divergence of the row in s, from its definition (divergence.h); with dz [V], adds k times its gradient on the student's logits.
static double naive_divergence(const struct op_case *c, const struct head_scratch *s, int which, double k, double *dz) {
    const int64_t V = c->in[1]->dim[0];
    const double T = c->head.temperature, b = c->head.beta;
    double total = 0, mean = 0, *slope = zeros(V);
    for (int64_t v = 0; v < V; v++) {
        const double lp = s->log_teacher[v], lq = s->log_student[v], p = exp(lp), q = exp(lq), m = b * p + (1 - b) * q, d = s->z[v] - s->z_teacher[v];
        switch (which) {
        case DIVERGENCE_KL: total += p * (lp - lq); slope[v] = -p / q; break;
        case DIVERGENCE_REVERSE_KL: total += q * (lq - lp); slope[v] = lq - lp + 1; break;
        case DIVERGENCE_JS:
            total += b * p * (lp - log(m)) + (1 - b) * q * (lq - log(m));
            slope[v] = (1 - b) * (lq - log(m) + 1) - (b * p + (1 - b) * q) * (1 - b) / m;
            break;
        case DIVERGENCE_TV: total += fabs(p - q) / 2; slope[v] = q > p ? 0.5 : -0.5; break;
        case DIVERGENCE_MSE: total += d * d / (double)V; slope[v] = 2 * d / (double)V; break;
        }
        mean += q * slope[v];
    }
    for (int64_t v = 0; dz && v < V; v++)
        dz[v] += k * (which == DIVERGENCE_MSE ? slope[v] : exp(s->log_student[v]) * (slope[v] - mean) / T);
    free(slope);
    return total;
}

static double naive_power(int which, double T) { return which == DIVERGENCE_MSE ? 1 : which == DIVERGENCE_TV ? T : T * T; }

static double naive_weight(const struct op_case *c, int which) {
    return !c->head.teacher_w ? 0 : c->head.divergence ? c->head.divergence[which] : which == DIVERGENCE_KL;
}

static double effective_alpha(const struct op_case *c) { return c->head.teacher_w ? c->head.alpha : 0; }

static struct head_result naive_head(const struct op_case *c, double *const *x) {
    struct head_result r = {0};
    struct head_scratch s;
    head_scratch_init(&s, c);
    for (int64_t n = 0; n < tensor_rows(c->in[0]); n++) {
        double ce, kl;
        if (c->head.targets[n] < 0)
            continue;
        naive_row(c, x, n, &s, &ce, &kl);
        r.ce += ce;
        r.kl += kl;
        for (int d = 0; d < DIVERGENCES; d++)
            if (naive_weight(c, d) > 0)
                r.divergence[d] += naive_divergence(c, &s, d, 0, NULL);
        r.count++;
    }
    head_scratch_drop(&s);
    r.ce /= (double)r.count;
    r.kl /= (double)r.count;
    double a = effective_alpha(c);
    r.loss = (1 - a) * r.ce;
    for (int d = 0; d < DIVERGENCES; d++) {
        r.divergence[d] /= (double)r.count;
        r.loss += a * naive_weight(c, d) * naive_power(d, c->head.temperature) * r.divergence[d];
    }
    return r;
}

static void head_forward(const struct op_case *c, double *const *x, double *y) {
    y[0] = c->head.weight * naive_head(c, x).loss;
}

static void head_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    int64_t V = c->in[1]->dim[0], D = c->in[1]->dim[1], N = tensor_rows(c->in[0]), count = 0;
    struct head_scratch s;
    head_scratch_init(&s, c);
    for (int64_t n = 0; n < N; n++)
        count += c->head.targets[n] >= 0;
    for (int64_t n = 0; n < N; n++) {
        double ce, kl, a = effective_alpha(c), t = c->head.temperature;
        if (c->head.targets[n] < 0)
            continue;
        naive_row(c, x, n, &s, &ce, &kl);
        double *soft = zeros(V);
        for (int d = 0; d < DIVERGENCES; d++)
            if (naive_weight(c, d) > 0)
                naive_divergence(c, &s, d, a * naive_weight(c, d) * naive_power(d, t), soft);
        for (int64_t v = 0; v < V; v++) {
            double dz = soft[v] + (1 - a) * (exp(s.logp[v]) - (v == c->head.targets[n])); // d CE / dz = p - onehot
            dz *= dy[0] * c->head.weight / (double)count;
            if (c->head.cap > 0) // z is what came out of it
                dz *= 1 - s.z[v] * s.z[v] / (c->head.cap * c->head.cap);
            for (int64_t d = 0; d < D; d++) {
                double factor = c->in[1]->hook ? hook_factor(v * D + d) : 1;
                dx[0][n * D + d] += dz * factor * x[1][v * D + d];
                dx[1][v * D + d] += dz * factor * x[0][n * D + d];
            }
        }
        free(soft);
    }
    head_scratch_drop(&s);
}

struct head_shape {
    int64_t N, D, V, teacher_D; // teacher_D 0: no teacher
    double alpha, temperature, weight;
    int masked, hooked;
    double cap, teacher_cap;
    int further; // teachers beside that one
};

#define FURTHER_MOST 3

// Teachers of other widths and weights; released by drop_further.
static void make_further(const struct head_shape *s, struct op_case *c, struct head_teacher further[FURTHER_MOST]) {
    static const char *const names[FURTHER_MOST] = {"second", "third", "fourth"};
    for (int i = 0; i < s->further; i++) {
        const int64_t D = s->teacher_D + 3 * i - 2;
        struct tensor *x = tensor_make(names[i], s->N, D, 1), *w = tensor_make(names[i], s->V, D, 0.7);
        further[i] = (struct head_teacher){x->data, w, NULL, 0.2 + 0.05 * i, 0};
        free(x->grad);
        free(x);
    }
    c->head.further = further;
    c->head.n_further = s->further;
}

static void drop_further(const struct head_shape *s, struct head_teacher further[FURTHER_MOST]) {
    for (int i = 0; i < s->further; i++) {
        free((float *)further[i].x);
        tensor_drop((struct tensor *)further[i].w);
    }
}

// divergence [DIVERGENCES]: weights; NULL: KL alone.
static void check_soft_head(const struct head_shape *s, const double *divergence, double beta, int differences) {
    struct op_case c = {.name = "head loss",
                        .build = head_build,
                        .forward = head_forward,
                        .backward = head_backward,
                        .f32 = PRODUCT_F32,
                        .bf16 = PRODUCT_BF16};
    int32_t *targets = xmalloc((size_t)s->N * sizeof *targets, "a test's targets");
    for (int64_t n = 0; n < s->N; n++)
        targets[n] = s->masked && n % 3 == 1 ? -1 : (int32_t)((n * 31 + n * n) % s->V);
    targets[0] = (int32_t)s->V - 1;
    c.is_root = 1;
    c.n_in = 2;
    c.in[0] = tensor_make("x", s->N, s->D, 1);
    c.in[1] = tensor_make("w", s->V, s->D, 0.5);
    struct weight_hook hook = {.context = c.in[1]->data, .rows = hook_rows, .backward = hook_backward};
    struct tensor *teacher_x = NULL, *teacher_w = NULL;
    struct weight_hook teacher_hook;
    struct head_teacher further[FURTHER_MOST];
    if (s->hooked)
        c.in[1]->hook = &hook;
    c.head = (struct head_spec){.targets = targets, .alpha = s->alpha, .temperature = s->temperature, .weight = s->weight,
                                .cap = s->cap, .teacher_cap = s->teacher_cap, .divergence = divergence, .beta = beta};
    if (s->teacher_D) {
        teacher_x = tensor_make("teacher_x", s->N, s->teacher_D, 1);
        teacher_w = tensor_make("teacher_w", s->V, s->teacher_D, 0.5);
        teacher_hook = (struct weight_hook){.context = teacher_w->data, .rows = hook_rows};
        if (s->hooked)
            teacher_w->hook = &teacher_hook;
        c.head.teacher_x = teacher_x->data;
        c.head.teacher_w = teacher_w;
        make_further(s, &c, further);
        c.head.mean_logits = divergence && divergence[DIVERGENCE_MSE] > 0;
    }
    c.n_out = 1;
    double *x[2] = {to_double(c.in[0]->data, s->N * s->D), to_double(c.in[1]->data, s->V * s->D)};
    struct head_result wanted = naive_head(&c, x);
    struct outcome o;
    outcome_make(&o, &c, PRECISION_F32, 2);
    cr_expect_eq(o.result.count, wanted.count);
    // Kept in double: what is left is the rounding of the f32 logits, averaged over rows.
    cr_expect(fabs(o.result.ce - wanted.ce) <= 2 * FLOAT_FEW * wanted.ce, "ce %.12g, wanted %.12g", o.result.ce, wanted.ce);
    wanted.loss *= s->weight;
    cr_expect(fabs(o.result.loss - wanted.loss) <= 2 * FLOAT_FEW * (wanted.loss + 1e-3), "loss %.12g, wanted %.12g",
              o.result.loss, wanted.loss);
    if (s->teacher_D)
        cr_expect(fabs(o.result.kl - wanted.kl) <= 2 * FLOAT_FEW * (wanted.kl + 0.1), "kl %.12g, wanted %.12g", o.result.kl,
                  wanted.kl);
    for (int d = 0; divergence && d < DIVERGENCES; d++)
        cr_expect(divergence[d] <= 0 || fabs(o.result.divergence[d] - wanted.divergence[d]) <= 2 * FLOAT_FEW * (wanted.divergence[d] + 0.1),
                  "%s %.12g, wanted %.12g", divergence_names[d], o.result.divergence[d], wanted.divergence[d]);
    outcome_drop(&o, &c);
    free(x[0]);
    free(x[1]);
    check_op(&c, differences);
    if (teacher_x) {
        tensor_drop(teacher_x);
        tensor_drop(teacher_w);
        drop_further(s, further);
    }
    free(targets);
}

static void check_head(const struct head_shape *s, int differences) { check_soft_head(s, NULL, 0, differences); }

Test(ops, head_loss) {
    static const double alphas[] = {0, 0.7, 1}, temperatures[] = {1, 2, 4};
    for (int a = 0; a < 3; a++)
        for (int t = 0; t < 3; t++)
            for (int masked = 0; masked < 2; masked++) {
                struct head_shape s = {13, 12, 29, 20, alphas[a], temperatures[t], 1, masked, 0, 0, 0, 0};
                check_head(&s, 1);
            }
    struct head_shape plain[] = {{1, 4, 2, 0, 0, 1, 1, 0, 0, 0, 0, 0},
                                 {13, 12, 29, 0, 0.7, 2, 0.25, 1, 0, 0, 0, 0},
                                 {40, 8, 257, 8, 0.7, 2, 0.5, 1, 0, 0, 0, 0},
                                 {13, 12, 29, 20, 0.7, 2, 1, 1, 1, 0, 0, 0},
                                 {30, 16, 64, 0, 0, 1, 1, 0, 1, 0, 0, 0},
                                 {13, 12, 29, 0, 0, 1, 1, 1, 0, 1.5, 0, 0},
                                 {13, 12, 29, 20, 0.7, 2, 1, 1, 1, 1.5, 0, 0},
                                 {13, 12, 29, 20, 1, 3, 0.5, 0, 0, 0, 1.2, 0},
                                 {40, 8, 257, 8, 0.7, 2, 0.5, 1, 0, 2, 1.2, 0}};
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
        check_head(&plain[i], 1);
}

// Two and four teachers at once: the mean of their probabilities in every divergence, of their logits in mse.
Test(ops, head_of_several_teachers) {
    for (int d = 0; d < DIVERGENCES; d++)
        for (int further = 1; further <= FURTHER_MOST; further += 2) {
            double weight[DIVERGENCES] = {0};
            weight[d] = 1;
            const struct head_shape s = {7, 6, 29, 10, 0.6, 1, 0.5, 1, 0, 0, 0, further}, warm = {9, 8, 777, 8, 1, 3, 1, 0, 1, 0, 0, further};
            check_soft_head(&s, weight, 0.3, d != DIVERGENCE_TV);
            if (d != DIVERGENCE_TV) // whose gradient jumps where two probabilities meet: of so many some meet within bf16's rounding
                check_soft_head(&warm, weight, 0.5, 0);
        }
}

// Each divergence alone, and all at once. Total variation has corners, which a step as long as f32 needs crosses: its gradient is
// compared with the naive one alone, which has its own differences in double.
Test(ops, head_divergences) {
    static const double temperatures[] = {1, 3}, betas[] = {0.5, 0.1};
    for (int d = 0; d <= DIVERGENCES; d++)
        for (int t = 0; t < 2; t++) {
            double weight[DIVERGENCES];
            for (int k = 0; k < DIVERGENCES; k++)
                weight[k] = d == DIVERGENCES ? 0.3 + 0.1 * k : d == k;
            const struct head_shape s = {7, 6, 29, 10, t ? 1 : 0.6, temperatures[t], 0.5, 1, t, 0, 0, 0},
                                    wide = {9, 8, 777, 8, 0.7, temperatures[t], 1, 0, 0, 0, 0, 0};
            check_soft_head(&s, weight, betas[t], d < DIVERGENCE_TV || d == DIVERGENCE_MSE);
            check_soft_head(&wide, weight, betas[t], 0);
        }
}

// More rows than one chunk holds, the last chunk not full, and vocabularies beyond any block size.
Test(ops, head_loss_in_chunks) {
    static const int64_t vocabularies[] = {1021, 4099};
    for (size_t i = 0; i < sizeof vocabularies / sizeof vocabularies[0]; i++) {
        int64_t V = vocabularies[i], chunk = head_chunk_rows(1 << 20, V), N = chunk + chunk / 2 + 3;
        cr_assert(chunk > 0 && head_chunk_rows(N, V) < N, "the case does not cross a chunk: %ld rows, chunks of %ld",
                  (long)N, (long)head_chunk_rows(N, V));
        struct head_shape s = {N, 4, V, i == 0 ? 6 : 0, 0.7, 2, 1, 1, 0, i == 0 ? 2 : 0, 0, 0};
        check_head(&s, 0);
    }
}

// Two half batches weighted by a half add up to the gradient of the whole.
Test(ops, head_loss_accumulates) {
    enum { N = 20, D = 8, V = 30 };
    int32_t targets[N];
    for (int i = 0; i < N; i++)
        targets[i] = (i * 11) % V;
    struct tensor *x = tensor_make("x", N, D, 1), *w = tensor_make("w", V, D, 0.5);
    float whole[V * D];
    for (int halves = 1; halves <= 2; halves++) {
        memset(w->grad, 0, sizeof whole);
        for (int h = 0; h < halves; h++) {
            struct tensor part = *x;
            part.dim[0] = N / halves;
            part.data = x->data + h * (N / 2) * D;
            part.grad = x->grad + h * (N / 2) * D;
            struct head_spec spec = {.targets = targets + h * (N / 2), .alpha = 0, .temperature = 1, .weight = 1.0 / halves};
            struct head_result result;
            struct tape tape;
            tape_init(&tape, PRECISION_F32);
            tape.recording = 1;
            struct tensor *loss = op_head_loss(&tape, &part, w, &spec, &result);
            tape_backward(&tape, loss);
            tape_release(&tape);
        }
        if (halves == 1)
            memcpy(whole, w->grad, sizeof whole);
    }
    double *wanted = to_double(whole, V * D);
    compare("two half batches", "gradient of w", w->grad, wanted, V * D, PRODUCT_F32, 0);
    free(wanted);
    tensor_drop(x);
    tensor_drop(w);
}

// ---- evaluation on the head --------------------------------------------------------------------------------------

struct eval_outcome {
    double *nll, *against_nll, *kl;
    unsigned char *agree;
};

// Every value starts from what no evaluation gives: rows without a target must keep it.
static struct eval_outcome run_head_eval(const struct op_case *c, const struct tensor *against_x,
                                         enum precision precision, int threads) {
    int64_t N = tensor_rows(c->in[0]);
    struct eval_outcome o = {zeros(N), zeros(N), zeros(N), xcalloc((size_t)N, 1, "a test's values")};
    for (int64_t n = 0; n < N; n++) {
        o.nll[n] = o.against_nll[n] = o.kl[n] = -77;
        o.agree[n] = 9;
    }
    threads_set(threads);
    struct tape tape;
    tape_init(&tape, precision);
    tape.recording = 0;
    struct head_eval eval = {.targets = c->head.targets, .nll = o.nll, .cap = c->head.cap, .against_cap = c->head.teacher_cap};
    if (against_x) {
        eval.against_x = against_x->data;
        eval.against_w = c->head.teacher_w;
        eval.against_nll = o.against_nll;
        eval.kl = o.kl;
        eval.agree = o.agree;
    }
    op_head_eval(&tape, c->in[0], c->in[1], &eval);
    tape_release(&tape);
    return o;
}

static void eval_outcome_drop(struct eval_outcome *o) {
    free(o->nll);
    free(o->against_nll);
    free(o->kl);
    free(o->agree);
}

static void expect_eval_row(const struct op_case *c, double *const *x, const struct eval_outcome *o, int64_t n,
                            struct head_scratch *s, enum precision precision) {
    // A row's own loss: logits of order 2 round at 1e-7 in f32 and at some 1e-2 in bf16.
    double tolerance = precision == PRECISION_F32 ? 3e-6 : 6e-2, ce, wanted_kl;
    int32_t target = c->head.targets[n];
    if (target < 0) {
        cr_expect(o->nll[n] == -77 && o->kl[n] == -77 && o->against_nll[n] == -77 && o->agree[n] == 9,
                  "row %ld has no target and was written", (long)n);
        return;
    }
    naive_row(c, x, n, s, &ce, &wanted_kl);
    cr_expect(fabs(o->nll[n] - ce) <= tolerance * (1 + ce), "nll[%ld] is %.12g, wanted %.12g", (long)n, o->nll[n],
              ce);
    if (!c->head.teacher_x)
        return;
    double wanted_against = -s->log_teacher[target];
    int64_t best = 0, against_best = 0, V = tensor_rows(c->in[1]);
    for (int64_t v = 1; v < V; v++) {
        best = s->logp[v] > s->logp[best] ? v : best;
        against_best = s->log_teacher[v] > s->log_teacher[against_best] ? v : against_best;
    }
    cr_expect(fabs(o->kl[n] - wanted_kl) <= tolerance * (1 + wanted_kl), "kl[%ld] is %.12g, wanted %.12g", (long)n,
              o->kl[n], wanted_kl);
    cr_expect(o->kl[n] >= -FLOAT_FEW, "kl[%ld] is %g, below zero", (long)n, o->kl[n]);
    cr_expect(fabs(o->against_nll[n] - wanted_against) <= tolerance * (1 + wanted_against));
    if (precision == PRECISION_F32)
        cr_expect_eq(o->agree[n], best == against_best, "agree[%ld] is %d", (long)n, o->agree[n]);
}

static void check_head_eval(int64_t N, int64_t D, int64_t V, int64_t against_D, double cap, enum precision precision) {
    struct op_case c = {.name = "head eval", .n_in = 2};
    c.in[0] = tensor_make("x", N, D, 1);
    c.in[1] = tensor_make("w", V, D, 0.5);
    struct tensor *against_x = NULL, *against_w = NULL;
    int32_t *targets = xmalloc((size_t)N * sizeof *targets, "a test's targets");
    for (int64_t n = 0; n < N; n++)
        targets[n] = n % 5 == 2 ? -1 : (int32_t)((n * 17 + 3) % V);
    c.head = (struct head_spec){.targets = targets, .alpha = 1, .temperature = 1, .weight = 1, .cap = cap, .teacher_cap = 2 * cap};
    if (against_D) {
        against_x = tensor_make("against_x", N, against_D, 1);
        against_w = tensor_make("against_w", V, against_D, 0.5);
        for (int64_t i = 0; i < N / 2 * D && against_D == D; i++) // the first half agrees
            against_x->data[i] = c.in[0]->data[i];
        if (against_D == D)
            memcpy(against_w->data, c.in[1]->data, (size_t)(V * D) * sizeof(float));
        c.head.teacher_x = against_x->data;
        c.head.teacher_w = against_w;
    }
    double *x[2] = {to_double(c.in[0]->data, N * D), to_double(c.in[1]->data, V * D)};
    struct eval_outcome one = run_head_eval(&c, against_x, precision, 1);
    struct eval_outcome two = run_head_eval(&c, against_x, precision, 2);
    cr_expect(memcmp(one.nll, two.nll, (size_t)N * sizeof(double)) == 0, "nll differs between 1 and 2 threads");
    cr_expect(memcmp(one.against_nll, two.against_nll, (size_t)N * sizeof(double)) == 0);
    cr_expect(memcmp(one.kl, two.kl, (size_t)N * sizeof(double)) == 0, "kl differs between 1 and 2 threads");
    cr_expect(memcmp(one.agree, two.agree, (size_t)N) == 0);
    struct head_scratch s;
    head_scratch_init(&s, &c);
    for (int64_t n = 0; n < N; n++)
        expect_eval_row(&c, x, &one, n, &s, precision);
    head_scratch_drop(&s);
    eval_outcome_drop(&one);
    eval_outcome_drop(&two);
    for (int i = 0; i < 2; i++) {
        free(x[i]);
        tensor_drop(c.in[i]);
    }
    if (against_x) {
        tensor_drop(against_x);
        tensor_drop(against_w);
    }
    free(targets);
}

Test(ops, head_eval) {
    int64_t chunk = head_chunk_rows(1 << 20, 1021);
    for (int precision = 0; precision < 2; precision++) {
        enum precision p = precision ? PRECISION_BF16 : PRECISION_F32;
        check_head_eval(1, 4, 3, 0, 0, p);
        check_head_eval(50, 12, 131, 0, 0, p);
        check_head_eval(50, 12, 131, 12, 0, p);
        check_head_eval(50, 12, 131, 20, 0, p);
        check_head_eval(50, 12, 131, 20, 1.5, p);
        check_head_eval(chunk + 7, 4, 1021, 6, 0, p);
    }
}

// ---- answers' spans ----------------------------------------------------------------------------------------------

static struct tensor *span_build(struct op_case *c, struct tape *tape) {
    const struct span_spec spec = {.targets = c->head.targets, .length = c->length, .B = c->B, .T = c->T, .teacher = c->constant,
                                   .alpha = c->head.alpha, .temperature = c->head.temperature, .weight = c->head.weight};
    return op_span_loss(tape, c->in[0], &spec, &c->result);
}

#define SPAN_MOST 40

// log softmax of one distribution of z [B*T, 2]: number i = 2 b + end.
static void span_distribution(const struct op_case *c, const double *z, int64_t i, double temperature, double *logp) {
    double row[SPAN_MOST];
    for (int64_t t = 0; t < c->length[i / 2]; t++)
        row[t] = z[(i / 2 * c->T + t) * 2 + i % 2];
    naive_log_softmax(row, c->length[i / 2], temperature, logp);
}

static void span_both(const struct op_case *c, const double *z, double *y, double dy, double *dz) {
    double logp[SPAN_MOST], soft[SPAN_MOST], teacher[SPAN_MOST], *zt = c->constant ? to_double(c->constant, c->B * c->T * 2) : NULL;
    const double alpha = zt ? c->head.alpha : 0, t2 = c->head.temperature;
    for (int64_t i = 0; i < 2 * c->B; i++) {
        const double k = c->head.weight / (double)(2 * c->B);
        span_distribution(c, z, i, 1, logp);
        span_distribution(c, z, i, t2, soft);
        if (zt)
            span_distribution(c, zt, i, t2, teacher);
        double loss = -(1 - alpha) * logp[c->head.targets[i]];
        for (int64_t t = 0; t < c->length[i / 2]; t++) {
            double gradient = (1 - alpha) * (exp(logp[t]) - (t == c->head.targets[i]));
            if (zt) {
                loss += alpha * t2 * t2 * exp(teacher[t]) * (teacher[t] - soft[t]);
                gradient += alpha * t2 * (exp(soft[t]) - exp(teacher[t]));
            }
            if (dz)
                dz[(i / 2 * c->T + t) * 2 + i % 2] += dy * k * gradient;
        }
        if (y)
            *y += k * loss;
    }
    free(zt);
}

static void span_forward(const struct op_case *c, double *const *x, double *y) {
    y[0] = 0;
    span_both(c, x[0], y, 0, NULL);
}

static void span_backward(const struct op_case *c, double *const *x, const double *dy, double *const *dx) {
    span_both(c, x[0], NULL, dy[0], dx[0]);
}

Test(ops, span_loss) {
    static const int32_t length[] = {9, 1, 33, 17}, targets[] = {0, 8, 0, 0, 32, 0, 5, 5};
    for (int k = 0; k < 4; k++) { // alone; with a teacher, mixed and alone; at another temperature
        struct op_case c = {.name = "span loss", .build = span_build, .forward = span_forward, .backward = span_backward, .f32 = FUNCTION_F32,
                            .bf16 = FUNCTION_F32, .is_root = 1, .one_precision = 1, .n_in = 1, .n_out = 1, .B = 4, .T = 33, .length = length};
        struct tensor *teacher = tensor_make("teacher", 4 * 33, 2, 3);
        c.in[0] = tensor_make("z", 4 * 33, 2, 2);
        c.constant = k ? teacher->data : NULL;
        c.head = (struct head_spec){.targets = targets, .alpha = k == 2 ? 1 : 0.7, .temperature = k == 3 ? 4 : 1, .weight = k ? 1 : 0.25};
        check_op(&c, 1);
        tensor_drop(teacher);
    }
}
