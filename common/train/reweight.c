// reweight.c: see reweight.h.
#include "common/train/reweight.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WEIGHTS "\"source_weights\":["

void reweight_update(double *weight, const double *loss, const double *reference, int n)
{
    double sum = 0, most = 0;
    for (int k = 0; k < n; k++)
        most = weight[k] > 0 && loss[k] - reference[k] > most ? loss[k] - reference[k] : most;
    for (int k = 0; k < n; k++) {
        const double behind = weight[k] > 0 && loss[k] > reference[k] ? loss[k] - reference[k] : 0;
        weight[k] *= exp(behind - most); // a factor that all have goes with the sum, and none is infinite
        sum += weight[k];
    }
    for (int k = 0; k < n; k++)
        weight[k] /= sum;
}

char *reweight_line(int64_t step, const double *weight, const double *loss, int n)
{
    char *line = xasprintf("{\"step\":%lld,\"source_losses\":[", (long long)step);
    for (int i = 0; i < 2 * n; i++) {
        const int k = i % n, is_weight = i >= n, known = is_weight || weight[k] > 0;
        char number[32];
        snprintf(number, sizeof number, is_weight ? "%.17g" : "%.9g", is_weight ? weight[k] : loss[k]);
        char *longer = xasprintf("%s%s%s", line, i == n ? "]," WEIGHTS : i ? "," : "", known ? number : "null");
        free(line);
        line = longer;
    }
    char *whole = xasprintf("%s]}\n", line);
    free(line);
    return whole;
}

void reweight_again(struct mixture *m, const char *log, int64_t draws)
{
    static const char step_key[] = "{\"step\":";
    double *weight = xmalloc((size_t)m->n * sizeof *weight, "weights of sources");
    for (const char *at = log; at && (at = strstr(at, WEIGHTS));) {
        const char *line = at;
        while (line > log && line[-1] != '\n')
            line--;
        at += strlen(WEIGHTS);
        for (int k = 0; k < m->n; k++) {
            char *next;
            weight[k] = strtod(at, &next);
            at = next + 1; // behind a comma, or the last one's bracket
        }
        mixture_reweight(m, strtoll(line + strlen(step_key), NULL, 10) * draws, weight);
    }
    free(weight);
}
