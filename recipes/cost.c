// cost.c: what a training step costs, from the shapes: the sizes of what the ops of the Llama block keep (arch_llama.c).
#include "common/base/threads.h"
#include "recipes/stage.h"

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Floats that one layer keeps for one row: outputs of its ops (each gets a gradient of the same size), and saved statistics.
static int64_t layer_floats(const struct config *c, const struct layer_shape *s)
{
    return 6 * c->hidden + 3 * s->n_head * c->head_dim + 3 * s->n_kv_head * c->head_dim + 3 * s->n_ff;
}

struct activations {
    int64_t layers, largest; // floats a row: of all layers, of the largest one
};

static struct activations activations(const struct config *c)
{
    struct activations a = {0, 0};
    for (int64_t l = 0; l < c->n_layer; l++) {
        int64_t n = layer_floats(c, &c->layer[l]);
        a.layers += n;
        a.largest = larger(a.largest, n);
    }
    return a;
}

static int64_t head_floats(const struct config *c, int64_t rows, int has_teacher)
{
    return head_chunk_rows(rows, c->vocab) * c->vocab * (has_teacher ? 2 : 1) + (has_teacher ? threads_count() * c->vocab : 0);
}

struct step_cost step_cost(const struct config *student, const struct config *teacher, const struct train_options *o,
                           int64_t seq_len)
{
    int64_t rows = o->batch * seq_len, stream = student->hidden, layers = student->n_layer;
    double tokens = (double)(rows * o->accumulate);
    struct step_cost cost = {.flops = 3 * tokens * model_flops_per_token(student, seq_len)};
    struct activations a = activations(student);
    int64_t forward = rows * (a.layers + 3 * stream), backward = rows * (a.layers + 2 * stream);
    if (o->checkpoint) {
        cost.flops += tokens * model_flops_per_token(student, seq_len);
        forward = rows * (layers + 3) * stream;
        backward = rows * ((layers + 2) * stream + 2 * a.largest);
    }
    int64_t floats = forward + larger(backward, head_floats(student, rows, teacher != NULL));
    floats += config_parameters(student) * (o->keep_best ? 5 : 4); // weights, gradients, two moments, best weights
    if (teacher) {
        cost.flops += tokens * model_flops_per_token(teacher, seq_len);
        floats += rows * ((teacher->n_layer + 2) * teacher->hidden + activations(teacher).largest);
    }
    cost.memory = 4 * floats;
    return cost;
}
