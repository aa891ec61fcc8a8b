// options.h: one row per option parses the command-line flag and the recipe key, checks the range, prints the help
// and writes the effective value into reports.
//
// To add an option: add a field to its struct and one row to its table. Flags are the names with '-' for '_' :
// row "seq_len" is --seq-len 256, --seq-len=256 and "seq_len": 256. A bool is --x or --no-x. The only short flags
// are -o for --output and -h for --help (where the table has those rows).
#ifndef PDQ_OPTIONS_H
#define PDQ_OPTIONS_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"
#include "common/base/json.h"

enum option_type {
    OPTION_BOOL,   // int
    OPTION_INT,    // int64_t
    OPTION_DOUBLE, // double
    OPTION_STRING, // char *, owned by the options struct (options_release frees)
    OPTION_CHOICE, // int: index into `choices`
    OPTION_LIST,   // struct option_list: a string or a list of strings; the flag may be repeated
    OPTION_JSON    // struct json *: kept as it is (nested blocks); recipe only
};

struct option_list {
    char **item;
    size_t count;
};

struct option {
    const char *name;
    enum option_type type;
    size_t offset;       // into the options struct
    const char *initial; // default as text; NULL: unset (0, NULL, empty)
    double min, max;     // numbers: inclusive range, checked when min < max
    const char *choices; // OPTION_CHOICE: "f32|bf16"
    const char *metavar; // in the help: N, FILE, ...
    const char *help;    // one line
};
// A table ends with a row whose name is NULL.

void options_init(const struct option *table, void *into);
void options_release(const struct option *table, void *from);
// Sets one option from text. `where` begins the message ("pdq eval: --tokens").
int option_set_text(const struct option *row, void *into, const char *text, const char *where, struct error *err);
// Reads an object: every key must be in the table (an unknown one is an error that offers the nearest name).
int options_read_json(const struct option *table, void *into, const struct json *object, const char *where,
                      struct error *err);
// Parses argv[0..argc-1] (after the command's name) against up to two tables (own and common; the second may be
// NULL). Words that are no options are collected in *words (pointers into argv; the caller frees the list).
int options_parse(const struct option *table, void *into, const struct option *common_table, void *common_into,
                  int argc, char **argv, const char ***words, int *n_words, struct error *err);
// Effective values, in the table's order.
struct json *options_json(const struct option *table, const void *from);
void options_help(const struct option *table, void *stream); // stream: FILE *
// The candidate nearest to word by edit distance, or NULL when none is near. Candidates end with NULL.
const char *nearest_name(const char *word, const char *const *candidates);

#endif
