// recipe.c: see recipe.h.
#include "recipes/recipe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/file.h"
#include "recipes/sources.h"
#include "recipes/stage.h"

#define DEFAULT_VALIDATION 5000

#define ROW(n, t, f) n, t, offsetof(struct recipe, f)
const struct option recipe_option_table[] = {
    {ROW("name", OPTION_STRING, name), NULL, 0, 0, NULL, "NAME",
     "names the run and its files (default: the recipe file's name)"},
    {ROW("model", OPTION_STRING, model), NULL, 0, 0, NULL, "MODEL",
     "the parent: a Hugging Face folder or a .gguf file"},
    {ROW("data", OPTION_JSON, data_json), NULL, 0, 0, NULL, NULL, "texts: train or sources, eval, seq_len, eval_tokens, sample"},
    {ROW("seed", OPTION_INT, seed), "1", 0, 1e15, NULL, "N", "decides all random choices"},
    {ROW("precision", OPTION_CHOICE, precision), "f32", 0, 0, "f32|bf16", NULL,
     "operands of products: f32 or bf16 (weights stay f32)"},
    {ROW("stages", OPTION_JSON, stages_json), NULL, 0, 0, NULL, NULL,
     "list of objects with one key each, the stage's type"},
    {ROW("variants", OPTION_JSON, variants), NULL, 0, 0, NULL, NULL,
     "list of {name, set, stages, seeds, versus}: runs to be compared"},
    {ROW("seeds", OPTION_JSON, seeds), NULL, 0, 0, NULL, NULL, "list of seeds for the variants"},
    {ROW("output", OPTION_STRING, output), NULL, 0, 0, NULL, "DIR", "folder of the run (default: runs/NAME)"},
    {.name = NULL}};
#undef ROW
#define ROW(n, t, f) n, t, offsetof(struct data_options, f)
const struct option data_option_table[] = {
    {ROW("train", OPTION_LIST, train), NULL, 0, 0, NULL, "FILE",
     "text to learn from: .txt or .jsonl, may be gzipped"},
    {ROW("sources", OPTION_JSON, sources), NULL, 0, 0, NULL, NULL,
     "instead of train: list of {name, train, eval, weight, reference}, texts that are mixed by weight"},
    {ROW("eval", OPTION_LIST, eval), NULL, 0, 0, NULL, "FILE", "held-out text to measure on"},
    {ROW("seq_len", OPTION_INT, seq_len), "0", 0, 1 << 20, NULL, "N",
     "tokens in a window; 0: the model's context, at most 256"},
    {ROW("eval_tokens", OPTION_INT, eval_tokens), "50000", 1, 1e12, NULL, "N", "tokens to measure on"},
    {ROW("sample", OPTION_JSON, sample), NULL, 0, 0, NULL, NULL,
     "draw the text from the model where files are absent: documents, length"},
    {ROW("images", OPTION_STRING, images), NULL, 0, 0, NULL, "DIR",
     "folder of MNIST's four idx files, for a classifier of images (default: Debian's dataset-fashion-mnist)"},
    {ROW("validation", OPTION_INT, validation), "5000", 1, 1e9, NULL, "N", "training images or examples set aside for validation"},
    {ROW("text", OPTION_STRING, text), NULL, 0, 0, NULL, "COLUMN",
     "for a classifier of texts: the column of the text in train and eval (.tsv, .csv, .jsonl); default sentence"},
    {ROW("pair", OPTION_STRING, pair), NULL, 0, 0, NULL, "COLUMN", "the column of a second text"},
    {ROW("unlabelled", OPTION_LIST, unlabelled), NULL, 0, 0, NULL, "FILE",
     "texts and tables that stages learn masked words from in a classifier's recipe"},
    {ROW("label", OPTION_STRING, label), NULL, 0, 0, NULL, "COLUMN", "the column of the class, a number or a name; default label"},
    {ROW("stride", OPTION_INT, stride), "0", 0, 1 << 20, NULL, "N",
     "of questions with spans (SQuAD's .json, or .jsonl): tokens from one window of a long context to the next; 0: 128, at most half of one"},
    {.name = NULL}};
#undef ROW
#define ROW(n, t, f) n, t, offsetof(struct sample_options, f)
const struct option sample_option_table[] = {
    {ROW("documents", OPTION_INT, documents), "256", 1, 1e9, NULL, "N", "documents to draw"},
    {ROW("length", OPTION_INT, length), "256", 2, 1 << 20, NULL, "N", "tokens in each"},
    {.name = NULL}};
