// quantize_method.h: how the quantize stage chooses what it writes: by the weights alone, or with what a text says of them.
#ifndef PDQ_QUANTIZE_METHOD_H
#define PDQ_QUANTIZE_METHOD_H

#include "quant/bit_plan.h"
#include "recipes/stage.h"

// Options that contradict each other. where: for the message.
int quantize_method_check(const struct quantize_options *o, const char *where, struct error *err);
int quantize_method_needs_text(const struct stage *s); // of the recipe's own
int quantize_method_runs_model(const struct quantize_options *o); // over a text; else it looks at rows alone, one after the other
// Adds the file and what the method costs. Reads the stage's files, so that what is wrong with them is known before anything is written;
// refuses a model that is quantized already unless that is wanted.
int quantize_method_forecast(struct forecast *f, const struct gguf_export_options *options, struct error *err);
// What a method costs that learns from a text.
void quantize_method_cost(struct forecast *f, const struct quantize_options *o);
// Writes the model at path, of the given type, by the stage's method.
int quantize_by_method(const struct stage_run *s, const struct opened *in, const char *path, const struct gguf_export_options *options,
                       struct error *err);

#endif
