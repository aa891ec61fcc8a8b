// options.c: see options.h. Text and JSON go through one setter, so that flag and recipe key agree on ranges.
#include "common/base/options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define NAME_ROOM 64

static void *field(const struct option *row, const void *base) { return (char *)base + row->offset; }

// Index of word in "a|b|c", or -1.
static int choice_index(const char *choices, const char *word) {
    size_t n = strlen(word);
    int index = 0;
    for (const char *p = choices; p; index++) {
        size_t length = strcspn(p, "|");
        if (length == n && memcmp(p, word, n) == 0)
            return index;
        p = p[length] ? p + length + 1 : NULL;
    }
    return -1;
}

static char *choice_name(const char *choices, int index) {
    const char *p = choices;
    for (; index > 0; index--)
        p += strcspn(p, "|") + 1;
    return xasprintf("%.*s", (int)strcspn(p, "|"), p);
}

static void list_add(struct option_list *list, const char *text) {
    list->item = xrealloc(list->item, (list->count + 1) * sizeof *list->item, "an option's list");
    list->item[list->count++] = xstrdup(text);
}

static void list_clear(struct option_list *list) {
    for (size_t i = 0; i < list->count; i++)
        free(list->item[i]);
    free(list->item);
    *list = (struct option_list){0};
}

static int error_range(const struct option *row, const char *found, const char *where, struct error *err) {
    const char *kind = row->type == OPTION_INT ? "a whole number" : "a number";
    if (row->min >= row->max)
        return error_set(err, "%s: found %s, expected %s", where, found, kind);
    return error_set(err, "%s: found %s, expected %s from %.15g to %.15g", where, found, kind, row->min, row->max);
}

// Checks and stores a number; `found` is how it was written.
static int set_number(const struct option *row, void *into, double v, const char *found, const char *where,
                      struct error *err) {
    int fine = isfinite(v) && (row->min >= row->max || (v >= row->min && v <= row->max));
    if (row->type == OPTION_INT)
        fine = fine && v == floor(v) && fabs(v) <= 0x1p53;
    if (!fine)
        return error_range(row, found, where, err);
    if (row->type == OPTION_INT)
        *(int64_t *)field(row, into) = (int64_t)v;
    else
        *(double *)field(row, into) = v;
    return 0;
}

static int set_bool(const struct option *row, void *into, const char *text, const char *where, struct error *err) {
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (int i = 0; i < 8; i++)
        if (strcmp(text, words[i]) == 0) {
            *(int *)field(row, into) = i & 1;
            return 0;
        }
    return error_set(err, "%s: found \"%s\", expected true or false", where, text);
}

#define CHOICES_MAX 64

static int unknown_choice(const struct option *row, const char *text, const char *where, struct error *err) {
    char *name[CHOICES_MAX + 1] = {NULL};
    int n = 0;
    for (const char *p = row->choices; *p && n < CHOICES_MAX; p += strcspn(p, "|"), p += *p == '|')
        name[n++] = xasprintf("%.*s", (int)strcspn(p, "|"), p);
    const char *near = nearest_name(text, (const char *const *)name);
    error_set(err, "%s: found \"%s\", expected one of %s%s%s%s", where, text, row->choices, near ? "; did you mean \"" : "",
              near ? near : "", near ? "\"?" : "");
    while (n)
        free(name[--n]);
    return -1;
}

static int set_choice(const struct option *row, void *into, const char *text, const char *where, struct error *err) {
    int index = choice_index(row->choices, text);
    if (index < 0)
        return unknown_choice(row, text, where, err);
    *(int *)field(row, into) = index;
    return 0;
}

static int set_json_text(const struct option *row, void *into, const char *text, const char *where,
                         struct error *err) {
    struct json **value = field(row, into);
    struct json *parsed = json_parse(text, strlen(text), where, 0, err);
    if (!parsed)
        return -1;
    json_free(*value);
    *value = parsed;
    return 0;
}

int option_set_text(const struct option *row, void *into, const char *text, const char *where, struct error *err) {
    char *end;
    double v;
    switch (row->type) {
    case OPTION_BOOL: return set_bool(row, into, text, where, err);
    case OPTION_CHOICE: return set_choice(row, into, text, where, err);
    case OPTION_JSON: return set_json_text(row, into, text, where, err);
    case OPTION_LIST: list_add(field(row, into), text); return 0;
    case OPTION_STRING: {
        char **value = field(row, into);
        free(*value);
        *value = xstrdup(text);
        return 0;
    }
    case OPTION_INT:
    case OPTION_DOUBLE:
        v = strtod(text, &end);
        if (end == text || *end || isspace((unsigned char)*text)) {
            char *found = xasprintf("\"%s\"", text);
            error_range(row, found, where, err);
            free(found);
            return -1;
        }
        return set_number(row, into, v, text, where, err);
    }
    BUG("option %s has type %d", row->name, (int)row->type);
}