#undef ROW

// Keys whose values are paths.
static int is_path_key(const char *key) {
    static const char *const keys[] = {"model", "output", "train", "eval", "teacher", "reference", "teacher_cache", "shape", "images", "data", "unlabelled", "calibration", "imatrix", "plan"};
    for (size_t i = 0; key && i < sizeof keys / sizeof *keys; i++)
        if (strcmp(key, keys[i]) == 0)
            return 1;
    return 0;
}

char *path_absolute(const char *path) {
    char *here = getcwd(NULL, 0);
    char *joined = path_join(here ? here : ".", path);
    free(here);
    return joined;
}

char *recipe_path(const struct recipe *r, const char *path) { return path_join(r->folder, path); }

// A copy in which every path, at any depth, is joined with folder. key: whose value v is (items of a list inherit
// it).
static struct json *copy_absolute(const struct json *v, const char *key, const char *folder) {
    if (json_kind(v) == JSON_STRING && is_path_key(key) && !(strcmp(key, "teacher_cache") == 0 && strcmp(json_string(v), "auto") == 0)) {
        char *path = path_join(folder, json_string(v));
        struct json *joined = json_from_string(path);
        free(path);
        return joined;
    }
    if (json_kind(v) != JSON_OBJECT && json_kind(v) != JSON_ARRAY)
        return json_copy(v);
    int is_object = json_kind(v) == JSON_OBJECT;
    struct json *copy = is_object ? json_object() : json_array();
    for (const struct json *item = json_first(v); item; item = json_next(item))
        if (is_object)
            json_set(copy, json_key(item), copy_absolute(item, json_key(item), folder));
        else
            json_push(copy, copy_absolute(item, key, folder));
    return copy;
}

struct json *recipe_json(const struct recipe *r, int absolute) {
    struct json *o = options_json(recipe_option_table, r), *data = options_json(data_option_table, &r->data);
    json_remove(o, "output"); // where a run lies is no part of what it is
    if (!r->data.images)
        json_remove(data, "images"); // names of folders that exist are hashes of this
    if (r->data.validation == DEFAULT_VALIDATION)
        json_remove(data, "validation");
    if (!r->data.unlabelled.count)
        json_remove(data, "unlabelled");
    if (!r->data.stride)
        json_remove(data, "stride");
    sources_tidy(&r->data, data);
    const char *const column[] = {"text", "pair", "label"};
    char *const given[] = {r->data.text, r->data.pair, r->data.label};
    for (int i = 0; i < 3; i++)
        if (!given[i])
            json_remove(data, column[i]);
    if (json_kind(r->data.sample) == JSON_OBJECT)
        json_set(data, "sample", options_json(sample_option_table, &r->sample));
    json_set(o, "data", data);
    struct json *stages = json_array();
    for (int i = 0; i < r->n_stage; i++) {
        struct json *stage = json_object();
        json_set(stage, r->stage[i].type->name, options_json(r->stage[i].type->table, r->stage[i].options));
        json_push(stages, stage);
    }
    json_set(o, "stages", stages);
    if (!r->variants) {
        json_remove(o, "variants");
        json_remove(o, "seeds");
    }
    if (!absolute)
        return o;
    struct json *copy = copy_absolute(o, NULL, r->folder);
    json_free(o);
    return copy;
}

// ---- overrides ----

static const struct option *row_in(const struct option *table, const char *name) {
    for (; table->name; table++)
        if (strcmp(table->name, name) == 0)
            return table;
    return NULL;
}

// The type of the option that a path's last name means; names that several tables have mean the same kind of value in
// each.
static enum option_type type_of_key(const char *name) {
    const struct option *row = row_in(data_option_table, name);
    for (int i = 0; stage_types[i] && !row; i++)
        row = row_in(stage_types[i]->table, name);
    if (!row)
        row = row_in(recipe_option_table, name);
    return row ? row->type : OPTION_JSON;
}

struct json *recipe_value(const char *key, const char *text) {
    struct error ignored;
    const char *last = strrchr(key, '.');
    key = last ? last + 1 : key;
    enum option_type type = type_of_key(key);
    int is_text = type == OPTION_STRING || type == OPTION_CHOICE || (type == OPTION_LIST && text[0] != '[');
    struct json *v = is_text ? NULL : json_parse(text, strlen(text), key, 0, &ignored);
    if (!v)
        v = json_from_string(text);
    char *here = path_absolute("");
    struct json *copy = copy_absolute(v, key, here);
    free(here);
    json_free(v);
    return copy;
}

