// sources.h: a recipe's text as several sources with weights: "data": {"sources": [{"name", "train", "eval", "weight", "reference"}, ...]}.
#ifndef PDQ_SOURCES_H
#define PDQ_SOURCES_H

#include "common/data/dataset.h"
#include "recipes/stage.h"

// Reads r->data.sources into r->data.source. The files also become data.train, and data.eval where that is not given, so that what only asks which
// files there are need not know of sources.
int sources_read(struct recipe *r, const char *where, struct error *err);
void sources_release(struct data_options *d);
// The recipe's data as JSON, without what sources_read filled in.
void sources_tidy(const struct data_options *d, struct json *data);

// Mixes the text by a training's "mixture" (NULL: by the sources' own weights or, where they have none, by how many windows each has).
void sources_mix(const struct data_options *d, const struct json *mixture, struct dataset *text);
// "mixture" and "reweight_every" of a training against the sources that there are.
int sources_check(const struct forecast *f, const struct train_options *o, struct error *err);
// Does a training measure losses that the recipe's model is to have had?
int sources_ask_parent(const struct data_options *d, const struct train_options *o);

// Words about the sources in a stage's training: tokens, share, passes; and the same as a list. NULL: it has none. The caller frees.
char *sources_text(const struct forecast *f, const struct dataset *text);
struct json *sources_json(const struct forecast *f, const struct dataset *text);

#endif
