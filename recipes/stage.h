// stage.h: what a stage of a recipe is, and what it is given when it runs.
//
// To add a type: a file stage_<name>.c with its option table, validate, forecast and run, and one row in stage_types
// (stage.c).
#ifndef PDQ_STAGE_H
#define PDQ_STAGE_H

#include "common/tensor/dtype.h"
#include "common/eval/evaluate.h"
#include "common/train/trainer.h"
#include "prune/prune.h"
#include "recipes/open_model.h"
#include "recipes/recipe.h"

struct inputs;
struct text_input;

struct run { // lifetime: one run
    const struct recipe *recipe;
    char *out;             // folder of the run
    int lock;              // descriptor of the lock file
    int made_folder;       // out was not there before
    struct opened parent;  // the recipe's model; its weights are read when first needed (run_parent)
    int parent_is_shape;   // it has no weights yet
    char parent_hash[HASH_TEXT];
    struct inputs *inputs; // texts
    // A sweep makes many models of one parent: what the parent gives is computed once.
    int is_sweep;
    struct eval_states parent_states;
    struct score_cache parent_scores;
};

// The recipe's model with its weights, which stay in memory from then on. NULL: they cannot be read.
struct model *run_parent(struct run *run, struct error *err);
// A model to look at and leave as it is: the run's parent where path names that, so that it is not in memory twice.
int run_borrow(struct run *run, struct opened *o, const char *path, struct error *err);

struct stage_run { // lifetime: one stage of one run
    struct run *run;
    const struct recipe *recipe; // the run's, or the variant's at hand
    const struct stage *stage;
    int index;
    const char *input;     // folder of the model to start from
    const char *folder;    // the stage's own; it exists
    const char *hash;      // of all that goes in
    const struct text_input *train; // text to learn from: the recipe's, or what a sample stage before it drew
    struct json *facts;    // reproducible bit for bit
    struct json *measured; // times, speeds, memory
};

struct forecast { // what a stage will do, need and leave
    const struct recipe *recipe;
    int index;
    const struct config *parent;
    const struct tokenizer *tokenizer;
    struct config in, out; // shapes before and after, owned; out begins as a copy of in
    int has_text;          // to learn from
    char what[640];
    int is_about;          // out is known only by its sums, as long as nothing is scored
    double flops, bytes;   // of products; of memory read and written beside them
    int uses_parent;       // its weights are in memory from here on
    int64_t memory;        // bytes at the peak, beside the parent's weights
    int64_t disk, scratch; // bytes left behind; bytes more while it runs
    // Of a stage that trains: windows that a training draws, and its weights of the sources (owned; NULL: their own).
    int64_t draws, reweight_every;
    struct json *mixture;
};
// Is the stage's input the recipe's model itself?
int forecast_from_parent(const struct forecast *f);
#define FORECAST_STREAM ((int64_t)16 << 20) // memory of what goes from file to file row by row: pieces of 4 MiB as f32, their blocks, mapped pages
// Options of any training against the model that is trained, of f->out's shape (forecast_fresh comes first): tensors that they name, what is for
// other kinds of models, sources. Notes what the training draws.
int forecast_check_training(struct forecast *f, const struct train_options *o, struct error *err);
// A stage that begins with fresh weights of another folder's shape (NULL: it does not) leaves a model of that shape.
int forecast_fresh(struct forecast *f, const char *shape, struct error *err);

