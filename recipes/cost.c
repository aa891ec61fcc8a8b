// cost.c: what training, scoring and measuring cost, from the shapes: the sizes of what the ops of the Llama block
// keep (arch_llama.c, op_head.c). tests/unit/test_cost.c holds them against what the ops take.
#include "common/base/threads.h"
#include "common/eval/evaluate.h"
#include "common/tensor/ops.h"
#include "common/tensor/vecmath.h"
#include "recipes/stage.h"

// Floats that one layer keeps for one row: outputs of its ops.
static int64_t layer_floats(const struct config *c, const struct layer_shape *s) {
    if (c->n_cell) // an LSTM's inputs, and in each direction its gates before and after, cells and states (op_lstm.c)
        return c->n_embedding + 2 * (4 + 4 + 1 + 1) * c->n_cell;
    return 6 * c->hidden + 3 * s->n_head * c->head_dim + 3 * s->n_kv_head * c->head_dim + 3 * s->n_ff;
}

struct activations {
    int64_t layers, largest; // floats a row: of all layers, of the largest one
    int64_t gradients; // that are there at once in the backward pass: a used one makes room for the next of its size
};

static struct activations activations(const struct config *c) {
    struct activations a = {0};
    for (int64_t l = 0; l < c->n_layer; l++) {
        int64_t n = layer_floats(c, &c->layer[l]);
        a.layers += n;
        a.largest = max_i64(a.largest, n);
        const struct layer_shape *s = &c->layer[l];
        a.gradients =
            max_i64(a.gradients, 3 * c->hidden + (2 * s->n_head + 3 * s->n_kv_head) * c->head_dim + 3 * s->n_ff + c->n_embedding + 6 * c->n_cell);
    }
    return a;
}

// teachers: of several, two hold their logits at a time.
static int64_t head_floats(const struct config *c, int64_t rows, int teachers) {
    return head_chunk_rows(rows, c->vocab) * c->vocab * (1 + min_i64(teachers, 2) + (c->logit_cap > 0)) +
           (teachers ? threads_count() * c->vocab : 0);
}

struct step_floats {
    int64_t kept, passing; // from the forward pass on; most in the head or in the backward pass
};

// Of a student's step, without the weights.
static struct step_floats step_parts(const struct config *c, const struct train_options *o, int64_t rows, int teachers) {
    struct activations a = activations(c);
    int64_t forward = rows * (a.layers + 3 * c->hidden), backward = rows * a.gradients;
    if (o->checkpoint) {
        forward = rows * (c->n_layer + 3) * c->hidden;
        backward = rows * (2 * c->hidden + a.largest + a.gradients);
    }
    return (struct step_floats){forward, max_i64(backward, head_floats(c, rows, teachers))};
}

static int64_t step_floats(const struct config *c, const struct train_options *o, int64_t rows, int teachers) {
    const struct step_floats f = step_parts(c, o, rows, teachers);
    return f.kept + f.passing;
}

#define STEP_ARRAYS 9 // times that a step reads or writes an array as large as the trained weights: optimizer, norm, clearing
#define AVERAGE_ARRAYS 3 // the same for their moving average

// What is trained of a model of this shape. forecast_check_training found the options fine for the shape that the stage leaves.
static struct train_extent extent_of(const struct config *c, const struct train_options *o) {
    struct train_extent e;
    struct error err;
    struct model *m = model_new(c, 0);
    if (train_check_model(o, m, "a training", &e, &err) < 0) // this is another, as that before pruning: at most all of it is trained
        e = (struct train_extent){.trained = config_parameters(c), .product_share = 1};
    model_free(m);
    return e;
}

// Arrays as large as what is trained: moments, the best weights, the average.
static int64_t kept_arrays(const struct train_options *o) { return (o->optimizer == OPTIMIZER_ADAMW ? 2 : 1) + (o->keep_best != 0) + (o->ema > 0); }

// Weights, and gradients, moments and copies of what is trained of them.
static int64_t state_bytes(const struct config *c, const struct train_options *o, const struct train_extent *e) {
    return 4 * (config_parameters(c) + e->beside + e->trained * (1 + kept_arrays(o))) + (o->keep_zeros ? e->trained : 0);
}

// Products of a step for one token: forward; back to the inputs; to the weights as far as they are trained (with zeros to keep, lora makes the
// whole weights' gradients and the whole weights); lora's factors in all three; layers again; all of it again on moved embeddings.
static double training_flops(const struct config *c, const struct train_options *o, const struct train_extent *e, int64_t seq_len) {
    const double passes = 2 + (o->checkpoint != 0) + (o->lora && !o->keep_zeros ? 0 : e->product_share);
    return (passes * model_flops_per_token(c, seq_len) + 6 * (double)e->beside) * (o->fgm > 0 ? 2 : 1);
}

