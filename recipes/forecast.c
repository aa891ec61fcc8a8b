// forecast.c: see forecast.h.
#include "recipes/forecast.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/timer.h"
#include "recipes/machine_cache.h"

#define BASE_MEMORY ((int64_t)32 << 20) // the program, libraries, tokens of the texts
#define EFFICIENCY 0.6                  // of the products' speed that a whole step reaches, about

static void set_total(struct forecasts *f, const struct config *parent)
{
    for (int i = 0; i < f->n; i++) {
        struct forecast *s = &f->stage[i];
        s->memory += 4 * config_parameters(parent) + BASE_MEMORY; // the parent stays in memory
        f->memory = s->memory > f->memory ? s->memory : f->memory;
        f->disk += s->disk;
    }
}

static int check_room(const struct forecasts *f, const struct recipe *r, const char *out, struct error *err)
{
    int64_t memory = memory_available(), disk = disk_free(out);
    if (memory > 0 && f->memory > memory)
        return error_set(err, "%s: the run needs about %.1f GB of memory, %.1f GB are there; lower \"batch\" or data.seq_len, or set "
                              "\"checkpoint\": true", r->where, (double)f->memory / 1e9, (double)memory / 1e9);
    if (disk >= 0 && f->disk > disk)
        return error_set(err, "%s: the run writes about %.1f GB, %.1f GB are free there; make room or name another folder with -o",
                         out, (double)f->disk / 1e9, (double)disk / 1e9);
    return 0;
}

int forecasts_make(struct forecasts *f, const struct recipe *r, const struct config *parent, const struct tokenizer *t,
                   const char *out, struct error *err)
{
    *f = (struct forecasts){.stage = xcalloc((size_t)r->n_stage, sizeof *f->stage, "forecasts")};
    const struct config *shape = parent;
    int result = 0;
    for (int i = 0; i < r->n_stage && result == 0; i++) {
        struct forecast *s = &f->stage[f->n++];
        *s = (struct forecast){.recipe = r, .index = i, .parent = parent, .tokenizer = t};
        config_copy(&s->in, shape);
        config_copy(&s->out, shape);
        result = r->stage[i].type->forecast(s, err);
        shape = &s->out;
    }
    if (result == 0) {
        set_total(f, parent);
        result = check_room(f, r, out, err);
    }
    if (result < 0)
        forecasts_release(f);
    return result;
}

void forecasts_release(struct forecasts *f)
{
    for (int i = 0; i < f->n; i++) {
        config_release(&f->stage[i].in);
        config_release(&f->stage[i].out);
    }
    free(f->stage);
    *f = (struct forecasts){0};
}

static double seconds(const struct forecast *s, double gflops) { return s->flops / (gflops * 1e9 * EFFICIENCY); }

struct json *loads_json(const struct config *c, int is_gguf)
{
    struct json *o = json_object();
    int is_qwen = strcmp(c->model_type, "qwen2") == 0, uniform = config_uniform(c);
    int full_heads = c->layer[0].n_head * c->head_dim == c->hidden;
    const char *plain = is_gguf ? "no (GGUF)" : uniform ? "yes" : "no: its layers differ";
    json_set_string(o, "transformers 4", plain);
    json_set_string(o, "transformers 5", plain);
    json_set_string(o, "vLLM", !is_gguf && uniform && is_qwen && !full_heads ? "no: takes head_dim as hidden / heads" : plain);
    json_set_string(o, "llama.cpp", is_gguf ? "yes" : "after conversion to GGUF (pdq export)");
    return o;
}

static void print_shape(FILE *to, const struct config *c)
{
    const struct layer_shape *s = &c->layer[0];
    fprintf(to, "%ld layers, hidden %ld, %ld/%ld heads of %ld, FFN %ld, vocabulary %ld: %.3f M parameters\n", (long)c->n_layer,
            (long)c->hidden, (long)s->n_head, (long)s->n_kv_head, (long)c->head_dim, (long)s->n_ff, (long)c->vocab,
            (double)config_parameters(c) / 1e6);
}

static int leaves_gguf(const struct forecast *s) { return strstr(s->what, "GGUF") != NULL; }

static void print_loads(FILE *to, const struct forecast *s)
{
    struct json *loads = loads_json(&s->out, leaves_gguf(s));
    fputs("   loads in:", to);
    for (const struct json *v = json_first(loads); v; v = json_next(v))
        fprintf(to, " %s: %s%s", json_key(v), json_string(v), json_next(v) ? ";" : "\n");
    json_free(loads);
}

void forecasts_print(const struct forecasts *f, const struct recipe *r, FILE *to)
{
    double gflops = machine_gflops((enum precision)r->precision), total = 0;
    fprintf(to, "%s: the parent has ", r->name);
    print_shape(to, f->stage[0].parent);
    for (int i = 0; i < f->n; i++) {
        const struct forecast *s = &f->stage[i];
        const struct stage_type *type = r->stage[s->index].type;
        fprintf(to, "%d. %s: %s\n", s->index + 1, type->name, s->what);
        if (!type->keeps_model) {
            fputs("   gives ", to);
            print_shape(to, &s->out);
        }
        fprintf(to, "   %.3g TFLOP, about %.0f s, memory %.2f GB, disk %.1f MB\n", s->flops / 1e12, seconds(s, gflops),
                (double)s->memory / 1e9, (double)s->disk / 1e6);
        print_loads(to, s);
        total += seconds(s, gflops);
    }
    fprintf(to, "in all about %.0f s of work at %.0f GFLOP/s, peak memory %.2f GB (%.1f GB there), disk %.1f MB\n", total, gflops,
            (double)f->memory / 1e9, (double)memory_available() / 1e9, (double)f->disk / 1e6);
}

static struct json *shape_json(const struct config *c)
{
    struct json *o = json_object();
    json_set_number(o, "layers", (double)c->n_layer);
    json_set_number(o, "hidden", (double)c->hidden);
    json_set_number(o, "heads", (double)c->layer[0].n_head);
    json_set_number(o, "kv_heads", (double)c->layer[0].n_kv_head);
    json_set_number(o, "head_dim", (double)c->head_dim);
    json_set_number(o, "ffn", (double)c->layer[0].n_ff);
    json_set_number(o, "vocab", (double)c->vocab);
    json_set_number(o, "parameters", (double)config_parameters(c));
    return o;
}

struct json *forecasts_json(const struct forecasts *f, const struct recipe *r)
{
    double gflops = machine_gflops((enum precision)r->precision), total = 0;
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
        json_set_number(one, "seconds", seconds(s, gflops));
        json_set_number(one, "memory_bytes", (double)s->memory);
        json_set_number(one, "disk_bytes", (double)s->disk);
        json_set(one, "loads", loads_json(&s->out, leaves_gguf(s)));
        json_push(stages, one);
        total += seconds(s, gflops);
    }
    json_set(o, "stages", stages);
    json_set_number(o, "seconds", total);
    json_set_number(o, "memory_bytes", (double)f->memory);
    json_set_number(o, "disk_bytes", (double)f->disk);
    json_set_number(o, "gflops", gflops);
    return o;
}
