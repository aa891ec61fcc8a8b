// stage_prune.c: heads and channels out, in one step or in several with recovery between them.
//
// With steps, each step's model lies in a sub-folder with a DONE file, so an interrupted stage goes on where it was.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "distill/distill.h"
#include "prune/prune.h"
#include "recipes/inputs.h"
#include "recipes/stage.h"

static int needs_text(const struct stage *s) {
    const struct prune_options *o = s->options;
    return prune_score_table[o->score].passes || o->reconstruct || o->recover;
}

static const char *teacher_path(const struct stage *s) {
    return json_string(json_get(((const struct prune_options *)s->options)->recover, "teacher"));
}

static int read_recover(const struct recipe *r, const struct prune_options *o, const char *where,
                        struct distill_options *recover, struct error *err) {
    char *place = xasprintf("%s.recover", where);
    options_init(distill_option_table, recover);
    int result = options_read_json(distill_option_table, recover, o->recover, place, err);
    if (result == 0)
        result = stage_check_training(r, &recover->train, place, err);
    if (result < 0)
        options_release(distill_option_table, recover);
    free(place);
    return result;
}

#define ALIGN_K_BLOCK 256
#define ALIGN_BLOCK 32

static int validate(struct recipe *r, int index, const char *where, struct error *err) {
    struct prune_options *o = r->stage[index].options;
    if (o->heads == 0 && o->ffn == 0)
        return error_set(err, "%s: nothing to remove: give \"heads\" or \"ffn\", the fraction to remove", where);
    if (o->recover && o->steps < 2)
        return error_set(
            err, "%s: \"recover\" runs between steps, and there is one step: set \"steps\", or add a distill stage",
            where);
    if (o->recover) {
        struct distill_options recover;
        TRY(read_recover(r, o, where, &recover, err));
        options_release(distill_option_table, &recover);
    }
    if (o->align == 0) {
        o->align = ALIGN_BLOCK;
        for (int i = index + 1; i < r->n_stage; i++)
            if (r->stage[i].type == &stage_quantize && strstr(stage_quantize_type(&r->stage[i]), "_K"))
                o->align = ALIGN_K_BLOCK;
    }
    return 0;
}

static void format_shape(char *to, size_t room, const struct layer_shape *s) {
    snprintf(to, room, "%ld/%ld heads, FFN %ld", (long)s->n_head, (long)s->n_kv_head, (long)s->n_ff);
}

// What the second moments of the output projections' inputs take: operations for one token, and bytes (at most about
// what reconstruct.c gives them at once).
static double moments_flops(const struct config *c) {
    double sum = 0;
    for (int64_t l = 0; l < c->n_layer; l++) {
        double heads = (double)(c->layer[l].n_head * c->head_dim), ff = (double)c->layer[l].n_ff;
        sum += 2 * (heads * heads + ff * ff);
    }
    return sum;
}

static int64_t moments_memory(const struct config *c) {
    double bytes = 2 * moments_flops(c);
    return bytes < 1 << 30 ? (int64_t)bytes : 1 << 30;
}

#define VERIFY_TOKENS 1024 // the masked and the smaller model
#define PROBE_TOKENS 4096  // by the score and by chance

static void forecast_scoring(struct forecast *f, const struct prune_options *o) {
    const struct prune_score *score = &prune_score_table[o->score];
    int64_t seq_len = f->recipe->data.seq_len;
    double before = model_flops_per_token(&f->in, seq_len), after = model_flops_per_token(&f->out, seq_len);
    double one = score->passes * (double)o->calibration_tokens * before + VERIFY_TOKENS * (before + after);
    if (o->guards && score->passes)
        one += 2 * PROBE_TOKENS * before;
    if (o->reconstruct)
        one += (double)o->calibration_tokens * (before + moments_flops(&f->in));
    f->flops = (double)o->steps * one;
    int64_t rows = o->calibration_batch * seq_len;
    int64_t scoring = score->passes ? score_memory(&f->in, rows, score->passes > 1) : 0;
    int64_t checking = 4 * config_parameters(&f->out) + eval_memory(&f->in, &f->out, seq_len);
    int64_t fitting = 4 * config_parameters(&f->out) + score_memory(&f->in, rows, 0) + moments_memory(&f->in);
    f->memory = scoring > checking ? scoring : checking;
    if (o->reconstruct && fitting > f->memory)
        f->memory = fitting;
}

