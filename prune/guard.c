// guard.c: what makes a prune meaningless is said before it is done. Every guard is overridden by "guards": false.
#include <math.h>
#include <stdlib.h>

#include "common/base/log.h"
#include "prune/score.h"

#define OVERRIDE "or go on with \"guards\": false"
#define PROBE_TOKENS 4096
#define PROBE_EXAMPLES 512
#define PROBE_MARGIN 0.01 // nats per token; in a model that says nothing every choice is as good as another

int guard_calibration(const struct calibration *c, struct error *err)
{
    const int64_t asked = calibration_tokens(c), there = c->examples ? c->examples->start[c->examples->n] : c->data->n_token;
    if (asked <= there)
        return 0;
    return error_set(err, "calibration_tokens: %ld tokens asked, the text has %ld: it would be read more than once; give "
                     "more text, a smaller \"calibration_tokens\", " OVERRIDE, (long)asked, (long)there);
}

static int all_equal(const double *score, int64_t n)
{
    for (int64_t i = 1; i < n; i++)
        if (score[i] != score[0])
            return 0;
    return 1;
}

static int refuse_flat(const char *what, int64_t layer, double value, struct error *err)
{
    return error_set(err, "prune: all %s of layer %ld have the score %g, so it says nothing about which to remove; take another "
                     "score, more calibration, " OVERRIDE, what, (long)layer, value);
}

static int refuse_empty(const char *what, int64_t layer, struct error *err)
{
    return error_set(err, "prune: layer %ld would lose all its %s; raise \"floor\" (the share of a layer that stays), " OVERRIDE,
                     (long)layer, what);
}

int guard_scores(const struct prune_scores *s, const struct config *c, const struct layer_shape *counts, int heads_by,
                 struct error *err)
{
    for (int64_t l = 0; l < c->n_layer; l++) {
        const struct layer_shape *now = &c->layer[l];
        const int flat_groups = heads_by == HEADS_BY_QUERY || all_equal(s->group[l], now->n_kv_head);
        if (counts[l].n_head < now->n_head && all_equal(s->head[l], now->n_head) && flat_groups)
            return refuse_flat("heads", l, s->head[l][0], err);
        if (counts[l].n_ff < now->n_ff && all_equal(s->ff[l], now->n_ff))
            return refuse_flat("feed-forward channels", l, s->ff[l][0], err);
        if (!counts[l].n_head && now->n_head)
            return refuse_empty("heads", l, err);
        if (!counts[l].n_ff && now->n_ff)
            return refuse_empty("feed-forward channels", l, err);
    }
    return 0;
}

// Text that the scores have not seen, unless it is short.
static int probe_loss(struct model *m, const struct calibration *c, int64_t windows, double *losses, double *mean, struct error *err)
{
    return calibration_loss(m, c, calibration_batches(c) * c->batch, windows, losses, mean, err);
}

static int64_t probe_windows(const struct calibration *c)
{
    const int64_t windows = c->examples ? PROBE_EXAMPLES : PROBE_TOKENS / c->seq_len;
    return windows < 4 ? 4 : windows;
}

// Is a's loss above b's by more than chance? Paired over windows.
static int is_worse(const double *a, const double *b, double difference, int64_t windows)
{
    double squares = 0;
    for (int64_t w = 0; w < windows; w++) {
        const double d = a[w] - b[w] - difference;
        squares += d * d;
    }
    const double deviation = sqrt(squares / (double)(windows - 1) / (double)windows);
    return difference > PROBE_MARGIN && difference > 2 * deviation;
}

static int masked_loss(struct model *m, const struct plan *p, const struct calibration *c, int64_t windows, double *losses, double *mean,
                       struct error *err)
{
    mask_apply(m, p);
    const int rc = probe_loss(m, c, windows, losses, mean, err);
    model_drop_gates(m);
    return rc;
}

int guard_probe(struct model *m, const struct plan *p, const struct plan *random, const struct calibration *c, const char *score,
                struct error *err)
{
    const int64_t windows = probe_windows(c);
    double *by_score = xmalloc((size_t)(2 * windows) * sizeof *by_score, "probe"), *by_chance = by_score + windows;
    double loss, chance;
    int rc = masked_loss(m, p, c, windows, by_score, &loss, err);
    if (rc == 0)
        rc = masked_loss(m, random, c, windows, by_chance, &chance, err);
    const int worse = rc == 0 && is_worse(by_score, by_chance, loss - chance, windows);
    free(by_score);
    TRY(rc);
    if (worse)
        return error_set(err, "prune.score: on a probe of %ld tokens \"%s\" leaves a loss of %.4f and a random choice %.4f, which is "
                         "better by more than two standard errors; take another score, more calibration, " OVERRIDE,
                         (long)(windows * calibration_targets(c)), score, loss, chance);
    if (loss >= chance)
        log_warn("prune: on a probe \"%s\" does no better than chance (loss %.4f, random %.4f)", score, loss, chance);
    else
        log_info("prune: on a probe \"%s\" leaves a loss of %.4f, a random choice %.4f", score, loss, chance);
    return 0;
}

int guard_reconstruction(struct model *plain, struct model *fitted, const struct calibration *c, struct error *err)
{
    const int64_t windows = probe_windows(c);
    double *before = xmalloc((size_t)(2 * windows) * sizeof *before, "probe"), *after = before + windows;
    double loss, fit;
    int rc = probe_loss(plain, c, windows, before, &loss, err);
    if (rc == 0)
        rc = probe_loss(fitted, c, windows, after, &fit, err);
    const int worse = rc == 0 && is_worse(after, before, fit - loss, windows);
    free(before);
    TRY(rc);
    if (worse)
        return error_set(err, "prune.reconstruct: on a probe of %ld tokens the fitted projections leave a loss of %.4f, the plain cut "
                         "%.4f: %ld tokens of calibration are too few for so many columns; give more \"calibration_tokens\", leave "
                         "\"reconstruct\" out, " OVERRIDE, (long)(windows * calibration_targets(c)), fit, loss,
                         (long)calibration_tokens(c));
    log_info("prune: on a probe the fitted projections leave a loss of %.4f, the plain cut %.4f", fit, loss);
    return 0;
}
