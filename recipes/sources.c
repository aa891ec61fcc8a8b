// sources.c: see sources.h.
#include "recipes/sources.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"

#define AT(field) offsetof(struct source, field)
static const struct option table[] = {
    {"name", OPTION_STRING, AT(name), NULL, 0, 0, NULL, "NAME", "names the source (default: its first file's name)"},
    {"train", OPTION_LIST, AT(train), NULL, 0, 0, NULL, "FILE", "text to learn from"},
    {"eval", OPTION_LIST, AT(eval), NULL, 0, 0, NULL, "FILE", "held-out text of this source"},
    {"weight", OPTION_DOUBLE, AT(weight), NULL, 0, 1e15, NULL, "W", "how much of a training comes from it, beside the others' weights"},
    {"reference", OPTION_DOUBLE, AT(reference), NULL, 0, 1e15, NULL, "R",
     "held-out loss that it is to come down to, nats per token (default: that of the recipe's model)"},
    {.name = NULL}};

static void add_all(struct option_list *to, const struct option_list *from) {
    to->item = xrealloc(to->item, (to->count + from->count + 1) * sizeof *to->item, "files");
    for (size_t i = 0; i < from->count; i++)
        to->item[to->count++] = xstrdup(from->item[i]);
}

static int read_one(struct data_options *d, const struct json *o, const char *where, struct error *err) {
    struct source *s = &d->source[d->n_source++];
    options_init(table, s);
    TRY(options_read_json(table, s, o, where, err));
    if (!s->train.count)
        return error_set(err, "%s: \"train\" is missing: the files of this source's text", where);
    s->has_weight = json_kind(json_get(o, "weight")) == JSON_NUMBER;
    s->has_reference = json_kind(json_get(o, "reference")) == JSON_NUMBER;
    if (!s->name) {
        const char *base = path_base(s->train.item[0]);
        s->name = xasprintf("%.*s", (int)strcspn(base, "."), base);
    }
    for (int k = 0; k < d->n_source - 1; k++)
        if (strcmp(d->source[k].name, s->name) == 0)
            return error_set(err, "%s: a second source is named \"%s\"; give each a \"name\" of its own", where, s->name);
    return 0;
}

#define ALL_ZERO "weights that are all zero leave nothing to learn from; expected one above 0"

static int check_weights(const struct data_options *d, const char *where, struct error *err) {
    double sum = 0;
    for (int k = 0; k < d->n_source; k++) {
        sum += d->source[k].weight;
        if (d->source[k].has_weight != d->source[0].has_weight)
            return error_set(err, "%s.sources: \"%s\" has a \"weight\" and \"%s\" has none; give it to all of them, or to none (each then counts as much as it "
                             "has text)", where, d->source[d->source[0].has_weight ? 0 : k].name, d->source[d->source[0].has_weight ? k : 0].name);
    }
    return d->source[0].has_weight && !(sum > 0) ? error_set(err, "%s.sources: " ALL_ZERO, where) : 0;
}

int sources_read(struct recipe *r, const char *where, struct error *err) {
    struct data_options *d = &r->data;
    const int64_t n = json_count(d->sources);
    if (!d->sources)
        return 0;
    if (d->train.count)
        return error_set(err, "%s: found both \"train\" and \"sources\"; give the text in one of them", where);
    if (d->sample)
        return error_set(err, "%s: found both \"sample\" and \"sources\": text that the model writes belongs to no source; leave one of them out", where);
    if (json_kind(d->sources) != JSON_ARRAY || n == 0)
        return error_set(err, "%s.sources: expected a list, as in [{\"train\": \"a.txt\", \"weight\": 0.3}, {\"train\": \"b.txt\", \"weight\": 0.7}]", where);
    d->source = xcalloc((size_t)n, sizeof *d->source, "sources");
    for (const struct json *o = json_first(d->sources); o; o = json_next(o)) {
        char *place = xasprintf("%s.sources[%d]", where, d->n_source);
        const int status = read_one(d, o, place, err);
        free(place);
        TRY(status);
    }
    d->eval_of_sources = !d->eval.count;
    for (int k = 0; k < d->n_source; k++) {
        add_all(&d->train, &d->source[k].train);
        if (d->eval_of_sources)
            add_all(&d->eval, &d->source[k].eval);
    }
    return check_weights(d, where, err);
}

void sources_release(struct data_options *d) {
    for (int k = 0; k < d->n_source; k++)
        options_release(table, &d->source[k]);
    free(d->source);
    d->source = NULL;
    d->n_source = 0;
}

void sources_tidy(const struct data_options *d, struct json *data) {
    json_remove(data, d->n_source ? "train" : "sources");
    if (d->n_source && d->eval_of_sources)
        json_remove(data, "eval");
}

void sources_mix(const struct data_options *d, const struct json *mixture, struct dataset *text) {
    double *weight = xcalloc((size_t)d->n_source, sizeof *weight, "weights of sources");
    for (int k = 0; k < d->n_source; k++)
        weight[k] = mixture                   ? json_number(json_get(mixture, d->source[k].name))
                    : d->source[k].has_weight ? d->source[k].weight
                                              : (double)dataset_source_windows(text, d->seq_len, k);
    dataset_mix(text, weight);
    free(weight);
}

