// quantize_aware.h: trainings whose weights are rounded as a GGUF file of a type would hold them, while the stage leaves the float weights
// behind them: the same encoder makes the file of these that the last forward pass saw.
#ifndef PDQ_QUANTIZE_AWARE_H
#define PDQ_QUANTIZE_AWARE_H

#include "common/train/fake_quant_options.h"
#include "quant/fake_quant.h"
#include "recipes/stage.h"

// The options alone; the type becomes the name that is shown. where: for messages.
int quantize_aware_check(struct fake_quant_options *o, const struct train_options *train, const char *where, struct error *err);
// Adds what a training of so many steps costs more, and says what it does; fails where the type does not fit, or where the input is no
// model of floats. Nothing without "quantize". is_fresh: it does not begin with the stage's input.
int quantize_aware_forecast(struct forecast *f, const struct fake_quant_options *o, int64_t steps, int is_fresh, struct error *err);
// Where it is asked for: the model's matrices become what GPTQ makes of them on the stage's text. It leaves a file in `folder`, from which an
// interrupted run goes on; quantize_aware_forget removes it.
int quantize_aware_start(const struct stage_run *s, struct model *m, const struct fake_quant_options *o, const char *folder, struct error *err);
void quantize_aware_forget(const char *folder); // it need not be there
// Before the trainer runs; after it fake_quant_settle, where it went well, and fake_quant_end in any case; then the model is saved.
int quantize_aware_begin(struct fake_quant *q, struct trainer *t, const struct fake_quant_options *o, struct error *err);
// What the stage's model is called: `name`, or what lies behind a file that is yet to be written.
const char *quantize_aware_product(const struct fake_quant_options *o, const char *name);

#endif
