// difference.h: how much more likely a window of text is to one model than to another.
#ifndef PDQ_DIFFERENCE_H
#define PDQ_DIFFERENCE_H

#include "common/data/dataset.h"
#include "common/model/model.h"

// score[b] = (log p of the window's predicted tokens by `large` - by `small`) / how many there are, of windows first .. first+B-1 of d, in nats.
// Both models have one vocabulary.
void window_differences(struct model *large, struct model *small, const struct dataset *d, int64_t seq_len, enum precision precision, int64_t first,
                        int64_t B, double *score);

#endif
