// json.c: see json.h. cJSON parses and holds the values; what it lacks is added here: positions in messages, a
// nesting limit, comments, a refusal of text after the value, and a printer that keeps every digit.
#include "common/base/json.h"

#include <cjson/cJSON.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"

#define DEPTH_MAX 64

// A struct json is a cJSON under another name, so that no other file needs its header.
static cJSON *inner(const struct json *v) { return (cJSON *)v; }
static struct json *outer(cJSON *v) { return (struct json *)v; }

static struct json *made(cJSON *v) {
    if (!v) {
        fprintf(stderr, "pdq: out of memory: a JSON value\n");
        exit(1);
    }
    return outer(v);
}

static int error_at(struct error *err, const char *where, const char *text, size_t at, const char *message) {
    long line = 1, column = 1;
    for (size_t i = 0; i < at; i++) {
        column++;
        if (text[i] == '\n') {
            line++;
            column = 1;
        }
    }
    return error_set(err, "%s: line %ld, column %ld: %s", where, line, column, message);
}

// The position after a comment that begins at i; 0 when it has no end.
static size_t comment_end(const char *text, size_t len, size_t i) {
    if (text[i + 1] == '/') {
        const char *end = memchr(text + i, '\n', len - i);
        return end ? (size_t)(end - text) : len;
    }
    const char *end = memmem(text + i + 2, len - i - 2, "*/", 2);
    return end ? (size_t)(end - text) + 2 : 0;
}

// Checks what cJSON does not, and with `blank` (a copy of text) puts spaces where comments are.
static int scan(const char *text, size_t len, char *blank, const char *where, struct error *err) {
    int depth = 0, in_string = 0;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (c == '\0')
            return error_at(err, where, text, i, "found a NUL byte, expected JSON: this is no text");
        if (in_string) {
            if (c == '\\') {
                if (len - i >= 6 && memcmp(text + i, "\\u0000", 6) == 0)
                    return error_at(err, where, text, i, "\\u0000 in a string is not supported");
                i++;
            } else if (c == '"') {
                in_string = 0;
            }
        } else if (c == '"') {
            in_string = 1;
        } else if (c == '[' || c == '{') {
            if (++depth > DEPTH_MAX)
                return error_at(err, where, text, i, "nested deeper than 64 levels");
        } else if (c == ']' || c == '}') {
            depth--;
        } else if (blank && c == '/' && i + 1 < len && (text[i + 1] == '/' || text[i + 1] == '*')) {
            size_t end = comment_end(text, len, i);
            if (end == 0)
                return error_at(err, where, text, i, "this comment has no end");
            for (size_t k = i; k < end; k++)
                if (text[k] != '\n')
                    blank[k] = ' ';
            i = end - 1;
        }
    }
    return 0;
}

struct json *json_parse(const char *text, size_t len, const char *where, int comments, struct error *err) {
    char *blank = NULL;
    cJSON *root = NULL;
    if (comments)
        blank = memcpy(xmalloc(len, where), text, len);
    if (scan(text, len, blank, where, err) < 0)
        goto out;
    const char *source = blank ? blank : text, *end = NULL;
    if (len == 0) {
        error_set(err, "%s: expected JSON, found nothing", where);
        goto out;
    }
    root = cJSON_ParseWithLengthOpts(source, len, &end, 0);
    size_t at = end ? (size_t)(end - source) : 0;
    if (!root) {
        error_at(err, where, text, at < len ? at : len, at + 1 >= len ? "the JSON text ends too early"
                                                                      : "this is not valid JSON");
        goto out;
    }
    while (at < len && strchr(" \t\r\n", source[at]) && source[at])
        at++;
    if (at < len) {
        error_at(err, where, text, at, "unexpected text after the end of the JSON value");
        cJSON_Delete(root);
        root = NULL;
    }
out:
    free(blank);
    return outer(root);
}

struct json *json_read(const char *path, struct error *err) {
    char *text;
    size_t len;
    if (file_read(path, &text, &len, err) < 0)
        return NULL;
    struct json *root = json_parse(text, len, path, 1, err);
    free(text);
    return root;
}

void json_free(struct json *root) { cJSON_Delete(inner(root)); }

enum json_kind json_kind(const struct json *v) {
    if (!v)
        return JSON_NULL;
    switch (inner(v)->type & 0xFF) {
    case cJSON_True:
    case cJSON_False: return JSON_BOOL;
    case cJSON_Number: return JSON_NUMBER;
    case cJSON_String: return JSON_STRING;
    case cJSON_Array: return JSON_ARRAY;
    case cJSON_Object: return JSON_OBJECT;
    default: return JSON_NULL;
    }
}

