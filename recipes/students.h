// students.h: a distillation whose students teach each other ("students": [{"shape": DIR} or {"model": MODEL}, ...]): the first is the
// stage's own, these are beside it.
#ifndef PDQ_STUDENTS_H
#define PDQ_STUDENTS_H

#include "distill/distill.h"
#include "recipes/stage.h"

int students_validate(const struct recipe *r, const struct distill_options *o, const char *where, struct error *err);
// As stage_type's files.
int students_files(const struct distill_options *o, stage_file *add, void *context, struct error *err);
// f->out is the first one's shape.
int students_forecast(struct forecast *f, const struct distill_options *o, struct error *err);
// Trains all, the first one in `own`, and saves them: the one that goes on in the stage's folder, others below it as student-N, each a product.
int students_run(struct stage_run *s, const struct distill_options *o, struct model *own, struct error *err);

#endif
