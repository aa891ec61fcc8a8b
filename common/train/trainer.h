// trainer.h: the training loop: batches, accumulation, clipping, schedule, snapshots, progress. It does not know what
// the loss is: a function gives the loss of one micro-batch (train: cross-entropy; distill: knowledge distillation).
//
// A run is a pure function of (start weights, data, options): interrupted at any moment and run again, it goes on
// from its last snapshot and ends with the same bytes.
#ifndef PDQ_TRAINER_H
#define PDQ_TRAINER_H

#include <stddef.h>

#include "common/base/options.h"
#include "common/data/dataset.h"
#include "common/data/examples.h"
#include "common/data/images.h"
#include "common/train/optimizer.h"

struct train_options {         // one option table row each: train_option_table
    int64_t steps, tokens;     // one of them (0: not given); tokens are rounded up to whole steps
    int64_t batch, accumulate; // sequences in a micro-batch, micro-batches in a step
    double learning_rate, floor, clip;
    int64_t warmup;          // -1: a twentieth of the steps
    int schedule, optimizer; // enum schedule_kind, enum optimizer_kind
    double beta1, beta2, eps, weight_decay, momentum;
    int64_t snapshot_every; // steps; 0: by time, about every two minutes
    int64_t eval_every;     // steps between held-out evaluations; 0: none
    int checkpoint;         // recompute blocks in the backward pass
    int keep_best;          // end with the weights of the best held-out loss
    int64_t patience;       // stop after so many held-out evaluations without a better one; 0: never
    int keep_zeros;         // matrices' weights that are zero at the start stay zero
    int64_t decay_every;    // schedule "step": the rate is multiplied by `decay` every so many steps
    double decay;
    int64_t log_every;      // steps between lines of run.jsonl
    double dropout_input, dropout; // of the inputs (images, a bilstm's embeddings) and of hidden units (classifiers only)
    double mask_share;             // masked words: how many a step hides
    double mask_words, ngrams;     // of texts for classifiers: examples_augment
    double hide_tokens, replace_tokens; // of a language model's inputs: dataset_noise
    int64_t jitter;                // pixels that an image is moved by, at most
    int64_t drop_class;            // of images that are left out; -1: none. The caller leaves them out
    double ema;                    // decay of the moving average that the run evaluates, keeps and ends with; 0: none
    struct option_list freeze;     // patterns of tensors that are not trained (groups.h)
    struct json *rates;            // factors of the learning rate by pattern (groups.h); NULL: none
    struct json *lora;             // low-rank factors instead of the weights (lora.h); NULL: no
    struct json *mixture;          // {NAME: weight} of the text's sources, instead of their own; NULL: their own. The caller mixes them
    int64_t reweight_every;        // steps from one change of the sources' weights to the next (reweight.h); 0: they stay
    double fgm;                    // length of the adversarial move of a sequence's embeddings (adversary.h); 0: none
};

extern const struct option train_option_table[]; // rows for struct train_options