const char *json_kind_name(enum json_kind kind) {
    static const char *const names[] = {"null", "true or false", "a number", "a string", "a list", "an object"};
    return names[kind];
}

struct json *json_get(const struct json *object, const char *key) {
    if (!object || !cJSON_IsObject(inner(object)))
        return NULL;
    return outer(cJSON_GetObjectItemCaseSensitive(inner(object), key));
}

struct json *json_first(const struct json *container) { return container ? outer(inner(container)->child) : NULL; }
struct json *json_next(const struct json *item) { return outer(inner(item)->next); }
const char *json_key(const struct json *item) { return inner(item)->string; }

int64_t json_count(const struct json *container) {
    int64_t n = 0;
    for (const struct json *item = json_first(container); item; item = json_next(item))
        n++;
    return n;
}

double json_number(const struct json *v) { return cJSON_IsNumber(inner(v)) ? inner(v)->valuedouble : 0; }
const char *json_string(const struct json *v) { return cJSON_IsString(inner(v)) ? inner(v)->valuestring : NULL; }
int json_bool(const struct json *v) { return cJSON_IsTrue(inner(v)); }

// "a string ("abc")": what was found, with its value when that is short to say.
static void describe(const struct json *v, char *out, size_t size) {
    switch (json_kind(v)) {
    case JSON_STRING: snprintf(out, size, "a string (\"%.60s\")", json_string(v)); break;
    case JSON_NUMBER: snprintf(out, size, "%.15g", json_number(v)); break;
    case JSON_BOOL: snprintf(out, size, "%s", json_bool(v) ? "true" : "false"); break;
    default: snprintf(out, size, "%s", json_kind_name(json_kind(v))); break;
    }
}

static int error_member(struct error *err, const char *where, const char *key, const struct json *v,
                        const char *expected) {
    char found[128];
    describe(v, found, sizeof found);
    return error_set(err, "%s: \"%s\" is %s; expected %s", where, key, found, expected);
}

// The member, or NULL when it is absent or null and the default holds.
static const struct json *member(const struct json *o, const char *key) {
    const struct json *v = json_get(o, key);
    return v && json_kind(v) == JSON_NULL ? NULL : v;
}

int json_get_int(const struct json *o, const char *where, const char *key, int64_t def, int64_t min, int64_t max,
                 int64_t *out, struct error *err) {
    const struct json *v = member(o, key);
    *out = def;
    if (!v)
        return 0;
    double d = json_number(v);
    // a double holds every whole number up to 2^53; beyond, what was written is not what would be used
    if (json_kind(v) != JSON_NUMBER || d != floor(d) || fabs(d) > 0x1p53 || (int64_t)d < min || (int64_t)d > max) {
        char expected[96];
        if (min == INT64_MIN && max == INT64_MAX)
            snprintf(expected, sizeof expected, "a whole number");
        else if (max == INT64_MAX)
            snprintf(expected, sizeof expected, "a whole number from %lld", (long long)min);
        else
            snprintf(expected, sizeof expected, "a whole number from %lld to %lld", (long long)min, (long long)max);
        return error_member(err, where, key, v, expected);
    }
    *out = (int64_t)d;
    return 0;
}

int json_get_double(const struct json *o, const char *where, const char *key, double def, double min, double max,
                    double *out, struct error *err) {
    const struct json *v = member(o, key);
    *out = def;
    if (!v)
        return 0;
    double d = json_number(v);
    if (json_kind(v) != JSON_NUMBER || !isfinite(d) || d < min || d > max) {
        char expected[96];
        if (isinf(max) || max >= 1e300)
            snprintf(expected, sizeof expected, isinf(min) || min <= -1e300 ? "a number" : "a number from %g", min);
        else
            snprintf(expected, sizeof expected, "a number from %g to %g", min, max);
        return error_member(err, where, key, v, expected);
    }
    *out = d;
    return 0;
}

int json_get_bool(const struct json *o, const char *where, const char *key, int def, int *out, struct error *err) {
    const struct json *v = member(o, key);
    *out = def;
    if (!v)
        return 0;
    if (json_kind(v) != JSON_BOOL)
        return error_member(err, where, key, v, "true or false");
    *out = json_bool(v);
    return 0;
}

int json_get_string(const struct json *o, const char *where, const char *key, const char *def, const char **out,
                    struct error *err) {
    const struct json *v = member(o, key);
    *out = def;
    if (!v)
        return 0;
    if (json_kind(v) != JSON_STRING)
        return error_member(err, where, key, v, "a string");
    *out = json_string(v);
    return 0;
}

