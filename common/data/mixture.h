// mixture.h: which of several sources each window of a mixture comes from, by weights that may change on the way.
//
// Draw number i is a pure function of (weights so far, i): no reader's state. Nothing is drawn at random: the draws so far are split
// between the first half of the sources and the second by rounding to the nearest whole number, and so on down to one source. So after any
// number of draws a source is off its share by half a window at most for each halving: less than a window with up to 4 sources, than 1.5
// with up to 8. What a source is owed when the weights change it gets under the new ones, unless its new weight is 0; meanwhile it may be off by some more.
#ifndef PDQ_MIXTURE_H
#define PDQ_MIXTURE_H

#include <stdint.h>

struct mixture_span { // draws with the same weights
    int64_t first;    // number of its first draw
    double *weight;   // [n], their sum is 1
    int64_t *count;   // [n] draws of each source before it
    double *owed;     // [n] how many more they would have been in proportion
};
struct mixture { // draws may be asked for by several threads at once; lifetime: its owner's
    int n;       // sources
    struct mixture_span *span; // [n_span], from draw 0 on
    int n_span;
};

struct mixture_draw {
    int source;
    int64_t number; // of its draws: how many came before this one
};

// weight [n]: finite, none below 0, one above it. They are divided by their sum; a source of weight 0 is never drawn.
void mixture_init(struct mixture *m, const double *weight, int n);
void mixture_copy(struct mixture *m, const struct mixture *from);
void mixture_release(struct mixture *m); // fine on a zeroed one
// From draw `first` on, which is after the first draw of every change before, the weights are these.
void mixture_reweight(struct mixture *m, int64_t first, const double *weight);
struct mixture_draw mixture_at(const struct mixture *m, int64_t i);
// Draws of each source among the first i: count [n].
void mixture_counts(const struct mixture *m, int64_t i, int64_t *count);
const double *mixture_weights(const struct mixture *m); // [n] those of the last change

#endif
