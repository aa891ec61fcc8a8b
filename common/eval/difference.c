// difference.c: see difference.h. Gu et al. 2024 (MiniPLM, section 2.2) choose by log p(x) / p_ref(x) of documents; windows are of one length (but
// for the last), so that the mean over tokens ranks them as the sum does.
#include "common/eval/difference.h"

#include <stdlib.h>

void window_differences(struct model *large, struct model *small, const struct dataset *d, int64_t seq_len, enum precision precision, int64_t first,
                        int64_t B, double *score)
{
    const int64_t N = B * seq_len;
    int32_t *ids = xmalloc((size_t)N * sizeof *ids, "windows"), *targets = xmalloc((size_t)N * sizeof *targets, "windows");
    double *nll = xcalloc((size_t)(3 * N), sizeof *nll, "losses of windows");
    unsigned char *agree = xmalloc((size_t)N, "losses of windows");
    for (int64_t b = 0; b < B; b++)
        dataset_read_window(d, seq_len, first + b, ids + b * seq_len, targets + b * seq_len);
    struct tape tape;
    tape_init(&tape, precision);
    const struct forward forward = {.ids = ids, .B = B, .T = seq_len, .checkpoint = 1}; // nothing records: a layer's inner values go
    const struct tensor *by_small = model_forward(small, &tape, &forward), *by_large = model_forward(large, &tape, &forward);
    const struct head_eval eval = {.targets = targets,
                                   .against_x = by_small->data,
                                   .against_w = model_head(small),
                                   .bias = model_head_bias(large),
                                   .against_bias = model_head_bias(small),
                                   .cap = large->config.logit_cap,
                                   .against_cap = small->config.logit_cap,
                                   .nll = nll,
                                   .against_nll = nll + N,
                                   .kl = nll + 2 * N,
                                   .agree = agree};
    op_head_eval(&tape, by_large, model_head(large), &eval);
    tape_release(&tape);
    for (int64_t b = 0; b < B; b++) {
        double sum = 0;
        int64_t n = 0;
        for (int64_t i = b * seq_len; i < (b + 1) * seq_len; i++)
            if (targets[i] >= 0) {
                sum += nll[N + i] - nll[i];
                n++;
            }
        score[b] = n ? sum / (double)n : 0;
    }
    free(ids);
    free(targets);
    free(nll);
    free(agree);
}
