// layer_map.c: which student layer follows which teacher layer. Layers count from 0 here and in recipes; papers count from 1.
//
// To add a named map: a function that gives the teacher layer of student layer i, or -1 for a layer that follows none, a row in `maps`,
// its name in LAYER_MAPS (feature.h).
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "distill/feature.h"

typedef int64_t map_function(const struct config *student, const struct config *teacher, int64_t i);

// Evenly spread, the last follows the last (TinyBERT, Jiao et al. 2020, section 4.1: g(m) = 3 m of 12 layers for 4).
static int64_t uniform(const struct config *s, const struct config *t, int64_t i)
{
    return ((i + 1) * t->n_layer + s->n_layer - 1) / s->n_layer - 1;
}

// PKD-last and PKD-skip (Sun et al. 2019, section 3.2): the student's layers but its final one, which the answers teach, follow the
// teacher's last ones before its own final layer, or every so many (of 12, for 6: 7 to 11, or 2, 4, 6, 8, 10, counted from 1).
static int64_t last(const struct config *s, const struct config *t, int64_t i)
{
    return i < s->n_layer - 1 ? t->n_layer - s->n_layer + i : -1;
}

static int64_t skip(const struct config *s, const struct config *t, int64_t i)
{
    return i < s->n_layer - 1 ? (i + 1) * (t->n_layer / s->n_layer) - 1 : -1;
}

static int64_t first(const struct config *s, const struct config *t, int64_t i)
{
    (void)s;
    return i < t->n_layer ? i : -1;
}

// The final layer alone (MiniLM, Wang et al. 2020, section 3.1).
static int64_t final(const struct config *s, const struct config *t, int64_t i) { return i == s->n_layer - 1 ? t->n_layer - 1 : -1; }

// Of the teacher's layers of the same width (hidden states, attention heads, channels) the one that is nearest to its uniform place.
static int64_t width(const struct config *s, const struct config *t, int64_t i)
{
    const struct layer_shape *own = &s->layer[i];
    const int64_t place = uniform(s, t, i);
    int64_t best = -1;
    for (int64_t l = 0; l < t->n_layer && s->hidden == t->hidden; l++) {
        const struct layer_shape *other = &t->layer[l];
        if (other->n_head * t->head_dim == own->n_head * s->head_dim && other->n_ff == own->n_ff &&
            (best < 0 || llabs(l - place) < llabs(best - place)))
            best = l;
    }
    return best;
}

static const struct {
    const char *name;
    map_function *teacher_layer;
} maps[] = {{"uniform", uniform}, {"last", last}, {"skip", skip}, {"first", first}, {"final", final}, {"width", width}};

#define N_MAPS (sizeof maps / sizeof *maps)

static int64_t named(const char *name, const char *where, const struct config *student, const struct config *teacher,
                     int64_t *from, int64_t *to, struct error *err)
{
    size_t k = 0;
    int64_t n = 0;
    while (k < N_MAPS && strcmp(maps[k].name, name) != 0)
        k++;
    if (k == N_MAPS)
        return error_set(err, "%s: found \"%s\", expected one of " LAYER_MAPS ", or a list of [student layer, teacher layer] pairs", where, name);
    if (teacher->n_layer < student->n_layer && (maps[k].teacher_layer == last || maps[k].teacher_layer == skip))
        return error_set(err, "%s: \"%s\" is for a teacher with at least the student's layers; it has %lld, the student %lld; expected uniform, "
                         "first, final or pairs", where, name, (long long)teacher->n_layer, (long long)student->n_layer);
    for (int64_t i = 0; i < student->n_layer; i++) {
        const int64_t layer = maps[k].teacher_layer(student, teacher, i);
        if (layer < 0)
            continue;
        from[n] = i;
        to[n++] = layer;
    }
    if (!n)
        return error_set(err, "%s: \"%s\" leaves no pair of layers of the student's %lld and the teacher's %lld; expected another map, or pairs",
                         where, name, (long long)student->n_layer, (long long)teacher->n_layer);
    return n;
}

static int read_layer(const struct json *v, const char *where, const char *whose, int64_t n_layer, int64_t pair, int64_t *out,
                      struct error *err)
{
    const double layer = json_number(v);
    if (!v || json_kind(v) != JSON_NUMBER || layer != floor(layer) || layer < 0 || layer >= (double)n_layer)
        return error_set(err, "%s[%lld]: expected a %s layer from 0 to %lld", where, (long long)pair, whose, (long long)n_layer - 1);
    *out = (int64_t)layer;
    return 0;
}

int64_t layer_map_read(const struct json *map, const char *by_default, const char *where, const struct config *student,
                       const struct config *teacher, int64_t **student_layer, int64_t **teacher_layer, struct error *err)
{
    const char *name = map ? json_string(map) : by_default;
    const int64_t n = name ? student->n_layer : json_count(map);
    *student_layer = xcalloc((size_t)(n > 0 ? n : 1), sizeof **student_layer, "the layer map");
    *teacher_layer = xcalloc((size_t)(n > 0 ? n : 1), sizeof **teacher_layer, "the layer map");
    if (name)
        return named(name, where, student, teacher, *student_layer, *teacher_layer, err);
    if (json_kind(map) != JSON_ARRAY || n < 1)
        return error_set(err, "%s: expected one of " LAYER_MAPS ", or a list of [student layer, teacher layer] pairs", where);
    const struct json *pair = json_first(map);
    for (int64_t i = 0; i < n; i++, pair = json_next(pair)) {
        if (json_kind(pair) != JSON_ARRAY || json_count(pair) != 2)
            return error_set(err, "%s[%lld]: expected [student layer, teacher layer]", where, (long long)i);
        const struct json *one = json_first(pair);
        TRY(read_layer(one, where, "student", student->n_layer, i, &(*student_layer)[i], err));
        TRY(read_layer(json_next(one), where, "teacher", teacher->n_layer, i, &(*teacher_layer)[i], err));
    }
    return n;
}
