// json.h: JSON in and out. The only user of cJSON.
//
// A value belongs to its root; json_free on the root frees everything. Lookups are case-sensitive. Objects keep
// the order in which keys were read or added. Walk long objects with json_first / json_next (lookups are linear).
#ifndef PDQ_JSON_H
#define PDQ_JSON_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"

struct json; // opaque

enum json_kind { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

// Parses exactly one value. `where` names the source in messages (with line and column). With `comments`, // and
// /* */ outside strings are allowed. NULL on failure. Nesting deeper than 64 is refused.
struct json *json_parse(const char *text, size_t len, const char *where, int comments, struct error *err);
// The same from a file (comments allowed).
struct json *json_read(const char *path, struct error *err);
void json_free(struct json *root); // NULL is fine

// All of these take NULL, what json_get gives for an absent member, for null.
enum json_kind json_kind(const struct json *v);
const char *json_kind_name(enum json_kind kind); // "a number", "an object", ...
struct json *json_get(const struct json *object, const char *key); // NULL: absent (or not an object)
struct json *json_first(const struct json *container);             // NULL: empty
struct json *json_next(const struct json *item);
const char *json_key(const struct json *item); // NULL for array items
int64_t json_count(const struct json *container);
double json_number(const struct json *v);      // 0 when not a number
const char *json_string(const struct json *v); // NULL when not a string
int json_bool(const struct json *v);           // 1 only for true

// Typed members of an object. Absent or null: the default is stored and 0 returned. A wrong type or a value out
// of [min, max] is an error naming `where`, the key, what was found and what was expected.
int json_get_int(const struct json *o, const char *where, const char *key, int64_t def, int64_t min, int64_t max,
                 int64_t *out, struct error *err);
int json_get_double(const struct json *o, const char *where, const char *key, double def, double min, double max,
                    double *out, struct error *err);
int json_get_bool(const struct json *o, const char *where, const char *key, int def, int *out, struct error *err);
int json_get_string(const struct json *o, const char *where, const char *key, const char *def, const char **out,
                    struct error *err); // *out lives as long as o

// Building. json_set replaces a member of the same name; the child then belongs to the object.
struct json *json_object(void);
struct json *json_array(void);
struct json *json_from_number(double v);
struct json *json_from_string(const char *s); // NULL gives null
struct json *json_from_bool(int v);
struct json *json_null(void);
struct json *json_copy(const struct json *v);
void json_set(struct json *object, const char *key, struct json *child);
void json_append(struct json *object, const char *key, struct json *child); // a key that is known to be new, without looking
void json_set_number(struct json *object, const char *key, double v); // NaN and infinities are written as null
void json_set_string(struct json *object, const char *key, const char *s);
void json_set_bool(struct json *object, const char *key, int v);
void json_remove(struct json *object, const char *key);
void json_push(struct json *array, struct json *child);

// The text, pretty (two spaces) or on one line; numbers keep all their digits. The caller frees.
char *json_text(const struct json *v, int pretty);

#endif
