// forecast.c: see forecast.h.
#include "recipes/forecast.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/timer.h"
#include "common/eval/evaluate.h"
#include "common/eval/generate.h"
#include "recipes/machine_cache.h"
#include "recipes/rows.h"
#include "recipes/shape.h"
#include "recipes/sources.h"

#define BASE_MEMORY ((int64_t)20 << 20) // the program and its libraries
#define VOCAB_BYTES 256                 // of a tokenizer, for every token
#define EFFICIENCY 0.55                 // of the products' speed that a whole step reaches, about
#define DISK_BYTES 5e8                  // a second that are written and synced, about

static int leaves_gguf(const struct forecast *s) { return strstr(s->what, "GGUF") != NULL; }

// Bytes of a recipe's texts as they are read; what is gzipped grows to about four times.
static int64_t text_bytes(const struct recipe *r, const struct option_list *files) {
    int64_t bytes = 0;
    for (size_t i = 0; i < files->count; i++) {
        char *path = recipe_path(r, files->item[i]);
        int64_t size = file_size(path);
        bytes += size > 0 ? size * (path_ends_with(path, ".gz") ? 4 : 1) : 0;
        free(path);
    }
    return bytes;
}

#define TOKEN_BYTES 3 // of text that a token stands for, at least about

// One row of the report, of a stage's product or (NULL) of the parent: a loss, compared with the parent's, and the
// speed of the file.
static void add_row(struct forecasts *f, const struct run *run, const struct forecast *s) {
    const struct recipe *r = run->recipe;
    const struct config *parent = &run->parent.model->config, *c = s ? &s->out : parent;
    int is_gguf = s && leaves_gguf(s);
    int64_t bytes = is_gguf ? s->disk : 4 * config_parameters(c); // of the weights in memory
    int64_t widened =
        is_gguf ? 4 * c->vocab * c->hidden : 0; // the largest tensor of a file, as f32 while it is multiplied by
    parent = s && !run->parent_is_shape ? parent : NULL;
    int64_t seq_len = r->data.seq_len, text = text_bytes(r, &r->data.eval) / TOKEN_BYTES;
    int64_t tokens = r->data.sample || text > r->data.eval_tokens ? r->data.eval_tokens : text;
    int64_t rows = eval_batch_rows(seq_len) < tokens ? eval_batch_rows(seq_len) : tokens;
    double one = model_flops_per_token(c, seq_len),
           both = one + (parent ? model_flops_per_token(parent, seq_len) : 0);
    int runs = speed_runs(config_parameters(c));
    f->measuring.flops += (double)tokens * both + (double)(runs * SPEED_PREFILL) * one;
    f->measuring.bytes += (double)(runs * SPEED_DECODE) * (double)bytes;
    int64_t memory = (s ? bytes : 0) + eval_memory(c, parent, rows) + widened;
    f->measuring.memory = memory > f->measuring.memory ? memory : f->measuring.memory;
}

static void add_rows(struct forecasts *f, const struct run *run) {
    if (!run->parent_is_shape)
        add_row(f, run, NULL);
    for (int i = 0; i < f->n; i++)
        add_row(f, run, &f->stage[i]);
    f->measuring.uses_parent = !run->parent_is_shape;
}

static void set_total(struct forecasts *f, const struct run *run) {
    const struct recipe *r = run->recipe;
    int64_t parent = 4 * config_parameters(&run->parent.model->config);
    int64_t text = 2 * (text_bytes(r, &r->data.train) + text_bytes(r, &r->data.eval)); // as read, and its tokens
    int64_t always = BASE_MEMORY + VOCAB_BYTES * run->parent.model->config.vocab + text;
    int64_t resident = f->measuring.uses_parent ? parent : 0;
    f->measuring.memory += always + resident;
    f->memory = f->measuring.memory;
    for (int i = 0; i < f->n; i++) {
        struct forecast *s = &f->stage[i];
        resident = s->uses_parent ? parent : resident;
        s->memory += always + resident;
        f->memory = s->memory > f->memory ? s->memory : f->memory;
        f->disk += s->disk;
        f->scratch = s->scratch > f->scratch ? s->scratch : f->scratch;
    }
}

static int check_room(const struct forecasts *f, const struct recipe *r, const char *out, struct error *err) {
    int64_t memory = memory_available(), disk = disk_free(out);
    if (memory > 0 && f->memory > memory)
        return error_set(
            err,
            "%s: the run needs about %.1f GB of memory, %.1f GB are there; lower \"batch\" or data.seq_len, or set "
            "\"checkpoint\": true",
            r->where, (double)f->memory / 1e9, (double)memory / 1e9);
    if (disk >= 0 && f->disk + f->scratch > disk)
        return error_set(
            err, "%s: the run writes about %.1f MB, %.1f MB are free there; make room or name another folder with -o",
            out, (double)(f->disk + f->scratch) / 1e6, (double)disk / 1e6);
    return 0;
}

