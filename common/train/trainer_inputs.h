// trainer_inputs.h: what a training is given, as a whole: does it fit together, and which hash names it.
#ifndef PDQ_TRAINER_INPUTS_H
#define PDQ_TRAINER_INPUTS_H

#include "common/base/hash.h"
#include "common/train/trainer.h"

int trainer_inputs_check(const struct trainer *t, struct error *err);
// A snapshot belongs to these inputs. How often snapshots are made is no input.
void trainer_inputs_hash(const struct trainer *t, char out[HASH_TEXT]);

#endif
