// recipe.h: what a run is to do, read from JSON (comments allowed), overridden by --set, checked as a whole before
// any work.
//
// Relative paths start at the recipe's folder; those given by --set or on the command line start at the current
// folder, as a user of a shell expects. Every key is a row of an option table, so a key, its range and its help exist
// once.
#ifndef PDQ_RECIPE_H
#define PDQ_RECIPE_H

#include <stdint.h>

#include "common/base/error.h"
#include "common/base/json.h"
#include "common/base/options.h"

struct stage_type;

struct stage { // process lifetime, owned by the recipe
    const struct stage_type *type;
    void *options; // by type->table
};

struct source { // of text; owned by the recipe
    char *name;
    struct option_list train, eval;
    double weight, reference; // reference: nats per token
    int has_weight, has_reference;
};

struct data_options {
    struct option_list train, eval, unlabelled; // train: of sources all their files
    struct json *sources;
    struct source *source; // [n_source] read from it (sources.h)
    int n_source;
    int eval_of_sources; // eval is the sources' held-out files
    int64_t seq_len; // 0 until the runner knows the model
    int64_t eval_tokens;
    struct json *sample; // {"documents", "length"}; NULL: no sampling
    char *images;                  // folder of idx files
    int64_t validation;            // training images or examples set aside
    char *text, *pair, *label;     // columns of examples
    int64_t stride;                // of windows of long contexts; 0: chosen
};

struct sample_options { // text drawn from the model itself, where there is no other
    int64_t documents, length;
};

struct recipe {
    char *where;         // path of the file, or the command's name: for messages
    char *folder;        // absolute; where relative paths start
    struct json *source; // as written, with --set applied
    char *name, *model, *output;
    int64_t seed;
    int precision;                                           // enum precision
    struct json *data_json, *stages_json, *variants, *seeds; // as they are in source
    struct data_options data;
    struct sample_options sample;
    struct stage *stage;
    int n_stage;
};

extern const struct option recipe_option_table[], data_option_table[], sample_option_table[];

// set: "KEY=VALUE" texts; NULL: none.
int recipe_read(struct recipe *r, const char *path, const struct option_list *set, struct error *err);
// The same from an object (which stays the caller's); folder: where its relative paths start.
int recipe_from_json(struct recipe *r, const struct json *object, const char *where, const char *folder,
                     const struct option_list *set, struct error *err);
// Can a variant, or a point of a sweep, have its own value of this key? Not of what they share: the model, the texts, the run's name and folder.
int recipe_check_varied(const char *key, const char *where, struct error *err);
// The recipe with the members of `set` ({"prune.ffn": 0.5, ...}) and, where not NULL, other stages, and another seed.
int recipe_variant(struct recipe *r, const struct recipe *base, const char *name, const struct json *set,
                   const struct json *stages, int64_t seed, struct error *err);
void recipe_release(struct recipe *r);
// The text of a flag as the value of a key ("prune.ffn"): JSON where it is JSON, else a string; a path starts at the
// current folder. The caller frees.
struct json *recipe_value(const char *key, const char *text);

// Every key with its effective value. absolute: paths as the machine sees them; else as written.
struct json *recipe_json(const struct recipe *r, int absolute);
char *recipe_path(const struct recipe *r, const char *path); // joined with the folder; the caller frees
char *path_absolute(const char *path);                       // from the current folder; the caller frees

#endif
