// squad.c: see squad.h.
#include "common/data/squad.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/base/json.h"
#include "common/text/utf8.h"

#define WHERE_MAX 512
#define ANSWERS_MAX 64

struct reader {
    const char *path;
    take_question *take;
    void *context;
    struct error *err;
    int64_t number; // of the question, from 1
};

// The byte of text at which character `at` begins; -1: it has fewer.
static int64_t byte_of(const char *text, double at)
{
    const char *p = text;
    for (double n = 0; n < at; n++) {
        if (!*p)
            return -1;
        for (p++; ((unsigned char)*p & 0xC0) == 0x80; p++)
            ;
    }
    return p - text;
}

static int need_string(const struct json *o, const char *key, const char **text, const char *where, struct error *err)
{
    const struct json *v = json_get(o, key);
    *text = json_string(v);
    if (!*text)
        return error_set(err, "%s: \"%s\" is %s; expected a string", where, key, v ? json_kind_name(json_kind(v)) : "missing");
    if (!utf8_valid(*text, strlen(*text)))
        return error_set(err, "%s: \"%s\" is not UTF-8; write the file again as UTF-8", where, key);
    return 0;
}

static int take_answer(const char *context, const struct json *text, const struct json *start, int64_t k, const char **answer, int64_t *from,
                       int64_t *to, const char *where, struct error *err)
{
    const double at = json_number(start);
    *answer = json_string(text);
    if (!*answer || json_kind(start) != JSON_NUMBER || at < 0 || at != floor(at))
        return error_set(err, "%s: answer %lld: expected a string \"text\" and a whole number \"answer_start\"", where, (long long)k + 1);
    const int64_t byte = byte_of(context, at);
    const size_t len = strlen(*answer);
    if (byte < 0 || strncmp(context + byte, *answer, len) != 0)
        return error_set(err, "%s: answer %lld, \"%.40s\", does not stand at answer_start %.0f of its context (%s%.40s%s); expected the number of "
                         "characters before it", where, (long long)k + 1, *answer, at, byte < 0 ? "which is shorter" : "there: \"",
                         byte < 0 ? "" : context + byte, byte < 0 ? "" : "\"");
    if (!len)
        return error_set(err, "%s: answer %lld is empty; expected a part of the context, or no answer at all", where, (long long)k + 1);
    *from = byte;
    *to = byte + (int64_t)len;
    return 0;
}

// Answers come as a list of objects, or as an object of two lists.
static int take_one(const struct reader *r, const struct json *o, const char *context, const char *where)
{
    struct squad_question q = {.context = context, .id = json_string(json_get(o, "id"))};
    const char *answer[ANSWERS_MAX];
    int64_t from[ANSWERS_MAX], to[ANSWERS_MAX];
    const struct json *answers = json_get(o, "answers");
    const int is_list = answers && json_kind(answers) == JSON_ARRAY, is_object = answers && json_kind(answers) == JSON_OBJECT;
    const struct json *one = is_list ? json_first(answers) : json_first(json_get(answers, "text"));
    const struct json *start = is_list ? NULL : json_first(json_get(answers, "answer_start"));
    TRY(need_string(o, "question", &q.question, where, r->err));
    if (!is_list && !(is_object && json_get(answers, "text") && json_get(answers, "answer_start")))
        return error_set(r->err, "%s: \"answers\" is %s; expected [{\"text\", \"answer_start\"}, ...] or {\"text\": [...], \"answer_start\": [...]}",
                         where, answers ? is_object ? "an object without one of \"text\" and \"answer_start\"" : json_kind_name(json_kind(answers)) : "missing");
    for (; one || start; one = one ? json_next(one) : NULL, start = start ? json_next(start) : NULL) {
        const int64_t k = q.n_answer;
        if (k == ANSWERS_MAX)
            return error_set(r->err, "%s: more than %d answers", where, ANSWERS_MAX);
        TRY(take_answer(context, is_list ? json_get(one, "text") : one, is_list ? json_get(one, "answer_start") : start, k, &answer[k], &from[k],
                        &to[k], where, r->err));
        q.n_answer++;
    }
    q.answer = answer;
    q.start = from;
    q.end = to;
    return r->take(r->context, &q, where, r->err);
}

