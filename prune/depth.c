// depth.c: which layers, or attention and feed-forward blocks of layers, go.
//
// Blocks go one at a time, the least useful first, and the rest is scored anew with it left out: what a block adds depends on
// which others are there.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/random.h"
#include "prune/score.h"

#define LOSS_TOKENS 8192

static int is_there(const struct model *m, enum block_part part, int64_t l)
{
    const struct layer_shape *s = &m->config.layer[l];
    const struct model_layer_gates *g = &m->gate[l];
    const int attention = s->n_head && !g->no_attention, ff = s->n_ff && !g->no_ff;
    return part == PART_LAYER ? attention || ff : part == PART_ATTENTION ? attention : ff;
}

static void leave_out(struct model *m, enum block_part part, int64_t l, int out)
{
    if (part != PART_FF)
        m->gate[l].no_attention = out;
    if (part != PART_ATTENTION)
        m->gate[l].no_ff = out;
}

// ---- block influence ----

struct influence {
    enum block_part part;
    double *sum;
    int64_t n_layer, rows;
};

static double cosine_sum(const struct tensor *a, const struct tensor *b)
{
    const int64_t N = tensor_rows(a), D = tensor_columns(a);
    double sum = 0;
    for (int64_t n = 0; n < N; n++) {
        double ab = 0, aa = 0, bb = 0;
        for (int64_t d = 0; d < D; d++) {
            const double x = (double)a->data[n * D + d], y = (double)b->data[n * D + d];
            ab += x * y;
            aa += x * x;
            bb += y * y;
        }
        sum += aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : 0;
    }
    return sum;
}

static void see(void *context, const struct taps *taps, int64_t rows)
{
    struct influence *s = context;
#pragma omp parallel for schedule(static)
    for (int64_t l = 0; l < s->n_layer; l++) {
        const struct tensor *in = s->part == PART_FF ? taps->middle[l] : taps->hidden[l];
        const struct tensor *out = s->part == PART_ATTENTION ? taps->middle[l] : taps->hidden[l + 1];
        s->sum[l] += cosine_sum(in, out);
    }
    s->rows += rows;
}

static int block_influence(struct model *m, enum block_part part, const struct calibration *c, double *score, struct error *err)
{
    struct influence s = {.part = part, .sum = score, .n_layer = m->config.n_layer};
    memset(score, 0, (size_t)s.n_layer * sizeof *score);
    TRY(calibration_forward(m, c, TAP_HIDDEN | TAP_MIDDLE, see, &s, err));
    for (int64_t l = 0; l < s.n_layer; l++)
        score[l] = 1 - score[l] / (double)s.rows;
    return 0;
}

// ---- the others ----

static int loss_without(struct model *m, enum block_part part, const struct calibration *c, double *score, struct error *err)
{
    const int64_t tokens = c->tokens < LOSS_TOKENS ? c->tokens : LOSS_TOKENS;
    const int64_t windows = tokens / c->seq_len > 1 ? tokens / c->seq_len : 1;
    double *losses = xmalloc((size_t)windows * sizeof *losses, "losses");
    int rc = 0;
    for (int64_t l = 0; l < m->config.n_layer && rc == 0; l++) {
        const struct model_layer_gates before = m->gate[l];
        if (!is_there(m, part, l))
            continue;
        leave_out(m, part, l, 1);
        rc = calibration_loss(m, c, 0, windows, losses, &score[l], err);
        m->gate[l] = before;
    }
    free(losses);
    return rc;
}

int depth_at_random(struct model *m, enum block_part part, const struct calibration *c, double *score, struct error *err)
{
    (void)err;
    struct random r;
    random_init(&r, c->seed, part == PART_LAYER ? "layers" : part == PART_ATTENTION ? "attention blocks" : "ffn blocks", 0);
    for (int64_t l = 0; l < m->config.n_layer; l++)
        score[l] = random_uniform(&r);
    return 0;
}

const struct depth_score depth_score_table[] = {
    {"block_influence", "1 - cosine of a block's input and output (ShortGPT, Men et al. 2024, eq. 1)", block_influence},
    {"loss", "the loss without the block (perplexity search; Shortened LLaMA, Kim et al. 2024, 3.1)", loss_without},
    {"random", "the control: uniform numbers from the seed", depth_at_random},
    {0},
};

