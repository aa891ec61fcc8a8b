// name_pattern.c: see name_pattern.h.
#include "common/model/name_pattern.h"

#include <ctype.h>
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "common/model/stored.h"

#define LITERAL 64 // characters of a pattern that are compared when nothing matches
#define NEAR 3     // names that the message offers

// The whole name, or what is left of three words or more without the first.
static int matches(const char *name, const char *pattern)
{
    const char *rest = strchr(name, '.');
    return fnmatch(pattern, name, 0) == 0 || (rest && strchr(rest + 1, '.') && fnmatch(pattern, rest + 1, 0) == 0);
}

int name_matches(const struct model *m, const struct parameter *p, const char *pattern)
{
    char stored[STORED_NAME];
    stored_name(m, p, stored);
    return matches(stored, pattern) || matches(p->name, pattern);
}

// Edits that turn `word` into some part of `text` (Sellers 1980: a row of zeros above lets the part begin anywhere).
static int edits_within(const char *word, const char *text)
{
    int above[STORED_NAME + 1] = {0}, row[STORED_NAME + 1];
    const int n = (int)strlen(text);
    for (int i = 1; word[i - 1]; i++) {
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            const int differs = tolower((unsigned char)word[i - 1]) != tolower((unsigned char)text[j - 1]);
            row[j] = above[j - 1] + differs;
            row[j] = above[j] + 1 < row[j] ? above[j] + 1 : row[j];
            row[j] = row[j - 1] + 1 < row[j] ? row[j - 1] + 1 : row[j];
        }
        memcpy(above, row, sizeof above);
    }
    int least = above[0];
    for (int j = 1; j <= n; j++)
        least = above[j] < least ? above[j] : least;
    return least;
}

int name_error(const struct model *m, int (*may)(const struct parameter *p), const char *pattern, const char *where, struct error *err)
{
    char literal[LITERAL + 1], near[NEAR * (STORED_NAME + 2) + 1] = "", name[STORED_NAME], before[STORED_NAME] = "";
    int n = 0, found = 0;
    for (const char *at = pattern; *at && n < LITERAL; at++)
        if (!strchr("*?[]", *at))
            literal[n++] = *at;
    literal[n] = '\0';
    for (int edits = 0; edits <= n && !found; edits++) // the nearest ones, in the model's order
        for (int i = 0; i < m->n_parameter && found < NEAR; i++) {
            stored_name(m, &m->parameter[i], name);
            if ((may && !may(&m->parameter[i])) || edits_within(literal, name) > edits || strcmp(name, before) == 0)
                continue;
            strcat(strcat(near, found++ ? ", " : ""), name);
            memcpy(before, name, sizeof before);
        }
    return error_set(err, "%s: \"%s\" matches no tensor%s; expected a pattern of whole names (* stands for any characters), near: %s", where,
                     pattern, may ? " that it can be for" : "", found ? near : "none");
}
