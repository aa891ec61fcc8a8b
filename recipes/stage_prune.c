// stage_prune.c: heads and channels out, in one step or in several with recovery between them.
//
// With steps, each step's model lies in a sub-folder with a DONE file, so an interrupted stage goes on where it was.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/random.h"
#include "common/model/load.h"
#include "distill/distill.h"
#include "prune/prune.h"
#include "quant/gguf_mix.h"
#include "recipes/budget.h"
#include "recipes/inputs.h"
#include "recipes/shape.h"
#include "recipes/stage.h"

static int needs_text(const struct stage *s) {
    const struct prune_options *o = s->options;
    return prune_needs_text(o) || o->recover;
}

static const char *teacher_path(const struct stage *s, size_t i) {
    const struct json *v = json_get(((const struct prune_options *)s->options)->recover, "teacher");
    if (json_kind(v) != JSON_ARRAY)
        return i == 0 ? json_string(v) : NULL;
    for (v = json_first(v); v && i > 0; i--)
        v = json_next(v);
    return json_string(v);
}

static int read_recover(const struct recipe *r, int index, struct distill_options *recover, struct error *err) {
    const struct prune_options *o = r->stage[index].options;
    char *place = stage_training_place(r, index);
    options_init(distill_option_table, recover);
    int result = options_read_json(distill_option_table, recover, o->recover, place, err);
    if (result == 0)
        result = stage_check_distilling(r, recover, place, err);
    if (result == 0 && recover->fake.quantize)
        result = error_set(err, "%s: \"quantize\" is for what is written next, and a step of pruning follows; give it to a distill stage", place);
    if (result == 0 && (recover->inherit || recover->shape))
        result = error_set(err, "%s: \"%s\" chooses what a student begins with, and here it is the pruned model; leave it out", place,
                           recover->shape ? "shape" : "inherit");
    if (result == 0 && recover->students)
        result = error_set(err, "%s: \"students\" is for a distill stage; leave it out", place);
    if (result < 0)
        options_release(distill_option_table, recover);
    free(place);
    return result;
}

#define ALIGN_K_BLOCK 256
#define ALIGN_BLOCK 32

static int has_depth(const struct prune_options *o) {
    return o->layers > 0 || o->attention_blocks > 0 || o->ffn_blocks > 0;
}

// Keys that exclude each other.
static int check_keys(const struct recipe *r, int index, const struct prune_options *o, const char *where,
                      struct error *err) {
    int has_units = o->heads > 0 || o->ffn > 0;
    if (!has_units && !o->budget && !has_depth(o) && o->hidden == 0)
        return error_set(err, "%s: nothing to remove: give \"heads\", \"ffn\", \"layers\", \"attention_blocks\", \"ffn_blocks\" or "
                         "\"hidden\", the fraction to remove, or a \"budget\"", where);
    if (o->budget && has_units)
        return error_set(err, "%s: \"budget\" and \"%s\" are both given: the one says what is left and the other what goes; leave one "
                         "out", where, o->heads > 0 ? "heads" : "ffn");
    if (o->budget)
        TRY(budget_check(r, index, o->budget, where, err));
    if (o->compensate && o->reconstruct)
        return error_set(err, "%s: \"compensate\" and \"reconstruct\" are both given, and each makes up for the same loss; leave one out", where);
    if (o->mask && (o->steps > 1 || o->budget || has_depth(o) || o->hidden > 0 || o->reconstruct || o->compensate))
        return error_set(err, "%s: \"mask\" keeps the shape, so it goes with heads and ffn in one step alone; leave out %s", where,
                         o->steps > 1 ? "\"steps\"" : o->budget ? "\"budget\"" : o->reconstruct ? "\"reconstruct\"" : o->compensate ? "\"compensate\"" :
                         o->hidden > 0 ? "\"hidden\"" : "layers and blocks");
    return 0;
}

static int quantizes_by_256(const struct stage *s) {
    const struct gguf_mix *mix = gguf_mix_find(stage_quantize_type(s)); // NULL: its own check says so
    return mix && gguf_mix_block(mix) == ALIGN_K_BLOCK;
}

