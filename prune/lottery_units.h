// lottery_units.h: one training of a lottery, from its mask to its files. Internal to prune.
#ifndef PDQ_LOTTERY_UNITS_H
#define PDQ_LOTTERY_UNITS_H

#include "common/tensor/dtype.h"
#include "prune/lottery.h"

enum unit_kind {
    UNIT_REWIND, // the dense model up to the step that everything is rewound to
    UNIT_TICKET, // round 0: the dense model
    UNIT_REINIT, UNIT_RANDOM_MASK, UNIT_MAGNITUDE_AT_INIT, // controls, as sparse as the ticket of their round
    UNIT_AT_INIT, UNIT_RIGL, UNIT_SET,
    UNIT_STABILITY
};

struct unit {
    enum unit_kind kind;
    int64_t seed, round;
    const struct at_init *at_init;
    double level;   // Pm that is asked for (at init, dynamic)
    int64_t at;     // stability: the step from which the two copies differ
    char *name;     // its folder, relative to the stage's
    int needs;      // unit that must be done before; -1: none
    int status;     // 0 waiting, 1 running, 2 done
    double seconds; // here and now; 0: it was done before
};

struct lottery { // lifetime: one lottery_run
    const struct lottery_task *task;
    const struct lottery_options *options;
    const char *folder;
    int64_t rewind_step;
    int rewind_weights; // 0: only the learning rate goes back (Renda et al. 2020)
    struct unit *unit;
    int n_unit, capacity;
};

struct training { // what one training needs beside the lottery's options
    const char *folder, *title;
    struct model *model;       // weights at the start, and at the end; masked weights are zero
    const unsigned char *mask; // NULL: dense
    uint64_t data_seed;
    int64_t first, last; // steps; last 0: all
    struct model **moment; // [2] the optimizer's at step `first`, and at the end, in the model's shape; NULL: they begin empty
    const struct dynamic *dynamic; // NULL: the mask stays
};
struct training_record { // of its log
    int64_t early_stop, steps;
    double validation_loss, test_loss, test_accuracy; // at early_stop
    double final_loss;                                // on the validation data, after the last step
};
int training_run(struct lottery *l, const struct training *t, struct training_record *out, struct error *err);

// A fresh model with a seed; NULL on failure.
struct model *lottery_fresh(struct lottery *l, uint64_t seed, struct error *err);
// The weights that a seed's runs are rewound to, from its files.
struct model *lottery_rewound(struct lottery *l, int64_t seed, struct error *err);
// The optimizer's moments [2] at that step; the caller frees each. Without a step they are empty.
int lottery_moments(struct lottery *l, int64_t seed, struct model *moment[2], struct error *err);
void moments_new(const struct config *c, struct model *moment[2]);
void moments_free(struct model *moment[2]);
// The mask of a seed's ticket in a round (0: ones), from the files of the round before. trained: NULL, or gets that round's
// weights. The caller frees both.
unsigned char *lottery_mask(struct lottery *l, int64_t seed, int64_t round, struct model **trained, struct error *err);
// Writes weights as a model's folder below the lottery's.
int lottery_save(struct lottery *l, struct model *m, const char *name, enum dtype dtype, struct error *err);
int lottery_write_result(struct lottery *l, const char *name, const struct json *result, struct error *err);

// Of the trainings in a unit's folder, once its result is written.
void unit_drop_snapshots(const struct lottery *l, const struct unit *u);
int unit_run(struct lottery *l, struct unit *u, struct error *err);
int stability_run(struct lottery *l, struct unit *u, struct error *err); // stability.c

#endif
