// pattern.h: regular expressions of tokenizer.json (the only user of PCRE2).
//
// Those are written for Oniguruma's Ruby syntax: \s, \w and \p{..} are Unicode's, and ^ and $ mean line ends, hence
// PCRE2's UTF, UCP and MULTILINE.
#ifndef PDQ_PATTERN_H
#define PDQ_PATTERN_H

#include <stddef.h>

#include "common/base/error.h"

struct pattern;       // opaque, const after compiling
struct pattern_match; // working memory of one thread, good for every pattern

struct pattern *pattern_new(const char *regex, const char *where, struct error *err); // NULL on failure
void pattern_free(struct pattern *p);
struct pattern_match *pattern_match_new(void);
void pattern_match_free(struct pattern_match *m);
// The next match that is not empty at or after `from` in valid UTF-8; 0 when there is none.
int pattern_next(const struct pattern *p, struct pattern_match *m, const char *text, size_t len, size_t from,
                 size_t *start, size_t *end);

#endif
