// heir.c: see heir.h.
#include "recipes/heir.h"

#include "common/base/log.h"
#include "prune/prune.h"
#include "recipes/inputs.h"

#define CALIBRATION_TOKENS 16384
#define CALIBRATION_BATCH 8

int heir_check(int inherit, const char *shape, int layers, const char *score, const char *where, struct error *err) {
    const char *names[32];
    int n = 0;
    if (inherit && !shape)
        return error_set(err, "%s: \"inherit\" is for a student of another shape; give \"shape\", the folder of its config.json", where);
    if (!inherit && layers != INHERIT_SPREAD)
        return error_set(err, "%s: \"inherit_layers\" says how a student inherits, and it does not; give \"inherit\": true", where);
    if (prune_score_named(score))
        return 0;
    for (; prune_score_table[n].name && n < 31; n++)
        names[n] = prune_score_table[n].name;
    names[n] = NULL;
    const char *near = nearest_name(score, names);
    return error_set(err, "%s: \"inherit_score\": found \"%s\", expected a score of prune (magnitude, taylor, activation, ...)%s%s%s", where, score,
                     near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

int heir_take(const struct stage_run *s, struct model *m, const struct model *from, int layers, const char *score, const char *title,
              struct error *err) {
    const struct inputs *in = s->run->inputs;
    const struct dataset *text = &s->train->data;
    const struct calibration calibration = {.data = text->n_token ? text : NULL,
                                            .examples = in->has_examples && in->examples.n ? &in->examples : NULL,
                                            .seq_len = s->recipe->data.seq_len,
                                            .tokens = CALIBRATION_TOKENS,
                                            .batch = CALIBRATION_BATCH,
                                            .seed = (uint64_t)s->recipe->seed,
                                            .precision = (enum precision)s->recipe->precision};
    struct model *part = NULL;
    if (prune_shape_fits(&from->config, &m->config))
        TRY(prune_to_shape(from, &m->config, layers, prune_score_named(score), &calibration, &part, err));
    const long taken = (long)(part ? model_inherit(m, part, INHERIT_SPREAD) : model_inherit(m, from, layers));
    log_info("%s: begins with %ld of its %ld weights from a model of %ld layers, hidden width %ld", title, taken, (long)m->n_element,
             (long)from->config.n_layer, (long)from->config.hidden);
    model_free(part);
    return 0;
}
