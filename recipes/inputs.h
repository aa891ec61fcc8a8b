// inputs.h: the texts of a recipe as tokens, read from files, or drawn from the parent where there are none.
#ifndef PDQ_INPUTS_H
#define PDQ_INPUTS_H

#include "common/base/hash.h"
#include "common/data/dataset.h"
#include "common/data/examples.h"
#include "common/data/images.h"
#include "common/data/spans.h"
#include "recipes/open_model.h"
#include "recipes/recipe.h"

struct text_input {
    struct dataset data;  // n_token 0: there is none
    char hash[HASH_TEXT];    // of all that decides what is learned from it
    char windows[HASH_TEXT]; // of what its windows hold (dataset_hash_windows), not of when each comes
    int sampled;          // drawn from the parent
};
struct inputs { // lifetime: one run
    struct text_input train, eval;
    struct image_data images;
    struct images partial; // the training images without one class, where a stage wants that
    int64_t left_out;
    struct examples examples, validation, test; // of an encoder: with labels or spans
    struct span_texts test_texts;               // where the examples are questions with spans
    struct examples words, words_validation;    // unlabelled, to learn masked words from
    int has_examples; // and no text
    int has_images; // and then there is no text; train.hash and eval.hash are theirs
    struct text_input sampled; // what a sample stage drew, while stages after it run
    char *sampled_from;        // its folder; NULL: none yet
    struct dataset *source_eval; // [n_source] held-out text of each; n_token 0: it has none. NULL: no sources
    double *reference;           // [n_source] losses on it to come down to; NaN: not measured yet
    int n_source;
    struct dataset mixed;        // the train text by other weights, where a stage wants that
    int draw_train, draw_eval; // files are absent and the recipe allows drawing
};

// Reads the files. need_train: some stage learns from text.
int inputs_open(struct inputs *in, const struct recipe *r, const struct tokenizer *t, int need_train,
                struct error *err);
// Draws what is to be drawn. folder: where the tokens are kept, so that a second run need not draw again.
int inputs_draw(struct inputs *in, const struct recipe *r, struct opened *parent, const char *parent_hash,
                const char *folder, struct error *err);
// The text of a sample stage, from its folder, into in->sampled. hash: the stage's.
int inputs_take_sampled(struct inputs *in, const struct tokenizer *t, const char *folder, const char *hash, struct error *err);
// Images instead of text, for a model of them: data.images, or Debian's Fashion-MNIST.
int inputs_open_images(struct inputs *in, const struct recipe *r, const struct config *c, struct error *err);
// Examples instead of text, for an encoder. A classifier's are labelled, of a model that finds answers they are questions: data.train, of which data.validation are set aside, and data.eval;
// data.unlabelled is for stages whose models learn masked words. Of a model of masked words all three are unlabelled.
int inputs_open_examples(struct inputs *in, const struct recipe *r, const struct opened *model, int need_train, struct error *err);
// Text to learn from by a training's "mixture" (NULL: by the sources' own weights); until the next call.
const struct dataset *inputs_mixed(struct inputs *in, const struct recipe *r, const struct text_input *text, const struct json *mixture);
// The training images, without those of one class (-1: with all).
const struct images *inputs_images_without(struct inputs *in, int64_t label);
void inputs_release(struct inputs *in);

#endif