static const struct stage_type *stage_type_named(const char *name, size_t n) {
    for (int i = 0; stage_types[i]; i++)
        if (strlen(stage_types[i]->name) == n && strncmp(stage_types[i]->name, name, n) == 0)
            return stage_types[i];
    return NULL;
}

// Finds the one stage of a type among `stages`; several are an error that lists how each is named.
static struct json *stage_of_type(struct json *stages, const char *type, const char *rest, const char *where,
                                  struct error *err) {
    struct json *found = NULL;
    char choices[512] = "";
    int n = 0, i = 0;
    for (struct json *s = json_first(stages); s; s = json_next(s), i++) {
        struct json *body = json_get(s, type);
        if (!body)
            continue;
        size_t used = strlen(choices);
        snprintf(choices + used, sizeof choices - used, "%sstages[%d].%s.%s", n ? ", " : "", i, type, rest);
        found = body;
        n++;
    }
    if (n == 1)
        return found;
    if (n == 0)
        error_set(err, "%s: the recipe has no stage of type \"%s\"", where, type);
    else
        error_set(err, "%s: the recipe has %d stages of type \"%s\"; name one: %s", where, n, type, choices);
    return NULL;
}

// "stages[1].prune.ffn": the object of stage 1, *rest at "ffn".
static struct json *stage_by_index(struct json *stages, const char *key, const char **rest, const char *where,
                                   struct error *err) {
    char *end;
    long index = strtol(key + strlen("stages["), &end, 10);
    const char *type = end + 2, *dot = strncmp(end, "].", 2) == 0 ? strchr(type, '.') : NULL;
    if (index < 0 || !dot) {
        error_set(err, "%s: expected stages[NUMBER].TYPE.OPTION, as in stages[1].prune.ffn", where);
        return NULL;
    }
    struct json *s = json_first(stages);
    for (long i = 0; s && i < index; i++)
        s = json_next(s);
    const char *found = s && json_first(s) ? json_key(json_first(s)) : NULL;
    if (!s || !found) {
        error_set(err, "%s: the recipe has %ld stages, numbered from 0", where, (long)json_count(stages));
        return NULL;
    }
    if (strlen(found) != (size_t)(dot - type) || strncmp(found, type, strlen(found)) != 0) {
        error_set(err, "%s: stage %ld is of type \"%s\": stages[%ld].%s.%s", where, index, found, index, found,
                  dot + 1);
        return NULL;
    }
    *rest = dot + 1;
    return json_get(s, found);
}

static int unknown_set_key(const char *key, const char *where, struct error *err) {
    const char *names[64];
    char word[64];
    int n = 0;
    for (const struct option *row = recipe_option_table; row->name; row++)
        names[n++] = row->name;
    for (int i = 0; stage_types[i]; i++)
        names[n++] = stage_types[i]->name;
    names[n] = NULL;
    snprintf(word, sizeof word, "%.*s", (int)strcspn(key, ".["), key);
    const char *near = nearest_name(word, names);
    if (near)
        return error_set(err, "%s: unknown key \"%s\"; did you mean \"%s\"?", where, word, near);
    return error_set(
        err, "%s: unknown key \"%s\"; expected a recipe's key (data.seq_len, seed, ...) or TYPE.OPTION (prune.ffn)",
        where, word);
}

// Puts value (which then belongs to the recipe) at the place that key names. Names are checked when the recipe is
// read.
static int set_value(struct json *recipe, const char *key, struct json *value, const char *where, struct error *err) {
    struct json *at = recipe;
    const char *rest = key, *dot = strchr(key, '.');
    char name[64];
    if (strncmp(key, "stages[", 7) == 0) {
        at = stage_by_index(json_get(recipe, "stages"), key, &rest, where, err);
    } else if (dot && stage_type_named(key, (size_t)(dot - key))) {
        snprintf(name, sizeof name, "%.*s", (int)(dot - key), key);
        rest = dot + 1;
        at = stage_of_type(json_get(recipe, "stages"), name, rest, where, err);
    } else {
        snprintf(name, sizeof name, "%.*s", (int)strcspn(key, "."), key);
        if (!row_in(recipe_option_table, name)) {
            unknown_set_key(key, where, err);
            at = NULL;
        }
    }
    for (; at && (dot = strchr(rest, '.')); rest = dot + 1) {
        snprintf(name, sizeof name, "%.*s", (int)(dot - rest), rest);
        if (json_kind(json_get(at, name)) != JSON_OBJECT)
            json_set(at, name, json_object());
        at = json_get(at, name);
    }
    if (!at) {
        json_free(value);
        return -1;
    }
    json_set(at, rest, value);
    return 0;
}

