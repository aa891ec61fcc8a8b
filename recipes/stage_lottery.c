// stage_lottery.c: lottery tickets of a classifier of images or of a language model (prune/lottery.h).
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/threads.h"
#include "common/model/load.h"
#include "prune/lottery.h"
#include "recipes/inputs.h"
#include "recipes/stage.h"

static int needs_text(const struct stage *s) {
    (void)s;
    return 1;
}

static int validate(struct recipe *r, int index, const char *where, struct error *err) {
    return lottery_check(r->stage[index].options, where, err);
}

#define MASK_BYTES 2 // of a kept mask, for each weight

static int forecast(struct forecast *f, struct error *err) {
    const struct lottery_options *o = f->recipe->stage[f->index].options;
    int64_t seq_len = f->recipe->data.seq_len, parameters = config_parameters(&f->in);
    double steps;
    TRY(forecast_check_training(f, &o->train, err));
    const int is_language = model_is_language(&f->in);
    int64_t n = lottery_count(o, f->recipe->seed, !is_language, &steps);
    double looks = steps / (double)o->train.eval_every;
    looks *= (double)(is_language ? f->recipe->data.eval_tokens : f->recipe->data.validation);
    struct step_cost cost = step_cost(&f->in, NULL, &o->train, seq_len);
    int64_t jobs = o->jobs ? o->jobs : is_language ? 1 : threads_count();
    if (is_language && f->recipe->data.eval.count == 0 && !f->recipe->data.sample)
        return error_set(err, "%s: stages[%d].lottery: tickets are judged by held-out text: give data.eval", f->recipe->where,
                         f->index);
    if (jobs > 1 && f->recipe->precision == PRECISION_BF16)
        return error_set(err, "%s: stages[%d].lottery: trainings side by side are f32; set \"jobs\": 1 or \"precision\": \"f32\"",
                         f->recipe->where, f->index);
    f->flops = cost.flops * steps + model_flops_per_token(&f->in, seq_len) * looks;
    f->bytes = cost.bytes * steps;
    f->memory = cost.memory * jobs;
    f->disk = n * parameters * (4 + MASK_BYTES);
    f->scratch = snapshot_scratch(&f->in, &o->train) * jobs;
    f->uses_parent = !o->init;
    snprintf(f->what, sizeof f->what, "%ld trainings of %ld steps, %ld rounds down to Pm %.1f %% (sparsity %.1f %%)", (long)n,
             (long)o->train.steps, (long)o->rounds, 100 * pow(1 - o->rate, (double)o->rounds),
             100 - 100 * pow(1 - o->rate, (double)o->rounds));
    return 0;
}

// ---- what is trained ----

static void attach(void *context, struct trainer *t, struct model *m) {
    const struct stage_run *s = context;
    const struct inputs *in = s->run->inputs;
    t->data = &s->train->data;
    t->images = in->has_images ? &in->images.train : NULL;
    t->seq_len = s->recipe->data.seq_len;
    t->precision = (enum precision)s->recipe->precision;
    t->loss = train_cross_entropy;
    t->context = m;
}

static int measure(void *context, struct model *m, int is_test, struct lottery_measure *out, struct error *err) {
    return stage_measure(context, m, is_test, &out->loss, &out->accuracy, err);
}

static int fill(void *context, struct model *m, uint64_t seed, struct error *err) {
    struct stage_run *s = context;
    const struct lottery_options *o = s->stage->options;
    if (o->init) {
        model_initialise(m, seed);
        return 0;
    }
    struct model *from = NULL;
#pragma omp critical(lottery_parent)
    from = run_parent(s->run, err);
    if (from)
        memcpy(m->data, from->data, (size_t)m->n_element * sizeof *m->data);
    return from ? 0 : -1;
}

// ---- the stage ----

// Saves a training's model where later stages and other commands find a whole one.
static int add_model(struct stage_run *s, const char *name, const char *unit, struct error *err) {
    char *from = path_join(s->folder, unit), *to = path_join(s->folder, name);
    struct model *m = model_load(from, err);
    int status = m ? stage_save(s, m, to, DTYPE_F32, 0, err) : -1;
    if (status == 0)
        stage_add_product(s, name, name);
    model_free(m);
    free(from);
    free(to);
    return status;
}

// The dense model and the sparsest ticket of the first seed.
static int add_models(struct stage_run *s, const struct json *results, struct error *err) {
    const struct json *dense = NULL, *ticket = NULL;
    for (const struct json *o = json_first(results); o; o = json_next(o)) {
        const char *kind = json_string(json_get(o, "kind"));
        if (!dense && strcmp(kind, "dense") == 0)
            dense = o;
        if (dense && strcmp(kind, "ticket") == 0 && json_number(json_get(o, "seed")) == json_number(json_get(dense, "seed")))
            ticket = o;
    }
    TRY(add_model(s, "dense", json_string(json_get(dense, "folder")), err));
    return ticket ? add_model(s, "ticket", json_string(json_get(ticket, "folder")), err) : 0;
}

static int run(struct stage_run *s, struct error *err) {
    const struct lottery_options *o = s->stage->options;
    const int has_images = s->run->inputs->has_images;
    struct config config;
    TRY(shape_read(&config, s->input, err));
    const struct lottery_task task = {.context = s,
                                      .is_language = !has_images,
                                      .config = config,
                                      .attach = attach,
                                      .measure = measure,
                                      .fill = fill,
                                      .has_test = has_images};
    struct json *results = NULL, *seconds = NULL;
    int status = lottery_run(&task, o, s->folder, s->recipe->seed, &results, &seconds, err);
    if (status == 0) {
        json_set(s->facts, "rounds", results);
        json_set(s->measured, "trainings", seconds);
        status = add_models(s, results, err);
    }
    config_release(&config);
    return status;
}

const struct stage_type stage_lottery = {.name = "lottery",
                                         .table = lottery_option_table,
                                         .size = sizeof(struct lottery_options),
                                         .keeps_model = 1,
                                         .takes_images = 1,
                                         .needs_text = needs_text,
                                         .validate = validate,
                                         .forecast = forecast,
                                         .run = run};
