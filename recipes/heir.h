// heir.h: a student of another shape that begins with its teacher's weights.
#ifndef PDQ_HEIR_H
#define PDQ_HEIR_H

#include "recipes/stage.h"

// Options "inherit", "inherit_layers" and "inherit_score" of a stage with a "shape". where: for messages.
int heir_check(int inherit, const char *shape, int layers, const char *score, const char *where, struct error *err);
// m takes from `from` what fits; where it is narrower, the best part of it. title: for the log.
int heir_take(const struct stage_run *s, struct model *m, const struct model *from, int layers, const char *score, const char *title,
              struct error *err);

#endif
