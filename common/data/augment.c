// augment.c: other sequences made from a batch's, for a student whose teacher says what they mean (Tang et al. 2019, section 4.2, without the
// replacement by part of speech, for which a tagger would be needed). Every pass over the examples makes new ones.
#include <string.h>

#include "common/base/random.h"
#include "common/data/examples.h"

#define NGRAM_MOST 5

// Cuts a sequence [CLS] text [SEP] to one to five neighbours of the text. A pair of texts stays whole.
static void cut_to_ngram(struct example_batch *b, int64_t i, struct random *r)
{
    int32_t *ids = b->ids + i * b->T;
    const int64_t last = b->length[i] - 1, words = last - 1;
    if (words < 1 || b->types[i * b->T + last])
        return;
    int64_t n = 1 + random_below(r, NGRAM_MOST);
    n = n < words ? n : words;
    const int64_t from = 1 + random_below(r, words - n + 1);
    const int32_t end = ids[last];
    memmove(ids + 1, ids + from, (size_t)n * sizeof *ids);
    ids[1 + n] = end;
    memset(ids + n + 2, 0, (size_t)(b->T - n - 2) * sizeof *ids);
    b->length[i] = (int32_t)n + 2;
}

void examples_augment(const struct examples *e, double mask, double ngram, uint64_t seed, uint64_t index, struct example_batch *b)
{
    struct random r;
    random_init(&r, seed, "augmented examples", index);
    for (int64_t i = 0; i < b->B; i++) {
        const int32_t end = b->ids[i * b->T + b->length[i] - 1];
        for (int64_t t = 1; t + 1 < b->length[i]; t++) {
            int32_t *id = &b->ids[i * b->T + t];
            if (random_uniform(&r) < mask && *id != end) // [SEP] also stands between two texts
                *id = e->mask;
        }
        if (random_uniform(&r) < ngram)
            cut_to_ngram(b, i, &r);
    }
}
