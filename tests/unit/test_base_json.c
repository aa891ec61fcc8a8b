// JSON: what is accepted, what is refused and where the message says it is, and that numbers keep their digits.
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"

static struct json *parse(const char *text, int comments, struct error *err) {
    return json_parse(text, strlen(text), "test.json", comments, err);
}

static void refused(const char *text, int comments, const char *message) {
    struct error err = {""};
    cr_assert_null(parse(text, comments, &err), "accepted: %s", text);
    cr_assert(strstr(err.text, message), "%s: \"%s\" lacks \"%s\"", text, err.text, message);
}

Test(json, values) {
    struct error err;
    struct json *v = parse(" {\"a\": [1, -2.5e3, true, null, \"x\\u00e9\\n\"], \"A\": {}} ", 0, &err);
    cr_assert_not_null(v, "%s", err.text);
    struct json *list = json_get(v, "a");
    cr_assert_eq(json_count(list), 5);
    struct json *item = json_first(list);
    cr_assert_eq(json_number(item), 1);
    item = json_next(item);
    cr_assert_eq(json_number(item), -2500);
    item = json_next(item);
    cr_assert(json_bool(item));
    item = json_next(item);
    cr_assert_eq(json_kind(item), JSON_NULL);
    item = json_next(item);
    cr_assert_str_eq(json_string(item), "x\xc3\xa9\n");
    cr_assert_null(json_next(item));
    cr_assert_eq(json_kind(json_get(v, "A")), JSON_OBJECT);
    cr_assert_null(json_get(v, "b"));
    cr_assert_null(json_get(list, "b"));
    cr_assert_str_eq(json_key(json_first(v)), "a");
    json_free(v);
}

Test(json, positions) {
    refused("", 0, "found nothing");
    refused("{\"a\": 1,\n \"b\": x}", 0, "test.json: line 2, column 7");
    refused("{\"a\": 1} {}", 0, "line 1, column 10: unexpected text");
    refused("{\"a\": 1", 0, "ends too early");
    refused("[1, 2", 0, "ends too early");
    refused("{\"a\": \"\\u0000\"}", 0, "\\u0000");
    refused("// one\n/* two\n*/ [1,\n]", 1, "line 4, column 1");
    refused("[1] /* no end", 1, "no end");
    refused("[1] // not here", 0, "unexpected text");
}

Test(json, comments) {
    struct error err;
    struct json *v = parse("// first\n{\"url\": \"http://x/*y*/\", /* in\nside */ \"n\": 1} // last", 1, &err);
    cr_assert_not_null(v, "%s", err.text);
    cr_assert_str_eq(json_string(json_get(v, "url")), "http://x/*y*/");
    cr_assert_eq(json_number(json_get(v, "n")), 1);
    json_free(v);
}

Test(json, nesting) {
    char text[400];
    struct error err;
    memset(text, '[', 64);
    memset(text + 64, ']', 64);
    struct json *v = json_parse(text, 128, "deep", 0, &err);
    cr_assert_not_null(v, "%s", err.text);
    json_free(v);
    memset(text, '[', 65);
    memset(text + 65, ']', 65);
    cr_assert_null(json_parse(text, 130, "deep", 0, &err));
    cr_assert(strstr(err.text, "64"));
}

// Every prefix of a text is a text that ends too early: none may be accepted or read past its end.
Test(json, truncated_everywhere) {
    static const char text[] = "{\"name\": \"v\\u00e9\\\"\", \"l\": [1.5e3, {\"x\": null}], /* c */ \"t\": true}";
    struct error err;
    for (size_t n = 0; n < sizeof text - 1; n++) {
        char *copy = xmalloc(n, "prefix"); // exactly as long, so that the sanitizer sees a step beyond
        memcpy(copy, text, n);
        cr_assert_null(json_parse(copy, n, "prefix", 1, &err), "accepted %zu bytes", n);
        free(copy);
    }
}

