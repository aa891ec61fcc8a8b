// hidden.c: which hidden channels go: the axis that all layers share.
//
// A channel's score is the mean |activation| behind the norms, over tokens and over all the norms before blocks (Minitron,
// Muralidharan et al. 2024, 2.2). The smaller model's norms divide by the root mean square of the channels that are left.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/random.h"
#include "prune/score.h"

struct sums {
    double *sum; // [hidden]
    int64_t n_layer;
};

static void add_columns(double *sum, const struct tensor *x)
{
    const int64_t N = x ? tensor_rows(x) : 0, D = x ? tensor_columns(x) : 0;
    for (int64_t n = 0; n < N; n++)
        for (int64_t d = 0; d < D; d++)
            sum[d] += fabs((double)x->data[n * D + d]);
}

static void see(void *context, const struct taps *taps, int64_t rows)
{
    (void)rows;
    struct sums *s = context;
    for (int64_t l = 0; l < s->n_layer; l++) {
        add_columns(s->sum, taps->attention_in[l]);
        add_columns(s->sum, taps->ff_in[l]);
    }
}

int hidden_plan(struct model *m, int64_t keep, int score_is_random, const struct calibration *c, struct plan *p,
                struct error *err)
{
    const int64_t D = m->config.hidden;
    if (config_hidden_refusal(&m->config))
        BUG("hidden_plan: %s", config_hidden_refusal(&m->config));
    struct sums s = {xcalloc((size_t)D, sizeof *s.sum, "scores of hidden channels"), m->config.n_layer};
    int rc = 0;
    if (score_is_random) {
        struct random r;
        random_init(&r, c->seed, "hidden channels", 0);
        for (int64_t d = 0; d < D; d++)
            s.sum[d] = random_uniform(&r);
    } else {
        rc = calibration_forward(m, c, TAP_INPUTS, see, &s, err);
    }
    plan_whole(p, &m->config);
    p->n_hidden = keep;
    p->hidden = xmalloc((size_t)keep * sizeof *p->hidden, "plan");
    if (rc == 0)
        rc = plan_choose(s.sum, D, keep, 0, p->hidden, "hidden channel", -1, err);
    free(s.sum);
    if (rc < 0)
        plan_release(p);
    return rc;
}

struct model *mask_hidden(const struct model *m, const struct plan *p)
{
    struct config c;
    config_copy(&c, &m->config);
    const double share = (double)p->n_hidden / (double)c.hidden;
    c.norm_eps *= share; // sum / D + eps share = share (sum / kept + eps)
    struct model *out = model_new(&c, 1);
    config_release(&c);
    memcpy(out->data, m->data, (size_t)m->n_element * sizeof *out->data);
    unsigned char *kept = xcalloc((size_t)m->config.hidden, 1, "hidden channels");
    for (int64_t i = 0; i < p->n_hidden; i++)
        kept[p->hidden[i]] = 1;
    for (int i = 0; i < out->n_parameter; i++) {
        const struct parameter *q = &out->parameter[i];
        const int64_t C = tensor_columns(&q->t), n = tensor_count(&q->t);
        const int along_rows = q->spec->rows == AXIS_HIDDEN, along_columns = q->spec->columns == AXIS_HIDDEN;
        const int is_norm = along_columns && parameter_is_norm(q);
        for (int64_t k = 0; k < n; k++) {
            if ((along_rows && !kept[k / C]) || (along_columns && !kept[k % C]))
                q->t.data[k] = 0;
            else if (is_norm)
                q->t.data[k] = (float)((double)q->t.data[k] * sqrt(share));
        }
    }
    free(kept);
    return out;
}
