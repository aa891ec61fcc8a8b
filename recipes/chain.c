// chain.c: the stages of one recipe, one after the other, and the rows that measure what they made.
//
// A stage's hash covers everything that decides its result: version, type, options, the model it starts from (by the
// hash of the stage that made it, or of the parent's files), teacher, other files that options name, texts, seed, precision. DONE with that hash:
// skipped. A folder without DONE but begun with that hash: gone on with. Anything else in its place is removed and
// made again.
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/threads.h"
#include "common/base/timer.h"
#include "common/tensor/gemm.h"
#include "recipes/inputs.h"
#include "recipes/rows.h"
#include "recipes/runner.h"

static int hash_teachers(const struct recipe *r, const struct stage *stage, struct hasher *h, struct error *err) {
    const char *teacher;
    for (size_t i = 0; stage->type->teacher && (teacher = stage->type->teacher(stage, i)); i++) {
        char *path = recipe_path(r, teacher), text[HASH_TEXT];
        int result = model_hash(path, 0, text, err);
        free(path);
        hasher_add_text(h, result == 0 ? text : "");
        if (result < 0)
            return error_prefix(err, "the teacher");
    }
    return 0;
}

struct file_hashing { // lifetime: one call of stage_hash
    const struct recipe *recipe;
    struct hasher *hasher;
};

static int hash_stage_file(void *context, const char *name, int shape_only, struct error *err) {
    const struct file_hashing *f = context;
    char text[HASH_TEXT];
    if (!name)
        return 0;
    char *path = recipe_path(f->recipe, name);
    const int status = model_hash(path, shape_only, text, err);
    free(path);
    if (status == 0)
        hasher_add_text(f->hasher, text);
    return status;
}

static int stage_hash(const struct run *run, const struct recipe *r, int index, const char *input_hash, const char *text_hash,
                      char out[HASH_TEXT], struct error *err) {
    const struct stage *stage = &r->stage[index];
    struct hasher *h = hasher_new();
    struct json *options = options_json(stage->type->table, stage->options);
    json_remove(options, "teacher"); // its files count, not their place
    if (json_string(json_get(options, "teacher_cache")))
        json_set_bool(options, "teacher_cache", 1); // so does that there is one
    char *text = json_text(options, 0);
    int64_t numbers[] = {r->seed, r->precision, r->data.seq_len, r->data.eval_tokens};
    hasher_add_text(h, PDQ_VERSION);
    hasher_add_text(h, stage->type->name);
    hasher_add_text(h, r->name);
    hasher_add_text(h, text);
    hasher_add_text(h, run->parent_hash);
    hasher_add_text(h, input_hash);
    hasher_add_text(h, text_hash);
    hasher_add_text(h, run->inputs->eval.hash);
    hasher_add(h, numbers, sizeof numbers);
    int result = hash_teachers(r, stage, h, err);
    struct file_hashing files = {r, h};
    if (result == 0 && stage->type->files)
        result = stage->type->files(stage, hash_stage_file, &files, err);
    hasher_end(h, out);
    free(text);
    json_free(options);
    return result;
}

// DONE of a stage that was finished with this hash and whose products are still there; NULL: it is to be run.
static struct json *read_done(const char *folder, const char *hash) {
    struct error err;
    char *path = path_join(folder, "DONE");
    struct json *done = file_exists(path) ? json_read(path, &err) : NULL;
    const char *found = json_string(json_get(done, "hash"));
    int fine = found && strcmp(found, hash) == 0;
    const struct json *products = json_get(json_get(done, "facts"), "products");
    for (const struct json *p = json_first(products); p && fine; p = json_next(p)) {
        char *product = path_join(folder, json_string(json_get(p, "path")));
        fine = model_bytes(product) > 0;
        free(product);
    }
    free(path);
    if (fine)
        return done;
    json_free(done);
    return NULL;
}

// Makes the folder ready: what was begun with the same inputs stays, anything else goes.
static int prepare_folder(const char *folder, const char *hash, struct error *err) {
    char *mark = path_join(folder, "INPUTS"), *done = path_join(folder, "DONE"), *data = NULL;
    size_t len = 0;
    int same = 0, status = 0;
    struct error ignored;
    if (file_exists(mark) && !file_exists(done) && file_read(mark, &data, &len, &ignored) == 0)
        same = strcmp(data, hash) == 0;
    free(data);
    if (!same) {
        status = directory_remove(folder, err);
        if (status == 0)
            status = directory_make(folder, err);
        if (status == 0)
            status = file_write(mark, hash, strlen(hash), err);
    }
    free(mark);
    free(done);
    return status;
}

