// prune.c: the tables of scores and options, and one pruning step from scores to a verified smaller model.
#include "prune/prune.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/options.h"
#include "prune/score.h"

#define VERIFY_TOKENS 1024
#define VERIFY_FROM_FILE 256 // tokens, where every window reads all weights from a file
#define VERIFY_HIDDEN 1e-3 // every norm rounds anew when the hidden width changes, and a net of large weights multiplies that
#define VERIFY_TOLERANCE 1e-5 // f32 sums over other lengths and in another order differ by about 1e-6

const struct prune_score prune_score_table[] = {
    {"magnitude", 0, 0, "product of the L2 norms of a unit's tensors (LLM-Pruner's product aggregation, Ma et al. 2023, 3.2)",
     score_magnitude},
    {"l1", 0, 0, "sum of |w| over a unit's tensors (Li et al. 2017, section 3.1)", score_l1},
    {"l2", 0, 0, "L2 norm over a unit's tensors (group norm; He et al. 2018, eq. 2)", score_l2},
    {"taylor", 2, 2, "mean |dL/d gate| at gate 1 (Michel et al. 2019, eq. 2; Molchanov et al. 2019, eq. 9)", score_taylor},
    {"fisher", 2, 1, "mean over sequences of (dL/d gate)^2 (Theis et al. 2018, eq. 6)", score_fisher},
    {"loss_change", 2, 1, "-dL/d gate + Fisher / 2: the loss's Taylor series to second order, signs kept (LeCun et al. 1990, eq. 1)",
     score_loss_change},
    {"activation", 1, 0, "mean |activation| of a channel, mean L2 norm of a head's output (Minitron, Muralidharan et al. 2024, 2.2)",
     score_activation},
    {"activation_rms", 1, 0, "root mean square of a unit's activations (Minitron's L2 aggregation)", score_activation_rms},
    {"flap", 1, 0, "variance of what the output projection reads from a unit, times its columns' squared norms (An et al. 2024, eq. 5)",
     score_flap},
    {"wanda", 1, 0, "sum of |w| times the input's norm over a unit's columns of the output projection (Sun et al. 2024, eq. 1)",
     score_wanda},
    {"slimming", 3, 0, "gates trained with the weights under an L1 penalty (network slimming, Liu et al. 2017, eq. 1)", score_slimming},
    {"random", 0, 0, "the control: uniform numbers from the seed", score_random},
    {0},
};

#define ROW(name, type, field, ...) {name, type, offsetof(struct prune_options, field), __VA_ARGS__}

