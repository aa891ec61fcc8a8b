// stage_train.h: the options of a train stage, for it and for `pdq train`.
#ifndef PDQ_STAGE_TRAIN_H
#define PDQ_STAGE_TRAIN_H

#include "common/train/trainer.h"
#include "recipes/quantize_aware.h"

struct stage_train_options {
    struct train_options train;
    int init, inherit, inherit_layers;
    char *shape, *inherit_score;
    struct fake_quant_options fake;
};
extern const struct option stage_train_option_table[];

#endif