// The rows, for a struct S that holds a train_options as member `prefix` ("train." with its dot; empty: S is one).
// clang-format off
#define TRAIN_OPTION_ROWS(S, prefix)                                                                                 \
    {"steps", OPTION_INT, offsetof(S, prefix steps), "0", 0, 1e9, NULL, "N", "optimizer steps (or give tokens)"},    \
    {"tokens", OPTION_INT, offsetof(S, prefix tokens), "0", 0, 1e15, NULL, "N",                                      \
     "training tokens, rounded up to whole steps"},                                                                  \
    {"batch", OPTION_INT, offsetof(S, prefix batch), "8", 1, 65536, NULL, "N", "sequences in a micro-batch"},        \
    {"accumulate", OPTION_INT, offsetof(S, prefix accumulate), "1", 1, 65536, NULL, "N", "micro-batches in a step"}, \
    {"learning_rate", OPTION_DOUBLE, offsetof(S, prefix learning_rate), "5e-4", 0, 100, NULL, "R",                   \
     "peak learning rate"},                                                                                          \
    {"schedule", OPTION_CHOICE, offsetof(S, prefix schedule), "cosine", 0, 0, "cosine|linear|constant|step", NULL,        \
     "how the learning rate falls after the warm-up"},                                                               \
    {"floor", OPTION_DOUBLE, offsetof(S, prefix floor), "0.1", 0, 1, NULL, "R",                                      \
     "last learning rate as a share of the peak"},                                                                   \
    {"decay_every", OPTION_INT, offsetof(S, prefix decay_every), "25000", 1, 1e9, NULL, "N",                         \
     "schedule step: steps until the rate is multiplied by decay, again and again"},                                 \
    {"decay", OPTION_DOUBLE, offsetof(S, prefix decay), "0.1", 0, 1, NULL, "R", "schedule step: that factor"},       \
    {"warmup", OPTION_INT, offsetof(S, prefix warmup), "-1", -1, 1e9, NULL, "N",                                     \
     "steps of linear warm-up; -1: a twentieth of all steps"},                                                       \
    {"clip", OPTION_DOUBLE, offsetof(S, prefix clip), "1", 0, 1e9, NULL, "R",                                        \
     "largest global norm of the gradient; 0: no clipping"},                                                         \
    {"optimizer", OPTION_CHOICE, offsetof(S, prefix optimizer), "adamw", 0, 0, "adamw|sgd", NULL, "optimizer"},      \
    {"beta1", OPTION_DOUBLE, offsetof(S, prefix beta1), "0.9", 0, 0.999999, NULL, "R", "AdamW: decay of the mean"},  \
    {"beta2", OPTION_DOUBLE, offsetof(S, prefix beta2), "0.95", 0, 0.999999, NULL, "R",                              \
     "AdamW: decay of the mean square"},                                                                             \
    {"eps", OPTION_DOUBLE, offsetof(S, prefix eps), "1e-8", 0, 1, NULL, "R", "AdamW: added to the divisor"},         \
    {"weight_decay", OPTION_DOUBLE, offsetof(S, prefix weight_decay), "0.1", 0, 100, NULL, "R",                      \
     "decoupled weight decay of matrices"},                                                                          \
    {"momentum", OPTION_DOUBLE, offsetof(S, prefix momentum), "0.9", 0, 1, NULL, "R", "SGD: momentum"},              \
    {"snapshot_every", OPTION_INT, offsetof(S, prefix snapshot_every), "0", 0, 1e9, NULL, "N",                       \
     "steps between snapshots; 0: about every two minutes"},                                                         \
    {"eval_every", OPTION_INT, offsetof(S, prefix eval_every), "0", 0, 1e9, NULL, "N",                               \
     "steps between held-out evaluations; 0: none"},                                                                 \
    {"keep_best", OPTION_BOOL, offsetof(S, prefix keep_best), "false", 0, 0, NULL, NULL,                             \
     "end with the weights of the best held-out loss"},                                                              \
    {"patience", OPTION_INT, offsetof(S, prefix patience), "0", 0, 1e9, NULL, "N",                                   \
     "stop after so many held-out evaluations in a row without a better one; 0: never"},                             \
    {"keep_zeros", OPTION_BOOL, offsetof(S, prefix keep_zeros), "false", 0, 0, NULL, NULL,                           \
     "weights that are zero at the start stay zero (always after a sparsify stage)"},                                \
    {"checkpoint", OPTION_BOOL, offsetof(S, prefix checkpoint), "false", 0, 0, NULL, NULL,                           \
     "less memory: compute layers again in the backward pass"},                                                      \
    {"log_every", OPTION_INT, offsetof(S, prefix log_every), "1", 1, 1e9, NULL, "N",                                 \
     "steps between lines of the training's log"},                                                                   \
    {"dropout_input", OPTION_DOUBLE, offsetof(S, prefix dropout_input), "0", 0, 0.99, NULL, "R",                     \
     "images: share of the inputs that a step sets to zero; bilstm: of the embeddings"},                                                        \
    {"dropout", OPTION_DOUBLE, offsetof(S, prefix dropout), "0", 0, 0.99, NULL, "R",                                 \
     "classifiers: share of the hidden units that a step sets to zero"},                                                  \
    {"mask_share", OPTION_DOUBLE, offsetof(S, prefix mask_share), "0.15", 0.001, 0.99, NULL, "R",                    \
     "masked words: share of the tokens that a step hides"},                                                         \
    {"mask_words", OPTION_DOUBLE, offsetof(S, prefix mask_words), "0", 0, 0.99, NULL, "R",                           \
     "classifiers of texts: share of the words that a step hides"},                                                  \
    {"ngrams", OPTION_DOUBLE, offsetof(S, prefix ngrams), "0", 0, 1, NULL, "R",                                      \
     "classifiers of texts: share of which a step sees one to five words in a row alone"},                          \
    {"hide_tokens", OPTION_DOUBLE, offsetof(S, prefix hide_tokens), "0", 0, 0.99, NULL, "R",                         \
     "language models: share of the input tokens that a step hides (their embeddings are zero)"},                    \
    {"replace_tokens", OPTION_DOUBLE, offsetof(S, prefix replace_tokens), "0", 0, 0.99, NULL, "R",                   \
     "language models: share of the input tokens that a step replaces by others of the data"},                       \
    {"jitter", OPTION_INT, offsetof(S, prefix jitter), "0", 0, 64, NULL, "N",                                        \
     "images: pixels by which each is moved at random, at most"},                                                    \
    {"drop_class", OPTION_INT, offsetof(S, prefix drop_class), "-1", -1, 1e6, NULL, "N",                             \
     "images: a class to leave out of the training; -1: none"},                                                      \
    {"ema", OPTION_DOUBLE, offsetof(S, prefix ema), "0", 0, 0.9999999, NULL, "R",                                    \
     "end with a moving average of the weights with this decay, and evaluate it; 0: none"},                          \
    {"freeze", OPTION_LIST, offsetof(S, prefix freeze), NULL, 0, 0, NULL, "PATTERN",                                 \
     "tensors that are not trained, by name (* and ?); may be repeated"},                                            \
    {"rates", OPTION_JSON, offsetof(S, prefix rates), NULL, 0, 0, NULL, "{PATTERN: R}",                              \
     "factors of the learning rate of tensors"},                                                                     \
    {"lora", OPTION_JSON, offsetof(S, prefix lora), NULL, 0, 0, NULL, "{...}",                                       \
     "train low-rank factors beside the weights"},                                                                   \
    {"mixture", OPTION_JSON, offsetof(S, prefix mixture), NULL, 0, 0, NULL, "{NAME: W}",                             \
     "weights of data.sources in this training, instead of their own; those that are not named have none"},          \
    {"reweight_every", OPTION_INT, offsetof(S, prefix reweight_every), "0", 0, 1e9, NULL, "N",                       \
     "steps from one change of the sources' weights by held-out losses to the next; 0: they stay"},                  \
    {"fgm", OPTION_DOUBLE, offsetof(S, prefix fgm), "0", 0, 1e6, NULL, "R",                                          \
     "learn also from embeddings moved by this length towards a larger loss; 0: no"}