void options_init(const struct option *table, void *into) {
    struct error err;
    for (const struct option *row = table; row->name; row++) {
        switch (row->type) {
        case OPTION_BOOL:
        case OPTION_CHOICE: *(int *)field(row, into) = 0; break;
        case OPTION_INT: *(int64_t *)field(row, into) = 0; break;
        case OPTION_DOUBLE: *(double *)field(row, into) = 0; break;
        case OPTION_STRING: *(char **)field(row, into) = NULL; break;
        case OPTION_LIST: *(struct option_list *)field(row, into) = (struct option_list){0}; break;
        case OPTION_JSON: *(struct json **)field(row, into) = NULL; break;
        }
        if (row->initial && option_set_text(row, into, row->initial, row->name, &err) < 0)
            BUG("default of option %s", err.text);
    }
}

void options_release(const struct option *table, void *from) {
    for (const struct option *row = table; row->name; row++) {
        if (row->type == OPTION_STRING) {
            free(*(char **)field(row, from));
            *(char **)field(row, from) = NULL;
        } else if (row->type == OPTION_LIST) {
            list_clear(field(row, from));
        } else if (row->type == OPTION_JSON) {
            json_free(*(struct json **)field(row, from));
            *(struct json **)field(row, from) = NULL;
        }
    }
}

static int set_list_json(const struct option *row, void *into, const struct json *v, const char *where,
                         struct error *err) {
    struct option_list *list = field(row, into);
    list_clear(list);
    if (json_kind(v) == JSON_STRING) {
        list_add(list, json_string(v));
        return 0;
    }
    if (json_kind(v) != JSON_ARRAY)
        return error_set(err, "%s: found %s, expected a string or a list of strings", where,
                         json_kind_name(json_kind(v)));
    for (const struct json *item = json_first(v); item; item = json_next(item)) {
        if (json_kind(item) != JSON_STRING)
            return error_set(err, "%s[%zu]: found %s, expected a string", where, list->count,
                             json_kind_name(json_kind(item)));
        list_add(list, json_string(item));
    }
    return 0;
}

static int set_json(const struct option *row, void *into, const struct json *v, const char *where,
                    struct error *err) {
    static const enum json_kind expected[] = {
        [OPTION_BOOL] = JSON_BOOL,     [OPTION_INT] = JSON_NUMBER,    [OPTION_DOUBLE] = JSON_NUMBER,
        [OPTION_STRING] = JSON_STRING, [OPTION_CHOICE] = JSON_STRING,
    };
    if (row->type == OPTION_LIST)
        return set_list_json(row, into, v, where, err);
    if (row->type == OPTION_JSON) {
        struct json **value = field(row, into);
        json_free(*value);
        *value = json_copy(v);
        return 0;
    }
    char *text = json_text(v, 0);
    int result;
    if (json_kind(v) != expected[row->type])
        result = error_set(err, "%s: found %.80s, expected %s%s", where, text,
                           row->choices ? "one of " : json_kind_name(expected[row->type]),
                           row->choices ? row->choices : "");
    else if (json_kind(v) == JSON_NUMBER)
        result = set_number(row, into, json_number(v), text, where, err);
    else if (json_kind(v) == JSON_BOOL)
        result = set_bool(row, into, text, where, err);
    else
        result = option_set_text(row, into, json_string(v), where, err);
    free(text);
    return result;
}

static const struct option *find_row(const struct option *table, const char *name) {
    for (const struct option *row = table; row && row->name; row++)
        if (strcmp(row->name, name) == 0)
            return row;
    return NULL;
}

// The name in either table that is nearest to word, or NULL.
// flags: of those that a flag can give.
static const char *nearest_option(const struct option *a, const struct option *b, int flags, const char *word) {
    const struct option *tables[] = {a, b};
    const char *names[2 * NAME_ROOM + 1];
    int n = 0;
    for (int t = 0; t < 2; t++)
        for (const struct option *row = tables[t]; row && row->name && n < 2 * NAME_ROOM; row++)
            if (!flags || row->type != OPTION_JSON)
                names[n++] = row->name;
    names[n] = NULL;
    return nearest_name(word, names);
}