const struct option prune_option_table[] = {
    ROW("heads", OPTION_DOUBLE, heads, "0", 0, 0.99, NULL, "F", "fraction of the attention heads removed, in every layer"),
    ROW("ffn", OPTION_DOUBLE, ffn, "0", 0, 0.999, NULL, "F", "fraction of the feed-forward channels removed, in every layer"),
    ROW("layers", OPTION_DOUBLE, layers, "0", 0, 0.99, NULL, "F", "fraction of the whole layers removed"),
    ROW("attention_blocks", OPTION_DOUBLE, attention_blocks, "0", 0, 0.99, NULL, "F", "fraction of the layers' attention blocks removed"),
    ROW("ffn_blocks", OPTION_DOUBLE, ffn_blocks, "0", 0, 0.99, NULL, "F", "fraction of the layers' feed-forward blocks removed"),
    ROW("hidden", OPTION_DOUBLE, hidden, "0", 0, 0.99, NULL, "F", "fraction of the hidden width removed, the same channels in every layer"),
    ROW("budget", OPTION_JSON, budget, NULL, 0, 0, NULL, NULL,
        "instead of heads and ffn, what the result may take: one of params, bytes (of the GGUF file that a later stage writes), "
        "flops, ms; a value below 1 is a share of the parent's"),
    ROW("score", OPTION_CHOICE, score, "taylor", 0, 0, "magnitude|l1|l2|taylor|fisher|loss_change|activation|activation_rms|flap|wanda|slimming|random", NULL,
        "what decides which units stay"),
    ROW("depth_score", OPTION_CHOICE, depth_score, "block_influence", 0, 0, "block_influence|loss|random", NULL,
        "what decides which layers and blocks stay"),
    ROW("scope", OPTION_CHOICE, scope, "layer", 0, 0, "layer|global", NULL,
        "the same count in every layer, or one ranking over all layers"),
    ROW("floor", OPTION_DOUBLE, floor, "0.1", 0, 1, NULL, "F",
        "share of each layer's units that stays under a ranking over all layers or a budget"),
    ROW("mask", OPTION_BOOL, mask, "false", 0, 0, NULL, NULL,
        "write zeros where units go, and keep the shape: loads everywhere, saves nothing; single query heads can go"),
    ROW("heads_by", OPTION_CHOICE, heads_by, "group", 0, 0, "group|query", NULL,
        "remove whole key/value groups, or query heads evenly inside the groups"),
    ROW("steps", OPTION_INT, steps, "1", 1, 1000, NULL, "N", "reach the fractions in this many steps"),
    ROW("schedule", OPTION_CHOICE, schedule, "cubic", 0, 0, "linear|cubic|exponential", NULL, "how the fractions grow over the steps"),
    ROW("align", OPTION_INT, align, "0", 0, 65536, NULL, "N",
        "widths are multiples of this; 0: 256 before a K quantization, else 32"),
    ROW("calibration_tokens", OPTION_INT, calibration_tokens, "32768", 1, 1e12, NULL, "N", "text that the score looks at"),
    ROW("calibration_batch", OPTION_INT, calibration_batch, "4", 1, 4096, NULL, "N", "sequences in one calibration batch"),
    ROW("compensate", OPTION_BOOL, compensate, "false", 0, 0, NULL, NULL,
        "after the cut, put what is removed, on average over the calibration text, into the biases (FLAP)"),
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

double prune_progress(enum prune_schedule schedule, int64_t i, int64_t n, double sparsity)
{
    const double x = (double)i / (double)n;
    switch (schedule) {
    case PRUNE_CUBIC: return 1 - (1 - x) * (1 - x) * (1 - x);
    case PRUNE_EXPONENTIAL: return sparsity > 0 ? (1 - pow(1 - sparsity, x)) / sparsity : x;
    default: return x;
    }
}

static int judge(double found, double tolerance, double *difference, struct error *err)
{
    *difference = found > *difference || isnan(found) ? found : *difference;
    if (!(found <= tolerance))
        return error_set(err, "prune: masked and sliced model differ by %.3g of the largest logit, expected at most %.0e; "
                         "this is a defect of pdq (or the checkpoint holds NaN): please report it with `pdq inspect` of the model",
                         found, tolerance);
    log_info("prune: masked and sliced model agree within %.2g of the largest logit", found);
    return 0;
}

// Masked and sliced must be one function: a check of the cut itself, on every prune.
static int verify(struct model *m, struct model *cut, const struct plan *p, const struct calibration *c, double *difference,
                  struct error *err)
{
    if (p->hidden) {
        struct model *masked = mask_hidden(m, p);
        const double found = mask_difference(masked, cut, c, VERIFY_TOKENS);
        model_free(masked);
        return judge(found, VERIFY_HIDDEN, difference, err);
    }
    mask_apply(m, p);
    const double found = mask_difference(m, cut, c, m->data ? VERIFY_TOKENS : VERIFY_FROM_FILE);
    model_drop_gates(m);
    return judge(found, VERIFY_TOLERANCE, difference, err);
}

// ---- one step ----

struct step { // lifetime: prune_step
    const struct prune_options *options;
    const struct prune_budget *budget;
    const struct calibration *calibration;
    struct prune_state *state;
    double progress;
    struct layer_shape *whole; // [layers at hand] as they were in the original
    struct model *given, *current;
};

// The plan's cut becomes the model at hand; the plan is used up. with_fit: the projections make up for it, where the options say so.
static int cut(struct step *s, struct plan *plan, int with_mask, int with_fit, struct error *err)
{
    const struct prune_options *o = s->options;
    struct model *m = s->current, *smaller = with_mask ? zero_removed(m, plan) : m->data ? shrink(m, plan) : shrink_view(m, plan);
    int rc = verify(m, smaller, plan, s->calibration, &s->state->difference, err);
    if (rc == 0 && with_fit && o->reconstruct) {
        struct model *plain = smaller;
        smaller = shrink(m, plan);
        rc = reconstruct(m, smaller, plan, s->calibration, err);
        if (rc == 0 && o->guards)
            rc = guard_reconstruction(plain, smaller, s->calibration, err);
        model_free(plain);
    }
    if (rc == 0 && with_fit && o->compensate) {
        struct model *biased = compensate(m, smaller, plan, s->calibration, err);
        rc = biased ? 0 : -1;
        if (biased) {
            model_free(smaller);
            smaller = biased;
        }
    }
    if (rc < 0) {
        model_free(smaller);
        plan_release(plan);
        return -1;
    }
    if (m != s->given)
        model_free(m);
    s->current = smaller;
    plan_compose(&s->state->kept, plan);
    s->state->kept = *plan;
    return 0;
}

static int remove_depth(struct step *s, struct error *err)
{
    const struct prune_options *o = s->options;
    struct plan plan;
    int changes;
    if (o->layers <= 0 && o->attention_blocks <= 0 && o->ffn_blocks <= 0)
        return 0;
    TRY(depth_plan(s->current, s->whole, s->state->original->n_layer, o, s->progress, s->calibration, &plan, &changes, err));
    if (!changes) {
        plan_release(&plan);
        return 0;
    }
    int64_t n = 0;
    for (int64_t l = 0; l < plan.n_layer; l++)
        if (plan.layer[l].n_head || plan.layer[l].n_ff)
            s->whole[n++] = s->whole[l];
    return cut(s, &plan, 0, 0, err);
}

#define CORRECTIONS 5 // of the costs that a budget goes by, at most

static int choose_counts(const struct step *s, const struct prune_scores *scores, struct layer_shape *counts, struct error *err)
{
    const struct prune_options *o = s->options;
    const struct config *c = &s->current->config;
    if (!s->budget && o->scope == SCOPE_LAYER)
        return plan_counts(c, s->whole, o, s->progress, counts, err);
    TRY(rank_counts(c, s->whole, o, scores, s->progress, s->budget, counts, err));
    struct config chosen = *c;
    chosen.layer = counts;
    for (int i = 0; s->budget && s->budget->again && i < CORRECTIONS && s->budget->again(s->budget->context, &chosen); i++)
        TRY(rank_counts(c, s->whole, o, scores, s->progress, s->budget, counts, err));
    return 0;
}

// Would a random choice of as many units do better?
static int probe(struct step *s, const struct plan *plan, const struct layer_shape *counts, struct error *err)
{
    const struct prune_options *o = s->options;
    if (!o->guards || !s->calibration->data || prune_score_table[o->score].compute == score_random)
        return 0;
    struct prune_scores scores;
    struct plan chance;
    prune_scores_init(&scores, &s->current->config);
    int rc = score_random(s->current, s->calibration, &scores, err);
    if (rc == 0)
        rc = plan_make(&chance, &s->current->config, &scores, counts, o->heads_by, o->mask, err);
    prune_scores_release(&scores);
    TRY(rc);
    rc = guard_probe(s->current, plan, &chance, s->calibration, prune_score_table[o->score].name, err);
    plan_release(&chance);
    return rc;
}

static void scores_copy(struct prune_scores *to, const struct prune_scores *from, const struct config *c)
{
    for (int64_t l = 0; l < c->n_layer; l++) {
        memcpy(to->head[l], from->head[l], (size_t)c->layer[l].n_head * sizeof **to->head);
        memcpy(to->group[l], from->group[l], (size_t)c->layer[l].n_kv_head * sizeof **to->group);
        memcpy(to->ff[l], from->ff[l], (size_t)c->layer[l].n_ff * sizeof **to->ff);
    }
}

// Computes, or takes from the cache, the scores of the model at hand.
static int get_scores(const struct step *s, struct prune_scores *scores, struct error *err)
{
    const struct prune_score *table = &prune_score_table[s->options->score];
    const struct calibration *c = s->calibration;
    struct score_cache *cache = s->current == s->given ? c->cache : NULL;
    if (!cache)
        return table->compute(s->current, c, scores, err);
    char *key = xasprintf("%s %ld %ld %ld %lu %d", table->name, (long)c->tokens, (long)c->batch, (long)c->seq_len,
                          (unsigned long)c->seed, (int)c->precision);
    for (int i = 0; i < cache->n; i++)
        if (strcmp(cache->key[i], key) == 0) {
            scores_copy(scores, &cache->scores[i], &s->current->config);
            free(key);
            return 0;
        }
    if (table->compute(s->current, c, scores, err) < 0) {
        free(key);
        return -1;
    }
    const size_t n = (size_t)++cache->n;
    cache->key = xrealloc(cache->key, n * sizeof *cache->key, "scores");
    cache->scores = xrealloc(cache->scores, n * sizeof *cache->scores, "scores");
    cache->key[n - 1] = key;
    prune_scores_init(&cache->scores[n - 1], &s->current->config);
    scores_copy(&cache->scores[n - 1], scores, &s->current->config);
    return 0;
}

void score_cache_release(struct score_cache *c)
{
    for (int i = 0; i < c->n; i++) {
        free(c->key[i]);
        prune_scores_release(&c->scores[i]);
    }
    free(c->key);
    free(c->scores);
    *c = (struct score_cache){0};
}

static int make_plan(struct step *s, struct plan *plan, struct error *err)
{
    const struct prune_options *o = s->options;
    const struct config *c = &s->current->config;
    struct layer_shape *counts = xcalloc((size_t)c->n_layer, sizeof *counts, "counts of units");
    struct prune_scores scores;
    prune_scores_init(&scores, c);
    int rc = get_scores(s, &scores, err);
    if (rc == 0)
        rc = choose_counts(s, &scores, counts, err);
    if (rc == 0 && o->guards)
        rc = guard_scores(&scores, c, counts, o->heads_by, err);
    if (rc == 0)
        rc = plan_make(plan, c, &scores, counts, o->heads_by, o->mask, err);
    if (rc == 0 && probe(s, plan, counts, err) < 0) {
        plan_release(plan);
        rc = -1;
    }
    prune_scores_release(&scores);
    free(counts);
    return rc;
}

static int remove_units(struct step *s, struct error *err)
{
    const struct prune_options *o = s->options;
    struct plan plan;
    if (o->heads <= 0 && o->ffn <= 0 && !s->budget)
        return 0;
    TRY(make_plan(s, &plan, err));
    return cut(s, &plan, o->mask, 1, err);
}

static int remove_hidden(struct step *s, struct error *err)
{
    const struct prune_options *o = s->options;
    struct plan plan;
    if (o->hidden <= 0)
        return 0;
    const int64_t keep = hidden_count(s->state->original->hidden, o->hidden * s->progress, o->align);
    if (keep < 1)
        return error_set(err, "prune.hidden: no width below %ld is a multiple of align = %ld; give a smaller \"align\"",
                         (long)s->state->original->hidden, (long)o->align);
    if (keep >= s->current->config.hidden)
        return 0;
    TRY(hidden_plan(s->current, keep, prune_score_table[o->score].compute == score_random, s->calibration, &plan, err));
    return cut(s, &plan, 0, 0, err);
}

int prune_streams(const struct prune_options *o)
{
    const int by_weights = prune_score_table[o->score].passes == 0;
    return by_weights && !o->mask && !o->reconstruct && !o->compensate && !o->recover && o->steps == 1 && o->layers <= 0 && o->attention_blocks <= 0 &&
           o->ffn_blocks <= 0 && o->hidden <= 0;
}

int prune_needs_text(const struct prune_options *o)
{
    const int depth = o->layers > 0 || o->attention_blocks > 0 || o->ffn_blocks > 0;
    const int random_depth = depth_score_table[o->depth_score].compute == depth_at_random;
    const int units = o->heads > 0 || o->ffn > 0 || o->budget != NULL;
    return (units && prune_score_table[o->score].passes) || o->reconstruct || o->compensate || (depth && !random_depth) ||
           (o->hidden > 0 && prune_score_table[o->score].compute != score_random);
}

static int check_text(const struct prune_options *o, const struct calibration *c, struct error *err)
{
    if (!prune_needs_text(o))
        return 0;
    if (c->data || c->examples)
        return o->guards ? guard_calibration(c, err) : 0;
    return error_set(err, "prune: what these options look at needs text, and there is none; give data.train, or take a score of "
                     "weights alone (magnitude, l1, l2) or random, and no reconstruction");
}

int prune_step(struct model *m, struct prune_state *state, const struct prune_options *o, double progress,
               const struct prune_budget *budget, const struct calibration *c, struct model **out, struct error *err)
{
    struct step s = {.options = o, .budget = budget, .calibration = c, .state = state, .progress = progress,
                     .whole = xcalloc((size_t)state->original->n_layer, sizeof *s.whole, "shapes"), .given = m, .current = m};
    int64_t n = 0;
    for (int64_t l = 0; l < state->original->n_layer; l++) {
        const struct layer_plan *kept = state->kept.n_layer ? &state->kept.layer[l] : NULL;
        if (!kept || kept->n_head || kept->n_ff)
            s.whole[n++] = state->original->layer[l];
    }
    int rc = check_text(o, c, err);
    if (rc == 0)
        rc = remove_depth(&s, err);
    if (rc == 0)
        rc = remove_units(&s, err);
    if (rc == 0)
        rc = remove_hidden(&s, err);
    free(s.whole);
    if (rc < 0 && s.current != m)
        model_free(s.current);
    if (rc == 0 && s.current == m) { // nothing to remove in this step
        struct plan plan;
        plan_whole(&plan, &m->config);
        s.current = shrink(m, &plan);
        plan_compose(&state->kept, &plan);
        state->kept = plan;
    }
    *out = rc == 0 ? s.current : NULL;
    return rc;
}
