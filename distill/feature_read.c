// feature_read.c: the recipe's list of losses on features: {"loss", "weight", "map", "tokens", "relation_heads", "samples"}, checked against
// both models.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/options.h"
#include "common/base/random.h"
#include "distill/distill.h"
#include "distill/feature.h"

#define FEATURES_MOST (LOSS_TERMS - DIVERGENCES) // KL and "mse" have their own places in the log, the trainer takes one

struct entry { // of the list, as it is written
    char *loss;
    struct json *weight, *map;
    int tokens;
    int64_t relation_heads, samples, teacher;
};

#define AT(member) offsetof(struct entry, member)
static const struct option entry_table[] = {
    {"loss", OPTION_STRING, AT(loss), NULL, 0, 0, NULL, "NAME", "a row of feature_loss_table"},
    {"weight", OPTION_JSON, AT(weight), NULL, 0, 0, NULL, "R", "a number, [from, to], or {from, to, start, end}"},
    {"map", OPTION_JSON, AT(map), NULL, 0, 0, NULL, "MAP", LAYER_MAPS ", or pairs"},
    {"tokens", OPTION_CHOICE, AT(tokens), "all", 0, 0, "all|first", NULL, "which tokens of a sequence are samples"},
    {"relation_heads", OPTION_INT, AT(relation_heads), "0", 0, 65536, NULL, "N", "0: what the heads of both have in common"},
    {"teacher", OPTION_INT, AT(teacher), "0", 0, TEACHERS_MOST - 1, NULL, "N", "which one of several, from 0"},
    {"samples", OPTION_INT, AT(samples), "-1", -1, 1e6, NULL, "N", "most samples of a group; 0: all; -1: the loss's own"},
    {0}};
#undef AT