struct json *json_object(void) { return made(cJSON_CreateObject()); }
struct json *json_array(void) { return made(cJSON_CreateArray()); }
struct json *json_from_number(double v) { return isfinite(v) ? made(cJSON_CreateNumber(v)) : json_null(); }
struct json *json_from_string(const char *s) { return s ? made(cJSON_CreateString(s)) : json_null(); }
struct json *json_from_bool(int v) { return made(cJSON_CreateBool(v != 0)); }
struct json *json_null(void) { return made(cJSON_CreateNull()); }
struct json *json_copy(const struct json *v) { return made(cJSON_Duplicate(inner(v), 1)); }

void json_set(struct json *object, const char *key, struct json *child) {
    int fine;
    if (cJSON_GetObjectItemCaseSensitive(inner(object), key))
        fine = cJSON_ReplaceItemInObjectCaseSensitive(inner(object), key, inner(child));
    else
        fine = cJSON_AddItemToObject(inner(object), key, inner(child));
    if (!fine)
        BUG("json_set: \"%s\" cannot be set", key);
}

void json_append(struct json *object, const char *key, struct json *child) {
    if (!cJSON_AddItemToObject(inner(object), key, inner(child)))
        BUG("json_append: \"%s\" cannot be set", key);
}

void json_set_number(struct json *object, const char *key, double v) { json_set(object, key, json_from_number(v)); }
void json_set_string(struct json *object, const char *key, const char *s) {
    json_set(object, key, json_from_string(s));
}
void json_set_bool(struct json *object, const char *key, int v) { json_set(object, key, json_from_bool(v)); }
void json_remove(struct json *object, const char *key) {
    cJSON_DeleteItemFromObjectCaseSensitive(inner(object), key);
}

void json_push(struct json *array, struct json *child) {
    if (!cJSON_AddItemToArray(inner(array), inner(child)))
        BUG("json_push: the value cannot be added");
}

// The shortest of 15, 16 and 17 digits that reads back as the same number; whole numbers without an exponent.
static void put_number(FILE *out, double v) {
    char text[40];
    if (v == floor(v) && fabs(v) < 0x1p53 && !(v == 0 && signbit(v))) {
        fprintf(out, "%lld", (long long)v);
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    fputs(text, out);
}

static void put_string(FILE *out, const char *s) {
    fputc('"', out);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else if (c == '\n')
            fputs("\\n", out);
        else if (c == '\t')
            fputs("\\t", out);
        else if (c < 0x20 || c == 0x7F)
            fprintf(out, "\\u%04x", c);
        else
            fputc(c, out);
    }
    fputc('"', out);
}

static int holds_containers(const cJSON *v) {
    for (const cJSON *item = v->child; item; item = item->next)
        if (cJSON_IsArray(item) || cJSON_IsObject(item))
            return 1;
    return 0;
}

// depth < 0: everything on one line. Lists of plain values stay on one line in any case.
static void put_value(FILE *out, const cJSON *v, int depth) {
    int is_object = cJSON_IsObject(v);
    if (cJSON_IsNumber(v)) {
        put_number(out, v->valuedouble);
    } else if (cJSON_IsString(v)) {
        put_string(out, v->valuestring);
    } else if (is_object || cJSON_IsArray(v)) {
        int lines = depth >= 0 && v->child && (is_object || holds_containers(v));
        fputc(is_object ? '{' : '[', out);
        for (const cJSON *item = v->child; item; item = item->next) {
            if (lines)
                fprintf(out, "\n%*s", 2 * (depth + 1), "");
            if (is_object) {
                put_string(out, item->string);
                fputs(depth >= 0 ? ": " : ":", out);
            }
            put_value(out, item, depth >= 0 ? depth + 1 : depth);
            if (item->next)
                fputs(depth >= 0 && !lines ? ", " : ",", out);
        }
        if (lines)
            fprintf(out, "\n%*s", 2 * depth, "");
        fputc(is_object ? '}' : ']', out);
    } else {
        fputs(cJSON_IsTrue(v) ? "true" : cJSON_IsFalse(v) ? "false" : "null", out);
    }
}

char *json_text(const struct json *v, int pretty) {
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (out) {
        put_value(out, inner(v), pretty ? 0 : -1);
        if (fclose(out) == 0)
            return text;
    }
    fprintf(stderr, "pdq: out of memory: JSON text\n");
    exit(1);
}
