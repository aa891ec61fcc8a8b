// table.c: see table.h.
#include "common/data/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/json.h"

#define FIELDS_MAX 256
#define WHERE_MAX 512

struct reader {
    const char *path;
    const char *const *column;
    int n_column;
    take_row *take;
    void *context;
    struct error *err;
};

// Cuts the line at *at into fields, in place, and moves *at behind it. Returns their number, -1 for too many or an open quote.
static int cut_line(char **at, char separator, char *field[FIELDS_MAX])
{
    char *p = *at;
    int n = 0;
    for (int more = 1; more;) {
        if (n == FIELDS_MAX)
            return -1;
        char *to = field[n++] = p, *from = p;
        if (separator == ',' && *from == '"') {
            for (from++; *from && !(*from == '"' && from[1] != '"'); from++) {
                from += *from == '"'; // a doubled quote stands for one
                *to++ = *from;
            }
            if (!*from)
                return -1;
            from++;
        }
        while (*from && *from != separator && *from != '\n')
            *to++ = *from++;
        more = *from == separator;
        const int is_end = !*from;
        if (!more && to > field[n - 1] && to[-1] == '\r')
            to--;
        *to = 0;
        p = is_end ? from : from + 1;
    }
    *at = p;
    return n;
}

static int find_columns(const struct reader *r, char *const *field, int n, int *place)
{
    for (int c = 0; c < r->n_column; c++) {
        place[c] = -1;
        for (int i = 0; i < n; i++)
            if (strcmp(field[i], r->column[c]) == 0)
                place[c] = i;
        if (place[c] >= 0)
            continue;
        char found[200] = "";
        for (int i = 0; i < n && strlen(found) < sizeof found - 40; i++)
            snprintf(found + strlen(found), sizeof found - strlen(found), "%s%.30s", i ? ", " : "", field[i]);
        return error_set(r->err, "%s: no column \"%s\"; the first line names: %s", r->path, r->column[c], found);
    }
    return 0;
}

static int read_lines(const struct reader *r, char *text, char separator)
{
    char *field[FIELDS_MAX], *at = text;
    int place[FIELDS_MAX];
    const int n = *at ? cut_line(&at, separator, field) : 0;
    if (n <= 0)
        return error_set(r->err, "%s: %s; expected a first line that names the columns", r->path, n ? "the first line has an open quote" : "the file is empty");
    TRY(find_columns(r, field, n, place));
    for (int64_t row = 2; *at; row++) {
        char where[WHERE_MAX];
        const char *picked[FIELDS_MAX];
        const int found = cut_line(&at, separator, field);
        snprintf(where, sizeof where, "%s, row %lld", r->path, (long long)row);
        if (found == 1 && !field[0][0])
            continue; // an empty line
        if (found != n)
            return error_set(r->err, found < 0 ? "%s: a quote is not closed" : "%s: %d fields; the first line names %d columns", where, found, n);
        for (int c = 0; c < r->n_column; c++)
            picked[c] = field[place[c]];
        TRY(r->take(r->context, picked, where, r->err));
    }
    return 0;
}

static int take_object(const struct reader *r, const struct json *o, const char *where)
{
    const char *picked[FIELDS_MAX];
    char *made[FIELDS_MAX] = {NULL};
    int status = 0;
    for (int c = 0; c < r->n_column && status == 0; c++) {
        const struct json *v = json_get(o, r->column[c]);
        const enum json_kind kind = v ? json_kind(v) : JSON_NULL;
        if (kind == JSON_NULL || kind == JSON_ARRAY || kind == JSON_OBJECT)
            status = error_set(r->err, "%s: \"%s\" is %s; expected a string, a number or true or false", where, r->column[c],
                               v ? json_kind_name(kind) : "missing");
        else
            picked[c] = kind == JSON_STRING ? json_string(v) : (made[c] = json_text(v, 0));
    }
    if (status == 0)
        status = r->take(r->context, picked, where, r->err);
    for (int c = 0; c < r->n_column; c++)
        free(made[c]);
    return status;
}

static int read_objects(const struct reader *r, const char *text)
{
    int64_t row = 1;
    for (const char *line = text, *end; *line; line = *end ? end + 1 : end, row++) {
        char where[WHERE_MAX];
        end = line + strcspn(line, "\n");
        snprintf(where, sizeof where, "%s, line %lld", r->path, (long long)row);
        if (strspn(line, " \t\r") >= (size_t)(end - line))
            continue;
        struct json *o = json_parse(line, (size_t)(end - line), where, 0, r->err);
        int status = o ? take_object(r, o, where) : -1;
        json_free(o);
        TRY(status);
    }
    return 0;
}

int table_read(const char *path, const char *const *column, int n_column, take_row *take, void *context, struct error *err)
{
    static const struct {
        const char *ending, *zipped;
        char separator; // 0: objects
    } formats[] = {{".tsv", ".tsv.gz", '\t'}, {".csv", ".csv.gz", ','}, {".jsonl", ".jsonl.gz", 0}};
    const struct reader r = {path, column, n_column, take, context, err};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        char *text;
        size_t len;
        if (!path_ends_with(path, formats[i].ending) && !path_ends_with(path, formats[i].zipped))
            continue;
        TRY(file_read(path, &text, &len, err));
        int status = strlen(text) != len ? error_set(err, "%s: holds a zero byte; expected text", path)
                     : formats[i].separator ? read_lines(&r, text, formats[i].separator) : read_objects(&r, text);
        free(text);
        return status;
    }
    return error_set(err, "%s: expected a name that ends in .tsv, .csv or .jsonl, perhaps with .gz", path);
}