// clang-format on

#define LOSS_TERMS 25

struct loss_parts { // means over a micro-batch's counted tokens; what the curves show
    double loss, ce, kl, mse;
    int n_term; // a method's further losses, the same in every micro-batch of a run
    struct loss_term {
        const char *name; // in run.jsonl; lives as long as the run
        double value;
    } term[LOSS_TERMS];
};

#define HELD_OUT_NOTE 256

struct trainer {
    struct model *model;
    const struct dataset *data; // text, in windows of seq_len
    int64_t seq_len;
    const struct images *images; // instead of text; seq_len is 1 then, and an image counts as a token
    const struct examples *examples; // the same, for an encoder: with labels or spans, any for a model that learns masked words
    // Only a part of the options' steps: from first_step (0: the start) to before last_step (0: the end). Schedule and order
    // of the data are those of the whole.
    int64_t first_step, last_step;
    // The optimizer's moments [n_element] at the start (of a training without freeze and lora), and after trainer_run those at the end (the second one is AdamW's); NULL:
    // they begin empty.
    float *moment[2];
    // A method's own parameters, trained along by the same rule, in snapshots, and nobody's afterwards: a model of parameters alone,
    // without an architecture. NULL: there are none.
    struct model *beside;
    // Further models that learn from the same batches by the same rule, each clipped by its own norm; they are in snapshots, and the
    // caller's afterwards. keep_zeros, keep_best and remask are for `model` alone.
    struct model *const *peer; // [n_peer]
    int n_peer;
    uint64_t seed;
    enum precision precision;
    struct train_options options;
    const char *title;    // for the progress line: "distill"
    int quiet;            // no progress line
    const char *folder;   // snapshots and run.jsonl live here; NULL: none
    const char *identity; // hash of inputs that are not in this struct (weight hooks, ...); NULL: there are none
    // Loss of one micro-batch, divided by `accumulate` through `weight`: records on the tape and returns the root.
    struct tensor *(*loss)(void *context, struct tape *tape, const struct forward *forward, const int32_t *targets,
                           double weight, int64_t step, struct loss_parts *parts);
    void *context;
    int64_t first_window; // set before each call of loss: its windows are first_window .. + batch - 1 of the data's order (dataset_window)
    // Held-out loss in nats per token, for eval_every and keep_best; NULL: none. best: the least so far (NaN: the first).
    // note: members to add to the log's line, as `,"accuracy":0.98`, or nothing.
    int (*held_out)(void *held_out_context, double best, double *loss, char note[HELD_OUT_NOTE], struct error *err);
    void *held_out_context;
    // Held-out losses of the data's sources [n_source], and what each is to come down to, in nats per token; for reweight_every. Of a source
    // of weight 0 neither is looked at. NULL: there are none.
    int (*source_losses)(void *source_context, const double *weight, double *loss, double *reference, struct error *err);
    void *source_context;
    // Called before the gradients of a step and before a held-out evaluation: the weights may have changed, and what hooks show instead of them
    // is to be made again. It must be a function of the weights alone. NULL: nothing is.
    int (*refresh)(void *refresh_context, struct error *err);
    void *refresh_context;
    // Dynamic sparse training: called before each step with the gradient of all weights in model->grad; may change the mask
    // (is_zero [n_element] of matrices), the weights and moments (second may be NULL). NULL: the mask of keep_zeros stays.
    void (*remask)(void *remask_context, int64_t step, struct model *m, unsigned char *is_zero, float *first, float *second);
    void *remask_context;
};