struct step_cost step_cost(const struct config *student, const struct config *teacher, const struct train_options *o,
                           int64_t seq_len) {
    const struct train_extent extent = extent_of(student, o);
    int64_t rows = o->batch * seq_len;
    double tokens = (double)(rows * o->accumulate);
    struct step_cost cost = {.flops = tokens * training_flops(student, o, &extent, seq_len)};
    cost.bytes = 4.0 * (STEP_ARRAYS + (o->ema > 0 ? AVERAGE_ARRAYS : 0)) * (double)extent.trained;
    cost.activations = 4 * step_floats(student, o, rows, teacher != NULL);
    if (o->fgm > 0) // the move, its gradient, and the moved embeddings
        cost.activations += 4 * 3 * rows * (student->n_embedding ? student->n_embedding : student->hidden);
    if (teacher) {
        cost.flops += tokens * model_flops_per_token(teacher, seq_len);
        cost.activations += 4 * rows * (3 * teacher->hidden + activations(teacher).largest);
    }
    if (o->eval_every) // the step's memory stays taken meanwhile
        cost.activations += eval_memory(student, NULL, eval_batch_rows(seq_len));
    cost.memory = cost.activations + state_bytes(student, o, &extent);
    return cost;
}

struct step_cost step_cost_students(const struct config *const *student, int n, const struct train_options *o, int64_t seq_len) {
    const int64_t rows = o->batch * seq_len;
    const double tokens = (double)(rows * o->accumulate);
    struct step_cost cost = {0};
    int64_t kept = 0, passing = 0;
    for (int k = 0; k < n; k++) {
        const struct config *c = student[k];
        const struct step_cost one = step_cost(c, NULL, o, seq_len);
        const struct step_floats f = step_parts(c, o, rows, n - 1);
        kept += f.kept;
        passing = max_i64(passing, f.passing);
        cost.flops += one.flops + tokens * (double)(n - 1) * 2 * (double)(c->hidden * c->vocab); // its logits, for each of the others
        cost.bytes += one.bytes;
        cost.memory += one.memory - one.activations;
    }
    cost.activations = 4 * (kept + passing) + (o->eval_every ? eval_memory(student[0], NULL, eval_batch_rows(seq_len)) : 0);
    cost.memory += cost.activations;
    return cost;
}

void step_cost_add_teacher(struct step_cost *cost, const struct config *student, const struct config *teacher, const struct train_options *o,
                           int64_t seq_len) {
    const int64_t rows = o->batch * seq_len;
    const int64_t more = 4 * (rows * (3 * teacher->hidden + activations(teacher).largest) + step_floats(student, o, rows, 2) - step_floats(student, o, rows, 1));
    cost->flops += (double)(rows * o->accumulate) * model_flops_per_token(teacher, seq_len);
    cost->activations += more;
    cost->memory += more;
}

int64_t shown_memory(const struct config *teacher, int64_t rows, unsigned shows) {
    const struct activations a = activations(teacher);
    return 4 * rows * (shows & TAP_QKV ? a.layers - a.largest : shows & TAP_HIDDEN ? (teacher->n_layer - 2) * teacher->hidden : 0);
}

int64_t snapshot_scratch(const struct config *student, const struct train_options *o) {
    const struct train_extent extent = extent_of(student, o);
    return 2 * 4 * ((o->lora ? extent.beside : config_parameters(student)) + extent.trained * kept_arrays(o));
}

int64_t score_memory(const struct config *c, int64_t rows, int differentiates) {
    struct activations a = activations(c);
    int64_t floats = a.layers;
    for (int64_t l = 0; l < c->n_layer && differentiates; l++)
        floats += c->layer[l].n_head * c->head_dim + c->layer[l].n_ff; // what the gates put out
    int64_t forward = rows * (floats + (differentiates ? 3 : 2) * c->hidden);
    return 4 * (differentiates ? forward + max_i64(rows * a.gradients, head_floats(c, rows, 0)) : forward);
}

int64_t walk_memory(const struct config *c, int64_t rows) { return 4 * rows * (activations(c).largest + 2 * c->hidden); }

int64_t layer_memory(const struct config *c, int64_t rows) {
    const struct activations a = activations(c);
    return 4 * rows * (a.largest + a.gradients + 2 * c->hidden);
}

int64_t eval_memory(const struct config *c, const struct config *against, int64_t rows) {
    int64_t own = 3 * c->hidden,
            floats = 2 * c->hidden + activations(c).largest; // hidden states that stay; a layer's values
    if (against) {
        floats = max_i64(floats, own + 2 * against->hidden + activations(against).largest);
        own += 3 * against->hidden;
    }
    int64_t head = head_chunk_rows(rows, c->vocab) * c->vocab * (against ? 2 : 1) + threads_count() * c->vocab;
    return 4 * max_i64(rows * floats, rows * own + head);
}