static int check_mixture(const struct data_options *d, const struct json *mixture, const char *where, struct error *err) {
    double sum = 0;
    if (json_kind(mixture) != JSON_OBJECT)
        return error_set(err, "%s.mixture: found %s, expected an object, as in {\"%s\": 1}", where, json_kind_name(json_kind(mixture)), d->source[0].name);
    const char **names = xcalloc((size_t)d->n_source + 1, sizeof *names, "names");
    int status = 0;
    for (int k = 0; k < d->n_source; k++)
        names[k] = d->source[k].name;
    for (const struct json *v = json_first(mixture); v && status == 0; v = json_next(v)) {
        double weight = 0;
        int known = 0;
        for (int k = 0; k < d->n_source; k++)
            known |= strcmp(names[k], json_key(v)) == 0;
        const char *near = nearest_name(json_key(v), names);
        if (!known)
            status = error_set(err, "%s.mixture: no source is named \"%s\"; %s\"%s\"%s", where, json_key(v), near ? "did you mean " : "the first is ",
                               near ? near : names[0], near ? "?" : "");
        else if (json_kind(v) != JSON_NUMBER)
            status = error_set(err, "%s.mixture.%s: found %s, expected a number from 0", where, json_key(v), json_kind_name(json_kind(v)));
        else
            status = json_get_double(mixture, where, json_key(v), 0, 0, 1e15, &weight, err);
        sum += weight;
    }
    free(names);
    return status < 0 || sum > 0 ? status : error_set(err, "%s.mixture: " ALL_ZERO, where);
}

static int check_reweighting(const struct recipe *r, const struct train_options *o, const char *where, struct error *err) {
    const struct data_options *d = &r->data;
    for (int k = 0; k < d->n_source; k++) {
        const struct source *s = &d->source[k];
        if ((o->mixture ? json_number(json_get(o->mixture, s->name)) : s->has_weight ? s->weight : 1) == 0)
            continue;
        if (!s->eval.count)
            return error_set(err, "%s.reweight_every: source \"%s\" has no held-out text, whose loss decides its weight; give its \"eval\"", where, s->name);
        if (!s->has_reference && recipe_starts_fresh(r))
            return error_set(err, "%s.reweight_every: source \"%s\" has no \"reference\", and the recipe's model has no weights to measure one with; give "
                             "the loss that it is to come down to (in a recipe, as data.sources[].reference)", where, s->name);
    }
    return 0;
}

int sources_check(const struct forecast *f, const struct train_options *o, struct error *err) {
    const struct recipe *r = f->recipe;
    if (!o->mixture && !o->reweight_every)
        return 0;
    const char *key = o->mixture ? "mixture" : "reweight_every";
    char *where = stage_training_place(r, f->index);
    int status = 0;
    if (!r->data.n_source)
        status = error_set(err, "%s.%s: the text has no sources to be weighed; give \"data\": {\"sources\": [...]} instead of \"train\"", where, key);
    else if (stage_after_sample(r, f->index))
        status = error_set(err, "%s.%s: it learns from the text of a stage before it, which has no sources; leave it out", where, key);
    if (status == 0 && o->mixture)
        status = check_mixture(&r->data, o->mixture, where, err);
    if (status == 0 && o->reweight_every)
        status = check_reweighting(r, o, where, err);
    free(where);
    return status;
}

int sources_ask_parent(const struct data_options *d, const struct train_options *o) {
    int asks = 0;
    for (int k = 0; k < d->n_source && o->reweight_every; k++)
        asks |= !d->source[k].has_reference;
    return asks;
}

// {"name", "tokens", "share", "passes"} of each source.
struct json *sources_json(const struct forecast *f, const struct dataset *text) {
    const struct data_options *d = &f->recipe->data;
    const int n = text->n_source;
    if (!n || !f->draws || stage_after_sample(f->recipe, f->index))
        return NULL;
    struct json *list = json_array();
    int64_t *draws = xcalloc((size_t)n, sizeof *draws, "draws of sources");
    struct dataset view;
    dataset_view(&view, text);
    sources_mix(d, f->mixture, &view);
    mixture_counts(&view.mixture, f->draws, draws);
    for (int k = 0; k < n; k++) {
        struct json *o = json_object();
        const int64_t *at = &text->source[k];
        json_set_string(o, "name", d->source[k].name);
        json_set_number(o, "tokens", (double)(text->n_question ? text->start[at[1]] - text->start[at[0]] : at[1] - at[0]));
        json_set_number(o, "share", mixture_weights(&view.mixture)[k]);
        json_set_number(o, "passes", (double)draws[k] / (double)dataset_source_windows(text, d->seq_len, k));
        json_push(list, o);
    }
    dataset_drop_view(&view);
    free(draws);
    return list;
}

char *sources_text(const struct forecast *f, const struct dataset *text) {
    struct json *list = sources_json(f, text);
    char *words = list ? xstrdup("sources:") : NULL;
    for (const struct json *o = json_first(list); o; o = json_next(o)) {
        char *longer = xasprintf("%s %s %.3f M tokens, %.1f %%, %.2f passes%s", words, json_string(json_get(o, "name")),
                                 json_number(json_get(o, "tokens")) / 1e6, 100 * json_number(json_get(o, "share")), json_number(json_get(o, "passes")),
                                 json_next(o) ? ";" : "");
        free(words);
        words = longer;
    }
    if (words && f->reweight_every) {
        char *longer = xasprintf("%s; weighed anew every %ld steps", words, (long)f->reweight_every);
        free(words);
        words = longer;
    }
    json_free(list);
    return words;
}