static int forecast(struct forecast *f, struct error *err) {
    const struct prune_options *o = f->recipe->stage[f->index].options;
    if (plan_counts(&f->in, o, f->out.layer, err) < 0)
        return error_prefix(err, "%s: stages[%d].prune", f->recipe->where, f->index);
    char before[64], after[64];
    format_shape(before, sizeof before, &f->in.layer[0]);
    format_shape(after, sizeof after, &f->out.layer[0]);
    int64_t seq_len = f->recipe->data.seq_len;
    forecast_scoring(f, o);
    int from_parent = forecast_from_parent(f);
    f->memory += from_parent ? 0 : 4 * config_parameters(&f->in);
    f->uses_parent = from_parent;
    f->disk = 4 * config_parameters(&f->out);
    if (o->recover) {
        struct distill_options recover;
        TRY(read_recover(f->recipe, o, "recover", &recover, err));
        struct step_cost step = step_cost(&f->in, f->parent, &recover.train, seq_len);
        f->flops += step.flops * (double)(train_steps(&recover.train, seq_len) * (o->steps - 1));
        f->bytes += step.bytes * (double)(train_steps(&recover.train, seq_len) * (o->steps - 1));
        f->memory = step.memory > f->memory ? step.memory : f->memory;
        f->uses_parent |= !recover.teacher;
        f->scratch = snapshot_scratch(&f->in, &recover.train);
        f->disk += 4 * config_parameters(&f->in) * (o->steps - 1);
        options_release(distill_option_table, &recover);
    }
    snprintf(f->what, sizeof f->what, "%s -> %s a layer, by %s, in %ld step%s, widths multiples of %ld%s", before,
             after, prune_score_table[o->score].name, (long)o->steps, o->steps > 1 ? "s" : "", (long)o->align,
             o->reconstruct ? ", output projections made anew" : "");
    return 0;
}

// ---- running ----

struct pruning { // lifetime: the stage's run
    struct stage_run *stage;
    const struct prune_options *options;
    struct config original;
    struct opened current; // model at hand
    struct plan kept;      // what of the original is in it; n_layer 0: everything
    double difference;     // largest of the checks so far
};

// after, whose indices count units of the model before, in units of the original.
static void compose(struct plan *kept, struct plan *after) {
    for (int64_t l = 0; l < kept->n_layer; l++) {
        const struct layer_plan *b = &kept->layer[l];
        struct layer_plan *a = &after->layer[l];
        for (int64_t i = 0; i < a->n_head; i++)
            a->head[i] = b->head[a->head[i]];
        for (int64_t i = 0; i < a->n_group; i++)
            a->group[i] = b->group[a->group[i]];
        for (int64_t i = 0; i < a->n_ff; i++)
            a->ff[i] = b->ff[a->ff[i]];
    }
    if (kept->n_layer)
        plan_release(kept);
    *kept = *after;
}

static int64_t *read_indices(const struct json *list, int64_t *n) {
    *n = json_count(list);
    int64_t *to = xcalloc((size_t)*n + 1, sizeof *to, "a plan"), i = 0;
    for (const struct json *v = json_first(list); v; v = json_next(v))
        to[i++] = (int64_t)json_number(v);
    return to;
}

// A plan that this program wrote (write_step).
static void plan_from_json(struct plan *p, const struct json *o) {
    const struct json *layers = json_get(o, "layers");
    p->n_layer = json_count(layers);
    p->layer = xcalloc((size_t)p->n_layer, sizeof *p->layer, "a plan");
    struct layer_plan *to = p->layer;
    for (const struct json *v = json_first(layers); v; v = json_next(v), to++) {
        to->head = read_indices(json_get(v, "heads"), &to->n_head);
        to->group = read_indices(json_get(v, "groups"), &to->n_group);
        to->ff = read_indices(json_get(v, "ff"), &to->n_ff);
    }
}

static int prune_once(struct pruning *p, int64_t step, struct error *err) {
    const struct prune_options *o = p->options;
    const struct recipe *r = p->stage->recipe;
    struct prune_options so_far = *o;
    double progress = prune_progress((enum prune_schedule)o->schedule, step, o->steps);
    so_far.heads *= progress;
    so_far.ffn *= progress;
    struct layer_shape *counts = xcalloc((size_t)p->original.n_layer, sizeof *counts, "counts of units");
    const struct dataset *text = &p->stage->run->inputs->train.data;
    struct calibration calibration = {.data = text->n_token ? text : NULL,
                                      .seq_len = r->data.seq_len,
                                      .tokens = o->calibration_tokens,
                                      .batch = o->calibration_batch,
                                      .seed = (uint64_t)r->seed,
                                      .precision = (enum precision)r->precision};
    struct model *smaller;
    struct plan plan;
    double difference;
    int result = plan_counts(&p->original, &so_far, counts, err);
    if (result == 0)
        result = prune_step(p->current.model, &so_far, counts, &calibration, &smaller, &plan, &difference, err);
    free(counts);
    TRY(result);
    compose(&p->kept, &plan);
    p->difference = difference > p->difference ? difference : p->difference;
    opened_release(&p->current);
    p->current.model = smaller;
    return 0;
}