Test(json, typed_members) {
    struct error err;
    int64_t n;
    double d;
    int b;
    const char *s;
    struct json *v =
        parse("{\"n\": 12, \"half\": 0.5, \"s\": \"x\", \"b\": true, \"z\": null, \"big\": 1e17}", 0, &err);
    cr_assert_eq(json_get_int(v, "c.json", "n", 0, 1, 64, &n, &err), 0);
    cr_assert_eq(n, 12);
    cr_assert_eq(json_get_int(v, "c.json", "absent", 7, 1, 64, &n, &err), 0);
    cr_assert_eq(n, 7);
    cr_assert_eq(json_get_int(v, "c.json", "z", 8, 1, 64, &n, &err), 0);
    cr_assert_eq(n, 8);
    cr_assert_eq(json_get_int(v, "c.json", "n", 0, 13, 64, &n, &err), -1);
    cr_assert_str_eq(err.text, "c.json: \"n\" is 12; expected a whole number from 13 to 64");
    cr_assert_eq(json_get_int(v, "c.json", "half", 0, 0, INT64_MAX, &n, &err), -1);
    cr_assert_str_eq(err.text, "c.json: \"half\" is 0.5; expected a whole number from 0");
    cr_assert_eq(json_get_int(v, "c.json", "big", 0, INT64_MIN, INT64_MAX, &n, &err), -1);
    cr_assert_eq(json_get_int(v, "c.json", "s", 0, 0, 9, &n, &err), -1);
    cr_assert(strstr(err.text, "a string (\"x\")"));
    cr_assert_eq(json_get_double(v, "c.json", "half", 0, 0, 1, &d, &err), 0);
    cr_assert_eq(d, 0.5);
    cr_assert_eq(json_get_double(v, "c.json", "n", 0, 0, 1, &d, &err), -1);
    cr_assert_eq(json_get_bool(v, "c.json", "b", 0, &b, &err), 0);
    cr_assert_eq(b, 1);
    cr_assert_eq(json_get_bool(v, "c.json", "n", 0, &b, &err), -1);
    cr_assert_eq(json_get_string(v, "c.json", "s", "-", &s, &err), 0);
    cr_assert_str_eq(s, "x");
    cr_assert_eq(json_get_string(v, "c.json", "b", "-", &s, &err), -1);
    json_free(v);
}

Test(json, writing) {
    struct json *v = json_object();
    json_set_number(v, "third", 1.0 / 3);
    json_set_number(v, "tenth", 0.1);
    json_set_number(v, "count", 123456789012345.0);
    json_set_number(v, "nan", (double)NAN);
    json_set_string(v, "text", "a\"\\\n\x01\xc3\xa9");
    json_set_bool(v, "yes", 1);
    struct json *list = json_array();
    json_push(list, json_from_number(1));
    json_push(list, json_null());
    json_set(v, "list", list);
    json_set_number(v, "tenth", -0.25); // replaces, in place
    char *text = json_text(v, 0);
    cr_assert_str_eq(text, "{\"third\":0.3333333333333333,\"tenth\":-0.25,\"count\":123456789012345,\"nan\":null,"
                           "\"text\":\"a\\\"\\\\\\n\\u0001\xc3\xa9\",\"yes\":true,\"list\":[1,null]}");
    struct error err;
    struct json *again = parse(text, 0, &err);
    cr_assert_eq(json_number(json_get(again, "third")), 1.0 / 3);
    free(text);
    json_remove(again, "text");
    json_remove(again, "third");
    struct json *copy = json_copy(again);
    json_free(again);
    text = json_text(copy, 1);
    cr_assert_str_eq(text, "{\n  \"tenth\": -0.25,\n  \"count\": 123456789012345,\n  \"nan\": null,\n"
                           "  \"yes\": true,\n  \"list\": [1, null]\n}");
    free(text);
    json_free(copy);
    json_free(v);
}