int forecasts_make(struct forecasts *f, const struct run *run, int measures, struct error *err) {
    const struct recipe *r = run->recipe;
    const struct config *parent = &run->parent.model->config;
    *f = (struct forecasts){.stage = xcalloc((size_t)r->n_stage, sizeof *f->stage, "forecasts")};
    const struct config *shape = parent;
    int result = 0;
    for (int i = 0; i < r->n_stage && result == 0; i++) {
        struct forecast *s = &f->stage[f->n++];
        *s = (struct forecast){.recipe = r, .index = i, .parent = parent, .tokenizer = run->parent.tokenizer,
                                .has_text = r->data.train.count > 0 || r->data.sample || stage_after_sample(r, i)};
        config_copy(&s->in, shape);
        config_copy(&s->out, shape);
        if (s->out.source)
            json_remove(s->out.source, "quantization_config"); // of the parent: what is written is not, unless the stage says so
        if (!model_is_language(parent) && !r->stage[i].type->takes_images)
            result = error_set(err, "%s: stages[%d]: %s works on language models; this one is a classifier of images (%s)",
                               r->where, i, r->stage[i].type->name, parent->model_type);
        else if (!model_has_blocks(shape) && r->stage[i].type->needs_blocks)
            result = error_set(err, "%s: stages[%d]: %s works on attention and feed-forward blocks; a %s model has none (it can be trained, distilled "
                               "and exported to a folder)", r->where, i, r->stage[i].type->name, shape->model_type);
        else if (model_is_language(parent) && !model_is_causal(parent) && r->stage[i].type->needs_text &&
                 r->stage[i].type->needs_text(&r->stage[i]) && !(r->stage[i].type->takes_examples && head_is_labelled(shape->head)) && !(r->stage[i].type->takes_words && shape->head == HEAD_MASKED))
            result = error_set(err, "%s: stages[%d]: %s, as it is asked for, learns from text by predicting the next token; a %s model does not "
                               "(a classifier learns from examples; any can be pruned by the weights alone: score magnitude, l1, l2 or random)", r->where, i, r->stage[i].type->name,
                               parent->model_type);
        else
            result = r->stage[i].type->forecast(s, err);
        if (result == 0 && r->stage[i].type->takes_words && s->out.head == HEAD_MASKED && parent->head != HEAD_MASKED && !r->data.unlabelled.count)
            result = error_set(err, "%s: stages[%d]: its model learns masked words, but \"data\" has no text for it: give \"unlabelled\" (files)",
                               r->where, i);
        const int64_t most = result == 0 ? model_positions(&s->out) : 0; // after a failure there may be no shape
        if (most && r->data.seq_len > most)
            result = error_set(err, "%s: stages[%d]: data.seq_len is %ld, and this stage's model has learned positions for %ld", r->where, i,
                               (long)r->data.seq_len, (long)most);
        shape = r->stage[i].type->keeps_model ? shape : &s->out;
    }
    if (result == 0) {
        if (measures)
            add_rows(f, run);
        set_total(f, run);
        result = check_room(f, r, run->out, err);
    }
    if (result < 0)
        forecasts_release(f);
    return result;
}

void forecasts_release(struct forecasts *f) {
    for (int i = 0; i < f->n; i++) {
        config_release(&f->stage[i].in);
        config_release(&f->stage[i].out);
        json_free(f->stage[i].mixture);
    }
    free(f->stage);
    *f = (struct forecasts){0};
}

struct rates { // of this machine, a second
    double flops, bytes;
};

static struct rates rates_get(const struct recipe *r) {
    return (struct rates){machine_gflops((enum precision)r->precision) * 1e9, machine_gbs() * 1e9};
}

static double seconds(const struct forecast *s, struct rates rate) {
    return s->flops / (rate.flops * EFFICIENCY) + s->bytes / rate.bytes + (double)s->disk / DISK_BYTES;
}

static void print_shape(FILE *to, const struct config *c) {
    char text[SHAPE_TEXT];
    shape_text(text, c);
    fprintf(to, "%s, vocabulary %ld: %.3f M parameters\n", text, (long)c->vocab, (double)config_parameters(c) / 1e6);
}