static int error_unknown_key(const struct option *table, const char *key, const char *where, struct error *err) {
    const char *near = nearest_option(table, NULL, 0, key);
    if (near)
        return error_set(err, "%s: unknown key \"%s\"; did you mean \"%s\"?", where, key, near);
    size_t room = 0;
    for (const struct option *row = table; row->name; row++)
        room += strlen(row->name) + 2;
    char *names = xcalloc(room + 1, 1, "names of options");
    for (const struct option *row = table; row->name; row++)
        strcat(strcat(names, row == table ? "" : ", "), row->name);
    error_set(err, "%s: unknown key \"%s\"; expected one of %s", where, key, names);
    free(names);
    return -1;
}

int options_read_json(const struct option *table, void *into, const struct json *object, const char *where,
                      struct error *err) {
    if (json_kind(object) != JSON_OBJECT)
        return error_set(err, "%s: found %s, expected an object", where, json_kind_name(json_kind(object)));
    for (const struct json *item = json_first(object); item; item = json_next(item)) {
        const char *key = json_key(item);
        const struct option *row = find_row(table, key);
        if (!row)
            return error_unknown_key(table, key, where, err);
        if (json_get(object, key) != item)
            return error_set(err, "%s: the key \"%s\" is given twice; keep one of them", where, key);
        if (json_kind(item) == JSON_NULL)
            continue;
        char *place = xasprintf("%s: \"%s\"", where, key);
        int result = set_json(row, into, item, place, err);
        free(place);
        TRY(result);
    }
    return 0;
}

// "--seq-len" and "--seq_len" to "seq_len"; "-o" and "-h" are the only short flags.
static void flag_name(const char *flag, char out[NAME_ROOM]) {
    if (strcmp(flag, "-o") == 0)
        flag = "--output";
    else if (strcmp(flag, "-h") == 0)
        flag = "--help";
    const char *p = flag + strspn(flag, "-");
    int n = 0;
    for (; p[n] && p[n] != '=' && n < NAME_ROOM - 1; n++)
        out[n] = p[n] == '-' ? '_' : p[n];
    out[n] = '\0';
}

static int error_unknown_flag(const struct option *table, const struct option *common_table, const char *flag,
                              struct error *err) {
    char name[NAME_ROOM], near[NAME_ROOM];
    flag_name(flag, name);
    const char *found = nearest_option(table, common_table, 1, name);
    if (!found)
        return error_set(err, "unknown option %s; --help lists the options", flag);
    snprintf(near, sizeof near, "%s", found);
    for (char *p = near; *p; p++)
        *p = *p == '_' ? '-' : *p;
    return error_set(err, "unknown option %s; did you mean --%s?", flag, near);
}

// The row that a flag means, in either table (*into follows), or NULL. --no-x finds x when that is a bool.
static const struct option *find_flag(const struct option *table, const struct option *common_table,
                                      void *common_into, const char *flag, void **into, int *negated) {
    char name[NAME_ROOM];
    if (flag[1] != '-' && strcmp(flag, "-o") != 0 && strcmp(flag, "-h") != 0)
        return NULL;
    flag_name(flag, name);
    *negated = 0;
    const struct option *row = find_row(table, name), *other = find_row(common_table, name);
    if (!row && !other && strncmp(name, "no_", 3) == 0) {
        row = find_row(table, name + 3);
        other = find_row(common_table, name + 3);
        *negated = 1;
    }
    if (!row && other) {
        row = other;
        *into = common_into;
    }
    return row && row->type != OPTION_JSON && !(*negated && row->type != OPTION_BOOL) ? row : NULL;
}

static const char *value_name(const struct option *row) {
    if (row->type == OPTION_BOOL)
        return "";
    return row->metavar ? row->metavar : row->choices ? row->choices : "VALUE";
}

// Handles argv[0], a flag; `left` words are there and the number of those used is stored.
static int parse_flag(const struct option *table, void *into, const struct option *common_table, void *common_into,
                      int left, char **argv, int *used, struct error *err) {
    const char *flag = argv[0], *value = strchr(flag, '=');
    int negated;
    const struct option *row = find_flag(table, common_table, common_into, flag, &into, &negated);
    if (!row)
        return error_unknown_flag(table, common_table, flag, err);
    *used = 1;
    if (row->type == OPTION_BOOL && !value) {
        *(int *)field(row, into) = !negated;
        return 0;
    }
    if (negated)
        return error_set(err, "%s: a value does not go with a --no- option; write %.*s", flag,
                         (int)strcspn(flag, "="), flag);
    if (!value && left < 2)
        return error_set(err, "%s needs a value: %s", flag, value_name(row));
    if (!value)
        *used = 2;
    char *where = xasprintf("%.*s", (int)strcspn(flag, "="), flag);
    int result = option_set_text(row, into, value ? value + 1 : argv[1], where, err);
    free(where);
    return result;
}

