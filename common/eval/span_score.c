// span_score.c: see span_score.h. Characters are judged as Python judges them, in which those rules are written.
#include "common/eval/span_score.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"
#include "common/text/utf8.h"

static int is_python_space(uint32_t c) { return code_is_space(c) || (c >= 0x1C && c <= 0x1F); }

// Does a letter stand before place `at` (or, forward, from there on), with nothing between but marks and the like?
static int letter_beside(const char *text, size_t len, size_t at, int forward)
{
    uint32_t code = 0;
    for (;;) {
        if (forward ? at >= len : at == 0)
            return 0;
        if (!forward)
            while (at > 0 && ((unsigned char)text[--at] & 0xC0) == 0x80)
                ;
        const size_t step = utf8_next(text + at, len - at, &code);
        at += forward ? step : 0;
        if (!code_is_case_ignorable(code))
            return code_is_cased(code);
    }
}

// Unicode's lower case; a capital sigma at a word's end becomes the final one.
static void lower(const char *in, size_t len, struct text *out)
{
    uint32_t code;
    for (size_t i = 0, step; i < len; i += step) {
        step = utf8_next(in + i, len - i, &code);
        if (code == 0x130)
            text_append(out, "i\xCC\x87", 3); // the one capital whose small form is two characters
        else if (code == 0x3A3)
            text_append_code(out, letter_beside(in, len, i, 0) && !letter_beside(in, len, i + step, 1) ? 0x3C2 : 0x3C3);
        else
            text_append_code(out, code_lower(code));
    }
}

static void drop_punctuation(const char *in, size_t len, struct text *out)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)in[i] >= 128 || !code_is_punctuation((unsigned char)in[i]))
            text_append(out, in + i, 1);
}

// Articles become spaces where they are whole words, as a regular expression's \b sees words.
static void drop_articles(const char *in, size_t len, struct text *out)
{
    static const char *const articles[] = {"a", "an", "the"};
    uint32_t code;
    int was_word = 0;
    for (size_t i = 0, step; i < len; i += step) {
        step = utf8_next(in + i, len - i, &code);
        const int is_word = code_is_alphanumeric(code) || code == '_';
        size_t article = 0;
        for (int k = 0; k < 3 && is_word && !was_word && !article; k++) {
            const size_t n = strlen(articles[k]);
            uint32_t next = ' ';
            if (len - i < n || memcmp(in + i, articles[k], n) != 0)
                continue;
            if (i + n < len)
                utf8_next(in + i + n, len - i - n, &next);
            article = code_is_alphanumeric(next) || next == '_' ? 0 : n;
        }
        if (article)
            text_append(out, " ", 1);
        else
            text_append(out, in + i, step);
        step = article ? article : step;
        was_word = is_word;
    }
}

static void squeeze_spaces(const char *in, size_t len, struct text *out)
{
    uint32_t code;
    int space = 0;
    for (size_t i = 0, step; i < len; i += step) {
        step = utf8_next(in + i, len - i, &code);
        if (is_python_space(code)) {
            space = out->len > 0;
            continue;
        }
        if (space)
            text_append(out, " ", 1);
        text_append(out, in + i, step);
        space = 0;
    }
}

char *span_normalized(const char *text)
{
    void (*const step[])(const char *, size_t, struct text *) = {lower, drop_punctuation, drop_articles, squeeze_spaces};
    struct text now = {0};
    text_append(&now, text, strlen(text));
    for (int i = 0; i < 4; i++) {
        struct text next = {0};
        step[i](now.data, now.len, &next);
        text_append(&next, "", 0); // a text may become empty, never NULL
        text_release(&now);
        now = next;
    }
    text_append(&now, "", 1);
    return now.data;
}

struct words {
    char **item;
    int64_t n;
};

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

// Cuts a normalized text in place.
static struct words cut_words(char *text)
{
    struct words w = {xmalloc((strlen(text) / 2 + 1) * sizeof *w.item, "words of an answer"), 0};
    char *rest = NULL;
    for (char *word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        w.item[w.n++] = word;
    qsort(w.item, (size_t)w.n, sizeof *w.item, by_text);
    return w;
}

// Both are used up.
static double f1(char *found, char *wanted)
{
    const struct words a = cut_words(found), b = cut_words(wanted);
    int64_t same = 0;
    for (int64_t i = 0, k = 0; i < a.n && k < b.n;) {
        const int order = strcmp(a.item[i], b.item[k]);
        same += order == 0;
        i += order <= 0;
        k += order >= 0;
    }
    const double n = (double)(a.n + b.n), value = a.n && b.n ? 2 * (double)same / n : a.n == b.n;
    free(a.item);
    free(b.item);
    return value;
}

static void add_answer(struct span_score *best, const char *found, char *wanted)
{
    char *own = xstrdup(found);
    best->exact |= strcmp(own, wanted) == 0;
    const double value = f1(own, wanted);
    best->f1 = value > best->f1 ? value : best->f1;
    free(own);
}

struct span_score span_score_of(const char *found, char *const *answer, int64_t n)
{
    struct span_score best = {0, 0};
    char *own = span_normalized(found), nothing[] = "";
    int64_t counted = 0;
    for (int64_t k = 0; k < n; k++) {
        char *wanted = span_normalized(answer[k]);
        if (*wanted) { // one of nothing but articles and punctuation does not count, unless all are
            add_answer(&best, own, wanted);
            counted++;
        }
        free(wanted);
    }
    if (!counted)
        add_answer(&best, own, nothing);
    free(own);
    return best;
}
