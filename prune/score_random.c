// score_random.c: the control of every other score.
#include "common/base/random.h"
#include "prune/score.h"

static void fill(double *to, int64_t n, uint64_t seed, const char *name, int64_t layer)
{
    struct random r;
    random_init(&r, seed, name, (uint64_t)layer);
    for (int64_t i = 0; i < n; i++)
        to[i] = random_uniform(&r);
}

int score_random(struct model *m, const struct calibration *c, struct prune_scores *out, struct error *err)
{
    (void)err;
    for (int64_t l = 0; l < out->n_layer; l++) {
        fill(out->head[l], m->config.layer[l].n_head, c->seed, "random score, heads", l);
        fill(out->ff[l], m->config.layer[l].n_ff, c->seed, "random score, ffn", l);
    }
    return 0;
}