static int write_done(const struct stage_run *s, struct json **done, struct error *err) {
    struct json *o = json_object();
    json_set_string(o, "hash", s->hash);
    json_set_string(o, "version", PDQ_VERSION);
    json_set(o, "facts", json_copy(s->facts));
    json_set(o, "measured", json_copy(s->measured));
    char *text = json_text(o, 1), *path = path_join(s->folder, "DONE");
    int status = file_write(path, text, strlen(text), err);
    free(text);
    free(path);
    *done = o;
    return status;
}

static int run_stage(struct stage_run *s, struct json **done, struct error *err) {
    TRY(prepare_folder(s->folder, s->hash, err));
    s->facts = json_object();
    s->measured = json_object();
    double start = timer_now();
    gemm_count_reset();
    int status = s->stage->type->run(s, err);
    if (status == 0 && interrupted())
        status = error_set(err, "interrupted; run the same command again to go on");
    json_set_number(s->measured, "seconds", timer_now() - start);
    json_set_number(s->measured, "flops", gemm_counted().flops);
    json_set_number(s->measured, "peak_memory_bytes", (double)memory_peak());
    if (status == 0)
        status = write_done(s, done, err);
    json_free(s->facts);
    json_free(s->measured);
    return status;
}

static void row_source_free(struct row_source *s) {
    if (!s)
        return;
    free((char *)s->name);
    free((char *)s->path);
    free((char *)s->shown);
    free((char *)s->folder);
    free((char *)s->hash);
    free((char *)s->from);
    free(s);
}

static int add_row(struct run *run, const struct recipe *r, struct chain *c, struct row_source *source, int keep,
                   struct error *err) {
    struct json *facts, *measured = NULL;
    int status = row_make(run, r, source, &facts, c->measure == MEASURE_ALL ? &measured : NULL, err);
    if (status == 0)
        json_push(c->rows, facts);
    if (status == 0 && measured) {
        json_set_string(measured, "name", source->name);
        json_push(c->row_speeds, measured);
    }
    if (status == 0 && keep) {
        row_source_free(c->last);
        c->last = source;
    } else {
        row_source_free(source);
    }
    return status;
}

// Held while a stage is run in a folder that other processes may want, too (jobs of a sweep). -1: not needed, -2: an error.
static int lock_stage(const struct run *run, const char *folder, struct error *err) {
    if (!run->is_sweep)
        return -1;
    char *locks = path_join(run->out, ".locks"), *path = path_join(locks, path_base(folder));
    int descriptor = -2;
    if (directory_make(locks, err) == 0) {
        descriptor = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0666);
        if (descriptor < 0 || flock(descriptor, LOCK_EX) < 0) {
            error_set(err, "%s: cannot be locked (%m); expected a folder that can be written", path);
            descriptor = -2;
        }
    }
    free(locks);
    free(path);
    return descriptor;
}

static int add_parent_row(struct run *run, const struct recipe *r, struct chain *c, struct error *err) {
    if (run->parent_is_shape)
        return 0;
    char *folder = path_join(run->out, "00-parent");
    int status = directory_make(folder, err);
    struct row_source *s = xcalloc(1, sizeof *s, "a row");
    *s = (struct row_source){.name = xstrdup("parent"),
                             .path = xstrdup(run->parent.path),
                             .shown = xstrdup(r->model),
                             .folder = folder,
                             .hash = xstrdup(run->parent_hash)};
    if (status < 0) {
        row_source_free(s);
        return -1;
    }
    int lock = lock_stage(run, folder, err);
    status = lock == -2 ? -1 : add_row(run, r, c, s, 0, err);
    if (lock >= 0)
        close(lock);
    return status;
}

static char *stage_folder(const struct recipe *r, int index, int shared, const char *hash) {
    const char *type = r->stage[index].type->name;
    return shared ? xasprintf("stages/%s-%.12s", type, hash) : xasprintf("%02d-%s", index + 1, type);
}