static int set_from_text(struct json *recipe, const char *text, struct error *err) {
    const char *equals = strchr(text, '=');
    if (!equals || equals == text)
        return error_set(err, "--set %s: expected KEY=VALUE, as in --set prune.ffn=0.5", text);
    char *key = xasprintf("%.*s", (int)(equals - text), text), *where = xasprintf("--set %s", text);
    int result = set_value(recipe, key, recipe_value(key, equals + 1), where, err);
    free(key);
    free(where);
    return result;
}

// ---- reading ----

static int read_stage(struct recipe *r, int index, const struct json *o, struct error *err) {
    struct stage *s = &r->stage[index];
    char *where = xasprintf("%s: stages[%d]", r->where, index);
    const struct json *body = json_first(o);
    int result = -1;
    if (json_kind(o) != JSON_OBJECT || json_count(o) != 1) {
        error_set(err, "%s: expected an object with one key, the stage's type, as in {\"prune\": {\"ffn\": 0.5}}",
                  where);
        goto out;
    }
    const struct stage_type *type = stage_type_named(json_key(body), strlen(json_key(body)));
    if (!type) {
        const char *names[16];
        int n = 0;
        for (; stage_types[n]; n++)
            names[n] = stage_types[n]->name;
        names[n] = NULL;
        const char *near = nearest_name(json_key(body), names);
        error_set(err, "%s: unknown stage type \"%s\"; %s%s%s", where, json_key(body),
                  near ? "did you mean \"" : "expected ", near ? near : "prune, distill, train, quantize or export",
                  near ? "\"?" : "");
        goto out;
    }
    s->options = xcalloc(1, type->size, "a stage's options");
    options_init(type->table, s->options);
    s->type = type;
    char *place = xasprintf("%s.%s", where, type->name);
    result = options_read_json(type->table, s->options, body, place, err);
    free(place);
out:
    free(where);
    return result;
}

static int read_stages(struct recipe *r, struct error *err) {
    int64_t n = json_count(r->stages_json);
    if (json_kind(r->stages_json) != JSON_ARRAY || n == 0)
        return error_set(err, "%s: \"stages\": expected a list of stages, as in [{\"prune\": {\"ffn\": 0.5}}]",
                         r->where);
    r->stage = xcalloc((size_t)n, sizeof *r->stage, "stages");
    int i = 0;
    for (const struct json *o = json_first(r->stages_json); o; o = json_next(o), i++) {
        r->n_stage = i + 1;
        TRY(read_stage(r, i, o, err));
    }
    for (i = 0; i < r->n_stage; i++)
        if (r->stage[i].type->validate) {
            char *where = xasprintf("%s: stages[%d].%s", r->where, i, r->stage[i].type->name);
            int result = r->stage[i].type->validate(r, i, where, err);
            free(where);
            TRY(result);
        }
    return 0;
}

static int read_data(struct recipe *r, struct error *err) {
    char *where = xasprintf("%s: data", r->where);
    int result = 0;
    if (json_kind(r->data_json) == JSON_STRING) // a folder of images alone
        r->data.images = xstrdup(json_string(r->data_json));
    else if (r->data_json)
        result = options_read_json(data_option_table, &r->data, r->data_json, where, err);
    if (result == 0 && r->data.sample) {
        char *place = xasprintf("%s.sample", where);
        result = options_read_json(sample_option_table, &r->sample, r->data.sample, place, err);
        free(place);
    }
    if (result == 0)
        result = sources_read(r, where, err);
    free(where);
    return result;
}

// The name decides folders and file names, so it must be a plain word.
static int check_name(struct recipe *r, struct error *err) {
    if (!r->name) {
        const char *base = path_base(r->where);
        r->name = xasprintf("%.*s", (int)strcspn(base, "."), base);
    }
    for (const char *p = r->name; *p; p++)
        if (*p == '/' || (unsigned char)*p < ' ')
            return error_set(err, "%s: \"name\": found \"%s\", expected a word without '/'", r->where, r->name);
    if (!*r->name || r->name[0] == '.')
        return error_set(err, "%s: \"name\": found \"%s\", expected a word that does not begin with '.'", r->where,
                         r->name);
    return 0;
}

