// prune.c: the tables of scores and options, and one pruning step from scores to a verified smaller model.
#include "prune/prune.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/options.h"
#include "prune/score.h"

#define VERIFY_TOKENS 1024
#define VERIFY_TOLERANCE 1e-5 // f32 sums over other lengths and in another order differ by about 1e-6

const struct prune_score prune_score_table[] = {
    {"magnitude", 0, "product of the L2 norms of a unit's tensors (LLM-Pruner's product aggregation, Ma et al. 2023, 3.2)",
     score_magnitude},
    {"l1", 0, "sum of |w| over a unit's tensors (Li et al. 2017, section 3.1)", score_l1},
    {"l2", 0, "L2 norm over a unit's tensors (group norm; He et al. 2018, eq. 2)", score_l2},
    {"taylor", 2, "mean |dL/d gate| at gate 1 (Michel et al. 2019, eq. 2; Molchanov et al. 2019, eq. 9)", score_taylor},
    {"fisher", 2, "mean over sequences of (dL/d gate)^2 (Theis et al. 2018, eq. 6)", score_fisher},
    {"activation", 1, "mean |activation| of a channel, mean L2 norm of a head's output (Minitron, Muralidharan et al. 2024, 2.2)",
     score_activation},
    {"activation_rms", 1, "root mean square of a unit's activations (Minitron's L2 aggregation)", score_activation_rms},
    {"flap", 1, "variance of what the output projection reads from a unit, times its columns' squared norms (An et al. 2024, eq. 5)",
     score_flap},
    {"wanda", 1, "sum of |w| times the input's norm over a unit's columns of the output projection (Sun et al. 2024, eq. 1)",
     score_wanda},
    {"random", 0, "the control: uniform numbers from the seed", score_random},
    {0},
};

#define ROW(name, type, field, ...) {name, type, offsetof(struct prune_options, field), __VA_ARGS__}

const struct option prune_option_table[] = {
    ROW("heads", OPTION_DOUBLE, heads, "0", 0, 0.99, NULL, "F", "fraction of the attention heads removed, in every layer"),
    ROW("ffn", OPTION_DOUBLE, ffn, "0", 0, 0.999, NULL, "F", "fraction of the feed-forward channels removed, in every layer"),
    ROW("score", OPTION_CHOICE, score, "taylor", 0, 0, "magnitude|l1|l2|taylor|fisher|activation|activation_rms|flap|wanda|random", NULL,
        "what decides which units stay"),
    ROW("heads_by", OPTION_CHOICE, heads_by, "group", 0, 0, "group|query", NULL,
        "remove whole key/value groups, or query heads evenly inside the groups"),
    ROW("steps", OPTION_INT, steps, "1", 1, 1000, NULL, "N", "reach the fractions in this many steps"),
    ROW("schedule", OPTION_CHOICE, schedule, "cubic", 0, 0, "linear|cubic", NULL, "how the fractions grow over the steps"),
    ROW("align", OPTION_INT, align, "0", 0, 65536, NULL, "N",
        "widths are multiples of this; 0: 256 before a K quantization, else 32"),
    ROW("calibration_tokens", OPTION_INT, calibration_tokens, "32768", 1, 1e12, NULL, "N", "text that the score looks at"),
    ROW("calibration_batch", OPTION_INT, calibration_batch, "4", 1, 4096, NULL, "N", "sequences in one calibration batch"),
    ROW("reconstruct", OPTION_BOOL, reconstruct, "false", 0, 0, NULL, NULL,
        "after the cut, fit the output projections to the uncut model's by least squares on the calibration text"),
    ROW("guards", OPTION_BOOL, guards, "true", 0, 0, NULL, NULL,
        "stop where scores are flat, the calibration text is too short, or chance does better on a probe"),
    ROW("recover", OPTION_JSON, recover, NULL, 0, 0, NULL, NULL, "a distill block, run between the steps"),
    {0},
};