static int read_paragraph(struct reader *r, const struct json *p)
{
    char where[WHERE_MAX];
    const char *context;
    const struct json *list = json_get(p, "qas");
    snprintf(where, sizeof where, "%s, the paragraph after question %lld", r->path, (long long)r->number);
    TRY(need_string(p, "context", &context, where, r->err));
    if (!list || json_kind(list) != JSON_ARRAY)
        return error_set(r->err, "%s: \"qas\" is %s; expected a list of questions", where, list ? json_kind_name(json_kind(list)) : "missing");
    for (const struct json *o = json_first(list); o; o = json_next(o)) {
        const char *id = json_string(json_get(o, "id"));
        snprintf(where, sizeof where, "%s, question %lld%s%.60s%s", r->path, (long long)++r->number, id ? " (id " : "", id ? id : "", id ? ")" : "");
        TRY(take_one(r, o, context, where));
    }
    return 0;
}

static int read_nested(struct reader *r, const char *text, size_t len)
{
    struct json *root = json_parse(text, len, r->path, 0, r->err);
    if (!root)
        return -1;
    const struct json *data = json_get(root, "data"), *list = NULL;
    int status = 0;
    if (!data || json_kind(data) != JSON_ARRAY)
        status = error_set(r->err, "%s: no list \"data\" in it; expected SQuAD's file, {\"data\": [{\"paragraphs\": [{\"context\", \"qas\"}]}]} "
                           "(rows with \"question\", \"context\" and \"answers\", one a line, are for a name that ends in .jsonl)", r->path);
    for (const struct json *article = status == 0 ? json_first(data) : NULL; article && status == 0; article = json_next(article)) {
        list = json_get(article, "paragraphs");
        if (!list || json_kind(list) != JSON_ARRAY)
            status = error_set(r->err, "%s: an article after question %lld has no list \"paragraphs\"; expected SQuAD's file", r->path,
                               (long long)r->number);
        for (const struct json *p = status == 0 ? json_first(list) : NULL; p && status == 0; p = json_next(p))
            status = read_paragraph(r, p);
    }
    json_free(root);
    return status;
}

static int read_lines(struct reader *r, const char *text)
{
    int64_t row = 1;
    for (const char *line = text, *end; *line; line = *end ? end + 1 : end, row++) {
        char where[WHERE_MAX];
        const char *context;
        end = line + strcspn(line, "\n");
        snprintf(where, sizeof where, "%s, line %lld", r->path, (long long)row);
        if (strspn(line, " \t\r") >= (size_t)(end - line))
            continue;
        struct json *o = json_parse(line, (size_t)(end - line), where, 0, r->err);
        int status = o ? need_string(o, "context", &context, where, r->err) : -1;
        if (status == 0)
            status = take_one(r, o, context, where);
        json_free(o);
        TRY(status);
    }
    return 0;
}

int squad_read(const char *path, take_question *take, void *context, struct error *err)
{
    struct reader r = {.path = path, .take = take, .context = context, .err = err};
    const int is_lines = path_ends_with(path, ".jsonl") || path_ends_with(path, ".jsonl.gz");
    char *text;
    size_t len;
    if (!is_lines && !path_ends_with(path, ".json") && !path_ends_with(path, ".json.gz"))
        return error_set(err, "%s: expected a name that ends in .json (SQuAD's file) or .jsonl (a question a line), perhaps with .gz", path);
    TRY(file_read(path, &text, &len, err));
    int status = strlen(text) != len ? error_set(err, "%s: holds a zero byte; expected text", path)
                 : is_lines ? read_lines(&r, text) : read_nested(&r, text, len);
    free(text);
    return status;
}
