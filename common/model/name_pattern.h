// name_pattern.h: tensors by patterns of their names, as recipes write them: "*embed*", "layers.0.*", "*norm*".
//
// A pattern is one of fnmatch(3): * any characters (dots too), ? one, [ab] one of these; it must match the whole name. A tensor answers
// to its name in the checkpoint's files, to its name here (where a file holds several in one, as GPT-2's c_attn), and to both without their
// first word, that of the base model ("model.layers.0.mlp.up_proj.weight" and "layers.0.mlp.up_proj.weight").
#ifndef PDQ_NAME_PATTERN_H
#define PDQ_NAME_PATTERN_H

#include "common/model/model.h"

int name_matches(const struct model *m, const struct parameter *p, const char *pattern);
// The error of a pattern that matches no tensor that `may` lets through (NULL: any): names the nearest ones. Returns -1.
int name_error(const struct model *m, int (*may)(const struct parameter *p), const char *pattern, const char *where, struct error *err);

#endif
