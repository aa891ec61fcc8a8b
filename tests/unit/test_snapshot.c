// A snapshot comes back bit for bit, or not at all.
#include <criterion/criterion.h>
#include <math.h>

#include "common/train/snapshot.h"
#include "tests/unit/tiny.h"

#define IDENTITY "0123456789abcdef0123456789abcdef"

struct state {
    struct model *model;
    struct optimizer optimizer;
    struct snapshot snapshot;
};

static void state_init(struct state *s, uint64_t seed, int kind)
{
    const struct optimizer_options p = {.kind = kind};
    s->model = tiny_model(1, 32, seed);
    optimizer_init(&s->optimizer, &p, s->model);
    s->snapshot = (struct snapshot){.best_held_out = (double)NAN};
}

static void state_release(struct state *s)
{
    optimizer_release(&s->optimizer);
    snapshot_release(&s->snapshot);
    model_free(s->model);
}

static void write_example(const char *path, struct state *s)
{
    state_init(s, 1, OPTIMIZER_ADAMW);
    size_t bytes = (size_t)s->model->n_element * sizeof(float);
    for (int64_t i = 0; i < s->model->n_element; i++) {
        s->optimizer.m[i] = (float)i;
        s->optimizer.v[i] = (float)-i;
    }
    s->optimizer.step = 17;
    s->snapshot = (struct snapshot){.step = 17,
                                    .evaluated = 10,
                                    .best_held_out = 2.5,
                                    .best = xmalloc(bytes, "test"),
                                    .log = xstrdup("{\"step\":1}\n"),
                                    .log_bytes = 11,
                                    .log_capacity = 12};
    memcpy(s->snapshot.best, s->model->data, bytes);
    struct error err;
    cr_assert_eq(snapshot_write(path, IDENTITY, s->model, &s->optimizer, &s->snapshot, &err), 0, "%s", err.text);
}

Test(snapshot, round_trip)
{
    char *folder = tiny_folder(), *path = path_join(folder, "snapshot");
    struct state wrote, read;
    struct error err;
    state_init(&read, 2, OPTIMIZER_ADAMW);
    cr_assert_eq(snapshot_read(path, IDENTITY, read.model, &read.optimizer, &read.snapshot, &err), 0); // none yet
    write_example(path, &wrote);
    cr_assert_eq(snapshot_read(path, IDENTITY, read.model, &read.optimizer, &read.snapshot, &err), 1, "%s", err.text);
    size_t bytes = (size_t)wrote.model->n_element * sizeof(float);
    cr_assert_arr_eq(read.model->data, wrote.model->data, bytes);
    cr_assert_arr_eq(read.optimizer.m, wrote.optimizer.m, bytes);
    cr_assert_arr_eq(read.optimizer.v, wrote.optimizer.v, bytes);
    cr_assert_arr_eq(read.snapshot.best, wrote.snapshot.best, bytes);
    cr_assert_eq(read.optimizer.step, 17);
    cr_assert_eq(read.snapshot.step, 17);
    cr_assert_eq(read.snapshot.evaluated, 10);
    cr_assert_eq(read.snapshot.best_held_out, 2.5);
    cr_assert_str_eq(read.snapshot.log, "{\"step\":1}\n");
    state_release(&wrote);
    state_release(&read);
    free(path);
    tiny_remove(folder);
}

static void refuse(const char *path, const char *identity, int kind, const char *says)
{
    struct state s;
    struct error err;
    state_init(&s, 3, kind);
    float first = s.model->data[0];
    cr_assert_eq(snapshot_read(path, identity, s.model, &s.optimizer, &s.snapshot, &err), -1);
    cr_assert_not_null(strstr(err.text, path), "%s", err.text);
    cr_assert_not_null(strstr(err.text, says), "%s", err.text);
    cr_assert_eq(s.model->data[0], first, "a refused snapshot changed the model");
    state_release(&s);
}

Test(snapshot, refuses_damaged_and_foreign_ones)
{
    char *folder = tiny_folder(), *path = path_join(folder, "snapshot");
    struct state wrote;
    write_example(path, &wrote);
    refuse(path, "another", OPTIMIZER_ADAMW, "another run");
    refuse(path, IDENTITY, OPTIMIZER_SGD, "header");
    char *data;
    size_t len;
    struct error err;
    cr_assert_eq(file_read(path, &data, &len, &err), 0);
    static const struct {
        size_t cut;
        const char *says;
    } cuts[] = {{0, "cut off"}, {10, "cut off"}, {120, "cut off"}, {200, "size"}, {20000, "size"}};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        cr_assert_eq(file_write(path, data, cuts[i].cut, &err), 0);
        refuse(path, IDENTITY, OPTIMIZER_ADAMW, cuts[i].says);
    }
    data[len / 2] ^= 1;
    cr_assert_eq(file_write(path, data, len, &err), 0);
    refuse(path, IDENTITY, OPTIMIZER_ADAMW, "digest");
    data[0] ^= 1;
    cr_assert_eq(file_write(path, data, len, &err), 0);
    refuse(path, IDENTITY, OPTIMIZER_ADAMW, "begin");
    free(data);
    state_release(&wrote);
    free(path);
    tiny_remove(folder);
}

// What is trained along comes back with its moments, and only where the run has it.
Test(snapshot, of_what_is_trained_along)
{
    char *folder = tiny_folder(), *path = path_join(folder, "snapshot");
    struct state run, beside, read, read_beside;
    struct error err;
    state_init(&run, 1, OPTIMIZER_ADAMW);
    state_init(&beside, 2, OPTIMIZER_ADAMW);
    state_init(&read, 3, OPTIMIZER_ADAMW);
    state_init(&read_beside, 4, OPTIMIZER_ADAMW);
    for (int64_t i = 0; i < beside.model->n_element; i++) {
        beside.optimizer.m[i] = (float)i;
        beside.optimizer.v[i] = (float)-i;
    }
    run.optimizer.step = 5;
    run.snapshot.beside = beside.model;
    run.snapshot.beside_optimizer = &beside.optimizer;
    cr_assert_eq(snapshot_write(path, IDENTITY, run.model, &run.optimizer, &run.snapshot, &err), 0, "%s", err.text);
    cr_assert_eq(snapshot_read(path, IDENTITY, read.model, &read.optimizer, &read.snapshot, &err), -1);
    cr_assert_not_null(strstr(err.text, "its header does not fit this run"), "%s", err.text);
    read.snapshot.beside = read_beside.model;
    read.snapshot.beside_optimizer = &read_beside.optimizer;
    cr_assert_eq(snapshot_read(path, IDENTITY, read.model, &read.optimizer, &read.snapshot, &err), 1, "%s", err.text);
    const size_t bytes = (size_t)beside.model->n_element * sizeof(float);
    cr_assert_arr_eq(read.model->data, run.model->data, bytes);
    cr_assert_arr_eq(read_beside.model->data, beside.model->data, bytes);
    cr_assert_arr_eq(read_beside.optimizer.m, beside.optimizer.m, bytes);
    cr_assert_arr_eq(read_beside.optimizer.v, beside.optimizer.v, bytes);
    cr_assert_eq(read_beside.optimizer.step, 5);
    state_release(&run);
    state_release(&beside);
    state_release(&read);
    state_release(&read_beside);
    free(path);
    tiny_remove(folder);
}
