// loss_weight.h: the weight of a loss, constant or changing over the run. Internal to distill.
#ifndef PDQ_LOSS_WEIGHT_H
#define PDQ_LOSS_WEIGHT_H

#include "common/base/json.h"

struct loss_weight { // `from` up to the share `start` of the run, `to` after `end`, linear between
    double from, to, start, end;
};

// A number, [from, to], or {"from", "to", "start", "end"}; NULL: 1. where: for messages.
int loss_weight_read(struct loss_weight *w, const struct json *v, const char *where, struct error *err);
double loss_weight_at(const struct loss_weight *w, double share); // share of the run, 0 to 1

#endif