static const struct feature_loss *find_loss(const char *name, const char *where, struct error *err)
{
    enum { MOST = 64 };
    const char *names[MOST] = {NULL};
    for (int i = 0; feature_loss_table[i].name && i < MOST - 1; i++) {
        names[i] = feature_loss_table[i].name;
        if (name && strcmp(names[i], name) == 0)
            return &feature_loss_table[i];
    }
    char list[1024] = "";
    for (int i = 0; names[i]; i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", names[i]);
    const char *near = name ? nearest_name(name, names) : NULL;
    if (near)
        error_set(err, "%s.loss: found \"%s\"; did you mean \"%s\"?", where, name, near);
    else
        error_set(err, "%s.loss: %s%s%s, expected one of %s", where, name ? "found \"" : "is missing", name ? name : "", name ? "\"" : "", list);
    return NULL;
}

static int64_t width_of(const struct feature_loss *loss, const struct config *c, int64_t layer)
{
    switch (loss->reads) {
    case READS_ATTENTION:
    case READS_QUERIES: return c->layer[layer].n_head * c->head_dim;
    case READS_KEYS:
    case READS_VALUES: return c->layer[layer].n_kv_head * c->head_dim;
    default: return c->hidden;
    }
}

static int64_t common_divisor(int64_t a, int64_t b) { return b ? common_divisor(b, a % b) : a; }

// Losses on maps make the scores again, with their factor and window, and without a soft cap.
static int check_rules(int64_t s, int64_t t, const char *where, const struct config *student, const struct config *teacher, struct error *err)
{
    const int64_t own = config_slides(student, s) ? student->window : 0, other = config_slides(teacher, t) ? teacher->window : 0;
    if (student->attention_cap > 0 || teacher->attention_cap > 0)
        return error_set(err, "%s: a %s model bends its attention's scores by a soft cap, which losses on maps do not know; take relations between "
                         "queries, keys or values", where, student->attention_cap > 0 ? student->model_type : teacher->model_type);
    if (own != other)
        return error_set(err, "%s: student layer %lld has a window of %lld keys, teacher layer %lld one of %lld (0: none); expected the same, with "
                         "another map, or relations between queries, keys or values", where, (long long)s, (long long)own, (long long)t,
                         (long long)other);
    return 0;
}

// Heads of one pair of layers, for losses that read q, k and v.
static int check_heads(struct feature *f, int64_t pair, const char *where, const struct config *student, const struct config *teacher,
                       struct error *err)
{
    const int64_t s = f->student_layer[pair], t = f->teacher_layer[pair];
    const int64_t own = student->layer[s].n_head, other = teacher->layer[t].n_head;
    const int64_t own_width = width_of(f->loss, student, s), other_width = width_of(f->loss, teacher, t);
    if (!own || !other)
        return error_set(err, "%s: %s layer %lld has no attention; expected a map of layers that have", where, own ? "teacher" : "student",
                         (long long)(own ? t : s));
    if (f->loss->reads == READS_ATTENTION && own != other)
        return error_set(err, "%s: student layer %lld has %lld heads, teacher layer %lld %lld; expected as many (relations between queries, keys or "
                         "values compare any numbers of heads)", where, (long long)s, (long long)own, (long long)t, (long long)other);
    if (f->loss->reads == READS_ATTENTION)
        return check_rules(s, t, where, student, teacher, err);
    const int64_t common = common_divisor(own_width / student->head_dim, other_width / teacher->head_dim);
    f->relation_heads = common_divisor(f->relation_heads, common);
    return 0;
}

// The same where the recipe gives the number of relation heads.
static int check_relation_heads(const struct feature *f, const char *where, const struct config *student, const struct config *teacher,
                                struct error *err)
{
    for (int64_t i = 0; i < f->n_pair; i++) {
        const int64_t own = width_of(f->loss, student, f->student_layer[i]), other = width_of(f->loss, teacher, f->teacher_layer[i]);
        if (own % f->relation_heads || other % f->relation_heads)
            return error_set(err, "%s.relation_heads: %lld do not divide the widths %lld of student layer %lld and %lld of teacher layer %lld", where,
                             (long long)f->relation_heads, (long long)own, (long long)f->student_layer[i], (long long)other,
                             (long long)f->teacher_layer[i]);
    }
    return 0;
}

static int check_entry(struct feature *f, const struct entry *e, const char *where, const struct distill_options *o,
                       const struct config *student, const struct config *teacher, struct error *err)
{
    const int reads_heads = f->loss->reads >= READS_ATTENTION, relates = f->loss->reads > READS_ATTENTION;
    if (reads_heads && o->train.checkpoint)
        return error_set(err, "%s: %s reads what a layer's attention reads, and with \"checkpoint\" a layer keeps only its output; expected one of them",
                         where, f->loss->name);
    if (reads_heads && f->first)
        return error_set(err, "%s.tokens: is for losses on hidden states; %s takes all tokens", where, f->loss->name);
    if (e->relation_heads && !relates)
        return error_set(err, "%s.relation_heads: is for relations between queries, keys or values; %s has none", where, f->loss->name);
    if (e->samples >= 0 && reads_heads)
        return error_set(err, "%s.samples: is for losses on hidden states; %s takes all tokens", where, f->loss->name);
    for (int64_t i = 0; reads_heads && i < f->n_pair; i++)
        TRY(check_heads(f, i, where, student, teacher, err));
    if (e->relation_heads) {
        f->relation_heads = e->relation_heads;
        TRY(check_relation_heads(f, where, student, teacher, err));
    }
    return 0;
}

static int read_entry(struct feature *f, const struct entry *e, const char *whole, const char *where, const struct distill_options *o,
                      const struct config *student, const struct config *teacher, struct error *err)
{
    char part[PLACE_MAX + 64];
    if (!(f->loss = find_loss(e->loss, where, err)))
        return -1;
    snprintf(part, sizeof part, "%s.weight", where);
    TRY(loss_weight_read(&f->weight, e->weight, part, err));
    f->first = e->tokens;
    f->samples = e->samples < 0 ? f->loss->samples : e->samples;
    const int is_embedding = f->loss->reads == READS_EMBEDDING;
    if (e->map && is_embedding)
        return error_set(err, "%s.map: %s reads no layers; expected no map", where, f->loss->name);
    const struct json *map = e->map ? e->map : is_embedding ? NULL : o->layer_map;
    const int is_common = map && map == o->layer_map;
    snprintf(part, sizeof part, "%s.%s", is_common ? whole : where, is_common ? "layer_map" : "map");
    f->n_pair = layer_map_read(map, f->loss->map, part, student, teacher, &f->student_layer, &f->teacher_layer, err);
    TRY(f->n_pair);
    return check_entry(f, e, where, o, student, teacher, err);
}

// Names for the log: a loss that is there twice gets a number.
static void name_item(struct features *f, int i)
{
    int same = 1;
    for (int k = 0; k < i; k++)
        same += f->item[k].loss == f->item[i].loss;
    if (same == 1)
        snprintf(f->item[i].name, sizeof f->item[i].name, "%s", f->item[i].loss->name);
    else
        snprintf(f->item[i].name, sizeof f->item[i].name, "%s_%d", f->item[i].loss->name, same);
}

static int projects(const struct feature *f, const struct config *student, const struct config *const *teacher)
{
    return f->loss->projects && student->hidden != teacher[f->teacher]->hidden;
}

// A projection for every entry that needs one: W [teacher's width, student's width], as TinyBERT's W_h (Jiao et al. 2020, equation 8), one
// for all layers of an entry.
static void make_projections(struct features *f, const struct config *student, const struct config *const *teacher)
{
    int n = 0;
    int64_t sum = 0, at = 0;
    for (int i = 0; i < f->n; i++)
        if (projects(&f->item[i], student, teacher)) {
            sum += student->hidden * teacher[f->item[i].teacher]->hidden;
            n++;
        }
    if (!n)
        return;
    struct model *m = f->projections = xcalloc(1, sizeof *m, "projections");
    m->parameter = xcalloc((size_t)n, sizeof *m->parameter, "projections");
    m->n_element = sum;
    m->data = xcalloc((size_t)m->n_element, sizeof *m->data, "projections");
    for (int i = 0; i < f->n; i++) {
        struct parameter *p = &m->parameter[m->n_parameter];
        if (!projects(&f->item[i], student, teacher))
            continue;
        const int64_t width = teacher[f->item[i].teacher]->hidden, size = student->hidden * width;
        *p = (struct parameter){.layer = -1, .offset = at, .n_stored = size, .decay = 1};
        at += size;
        snprintf(p->name, sizeof p->name, "projection.%s", f->item[i].name);
        p->t = (struct tensor){.name = p->name, .n_dim = 2, .dim = {width, student->hidden, 1}, .data = m->data + p->offset};
        f->item[i].projection = &p->t;
        m->n_parameter++;
    }
}

// Normal, of variance 1 / width: lengths stay about what they were.
void features_initialise(struct features *f, uint64_t seed)
{
    for (int i = 0; f->projections && i < f->projections->n_parameter; i++) {
        struct parameter *p = &f->projections->parameter[i];
        struct random random;
        random_init(&random, seed, p->name, 0);
        for (int64_t k = 0; k < p->n_stored; k++)
            p->t.data[k] = (float)(random_normal(&random) / sqrt((double)p->t.dim[1]));
    }
}

// The map that entries without one of their own take, also where there is no such entry.
static int check_layer_map(const struct distill_options *o, const struct config *student, const struct config *teacher, const char *where, struct error *err)
{
    char place[PLACE_MAX];
    int64_t *from = NULL, *to = NULL;
    snprintf(place, sizeof place, "%s.layer_map", where);
    const int status = o->layer_map && layer_map_read(o->layer_map, NULL, place, student, teacher, &from, &to, err) < 0 ? -1 : 0;
    free(from);
    free(to);
    return status;
}

static int read_one_of(struct features *f, const struct entry *e, const char *whole, const char *where, const struct distill_options *o,
                       const struct config *student, const struct config *const *teacher, int n_teacher, struct error *err)
{
    if (e->teacher >= n_teacher)
        return error_set(err, "%s.teacher: found %lld, expected %s%d: the teachers are numbered from 0", where, (long long)e->teacher,
                         n_teacher > 1 ? "at most " : "", n_teacher - 1);
    struct feature *item = &f->item[f->n++];
    item->teacher = (int)e->teacher;
    return read_entry(item, e, whole, where, o, student, teacher[e->teacher], err);
}

static int read_list(struct features *f, const struct distill_options *o, const struct config *student, const struct config *const *teacher,
                     int n_teacher, const char *where, struct error *err)
{
    char place[PLACE_MAX];
    if (o->hidden > 0) {
        char name[] = "hidden_mse";
        const struct entry entry = {.loss = name, .samples = -1};
        snprintf(place, sizeof place, "%s.hidden", where);
        TRY(read_one_of(f, &entry, where, place, o, student, teacher, n_teacher, err));
        f->item[0].weight.from = f->item[0].weight.to = o->hidden;
    }
    const struct json *v = json_first(o->features);
    for (int64_t i = 0; i < json_count(o->features); i++, v = json_next(v)) {
        struct entry e;
        snprintf(place, sizeof place, "%s.features[%lld]", where, (long long)i);
        options_init(entry_table, &e);
        int status = options_read_json(entry_table, &e, v, place, err);
        status = status < 0 ? status : read_one_of(f, &e, where, place, o, student, teacher, n_teacher, err);
        options_release(entry_table, &e);
        TRY(status);
    }
    return 0;
}

int features_read(struct features *f, const struct distill_options *o, const struct config *student, const struct config *const *teacher,
                  int n_teacher, const char *where, struct error *err)
{
    const int64_t n = json_count(o->features) + (o->hidden > 0);
    *f = (struct features){0};
    if (o->features && json_kind(o->features) != JSON_ARRAY)
        return error_set(err, "%s.features: expected a list of {\"loss\": ..., \"weight\": ..., \"map\": ...}", where);
    if (n > FEATURES_MOST)
        return error_set(err, "%s.features: %lld losses, expected at most %d", where, (long long)n, (int)FEATURES_MOST);
    for (int k = -1; n && k < n_teacher; k++) {
        const struct config *c = k >= 0 ? teacher[k] : student;
        if (!model_is_language(c) || !model_has_blocks(c))
            return error_set(err, "%s.features: the %s is a %s model, without layers of hidden states of tokens; leave them out, answers are "
                             "what can be taught", where, k >= 0 ? "teacher" : "student", c->model_type);
    }
    TRY(check_layer_map(o, student, teacher[0], where, err));
    f->item = xcalloc((size_t)(n > 0 ? n : 1), sizeof *f->item, "losses on features");
    if (read_list(f, o, student, teacher, n_teacher, where, err) < 0) {
        features_release(f);
        return -1;
    }
    for (int i = 0; i < f->n; i++)
        name_item(f, i);
    make_projections(f, student, teacher);
    return 0;
}

int64_t features_bytes(const struct features *f, const struct config *student, const struct config *const *teacher, int64_t rows)
{
    int64_t floats = f->projections ? 4 * f->projections->n_element : 0; // weights, gradients, two moments
    for (int i = 0; i < f->n; i++) {
        const struct feature *item = &f->item[i];
        for (int64_t pair = 0; pair < item->n_pair; pair++) {
            const struct config *c = item->projection ? teacher[item->teacher] : student;
            int64_t width = width_of(item->loss, c, item->projection ? item->teacher_layer[pair] : item->student_layer[pair]);
            if (item->loss->reads == READS_ATTENTION)
                width += student->layer[item->student_layer[pair]].n_kv_head * student->head_dim;
            if (item->loss->reads == READS_FLOW)
                width *= 2;
            floats += rows * width * (item->projection ? 2 : 1); // the gradient, and what the projection makes
        }
    }
    return 4 * floats;
}

void features_release(struct features *f)
{
    for (int i = 0; i < f->n; i++) {
        free(f->item[i].student_layer);
        free(f->item[i].teacher_layer);
    }
    free(f->item);
    model_free(f->projections);
    *f = (struct features){0};
}