void prune_scores_init(struct prune_scores *s, const struct config *c)
{
    const size_t n = (size_t)c->n_layer;
    s->n_layer = c->n_layer;
    s->head = xcalloc(n, sizeof *s->head, "scores");
    s->group = xcalloc(n, sizeof *s->group, "scores");
    s->ff = xcalloc(n, sizeof *s->ff, "scores");
    for (size_t l = 0; l < n; l++) {
        s->head[l] = xcalloc((size_t)c->layer[l].n_head, sizeof **s->head, "scores");
        s->group[l] = xcalloc((size_t)c->layer[l].n_kv_head, sizeof **s->group, "scores");
        s->ff[l] = xcalloc((size_t)c->layer[l].n_ff, sizeof **s->ff, "scores");
    }
}

void prune_scores_release(struct prune_scores *s)
{
    for (int64_t l = 0; l < s->n_layer; l++) {
        free(s->head[l]);
        free(s->group[l]);
        free(s->ff[l]);
    }
    free(s->head);
    free(s->group);
    free(s->ff);
    *s = (struct prune_scores){0};
}

double prune_progress(enum prune_schedule schedule, int64_t i, int64_t n)
{
    const double x = (double)i / (double)n;
    return schedule == PRUNE_CUBIC ? 1 - (1 - x) * (1 - x) * (1 - x) : x;
}

// Masked and sliced must be one function: a check of the cut itself, on every prune.
static int verify(struct model *m, struct model *sliced, const struct plan *p, const struct calibration *c, double *difference,
                  struct error *err)
{
    mask_apply(m, p);
    *difference = mask_difference(m, sliced, c, VERIFY_TOKENS);
    model_drop_gates(m);
    if (!(*difference <= VERIFY_TOLERANCE))
        return error_set(err, "prune: masked and sliced model differ by %.3g of the largest logit, expected at most %.0e; "
                         "this is a defect of pdq (or the checkpoint holds NaN): please report it with `pdq inspect` of the model",
                         *difference, VERIFY_TOLERANCE);
    log_info("prune: masked and sliced model agree within %.2g of the largest logit", *difference);
    return 0;
}

static int make_plan(struct model *m, const struct prune_options *o, int score, const struct layer_shape *counts,
                     const struct calibration *c, struct plan *plan, struct error *err)
{
    struct prune_scores scores;
    prune_scores_init(&scores, &m->config);
    int rc = prune_score_table[score].compute(m, c, &scores, err);
    if (rc == 0 && o->guards)
        rc = guard_scores(&scores, &m->config, counts, err);
    if (rc == 0)
        rc = plan_make(plan, &m->config, &scores, counts, o->heads_by, err);
    prune_scores_release(&scores);
    return rc;
}

// Would a random choice of as many units do better?
static int probe(struct model *m, const struct prune_options *o, const struct layer_shape *counts, const struct calibration *c,
                 const struct plan *plan, struct error *err)
{
    int random = 0;
    while (prune_score_table[random].compute != score_random)
        random++;
    if (!o->guards || !c->data || o->score == random)
        return 0;
    struct plan chance;
    TRY(make_plan(m, o, random, counts, c, &chance, err));
    const int rc = guard_probe(m, plan, &chance, c, prune_score_table[o->score].name, err);
    plan_release(&chance);
    return rc;
}

static int check_text(const struct prune_options *o, const struct calibration *c, struct error *err)
{
    const struct prune_score *score = &prune_score_table[o->score];
    if (!score->passes && !o->reconstruct)
        return 0;
    if (c->data)
        return o->guards ? guard_calibration(c, err) : 0;
    return o->reconstruct
               ? error_set(err, "prune.reconstruct needs text and there is none; give data.train")
               : error_set(err, "prune.score: \"%s\" needs text and there is none; give data.train, or take magnitude, l1, l2 or "
                           "random", score->name);
}

int prune_step(struct model *m, const struct prune_options *o, const struct layer_shape *counts, const struct calibration *c,
               struct model **out, struct plan *plan_out, double *difference, struct error *err)
{
    TRY(check_text(o, c, err));
    TRY(make_plan(m, o, o->score, counts, c, plan_out, err));
    *out = NULL;
    int rc = probe(m, o, counts, c, plan_out, err);
    if (rc == 0) {
        *out = shrink(m, plan_out);
        rc = verify(m, *out, plan_out, c, difference, err);
    }
    if (rc == 0 && o->reconstruct)
        rc = reconstruct(m, *out, plan_out, c, err);
    if (rc < 0) {
        model_free(*out);
        plan_release(plan_out);
        *out = NULL;
    }
    return rc;
}
