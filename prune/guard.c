// guard.c: what makes a prune meaningless is said before it is done. Every guard is overridden by "guards": false.
#include <math.h>
#include <stdlib.h>

#include "common/base/log.h"
#include "prune/score.h"

#define OVERRIDE "or go on with \"guards\": false"
#define PROBE_TOKENS 4096
#define PROBE_MARGIN 0.01 // nats per token; in a model that says nothing every choice is as good as another

int guard_calibration(const struct calibration *c, struct error *err)
{
    const int64_t asked = calibration_batches(c) * c->batch * c->seq_len;
    if (asked <= c->data->n_token)
        return 0;
    return error_set(err, "prune.calibration_tokens: %ld tokens asked, the text has %ld: it would be read more than once; give "
                     "more text, a smaller \"calibration_tokens\", " OVERRIDE, (long)asked, (long)c->data->n_token);
}

static int all_equal(const double *score, int64_t n)
{
    for (int64_t i = 1; i < n; i++)
        if (score[i] != score[0])
            return 0;
    return n > 1;
}

static int refuse_flat(const char *what, int64_t layer, double value, struct error *err)
{
    return error_set(err, "prune: all %s of layer %ld have the score %g, so it says nothing about which to remove; take another "
                     "score, more calibration, " OVERRIDE, what, (long)layer, value);
}

int guard_scores(const struct prune_scores *s, const struct config *c, const struct layer_shape *counts, struct error *err)
{
    for (int64_t l = 0; l < c->n_layer; l++) {
        const struct layer_shape *shape = &c->layer[l];
        if (counts[l].n_head < shape->n_head && all_equal(s->head[l], shape->n_head) && all_equal(s->group[l], shape->n_kv_head))
            return refuse_flat("heads", l, s->head[l][0], err);
        if (counts[l].n_ff < shape->n_ff && all_equal(s->ff[l], shape->n_ff))
            return refuse_flat("feed-forward channels", l, s->ff[l][0], err);
    }
    return 0;
}

static double masked_loss(struct model *m, const struct plan *p, const struct calibration *c, int64_t windows, double *losses)
{
    mask_apply(m, p);
    const double loss = calibration_loss(m, c, calibration_batches(c) * c->batch, windows, losses);
    model_drop_gates(m);
    return loss;
}

// Paired over windows of text that the score has not seen, unless the text is short.
int guard_probe(struct model *m, const struct plan *p, const struct plan *random, const struct calibration *c, const char *score,
                struct error *err)
{
    const int64_t windows = PROBE_TOKENS / c->seq_len < 4 ? 4 : PROBE_TOKENS / c->seq_len;
    double *by_score = xmalloc((size_t)(2 * windows) * sizeof *by_score, "probe"), *by_chance = by_score + windows;
    const double loss = masked_loss(m, p, c, windows, by_score), chance = masked_loss(m, random, c, windows, by_chance);
    double squares = 0;
    for (int64_t w = 0; w < windows; w++) {
        const double d = by_score[w] - by_chance[w] - (loss - chance);
        squares += d * d;
    }
    const double deviation = sqrt(squares / (double)(windows - 1) / (double)windows);
    free(by_score);
    if (loss - chance > PROBE_MARGIN && loss - chance > 2 * deviation)
        return error_set(err, "prune.score: on a probe of %ld tokens \"%s\" leaves a loss of %.4f and a random choice %.4f, which is "
                         "better by more than two standard errors; take another score, more calibration, " OVERRIDE,
                         (long)(windows * c->seq_len), score, loss, chance);
    if (loss >= chance)
        log_warn("prune: on a probe \"%s\" does no better than chance (loss %.4f, random %.4f)", score, loss, chance);
    else
        log_info("prune: on a probe \"%s\" leaves a loss of %.4f, a random choice %.4f", score, loss, chance);
    return 0;
}
