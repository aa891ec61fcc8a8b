// teacher_answers.h: a distillation's teacher as a file of its answers (distill/teacher_cache.h): where it lies, what it must belong to, and that it
// has what the run reads.
#ifndef PDQ_TEACHER_ANSWERS_H
#define PDQ_TEACHER_ANSWERS_H

#include "distill/distill.h"
#include "distill/teacher_cache.h"
#include "recipes/stage.h"

#define ANSWERS_AUTO "auto" // a file in the run's folder, named by what it belongs to

// The options' file, relative to the recipe; NULL: it is to lie in the run's folder. The caller frees.
char *answers_file(const struct recipe *r, const struct distill_options *o);
// Opens the file for a run of t with these options. Where it lacks windows, `open` is asked for the teacher (NULL: it failed), which
// completes the file.
int answers_open(struct teacher_cache *c, struct stage_run *s, const struct distill_options *o, const struct trainer *t,
                 struct model *(*open)(void *context, struct error *err), void *context, struct error *err);

#endif