static int64_t present(const struct model *m, enum block_part part)
{
    int64_t n = 0;
    for (int64_t l = 0; l < m->config.n_layer; l++)
        n += is_there(m, part, l);
    return n;
}

static int remove_blocks(struct model *m, enum block_part part, int64_t keep, const struct prune_options *o,
                         const struct calibration *c, struct error *err)
{
    const struct depth_score *table = &depth_score_table[o->depth_score];
    double *score = xcalloc((size_t)m->config.n_layer, sizeof *score, "scores of blocks");
    int rc = 0;
    while (rc == 0 && present(m, part) > keep) {
        int64_t worst = -1;
        rc = table->compute(m, part, c, score, err);
        for (int64_t l = 0; l < m->config.n_layer && rc == 0; l++) {
            if (!is_there(m, part, l))
                continue;
            if (!isfinite(score[l]))
                rc = error_set(err, "prune: the score of layer %ld by %s is %g, expected a finite number; look for NaN in the "
                               "checkpoint", (long)l, table->name, score[l]);
            if (worst < 0 || score[l] < score[worst])
                worst = l;
        }
        if (rc == 0) {
            leave_out(m, part, worst, 1);
            log_info("prune: %s %ld goes (%s %.4g)", part == PART_LAYER ? "layer" : part == PART_ATTENTION ? "the attention of layer"
                     : "the feed-forward block of layer", (long)worst, table->name, score[worst]);
        }
    }
    free(score);
    return rc;
}

// Kept of n when a fraction goes: the nearest, at least one.
static int64_t kept_of(int64_t n, double removed)
{
    const int64_t keep = llround((double)n * (1 - removed));
    return n && keep < 1 ? 1 : keep;
}

static void drop(struct layer_plan *p, int attention, int ff)
{
    p->n_head = attention ? 0 : p->n_head;
    p->n_group = attention ? 0 : p->n_group;
    p->n_ff = ff ? 0 : p->n_ff;
}

int depth_plan(struct model *m, const struct layer_shape *whole, int64_t whole_layers, const struct prune_options *o,
               double progress, const struct calibration *c, struct plan *p, int *changes, struct error *err)
{
    int64_t attention = 0, ff = 0;
    plan_whole(p, &m->config);
    model_add_gates(m, 0);
    int rc = o->layers > 0 ? remove_blocks(m, PART_LAYER, kept_of(whole_layers, o->layers * progress), o, c, err) : 0;
    for (int64_t l = 0; l < m->config.n_layer; l++) { // of the layers that stay, as they were
        attention += whole[l].n_head && is_there(m, PART_LAYER, l);
        ff += whole[l].n_ff && is_there(m, PART_LAYER, l);
    }
    if (rc == 0 && o->attention_blocks > 0)
        rc = remove_blocks(m, PART_ATTENTION, kept_of(attention, o->attention_blocks * progress), o, c, err);
    if (rc == 0 && o->ffn_blocks > 0)
        rc = remove_blocks(m, PART_FF, kept_of(ff, o->ffn_blocks * progress), o, c, err);
    *changes = 0;
    for (int64_t l = 0; l < m->config.n_layer; l++) {
        drop(&p->layer[l], m->gate[l].no_attention, m->gate[l].no_ff);
        *changes |= m->gate[l].no_attention | m->gate[l].no_ff;
    }
    model_drop_gates(m);
    if (rc < 0)
        plan_release(p);
    return rc;
}

void depth_counts(struct config *c, const struct prune_options *o, double progress)
{
    c->n_layer = kept_of(c->n_layer, o->layers * progress);
    const int64_t attention = kept_of(c->n_layer, o->attention_blocks * progress), ff = kept_of(c->n_layer, o->ffn_blocks * progress);
    for (int64_t l = 0; l < c->n_layer; l++) { // which ones is not known yet: the last
        if (l >= attention)
            c->layer[l].n_head = c->layer[l].n_kv_head = 0;
        if (l >= ff)
            c->layer[l].n_ff = 0;
    }
}
