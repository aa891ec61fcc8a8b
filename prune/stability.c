// stability.c: is a training stable to the noise of SGD? (Frankle, Dziugaite, Roy and Carbin 2020, section 2): two copies go on from
// one state with different orders of the data; the loss along the straight line between where they end shows a barrier, or none.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "prune/lottery_units.h"

#define POINTS 11 // on the line, both ends among them
#define OTHER_ORDER 500000003u

// The state from which both go on: the dense weights at step u->at and the optimizer's moments [2] there.
static struct model *common_start(struct lottery *l, const struct unit *u, struct model *moment[2], struct error *err)
{
    char *name = path_join(u->name, "start"), *folder = path_join(l->folder, name);
    struct training_record record;
    struct model *m = lottery_fresh(l, (uint64_t)u->seed, err);
    const struct training t = {
        .folder = folder, .title = name, .model = m, .data_seed = (uint64_t)u->seed, .last = u->at, .moment = moment};
    moments_new(&l->task->config, moment);
    if (m && u->at && training_run(l, &t, &record, err) < 0) {
        model_free(m);
        m = NULL;
    }
    free(name);
    free(folder);
    return m;
}

static int train_copy(struct lottery *l, const struct unit *u, const char *name, const struct model *start,
                      struct model *const start_moment[2], const unsigned char *mask, uint64_t seed, struct model **out, struct error *err)
{
    char *inner = path_join(u->name, name), *folder = path_join(l->folder, inner);
    struct training_record record;
    struct model *m = model_new(&start->config, 1), *moment[2];
    const size_t bytes = (size_t)m->n_element * sizeof *m->data;
    moments_new(&start->config, moment);
    memcpy(m->data, start->data, bytes);
    for (int k = 0; k < 2; k++)
        memcpy(moment[k]->data, start_moment[k]->data, bytes);
    mask_zero(m, mask);
    const struct training t = {.folder = folder,
                               .title = inner,
                               .model = m,
                               .mask = u->round ? mask : NULL,
                               .data_seed = seed,
                               .first = u->at,
                               .moment = moment};
    int status = directory_make(folder, err);
    if (status == 0)
        status = training_run(l, &t, &record, err);
    free(inner);
    free(folder);
    moments_free(moment);
    *out = m;
    return status;
}

struct line {
    double loss[POINTS], error[POINTS]; // error in per cent; NaN: there is none
};

static int walk_line(struct lottery *l, const struct model *a, const struct model *b, struct line *line, struct error *err)
{
    struct model *m = model_new(&a->config, 1);
    int status = 0;
    for (int k = 0; k < POINTS && status == 0; k++) {
        const float share = (float)k / (POINTS - 1);
        for (int64_t i = 0; i < m->n_element; i++)
            m->data[i] = (1 - share) * a->data[i] + share * b->data[i];
        struct lottery_measure at;
        status = l->task->measure(l->task->context, m, l->task->has_test, &at, err);
        if (status == 0) {
            line->loss[k] = at.loss;
            line->error[k] = 100 - at.accuracy;
        }
    }
    model_free(m);
    return status;
}

// The largest excess over the mean of the two ends (the paper's "error barrier height").
static double barrier(const double *value)
{
    double most = value[0];
    for (int k = 1; k < POINTS; k++)
        most = fmax(most, value[k]);
    return most - (value[0] + value[POINTS - 1]) / 2;
}

static struct json *list_of(const double *value)
{
    struct json *list = json_array();
    for (int k = 0; k < POINTS; k++)
        json_push(list, isnan(value[k]) ? json_null() : json_from_number(value[k]));
    return list;
}

int stability_run(struct lottery *l, struct unit *u, struct error *err)
{
    struct model *moment[2], *start = common_start(l, u, moment, err), *copy[2] = {NULL, NULL};
    unsigned char *mask = start ? lottery_mask(l, u->seed, u->round, NULL, err) : NULL;
    const uint64_t seed = (uint64_t)u->seed + OTHER_ORDER;
    int status = mask ? 0 : -1;
    struct line line;
    if (status == 0)
        status = train_copy(l, u, "a", start, moment, mask, seed, &copy[0], err);
    if (status == 0)
        status = train_copy(l, u, "b", start, moment, mask, seed + 1, &copy[1], err);
    if (status == 0)
        status = walk_line(l, copy[0], copy[1], &line, err);
    if (status == 0) {
        struct json *o = json_object();
        const double pm = mask_pm(start, mask);
        json_set_string(o, "kind", "stability");
        json_set_number(o, "seed", (double)u->seed);
        json_set_number(o, "round", (double)u->round);
        json_set_number(o, "at", (double)u->at);
        json_set_number(o, "pm", pm);
        json_set_number(o, "sparsity", 100 - pm);
        json_set(o, "loss", list_of(line.loss));
        json_set(o, "error", list_of(line.error));
        json_set_number(o, "barrier", barrier(line.loss));
        json_set_number(o, "error_barrier", barrier(line.error));
        json_set_string(o, "folder", u->name);
        status = lottery_write_result(l, u->name, o, err);
        json_free(o);
    }
    free(mask);
    moments_free(moment);
    model_free(start);
    model_free(copy[0]);
    model_free(copy[1]);
    return status;
}
