// sensitivity.h: what each unit is worth: the loss without it alone, measured by gates, with nothing cut.
#ifndef PDQ_SENSITIVITY_H
#define PDQ_SENSITIVITY_H

#include "common/eval/evaluate.h"

enum unit_kind { UNIT_HEAD, UNIT_GROUP, UNIT_SLICE, UNIT_ATTENTION, UNIT_FF, UNIT_KINDS };
extern const char *const unit_kind_name[UNIT_KINDS]; // "head", "group", "slice", "attention", "ffn"

struct unit_loss {
    enum unit_kind kind;
    int64_t layer, index;   // index: which one of its kind in its layer
    int64_t first, count;   // the gates that it has: heads, or channels
    double rise, low, high; // of the loss, nats per token, with the 95 % interval over the tokens
};

struct sensitivity { // lifetime: the command; released with sensitivity_release
    double nll;      // with everything there
    int64_t tokens, n;
    struct unit_loss *unit; // [n] layer by layer, kind by kind
};

// Every head, key/value group, slice (each layer's channels in `slices` parts), and a layer's whole attention and whole
// feed-forward block; one evaluation each. options as evaluate takes them.
int sensitivity_measure(struct sensitivity *s, struct model *m, const struct dataset *stream, const struct tokenizer *t,
                        const struct eval_options *options, int64_t slices, struct error *err);
int64_t sensitivity_units(const struct config *c, int64_t slices);
void sensitivity_release(struct sensitivity *s);
struct json *sensitivity_json(const struct sensitivity *s); // {"tokens", "nll", "units": [{"kind", "layer", ...}]}

#endif