typedef int stage_file(void *context, const char *path, int shape_only, struct error *err); // path NULL: not given
struct stage_type {
    const char *name;
    const struct option *table;
    size_t size;     // of its options struct
    const char *training; // the key of its options under which those of its trainings lie; NULL: beside the others
    int makes_text;  // stages after it learn from what it wrote instead of data.train; it has no other product
    int keeps_model; // what it writes is for use elsewhere: the next stage starts from this one's input
    int takes_images; // works on classifiers of images, too
    int takes_examples; // learns from a classifier's labelled examples, too
    int needs_blocks;   // works on attention and feed-forward blocks
    int takes_words;    // learns masked words, too
    int (*needs_text)(const struct stage *s);                    // training text; NULL: no
    const char *(*teacher)(const struct stage *s, size_t i);     // the path of a further model, NULL behind the last; NULL: never
    // Other files and folders that options name and that decide the result: calls add for each. NULL: none.
    int (*files)(const struct stage *s, stage_file *add, void *context, struct error *err);
    // Checks what one option row cannot; fills defaults that depend on other stages. NULL: nothing. where: for
    // messages.
    int (*validate)(struct recipe *r, int index, const char *where, struct error *err);
    int (*forecast)(struct forecast *f, struct error *err);
    int (*run)(struct stage_run *s, struct error *err);
};
extern const struct stage_type *const stage_types[]; // ends with NULL
extern const struct stage_type stage_prune, stage_sparsify, stage_distill, stage_train, stage_lottery, stage_quantize, stage_export, stage_sample, stage_select;

enum quantize_method { QUANTIZE_RTN, QUANTIZE_WEIGHTED, QUANTIZE_GPTQ, QUANTIZE_MSE, QUANTIZE_AUTOROUND };
struct quantize_options {
    char *type;
    int pure, allow_fallback, padded, requantize;
    int method; // enum quantize_method
    struct option_list calibration;
    char *imatrix, *plan;
    int64_t calibration_tokens;
    double damping, alpha;
    int act_order;
    int64_t group_size;
    int64_t rounding_steps;
    int rescale, clip, bias_correction, observer; // enum rescale_kind; whether awq cuts; a place in OBSERVERS
};
struct int_type;
const struct int_type *stage_quantize_ints(const struct stage *s); // NULL: its type is one of GGUF
enum { FORMAT_HF, FORMAT_GGUF, FORMAT_BOTH };
struct export_options {
    int format, dtype, padded; // dtype: enum dtype
    int64_t shard_bytes;
};
extern const struct option stage_quantize_table[], stage_export_table[];

// Opens the stage's input; the message says which stage wanted it. borrow: as run_borrow does.
int stage_open_input(const struct stage_run *s, struct opened *o, struct error *err);
// A model of fresh random weights: of the named shape (relative to the recipe), or, NULL, of the input's.
int stage_open_fresh(const struct stage_run *s, const char *shape, struct opened *o, struct error *err);
int stage_borrow_input(const struct stage_run *s, struct opened *o, struct error *err);
// For what looks at rows one after the other: weights stay in their file, behind hooks, unless they have been read already.
int stage_map_input(const struct stage_run *s, struct opened *o, struct error *err);
// Declares a file or folder, relative to the stage's folder ("." is the folder itself), as a product: a row of the
// report.
void stage_add_product(struct stage_run *s, const char *name, const char *path);
// Saves m as a Hugging Face folder in f32 (or as options say) with the tokenizer files of the stage's input.
int stage_save(const struct stage_run *s, const struct model *m, const char *folder, enum dtype dtype,
               int64_t shard_bytes, struct error *err);
// tokenizer.json and tokenizer_config.json where the folder, or what was carried into it, has none of its own.
int stage_complete_tokenizer(const struct stage_run *s, const char *folder, struct error *err);
// Where the product came from: version, recipe, seed, hashes. The caller frees.
struct json *stage_provenance(const struct stage_run *s);
// Fills everything of a trainer but loss, context and the model's weights. held_out lives as long as the trainer.
struct held_out {
    const struct stage_run *stage;
    struct model *model;
};
// Loss (nats per token) on held-out text of the recipe's source k, which has some. tokens NULL: not wanted.
int run_source_loss(struct run *run, const struct recipe *r, struct model *m, int k, double *loss, int64_t *tokens, struct error *err);
// Loss (nats per token or image) on the held-out text, or on the validation or test images; accuracy in per cent, NaN for text.
int stage_measure(const struct stage_run *s, struct model *m, int is_test, double *loss, double *accuracy, struct error *err);
void stage_trainer(const struct stage_run *s, struct trainer *t, struct model *m, const struct train_options *options,
                   const char *title, const char *folder, struct held_out *held_out);