// Rows for a stage's products; the stage's facts and times go into the chain.
static int take_done(struct run *run, const struct recipe *r, int index, const char *input, const char *shown, const char *folder,
                     struct json *done, struct chain *c, struct error *err) {
    struct json *facts = json_copy(json_get(done, "facts")), *times = json_copy(json_get(done, "measured"));
    json_set_string(facts, "type", r->stage[index].type->name);
    json_set_string(facts, "folder", shown);
    json_set_string(facts, "hash", json_string(json_get(done, "hash")));
    json_set_string(times, "folder", shown);
    int status = 0;
    const struct json *products = json_get(facts, "products"), *first = json_first(products);
    const char *first_path = json_string(json_get(first, "path")); // NULL where text is all that there is
    if (first_path) {
        free(c->last_product);
        c->last_product = strcmp(first_path, ".") == 0 ? xstrdup(folder) : path_join(folder, first_path);
    }
    for (const struct json *p = first; p && c->measure != MEASURE_NOTHING && status == 0; p = json_next(p)) {
        const char *name = json_string(json_get(p, "name")), *path = json_string(json_get(p, "path"));
        int whole = strcmp(path, ".") == 0;
        struct row_source *s = xcalloc(1, sizeof *s, "a row");
        *s = (struct row_source){.name = xstrdup(name),
                                 .path = whole ? xstrdup(folder) : path_join(folder, path),
                                 .shown = whole ? xstrdup(shown) : path_join(shown, path),
                                 .folder = xstrdup(folder),
                                 .hash = xstrdup(json_string(json_get(done, "hash"))),
                                 .from = stage_keeps_weights(&r->stage[index]) ? xstrdup(input) : NULL,
                                 .is_quantized = r->stage[index].type == &stage_quantize};
        // Of a model that goes on and others beside it, the folder's own is the stage's.
        status = add_row(run, r, c, s, whole || strcmp(first_path, ".") != 0, err);
    }
    json_push(c->stages, facts);
    json_push(c->stage_times, times);
    return status;
}

// The model at hand while the stages go by: where the next one starts.
struct cursor {
    char *path;
    char hash[HASH_TEXT];
    char *text; // folder of the last sample stage, whose text is learned from; NULL: the recipe's is
    char text_hash[HASH_TEXT];
};

static int chain_step(struct run *run, const struct recipe *r, int index, int shared, struct cursor *at,
                      struct chain *c, struct error *err) {
    char hash[HASH_TEXT];
    const struct stage *stage = &r->stage[index];
    TRY(stage_hash(run, r, index, at->hash, at->text ? at->text_hash : run->inputs->train.hash, hash, err));
    char *shown = stage_folder(r, index, shared, hash), *folder = path_join(run->out, shown);
    struct json *done = NULL;
    int lock = lock_stage(run, folder, err), status = lock == -2 ? -1 : 0;
    if (status == 0)
        done = read_done(folder, hash);
    if (status < 0) {
        // the message is there
    } else if (done) {
        log_info("[%d/%d] %s: done before, in %s", index + 1, r->n_stage, stage->type->name, folder);
    } else {
        log_info("[%d/%d] %s", index + 1, r->n_stage, stage->type->name);
        if (at->text)
            status = inputs_take_sampled(run->inputs, run->parent.tokenizer, at->text, at->text_hash, err);
        struct stage_run s = {.run = run,
                              .recipe = r,
                              .stage = stage,
                              .index = index,
                              .input = at->path,
                              .folder = folder,
                              .hash = hash,
                              .train = at->text ? &run->inputs->sampled : &run->inputs->train};
        if (status == 0)
            status = run_stage(&s, &done, err);
    }
    if (status == 0)
        status = take_done(run, r, index, at->path, shown, folder, done, c, err);
    if (lock >= 0)
        close(lock);
    if (status == 0 && !stage->type->keeps_model) {
        free(at->path);
        at->path = xstrdup(folder);
        memcpy(at->hash, hash, sizeof at->hash);
    }
    if (status == 0 && stage->type->makes_text) {
        free(at->text);
        at->text = xstrdup(folder);
        memcpy(at->text_hash, hash, sizeof at->text_hash);
    }
    json_free(done);
    free(shown);
    free(folder);
    return status;
}

int chain_run(struct run *run, const struct recipe *r, int shared, enum measure measure, struct chain *c,
              struct error *err) {
    *c = (struct chain){.measure = measure,
                        .stages = json_array(),
                        .rows = json_array(),
                        .stage_times = json_array(),
                        .row_speeds = json_array()};
    struct cursor at = {.path = xstrdup(run->parent.path)};
    memcpy(at.hash, run->parent_hash, sizeof at.hash);
    int status = measure != MEASURE_NOTHING ? add_parent_row(run, r, c, err) : 0;
    for (int i = 0; i < r->n_stage && status == 0; i++) {
        status = interrupted() ? error_set(err, "interrupted; run the same command again to go on")
                               : chain_step(run, r, i, shared, &at, c, err);
    }
    free(at.path);
    free(at.text);
    if (status < 0)
        chain_release(c);
    return status;
}

void chain_release(struct chain *c) {
    json_free(c->stages);
    json_free(c->rows);
    json_free(c->stage_times);
    json_free(c->row_speeds);
    free(c->last_product);
    row_source_free(c->last);
    *c = (struct chain){0};
}
