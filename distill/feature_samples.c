// feature_samples.c: what losses on groups of samples share: rows of a group side by side, groups shared out among threads.
#include "distill/feature_samples.h"

#include <string.h>

#include "common/base/threads.h"
#include "common/tensor/vecmath.h"

void samples_gather(const struct feature_input *in, int64_t g, const struct tensor *x, float *to)
{
    const int64_t D = tensor_columns(x);
    for (int64_t i = in->start[g]; i < in->start[g + 1]; i++, to += D)
        memcpy(to, x->data + in->row[i] * D, (size_t)D * sizeof *to);
}

void samples_scatter(const struct feature_input *in, int64_t g, int64_t D, const float *from, float *to)
{
    for (int64_t i = in->start[g]; i < in->start[g + 1]; i++, from += D)
        for (int64_t d = 0; d < D; d++)
            to[in->row[i] * D + d] += from[d];
}

static int64_t most_samples(const struct feature_input *in)
{
    int64_t most = 1;
    for (int64_t g = 0; g < in->n_group; g++)
        most = max_i64(most, in->start[g + 1] - in->start[g]);
    return most;
}

static double group_loss(const struct feature_input *in, int64_t g, float *room, double k, float *const gradient[2], group_function *function)
{
    struct group group = {.n = in->start[g + 1] - in->start[g], .D = tensor_columns(in->student[0]), .Dt = tensor_columns(in->teacher[0])};
    float *at = room;
    for (int i = 0; i < 2 && in->student[i]; i++) {
        group.x[i] = at;
        group.t[i] = group.x[i] + group.n * group.D;
        group.dx[i] = group.t[i] + group.n * group.Dt;
        at = group.dx[i] + group.n * group.D;
        samples_gather(in, g, in->student[i], group.x[i]);
        samples_gather(in, g, in->teacher[i], group.t[i]);
        memset(group.dx[i], 0, (size_t)(group.n * group.D) * sizeof(float));
    }
    group.scratch = at;
    const double loss = function(&group, k);
    for (int i = 0; i < 2 && in->student[i]; i++)
        if (gradient[i])
            samples_scatter(in, g, group.D, group.dx[i], gradient[i]);
    return loss;
}

double mean_over_groups(struct arena *arena, const struct feature_input *in, double k, float *const gradient[2], group_scratch *scratch,
                        group_function *function)
{
    const int64_t n = most_samples(in), D = tensor_columns(in->student[0]), Dt = tensor_columns(in->teacher[0]);
    const int64_t tensors = in->student[1] ? 2 : 1, size = tensors * n * (2 * D + Dt) + scratch(n, D, Dt);
    const int64_t slots = min_i64(in->n_group, threads_count());
    const size_t mark = arena_mark(arena);
    float *room = arena_alloc(arena, (size_t)(slots * size) * sizeof *room);
    double *loss = arena_alloc(arena, (size_t)in->n_group * sizeof *loss), sum = 0;
#pragma omp parallel for schedule(dynamic, 1) num_threads((int)slots)
    for (int64_t g = 0; g < in->n_group; g++)
        loss[g] = group_loss(in, g, room + thread_number() * size, k / (double)in->n_group, gradient, function);
    for (int64_t g = 0; g < in->n_group; g++)
        sum += loss[g];
    arena_reset(arena, mark);
    return sum / (double)in->n_group;
}
