// pattern.c: see pattern.h.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "common/text/pattern.h"

#include <pcre2.h>
#include <stdlib.h>

// Not \C: it would cut characters in two.
#define REGEX_OPTIONS (PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C)

struct pattern {
    pcre2_code *code;
};

struct pattern_match {
    pcre2_match_data *data;
};

struct pattern *pattern_new(const char *regex, const char *where, struct error *err) {
    int code = 0;
    PCRE2_SIZE at = 0;
    pcre2_code *compiled = pcre2_compile((PCRE2_SPTR)regex, PCRE2_ZERO_TERMINATED, REGEX_OPTIONS, &code, &at, NULL);
    if (!compiled) {
        char why[160];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        error_set(err, "%s: the regular expression '%s' is not understood at byte %zu: %s", where, regex, at, why);
        return NULL;
    }
    pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE); // without it matching is only slower
    struct pattern *p = xmalloc(sizeof *p, "regular expression");
    p->code = compiled;
    return p;
}

void pattern_free(struct pattern *p) {
    if (p)
        pcre2_code_free(p->code);
    free(p);
}

struct pattern_match *pattern_match_new(void) {
    struct pattern_match *m = xmalloc(sizeof *m, "regular expression");
    m->data = pcre2_match_data_create(32, NULL);
    if (!m->data)
        BUG("pcre2_match_data_create: out of memory");
    return m;
}

void pattern_match_free(struct pattern_match *m) {
    if (m)
        pcre2_match_data_free(m->data);
    free(m);
}

int pattern_next(const struct pattern *p, struct pattern_match *m, const char *text, size_t len, size_t from,
                 size_t *start, size_t *end) {
    while (from < len) {
        int rc = pcre2_match(p->code, (PCRE2_SPTR)text, len, from, PCRE2_NO_UTF_CHECK, m->data, NULL);
        if (rc < 0 &&
            rc != PCRE2_ERROR_NOMATCH) // the compiled matcher has a small stack; the interpreter has the heap
            rc = pcre2_match(p->code, (PCRE2_SPTR)text, len, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, m->data, NULL);
        if (rc < 0)
            return 0;
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(m->data);
        if (span[1] > span[0]) {
            *start = span[0];
            *end = span[1];
            return 1;
        }
        from = span[1] + 1;
        while (from < len && ((unsigned char)text[from] & 0xC0) == 0x80)
            from++;
    }
    return 0;
}