int options_parse(const struct option *table, void *into, const struct option *common_table, void *common_into,
                  int argc, char **argv, const char ***words, int *n_words, struct error *err) {
    *words = xcalloc((size_t)argc + 1, sizeof **words, "words of the command line");
    *n_words = 0;
    int only_words = 0;
    for (int i = 0; i < argc;) {
        int used = 1;
        if (!only_words && strcmp(argv[i], "--") == 0) {
            only_words = 1;
        } else if (only_words || argv[i][0] != '-' || argv[i][1] == '\0') {
            (*words)[(*n_words)++] = argv[i];
        } else if (parse_flag(table, into, common_table, common_into, argc - i, argv + i, &used, err) < 0) {
            free(*words);
            *words = NULL;
            *n_words = 0;
            return -1;
        }
        i += used;
    }
    return 0;
}

struct json *options_json(const struct option *table, const void *from) {
    struct json *object = json_object();
    for (const struct option *row = table; row->name; row++) {
        const void *value = field(row, from);
        struct json *v = NULL;
        switch (row->type) {
        case OPTION_BOOL: v = json_from_bool(*(const int *)value); break;
        case OPTION_INT: v = json_from_number((double)*(const int64_t *)value); break;
        case OPTION_DOUBLE: v = json_from_number(*(const double *)value); break;
        case OPTION_STRING: v = json_from_string(*(char *const *)value); break;
        case OPTION_CHOICE: {
            char *name = choice_name(row->choices, *(const int *)value);
            v = json_from_string(name);
            free(name);
            break;
        }
        case OPTION_LIST:
            v = json_array();
            for (size_t i = 0; i < ((const struct option_list *)value)->count; i++)
                json_push(v, json_from_string(((const struct option_list *)value)->item[i]));
            break;
        case OPTION_JSON: v = *(struct json *const *)value ? json_copy(*(struct json *const *)value) : json_null();
        }
        json_set(object, row->name, v);
    }
    return object;
}

void options_help(const struct option *table, void *stream) {
    FILE *out = stream;
    for (const struct option *row = table; row->name; row++) {
        if (row->type == OPTION_JSON)
            continue;
        char flag[160], name[NAME_ROOM];
        snprintf(name, sizeof name, "%s", row->name);
        for (char *p = name; *p; p++)
            *p = *p == '_' ? '-' : *p;
        int is_true = row->type == OPTION_BOOL && row->initial && strcmp(row->initial, "true") == 0;
        const char *value = value_name(row);
        snprintf(flag, sizeof flag, "%s--%s%s%s%s", strcmp(name, "output") == 0 ? "-o, " : "", is_true ? "no-" : "",
                 name, *value ? " " : "", value);
        fprintf(out, "  %-26s%s%s", flag, strlen(flag) >= 26 ? "\n                            " : "",
                row->help ? row->help : "");
        if (row->initial && *row->initial && row->type != OPTION_BOOL)
            fprintf(out, " (default %s)", row->initial);
        fputc('\n', out);
    }
}

static int fold(char c) { return c == '-' ? '_' : tolower((unsigned char)c); }

// Edit distance with neighbours' swaps (optimal string alignment); both shorter than NAME_ROOM.
static int edit_distance(const char *a, const char *b) {
    int rows[3][NAME_ROOM];
    int *before = rows[0], *last = rows[1], *now = rows[2];
    int n = (int)strlen(a), m = (int)strlen(b);
    for (int j = 0; j <= m; j++)
        last[j] = j;
    for (int i = 1; i <= n; i++) {
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            int same = fold(a[i - 1]) == fold(b[j - 1]);
            int best = last[j - 1] + !same;
            if (last[j] + 1 < best)
                best = last[j] + 1;
            if (now[j - 1] + 1 < best)
                best = now[j - 1] + 1;
            if (i > 1 && j > 1 && fold(a[i - 1]) == fold(b[j - 2]) && fold(a[i - 2]) == fold(b[j - 1]) &&
                before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            now[j] = best;
        }
        int *free_row = before;
        before = last;
        last = now;
        now = free_row;
    }
    return last[m];
}

const char *nearest_name(const char *word, const char *const *candidates) {
    if (strlen(word) >= NAME_ROOM)
        return NULL;
    const char *best = NULL;
    int least = 1 + (int)strlen(word) / 4; // farther than this is another word
    for (; *candidates; candidates++) {
        if (strlen(*candidates) >= NAME_ROOM)
            continue;
        int distance = edit_distance(word, *candidates);
        if (distance < least || (distance == least && !best)) {
            least = distance;
            best = *candidates;
        }
    }
    return best;
}
