// noise.c: inputs of a language model with noise in them, so that it cannot lean on any one token before. Hiding is the word dropout of Gal and
// Ghahramani 2016 (section 4.2, here token by token); replacing is the unigram noising of Xie et al. 2017 (section 3.1): a token drawn from
// the data at random has the data's own distribution of single tokens.
#include "common/base/random.h"
#include "common/data/dataset.h"

void dataset_noise(const struct dataset *d, double hide, double replace, int32_t hidden, uint64_t seed, uint64_t index, int32_t *inputs, int64_t n)
{
    struct random r;
    random_init(&r, seed, "noise in inputs", index);
    for (int64_t i = 0; i < n; i++) {
        const double draw = random_uniform(&r);
        if (draw < hide)
            inputs[i] = hidden;
        else if (draw < hide + replace)
            inputs[i] = d->token[random_below(&r, d->n_token)];
    }
}