static void print_loads(FILE *to, const struct forecast *s) {
    struct json *loads = loads_json(&s->out, leaves_gguf(s));
    fputs("   loads in:", to);
    for (const struct json *v = json_first(loads); v; v = json_next(v))
        fprintf(to, " %s: %s%s", json_key(v), json_string(v), json_next(v) ? ";" : "\n");
    json_free(loads);
}

static void print_sources(FILE *to, const struct forecast *s, const struct dataset *text) {
    char *words = sources_text(s, text);
    if (words)
        fprintf(to, "   %s\n", words);
    free(words);
}

void forecasts_print(const struct forecasts *f, const struct recipe *r, const struct dataset *text, FILE *to) {
    struct rates rate = rates_get(r);
    double total = seconds(&f->measuring, rate);
    fprintf(to, "%s: the parent has ", r->name);
    print_shape(to, f->stage[0].parent);
    for (int i = 0; i < f->n; i++) {
        const struct forecast *s = &f->stage[i];
        const struct stage_type *type = r->stage[s->index].type;
        fprintf(to, "%d. %s: %s\n", s->index + 1, type->name, s->what);
        print_sources(to, s, text);
        if (!type->keeps_model) {
            fprintf(to, "   gives %s", s->is_about ? "about " : "");
            print_shape(to, &s->out);
        }
        fprintf(to, "   %.3g TFLOP, about %.0f s, memory %.2f GB, disk %.1f MB\n", s->flops / 1e12, seconds(s, rate),
                (double)s->memory / 1e9, (double)s->disk / 1e6);
        if (!type->makes_text)
            print_loads(to, s);
        total += seconds(s, rate);
    }
    if (f->measuring.flops > 0)
        fprintf(to, "measuring for the report: %.3g TFLOP, about %.0f s, memory %.2f GB\n", f->measuring.flops / 1e12,
                seconds(&f->measuring, rate), (double)f->measuring.memory / 1e9);
    fprintf(to, "in all about %.0f s (products at %.0f GFLOP/s), peak memory %.2f GB (%.1f GB there), disk %.1f MB",
            total, rate.flops / 1e9, (double)f->memory / 1e9, (double)memory_available() / 1e9,
            (double)f->disk / 1e6);
    if (f->scratch)
        fprintf(to, " (snapshots take up to %.1f MB more meanwhile)", (double)f->scratch / 1e6);
    fputc('\n', to);
    if (machine_bf16_is_slow() && r->precision == PRECISION_BF16)
        fprintf(to, "precision bf16 makes it slower: this machine multiplies faster in f32\n");
}

static struct json *measuring_json(const struct forecast *f, struct rates rate) {
    struct json *o = json_object();
    json_set_number(o, "flops", f->flops);
    json_set_number(o, "seconds", seconds(f, rate));
    json_set_number(o, "memory_bytes", (double)f->memory);
    return o;
}

struct json *forecasts_json(const struct forecasts *f, const struct recipe *r, const struct dataset *text) {
    struct rates rate = rates_get(r);
    double total = seconds(&f->measuring, rate);
    struct json *o = json_object(), *stages = json_array();
    json_set_string(o, "name", r->name);
    json_set(o, "parent", shape_json(f->stage[0].parent));
    for (int i = 0; i < f->n; i++) {
        const struct forecast *s = &f->stage[i];
        struct json *one = json_object();
        json_set_string(one, "type", r->stage[s->index].type->name);
        json_set_string(one, "what", s->what);
        json_set(one, "before", shape_json(&s->in));
        json_set(one, "after", shape_json(&s->out));
        json_set_number(one, "flops", s->flops);
        json_set_number(one, "seconds", seconds(s, rate));
        json_set_number(one, "memory_bytes", (double)s->memory);
        json_set_number(one, "disk_bytes", (double)s->disk);
        json_set_number(one, "scratch_bytes", (double)s->scratch);
        json_set(one, "loads", loads_json(&s->out, leaves_gguf(s)));
        struct json *sources = sources_json(s, text);
        if (sources)
            json_set(one, "sources", sources);
        json_push(stages, one);
        total += seconds(s, rate);
    }
    json_set(o, "stages", stages);
    json_set(o, "measuring", measuring_json(&f->measuring, rate));
    json_set_number(o, "seconds", total);
    json_set_number(o, "memory_bytes", (double)f->memory);
    json_set_number(o, "disk_bytes", (double)f->disk);
    json_set_number(o, "scratch_bytes", (double)f->scratch);
    json_set_number(o, "gflops", rate.flops / 1e9);
    return o;
}