// JSON has no NaN, which is what a run without held-out evaluations has: it is null there.
static double number_or_nan(const struct json *v) {
    return v && json_kind(v) == JSON_NUMBER ? json_number(v) : (double)NAN;
}

// The step's model is there already: takes it and what was kept.
static int take_step(struct pruning *p, const char *folder, const char *done, struct error *err) {
    struct opened next;
    struct json *facts = json_read(done, err);
    if (!facts)
        return -1;
    int result = opened_open(&next, folder, err);
    if (result == 0) {
        opened_release(&p->current);
        p->current = next;
        if (p->kept.n_layer)
            plan_release(&p->kept);
        plan_from_json(&p->kept, json_get(facts, "plan"));
        p->difference = json_number(json_get(facts, "difference"));
    }
    struct train_result training = {.steps = (int64_t)json_number(json_get(facts, "steps")),
                                    .tokens = (int64_t)json_number(json_get(facts, "tokens")),
                                    .first_loss = json_number(json_get(facts, "first_loss")),
                                    .last_loss = json_number(json_get(facts, "last_loss")),
                                    .best_held_out = number_or_nan(json_get(facts, "best_held_out"))};
    char *curve = xasprintf("%s/run.jsonl", path_base(folder));
    stage_add_training(p->stage, &training, curve);
    free(curve);
    json_free(facts);
    return result;
}

static int write_step(struct pruning *p, const char *folder, const char *done, const struct train_result *r,
                      struct error *err) {
    TRY(stage_save(p->stage, p->current.model, folder, DTYPE_F32, 0, err));
    struct json *facts = json_object();
    json_set(facts, "plan", plan_json(&p->kept));
    json_set_number(facts, "difference", p->difference);
    json_set_number(facts, "steps", (double)r->steps);
    json_set_number(facts, "tokens", (double)r->tokens);
    json_set_number(facts, "first_loss", r->first_loss);
    json_set_number(facts, "last_loss", r->last_loss);
    json_set_number(facts, "best_held_out", r->best_held_out);
    char *text = json_text(facts, 1), *curve = xasprintf("%s/run.jsonl", path_base(folder));
    int result = file_write(done, text, strlen(text), err);
    trainer_drop_snapshot(folder);
    stage_add_training(p->stage, r, curve);
    free(text);
    free(curve);
    json_free(facts);
    return result;
}

// One step and the recovery after it, or what an earlier run left of them.
static int step_with_recovery(struct pruning *p, int64_t step, const struct distill_options *recover,
                              struct error *err) {
    char *name = xasprintf("step-%ld", (long)step), *folder = path_join(p->stage->folder, name),
         *done = path_join(folder, "DONE");
    char *title = xasprintf("recover %ld/%ld", (long)step, (long)p->options->steps - 1);
    struct train_result result;
    int status;
    if (file_exists(done)) {
        status = take_step(p, folder, done, err);
    } else {
        status = prune_once(p, step, err);
        if (status == 0)
            status = stage_distill_model(p->stage, recover, p->current.model, title, folder, &result, err);
        if (status == 0)
            status = write_step(p, folder, done, &result, err);
    }
    free(name);
    free(folder);
    free(done);
    free(title);
    return status;
}

static int run_steps(struct pruning *p, struct error *err) {
    const struct prune_options *o = p->options;
    struct distill_options recover;
    int status = 0;
    if (o->recover)
        TRY(read_recover(p->stage->recipe, o, "prune", &recover, err));
    for (int64_t step = 1; step <= o->steps && status == 0; step++)
        status =
            o->recover && step < o->steps ? step_with_recovery(p, step, &recover, err) : prune_once(p, step, err);
    if (o->recover)
        options_release(distill_option_table, &recover);
    return status;
}

static int run(struct stage_run *s, struct error *err) {
    struct pruning p = {.stage = s, .options = s->stage->options};
    TRY(stage_borrow_input(s, &p.current, err));
    config_copy(&p.original, &p.current.model->config);
    int status = run_steps(&p, err);
    if (status == 0)
        status = stage_save(s, p.current.model, s->folder, DTYPE_F32, 0, err);
    if (status == 0) {
        json_set(s->facts, "plan", plan_json(&p.kept));
        json_set_number(s->facts, "mask_difference", p.difference);
        stage_add_product(s, "pruned", ".");
    }
    if (p.kept.n_layer)
        plan_release(&p.kept);
    config_release(&p.original);
    opened_release(&p.current);
    return status;
}

const struct stage_type stage_prune = {.name = "prune",
                                       .table = prune_option_table,
                                       .size = sizeof(struct prune_options),
                                       .needs_text = needs_text,
                                       .teacher = teacher_path,
                                       .validate = validate,
                                       .forecast = forecast,
                                       .run = run};