static int validate(struct recipe *r, int index, const char *where, struct error *err) {
    struct prune_options *o = r->stage[index].options;
    TRY(check_keys(r, index, o, where, err));
    if (o->recover && o->steps < 2)
        return error_set(
            err, "%s: \"recover\" runs between steps, and there is one step: set \"steps\", or add a distill stage",
            where);
    if (o->recover) {
        struct distill_options recover;
        TRY(read_recover(r, index, &recover, err));
        options_release(distill_option_table, &recover);
    }
    if (o->align == 0) {
        o->align = ALIGN_BLOCK;
        for (int i = index + 1; i < r->n_stage; i++)
            if (r->stage[i].type == &stage_quantize && quantizes_by_256(&r->stage[i]))
                o->align = ALIGN_K_BLOCK;
    }
    return 0;
}

#define SLOWER 50 // than a product of the library: what is a plain loop in double

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

// The least squares: products of W and the moments, and a factorization for each projection.
static double solve_flops(const struct config *before, const struct config *after) {
    double sum = 0;
    for (int64_t l = 0; l < after->n_layer; l++) {
        double C[2] = {(double)(before->layer[l].n_head * before->head_dim), (double)before->layer[l].n_ff};
        double K[2] = {(double)(after->layer[l].n_head * after->head_dim), (double)after->layer[l].n_ff};
        for (int i = 0; i < 2; i++)
            sum += SLOWER * (2 * (double)before->hidden * K[i] * (C[i] + K[i]) + K[i] * K[i] * K[i] / 3);
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
    if (o->guards && f->has_text)
        one += 2 * PROBE_TOKENS * before + (o->reconstruct ? 2 * PROBE_TOKENS * after : 0);
    if (o->compensate)
        one += (double)o->calibration_tokens * before;
    if (o->reconstruct)
        one += (double)o->calibration_tokens * (before + moments_flops(&f->in)) + solve_flops(&f->in, &f->out);
    f->flops = (double)o->steps * one;
    int64_t rows = o->calibration_batch * seq_len;
    int64_t scoring = score->passes ? score_memory(&f->in, rows, score->passes > 1) : 0;
    scoring += score->passes > 2 ? 8 * config_parameters(&f->in) : 0; // a copy of the weights, and gradients
    int64_t checking = 4 * config_parameters(&f->out) + eval_memory(&f->in, &f->out, seq_len);
    int64_t fitting = 4 * config_parameters(&f->out) + score_memory(&f->in, rows, 0) + moments_memory(&f->in);
    f->memory = scoring > checking ? scoring : checking;
    if (o->reconstruct && fitting > f->memory)
        f->memory = fitting;
}

// Scores that any might be: they give a shape of the right sums, whose layers differ as a ranking's do.
static void scores_at_random(struct prune_scores *s, const struct config *c) {
    struct random r;
    random_init(&r, 1, "a forecast", 0);
    for (int64_t l = 0; l < c->n_layer; l++) {
        for (int64_t i = 0; i < c->layer[l].n_head; i++)
            s->head[l][i] = random_uniform(&r);
        for (int64_t i = 0; i < c->layer[l].n_ff; i++)
            s->ff[l][i] = random_uniform(&r);
    }
}

// The shape at a share of the way, as far as it is known before anything is scored; out begins as a copy of f->in.
static int forecast_shape(const struct forecast *f, const struct prune_options *o, double progress, struct config *out, struct error *err) {
    depth_counts(out, o, progress);
    struct config before;
    config_copy(&before, out);
    int status = 0;
    if (o->budget || (o->scope == SCOPE_GLOBAL && (o->heads > 0 || o->ffn > 0))) {
        struct prune_scores scores;
        struct budget b;
        prune_scores_init(&scores, &before);
        scores_at_random(&scores, &before);
        if (o->budget)
            status = budget_open(&b, f->recipe, f->index, o->budget, &f->in, f->tokenizer, NULL, err);
        if (status == 0)
            status = rank_counts(&before, before.layer, o, &scores, progress, o->budget ? &b.prune : NULL, out->layer, err);
        prune_scores_release(&scores);
    } else if (o->heads > 0 || o->ffn > 0) {
        status = plan_counts(&before, before.layer, o, progress, out->layer, err);
    }
    out->mlp_bias |= o->compensate;
    if (o->mask) // the shape stays
        memcpy(out->layer, before.layer, (size_t)before.n_layer * sizeof *before.layer);
    if (o->hidden > 0) {
        int64_t keep = hidden_count(before.hidden, o->hidden * progress, o->align);
        out->hidden = keep > 0 ? keep : out->hidden;
    }
    config_release(&before);
    return status;
}

static double progress_at(const struct prune_options *o, int64_t step) {
    return prune_progress((enum prune_schedule)o->schedule, step, o->steps, o->heads > o->ffn ? o->heads : o->ffn);
}

// Every student that recovers, against its teachers. Of a ranking's or a budget's shapes the number of layers alone is known before.
static int check_recovery(const struct forecast *f, const struct prune_options *o, const struct distill_options *recover, struct error *err) {
    const struct prune_options layers = {.layers = o->layers};
    int status = 0;
    for (int64_t step = 1; step < o->steps && status == 0; step++) {
        struct config student;
        config_copy(&student, &f->in);
        if (f->is_about || o->budget)
            depth_counts(&student, &layers, progress_at(o, step));
        else
            status = forecast_shape(f, o, progress_at(o, step), &student, err);
        if (status == 0)
            status = forecast_check_distilling(f, recover, &student, err);
        config_release(&student);
    }
    return status;
}

static int forecast_recovery(struct forecast *f, const struct prune_options *o, const struct distill_options *recover, struct error *err) {
    const int64_t seq_len = f->recipe->data.seq_len;
    TRY(forecast_check_training(f, &recover->train, err));
    TRY(check_recovery(f, o, recover, err));
    struct step_cost step = step_cost(&f->in, f->parent, &recover->train, seq_len);
    f->flops += step.flops * (double)(train_steps(&recover->train, seq_len) * (o->steps - 1));
    f->bytes += step.bytes * (double)(train_steps(&recover->train, seq_len) * (o->steps - 1));
    f->memory = step.memory > f->memory ? step.memory : f->memory;
    f->uses_parent |= !recover->teacher.count;
    f->scratch = snapshot_scratch(&f->in, &recover->train);
    f->disk += 4 * config_parameters(&f->in) * (o->steps - 1);
    return 0;
}

static int64_t largest_tensor(const struct config *c) {
    int64_t n = c->vocab * c->hidden;
    for (int64_t l = 0; l < c->n_layer; l++) {
        int64_t heads = c->layer[l].n_head * c->head_dim, width = heads > c->layer[l].n_ff ? heads : c->layer[l].n_ff;
        n = width * c->hidden > n ? width * c->hidden : n;
    }
    return 4 * n;
}

static int forecast(struct forecast *f, struct error *err) {
    const struct prune_options *o = f->recipe->stage[f->index].options;
    if (o->hidden > 0 && config_hidden_refusal(&f->in))
        return error_set(err, "%s: stages[%d].prune.hidden: a %s model's %s; leave it out", f->recipe->where, f->index, f->in.model_type,
                         config_hidden_refusal(&f->in));
    if (forecast_shape(f, o, 1, &f->out, err) < 0)
        return error_prefix(err, "%s: stages[%d].prune", f->recipe->where, f->index);
    char before[SHAPE_TEXT], after[SHAPE_TEXT];
    shape_text(before, &f->in);
    shape_text(after, &f->out);
    f->is_about = o->scope == SCOPE_GLOBAL || o->attention_blocks > 0 || o->ffn_blocks > 0;
    int64_t seq_len = f->recipe->data.seq_len;
    forecast_scoring(f, o);
    int from_parent = forecast_from_parent(f);
    f->memory += from_parent ? 0 : 4 * config_parameters(&f->in);
    f->uses_parent = from_parent;
    f->disk = 4 * config_parameters(&f->out);
    if (prune_streams(o)) { // weights stay in the file, and one is widened at a time
        f->memory = largest_tensor(&f->in) + eval_memory(&f->in, &f->out, seq_len);
        f->uses_parent = 0;
    }
    if (o->recover) {
        struct distill_options recover;
        TRY(read_recover(f->recipe, f->index, &recover, err));
        const int status = forecast_recovery(f, o, &recover, err);
        options_release(distill_option_table, &recover);
        TRY(status);
    }
    snprintf(f->what, sizeof f->what, "%s -> %s%s, by %s%s, in %ld step%s, widths multiples of %ld%s%s", before,
             f->is_about ? "about " : "", after, prune_score_table[o->score].name,
             o->scope == SCOPE_GLOBAL ? " over all layers" : "", (long)o->steps, o->steps > 1 ? "s" : "", (long)o->align,
             o->reconstruct ? ", output projections made anew" : "", o->mask ? ", as zeros" : "");
    return 0;
}

// ---- running ----

struct pruning { // lifetime: the stage's run
    struct stage_run *stage;
    const struct prune_options *options;
    struct config original;
    struct opened current; // model at hand
    struct opened source;  // where its weights are read from; none: from memory
    struct prune_state state;
    struct budget budget; // where the options have one
};

static int prune_once(struct pruning *p, int64_t step, struct error *err) {
    const struct prune_options *o = p->options;
    const struct recipe *r = p->stage->recipe;
    const double progress = progress_at(o, step);
    const struct dataset *text = &p->stage->train->data;
    const struct inputs *in = p->stage->run->inputs;
    struct calibration calibration = {.data = text->n_token ? text : NULL,
                                      .examples = in->has_examples && in->examples.n ? &in->examples : NULL,
                                      .seq_len = r->data.seq_len,
                                      .tokens = o->calibration_tokens,
                                      .batch = o->calibration_batch,
                                      .seed = (uint64_t)r->seed,
                                      .precision = (enum precision)r->precision};
    struct run *run = p->stage->run;
    if (run->is_sweep && p->current.model == run->parent.model && p->stage->train == &in->train)
        calibration.cache = &run->parent_scores;
    struct model *smaller;
    struct prune_budget budget = p->budget.prune;
    budget.limit = budget_limit(&p->budget, progress);
    budget.again = progress < 1 ? NULL : budget.again; // only where it ends
    TRY(prune_step(p->current.model, &p->state, o, progress, o->budget ? &budget : NULL, &calibration, &smaller, err));
    opened_release(&p->source); // of an earlier step
    p->source = p->current;
    p->current = (struct opened){.model = smaller};
    if (smaller->data)
        opened_release(&p->source);
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
        if (p->state.kept.n_layer)
            plan_release(&p->state.kept);
        plan_from_json(&p->state.kept, json_get(facts, "plan"));
        p->state.difference = json_number(json_get(facts, "difference"));
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
    json_set(facts, "plan", plan_json(&p->state.kept));
    json_set_number(facts, "difference", p->state.difference);
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
        trainer_drop_snapshot(folder); // where it was killed before it could
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
        TRY(read_recover(p->stage->recipe, p->stage->index, &recover, err));
    for (int64_t step = 1; step <= o->steps && status == 0; step++)
        status =
            o->recover && step < o->steps ? step_with_recovery(p, step, &recover, err) : prune_once(p, step, err);
    if (o->recover)
        options_release(distill_option_table, &recover);
    return status;
}

static int run(struct stage_run *s, struct error *err) {
    struct pruning p = {.stage = s, .options = s->stage->options};
    TRY((prune_streams(p.options) ? stage_map_input : stage_borrow_input)(s, &p.current, err));
    config_copy(&p.original, &p.current.model->config);
    p.state.original = &p.original;
    int status = prune_streams(p.options) ? model_check_values(p.current.model, err) : 0; // else they were read, and checked
    if (status == 0 && p.options->budget)
        status = budget_open(&p.budget, s->recipe, s->index, p.options->budget, &p.original, s->run->parent.tokenizer, s, err);
    if (status == 0)
        status = run_steps(&p, err);
    if (status == 0)
        status = stage_save(s, p.current.model, s->folder, DTYPE_F32, 0, err);
    if (status == 0) {
        json_set(s->facts, "plan", plan_json(&p.state.kept));
        json_set_number(s->facts, "mask_difference", p.state.difference);
        stage_add_product(s, "pruned", ".");
    }
    if (p.state.kept.n_layer)
        plan_release(&p.state.kept);
    config_release(&p.original);
    opened_release(&p.current);
    opened_release(&p.source);
    return status;
}

const struct stage_type stage_prune = {.name = "prune",
                                       .table = prune_option_table,
                                       .size = sizeof(struct prune_options),
                                       .training = "recover",
                                       .takes_examples = 1,
                                       .needs_blocks = 1,
                                       .needs_text = needs_text,
                                       .teacher = teacher_path,
                                       .validate = validate,
                                       .forecast = forecast,
                                       .run = run};
