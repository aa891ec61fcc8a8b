// op_span.c: the loss on where an answer starts and where it ends: two distributions over the positions of each sequence.
//
// There are 2 T logits a sequence, next to nothing beside the model: everything is in double, one distribution a thread at a time.
#include <math.h>

#include "common/base/error.h"
#include "common/tensor/ops.h"

#define ENDS 2 // of an answer: logits of position t of sequence b are z[(b * T + t) * 2] (start) and z[(b * T + t) * 2 + 1] (end)

// log sum_t exp(z_t / temperature) over n positions of one distribution; *top is the largest z.
static double log_sum(const float *z, int64_t n, double temperature, double *top)
{
    double sum = 0;
    *top = (double)z[0];
    for (int64_t t = 1; t < n; t++)
        *top = fmax(*top, (double)z[t * ENDS]);
    for (int64_t t = 0; t < n; t++)
        sum += exp(((double)z[t * ENDS] - *top) / temperature);
    return log(sum);
}

double span_cross_entropy(const float *z, int64_t n, int32_t target)
{
    double top;
    const double total = log_sum(z, n, 1, &top);
    return total - ((double)z[target * ENDS] - top);
}

struct span_loss {
    double ce, kl;
};

// One distribution: z, zt (NULL: no teacher) and dz (NULL: no gradient wanted) begin at its first logit; k: of the gradient.
static struct span_loss one_end(const float *z, const float *zt, float *dz, int64_t n, int32_t target, const struct span_spec *s, double k)
{
    const double T = s->temperature, alpha = zt ? s->alpha : 0;
    double top, top_t = 0, soft = 0, teacher = 0, kl = 0;
    const double hard = log_sum(z, n, 1, &top);
    if (zt) {
        soft = log_sum(z, n, T, &top);
        teacher = log_sum(zt, n, T, &top_t);
    }
    for (int64_t t = 0; t < n; t++) {
        const double own = (double)z[t * ENDS] - top;
        double gradient = (1 - alpha) * (exp(own - hard) - (t == target));
        if (zt) {
            const double log_own = own / T - soft, log_teacher = ((double)zt[t * ENDS] - top_t) / T - teacher;
            kl += exp(log_teacher) * (log_teacher - log_own);
            gradient += alpha * T * (exp(log_own) - exp(log_teacher));
        }
        if (dz)
            dz[t * ENDS] = (float)(k * gradient);
    }
    return (struct span_loss){span_cross_entropy(z, n, target), kl};
}

static void span_backward(struct tape *tape, struct node *node)
{
    const float *saved = node->saved; // [B*T, 2], for an incoming gradient of 1
    const float incoming = node->out->grad[0];
    float beta;
    float *dz = tape_grad(tape, node->in[0], &beta);
    for (int64_t i = 0; i < tensor_count(node->in[0]); i++)
        dz[i] = incoming * saved[i] + (beta == 0.0f ? 0.0f : dz[i]);
}

static void span_check(const struct tensor *z, const struct span_spec *s)
{
    if (tensor_rows(z) != s->B * s->T || tensor_columns(z) != ENDS)
        BUG("op_span_loss: %s[%ld,%ld] for %ld sequences of %ld", z->name, (long)tensor_rows(z), (long)tensor_columns(z), (long)s->B, (long)s->T);
    for (int64_t i = 0; i < s->B * ENDS; i++)
        if (s->targets[i] < 0 || s->targets[i] >= (s->length ? s->length[i / ENDS] : s->T))
            BUG("op_span_loss: target %d in sequence %ld", (int)s->targets[i], (long)(i / ENDS));
}

struct tensor *op_span_loss(struct tape *tape, struct tensor *z, const struct span_spec *s, struct head_result *result)
{
    span_check(z, s);
    struct tensor *y = tape_tensor(tape, "loss", 1, 1, 1, 1);
    struct node *node = tape_record(tape, span_backward, y, z, NULL, NULL, NULL);
    float *dz = node ? arena_zalloc(&tape->arena, (size_t)tensor_count(z) * sizeof *dz) : NULL; // what is padding keeps its zeros
    struct span_loss *loss = arena_alloc(&tape->arena, (size_t)(s->B * ENDS) * sizeof *loss);
    if (node)
        node->saved = dz;
    const double k = s->weight / (double)(s->B * ENDS);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < s->B * ENDS; i++) {
        const int64_t b = i / ENDS, at = b * s->T * ENDS + i % ENDS;
        loss[i] = one_end(z->data + at, s->teacher ? s->teacher + at : NULL, dz ? dz + at : NULL, s->length ? s->length[b] : s->T, s->targets[i], s, k);
    }
    struct head_result sum = {.count = s->B};
    for (int64_t i = 0; i < s->B * ENDS; i++) {
        sum.ce += loss[i].ce / (double)(s->B * ENDS);
        sum.kl += loss[i].kl / (double)(s->B * ENDS);
    }
    const double alpha = s->teacher ? s->alpha : 0;
    sum.divergence[DIVERGENCE_KL] = sum.kl;
    sum.loss = s->weight * (alpha * s->temperature * s->temperature * sum.kl + (1 - alpha) * sum.ce);
    y->data[0] = (float)sum.loss;
    if (result)
        *result = sum;
    return y;
}