struct train_result {
    int64_t steps, tokens;
    double first_loss, last_loss;      // means over the first and last ten steps
    double best_held_out;              // NaN: not measured
    double seconds, tokens_per_second; // of this process's share
};

// Options that no table row can check: steps or tokens, keep_best without evaluations. where: "distill",
// "stages[1].train".
int train_check(const struct train_options *o, const char *where, struct error *err);
int64_t train_steps(const struct train_options *o, int64_t seq_len);
// What a training moves of a model of this shape: elements with a gradient and moments (with "lora" those of the factors), and the share
// of the products whose weights have one.
struct train_extent {
    int64_t trained, beside; // beside: elements that lie beside the model's own (lora's factors, of those above)
    double product_share;
};
// Options that name tensors, against a model (perhaps without storage): patterns that match nothing, nothing left to train.
int train_check_model(const struct train_options *o, const struct model *m, const char *where, struct train_extent *extent,
                      struct error *err);
// Options for which the whole model is trained as it lies: where a method does more with weights than the trainer knows.
int train_check_plain(const struct train_options *o, const char *where, struct error *err);
// Runs (or resumes) to the end; on ^C leaves a snapshot and fails. Curves go to folder/run.jsonl, one object per step
// {"step","tokens","loss","ce","kl","mse","lr","norm", further losses}, {"step","held_out"} and {"step","source_losses","source_weights"}. The last snapshot stays in the
// folder, so that nothing is lost before the caller has saved the weights; trainer_drop_snapshot then removes it.
int trainer_run(struct trainer *t, struct train_result *result, struct error *err);
void trainer_drop_snapshot(const char *folder);
// The mean gradient of `batches` micro-batches from number `first` on into model->grad (which model_want_gradients made);
// returns their mean loss. Nothing is trained.
double trainer_gradient(struct trainer *t, int64_t first, int64_t batches);

// The plain loss: cross-entropy. context: struct model *.
struct tensor *train_cross_entropy(void *context, struct tape *tape, const struct forward *forward,
                                   const int32_t *targets, double weight, int64_t step, struct loss_parts *parts);

#endif