int recipe_from_json(struct recipe *r, const struct json *object, const char *where, const char *folder,
                     const struct option_list *set, struct error *err) {
    memset(r, 0, sizeof *r);
    options_init(recipe_option_table, r);
    options_init(data_option_table, &r->data);
    options_init(sample_option_table, &r->sample);
    r->where = xstrdup(where);
    r->folder = path_absolute(folder);
    r->source = json_copy(object);
    int result = 0;
    if (json_kind(object) != JSON_OBJECT)
        result =
            error_set(err, "%s: found %s, expected an object: a recipe", where, json_kind_name(json_kind(object)));
    for (size_t i = 0; set && i < set->count && result == 0; i++)
        result = set_from_text(r->source, set->item[i], err);
    if (result == 0)
        result = options_read_json(recipe_option_table, r, r->source, where, err);
    if (result == 0 && !r->model)
        result = error_set(err, "%s: \"model\" is missing: the folder or .gguf file to start from", where);
    if (result == 0)
        result = check_name(r, err);
    if (result == 0)
        result = read_data(r, err);
    if (result == 0)
        result = read_stages(r, err);
    if (result < 0)
        recipe_release(r);
    return result;
}

int recipe_read(struct recipe *r, const char *path, const struct option_list *set, struct error *err) {
    memset(r, 0, sizeof *r);
    struct json *o = json_read(path, err);
    if (!o)
        return -1;
    char *folder = path_folder(path);
    int result = recipe_from_json(r, o, path, folder, set, err);
    free(folder);
    json_free(o);
    return result;
}

// What all variants of a recipe, and all points of a sweep, share: a value of their own would be ignored.
static const struct {
    const char *key, *reason;
} shared[] = {
    {"model", "all variants of a recipe, and all points of a sweep, are one run from the same model; run the recipe once for each value, given by --set"},
    {"data", "all variants of a recipe, and all points of a sweep, are compared on the same texts; run the recipe once for each value, given by --set"},
    {"name", "it names the whole run; a variant has a \"name\" beside its \"set\", a sweep's points are named by their values: leave it out"},
    {"output", "all variants of a recipe, and all points of a sweep, lie in folders of their own in one output folder, which -o names: leave it out"},
    {"seeds", "it lists the seeds that each variant runs with; a variant may have a list of its own beside its \"set\", a sweep takes --seeds N or --vary seed=1,2,3"},
    {"variants", "a variant or a sweep's point is one recipe without any; add to the recipe's list what is to be compared, or vary the keys that they set"},
};

int recipe_check_varied(const char *key, const char *where, struct error *err) {
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
        if (strcspn(key, ".") == strlen(shared[i].key) && strncmp(key, shared[i].key, strlen(shared[i].key)) == 0)
            return error_set(err, "%s: \"%s\" cannot be varied: %s", where, key, shared[i].reason);
    return 0;
}

int recipe_variant(struct recipe *r, const struct recipe *base, const char *name, const struct json *set,
                   const struct json *stages, int64_t seed, struct error *err) {
    struct json *o = json_copy(base->source);
    char *where = xasprintf("%s: variant \"%s\"", base->where, name);
    json_remove(o, "variants");
    json_remove(o, "seeds");
    if (stages)
        json_set(o, "stages", json_copy(stages));
    int result = 0;
    for (const struct json *item = json_first(set); item && result == 0; item = json_next(item)) {
        result = recipe_check_varied(json_key(item), where, err);
        if (result == 0)
            result = set_value(o, json_key(item), json_copy(item), where, err);
    }
    json_set_number(o, "seed", (double)seed);
    json_set_string(o, "name", base->name);
    memset(r, 0, sizeof *r);
    if (result == 0)
        result = recipe_from_json(r, o, where, base->folder, NULL, err);
    if (result == 0)
        r->data.seq_len = base->data.seq_len;
    free(where);
    json_free(o);
    return result;
}

void recipe_release(struct recipe *r) {
    for (int i = 0; i < r->n_stage; i++)
        if (r->stage[i].type) {
            options_release(r->stage[i].type->table, r->stage[i].options);
            free(r->stage[i].options);
        }
    free(r->stage);
    options_release(sample_option_table, &r->sample);
    sources_release(&r->data);
    options_release(data_option_table, &r->data);
    options_release(recipe_option_table, r);
    json_free(r->source);
    free(r->where);
    free(r->folder);
    memset(r, 0, sizeof *r);
}