// Does the first stage begin with fresh weights? Nothing that lies in the model's folder but its shape and tokenizer counts then.
int recipe_starts_fresh(const struct recipe *r);
// Is there one before `index` that draws the text to learn from?
int stage_after_sample(const struct recipe *r, int index);
// Is there a stage before `index` that makes weights zero? Trainings after it keep them so.
int stage_after_sparsify(const struct recipe *r, int index);
// Where the options of a stage's trainings stand, for messages: "r.json: stages[0].prune.recover". The caller frees.
char *stage_training_place(const struct recipe *r, int index);
// train_check, and that there is held-out text where the options want some.
int stage_check_training(const struct recipe *r, const struct train_options *o, const char *where, struct error *err);
// What the training left behind, for the report. curve: its run.jsonl, relative to the stage's folder.
void stage_add_training(struct stage_run *s, const struct train_result *r, const char *curve);
// Facts about a class that was left out of a training on images; nothing for label -1.
void stage_add_missing_class(struct stage_run *s, struct model *m, int64_t label);
struct distill_options;
// The student learns from the options' teacher, or the parent; with a "shape" from the stage's input. Weights end in student. folder:
// snapshots and run.jsonl.
int stage_distill_model(struct stage_run *s, const struct distill_options *o, struct model *student,
                        const char *title, const char *folder, struct train_result *result, struct error *err);
// What a distill stage and a prune stage's recovery check alike: by the options alone; and, before anything runs, of a student of this shape.
int forecast_check_distilling(const struct forecast *f, const struct distill_options *o, const struct config *student, struct error *err);
int stage_check_distilling(const struct recipe *r, const struct distill_options *o, const char *where, struct error *err);
const char *stage_quantize_type(const struct stage *s);
// Does it write its input's weights, each as near as a type allows? Not where factors of channels come first.
int stage_keeps_weights(const struct stage *s);
// Is *type, the value of `key`, one that can be written? It becomes the name that is shown.
int stage_check_gguf_type(char **type, const char *key, const char *others, const char *where, struct error *err);
struct gguf_export_options;
int stage_writes_gguf(const struct stage *s);
// Of a stage that writes GGUF; name and provenance are the caller's to give.
struct gguf_export_options stage_gguf_options(const struct stage *s);
struct gguf_export_options stage_export_gguf_options(const struct stage *s);
// Adds what a GGUF file of the input's shape takes; fails where it cannot be written.
int forecast_gguf(struct forecast *f, const struct gguf_export_options *options, struct error *err);
struct step_cost {
    double flops, bytes; // of products; of memory that the optimizer goes through
    int64_t activations; // bytes, with their gradients and the output head's chunks, the teacher's too
    int64_t memory;      // these, the student's weights, their gradients and moments; not the teacher's weights
};
struct step_cost step_cost(const struct config *student, const struct config *teacher, const struct train_options *o,
                           int64_t seq_len);
// Of students that teach each other.
struct step_cost step_cost_students(const struct config *const *student, int n, const struct train_options *o, int64_t seq_len);
// The same with a teacher beside one that was counted; not its weights.
void step_cost_add_teacher(struct step_cost *cost, const struct config *student, const struct config *teacher, const struct train_options *o,
                           int64_t seq_len);
// Bytes by which a teacher's activations grow when `rows` tokens' taps (enum tap) are to stay.
int64_t shown_memory(const struct config *teacher, int64_t rows, unsigned shows);
// Snapshots on disk: the last one, and the next until it is complete.
int64_t snapshot_scratch(const struct config *student, const struct train_options *o);
// Bytes of activations: while scores are taken from `rows` tokens; while `rows` tokens are evaluated (against NULL:
// nothing).
int64_t score_memory(const struct config *c, int64_t rows, int differentiates);
int64_t eval_memory(const struct config *c, const struct config *against, int64_t rows);
// The same while `rows` tokens go through one layer.
int64_t walk_memory(const struct config *c, int64_t rows);
// The same while `rows` tokens go through one layer and back.
int64_t layer_memory(const struct config *c, int64_t rows);

#endif
