// model.h: a transformer's parameters and its forward pass, with exactly three extension points:
//
//   taps          what the forward pass shows while it runs (hidden states, q, k, v, head outputs, FFN activations)
//   gates         one factor per query head and per FFN channel, 1 by default: masks, and what Taylor scores differentiate
//   weight hooks  tensor.hook: mask, fake-quant, quantized storage
//
// Parameters lie in one flat array, gradients in a second of the same layout; tensors are named views into them.
// To add an architecture: a file arch_<name>.c with its weight table and forward(), its declaration in arch.h
// and one row in arch_table (model.c).
#ifndef PDQ_MODEL_H
#define PDQ_MODEL_H

#include <stdint.h>

#include "common/model/config.h"
#include "common/tensor/ops.h"

// What an axis of a weight counts. Cutting a unit cuts every axis that counts it: that is all prune/shrink.c knows.
enum axis {
    AXIS_ONE,   // a vector's missing second axis
    AXIS_HIDDEN,
    AXIS_VOCAB,
    AXIS_POSITIONS, // learned positions
    AXIS_TYPES,     // token types
    AXIS_LABELS,    // what a head decides between
    AXIS_EMBEDDING, // an LSTM's inputs...
    AXIS_CELLS, AXIS_BOTH_CELLS, AXIS_GATES, // ... its cells in one direction, in both, and the four gates of each
    AXIS_HEADS, // n_head * head_dim; unit: a query head
    AXIS_GROUPS, // n_kv_head * head_dim; unit: a key/value head
    AXIS_FF,    // unit: a channel
    AXIS_HEAD_WIDTH, // head_dim: what all heads of a layer share; no unit of it is cut
    AXIS_BELOW  // the channels of the layer below, the model's inputs under the first; for what is of no layer: of the last
};

struct weight_spec {
    const char *name;  // checkpoint name; %d is the layer where per_layer
    int per_layer;
    enum axis rows, columns; // vectors: columns counts, rows is AXIS_ONE
    int (*present)(const struct config *c, int layer); // NULL: wherever no axis is empty
    // In a checkpoint: part `part` of `parts` along the outputs of a tensor of another name (NULL: it is alone, under its own)...
    struct {
        const char *name;
        int part, parts;
    } stored;
    int transposed; // ... and there a matrix is [in, out]
};

struct parameter {
    const struct weight_spec *spec;
    int layer;      // -1: not of a layer
    char name[96];  // checkpoint name
    struct tensor t;
    int64_t offset; // into the flat arrays, elements
    int64_t n_stored; // elements there: all, or those that a compact model keeps (compact.h)
    int decay;      // weight decay applies (matrices)
    int frozen;     // a training leaves it as it is: it has no gradient, and no place in arrays of what is trained
};

struct model_layer_gates { // model lifetime; NULL tensors: no gate
    struct tensor *heads; // [n_head]
    struct tensor *ff;    // [n_ff]
    int no_attention, no_ff; // the block adds nothing, not even its bias: as if it were removed
};

struct model {
    struct config config; // owned
    const struct arch *arch;
    struct parameter *parameter;
    struct parameter **slot; // [n_layer + 1][n_specs]: by layer (0: global) and spec; NULL where absent
    int n_parameter;
    int64_t n_element;  // of the flat arrays
    float *data, *grad; // flat; grad is NULL until model_want_gradients, and only of what is trained; data is NULL when every matrix has a hook
    struct model_layer_gates *gate; // [n_layer] or NULL
    void *owner_context;            // what the hooks need (a GGUF map, ...), freed by owner_release
    void (*owner_release)(void *context);
    double *rope; // inverse frequencies [head_dim/2]
};

enum tap {
    TAP_HIDDEN = 1, // hidden[0] after the embedding, hidden[l+1] after layer l: [N, D]
    TAP_HEADS = 2,  // heads[l]: attention output before o: [N, H*E]
    TAP_FF = 4,     // ff[l]: silu(gate) * up: [N, F]
    TAP_MIDDLE = 8, // middle[l] between the layer's attention and its feed-forward block: [N, D]
    TAP_INPUTS = 16, // attention_in[l], ff_in[l]: what q, k, v and gate, up read (normalised): [N, D]
    TAP_QKV = 32    // q[l] [N, H*E], k[l] and v[l] [N, G*E]: what attention reads (rotated)
};

struct taps {
    unsigned want; // bits of enum tap
    // Arrays given by the caller, [n_layer + 1] for hidden, else [n_layer]; only those asked for. A block that is not there
    // leaves its place as it was.
    struct tensor **hidden, **heads, **ff, **middle, **attention_in, **ff_in, **q, **k, **v;
};

// Keys and values of the positions so far, for decoding sequences that are all equally long. Process or request lifetime.
struct kv_cache {
    int64_t sequences;
    int64_t capacity, length; // positions of each
    float **k, **v;           // per layer [sequences, capacity, G*E]
    int n_layer;
};

struct dropout { // while training (Srivastava et al. 2014): the rate of zeros; what stays is scaled up
    double input, hidden;
    uint64_t seed, step;
};

struct forward {
    const int32_t *ids; // [B*T]; NULL for a model of inputs that are no tokens: they are x [B, inputs], and T is 1
    int64_t B, T;
    const int32_t *rows;    // positions b * T + t whose words a masked-word head shall tell, [n_rows]; NULL: all
    int64_t n_rows;
    const int32_t *length, *types; // for models that read both ways: tokens of each sequence [B] (NULL: T), token types [B*T] (NULL: 0)
    struct taps *taps;      // NULL: none
    struct kv_cache *cache; // NULL: none. With one: B is its sequences, nothing records, positions go on from cache->length
    int checkpoint;         // keep only the layers' outputs and compute again in the backward pass (no taps but TAP_HIDDEN)
    // A part of the way, for passes layer by layer: layers from `first` to before `last` (0: all), from hidden states `x`
    // [B*T, D] instead of ids. With last > 0 what comes out are the hidden states there, not normalised.
    int64_t first, last;
    struct tensor *x;
    const struct dropout *dropout; // NULL: none (classifiers honour it)
    struct tensor *shift; // [B*T, width of an embedding] added to the tokens' embeddings; NULL: nothing
    int again;            // the batch of the pass before, with another shift: what does not depend on it need not be computed
};

struct arch {
    const char *model_types; // "llama|mistral|qwen2"
    const char *prefix;      // of the base model's names, which checkpoints of the base alone leave out; NULL: none
    const struct weight_spec *specs;
    int n_specs;
    int embed; // spec of the embedding table; -1: none
    // Specs of output heads and of their biases, each list ended by -1: a model has the first that is present (no head: the embedding
    // table, tied).
    int head[4], head_bias[4];
    int reads_both_ways; // attention over whole sequences, else causal
    int qk_norm;         // spec of the norm of q's heads; the next one is k's (0: no such norms, or none in this model)
    int no_blocks;       // neither attention nor feed-forward blocks: nothing to tap, to gate or to cut
    const char *spare;   // "a|b": beginnings of names of what checkpoints hold beside the model; NULL: none
    // What of the config only the files say: has(files, name) tells whether a tensor is there. NULL: nothing.
    void (*look)(struct config *c, int (*has)(const void *files, const char *name), const void *files);
    double (*deviation)(const struct config *c, const struct parameter *p); // of a matrix's fresh random values
    struct tensor *(*forward)(struct model *m, struct tape *tape, const struct forward *f);
};

// A model of this shape; data allocated and zero, or, without storage, data NULL and every tensor's data NULL.
// The config is copied.
struct model *model_new(const struct config *config, int with_storage);
void model_free(struct model *m); // NULL is fine
// Matrices normal with the architecture's deviation, norms 1, biases 0; each tensor's values depend on (seed, its name) alone.
void model_initialise(struct model *m, uint64_t seed);
// Copies every tensor that both have in the same shape; returns the number of values. Of 6 layers three take, spread, 0, 2 and 4; as means those of
// 0 and 1, 2 and 3, 4 and 5.
enum inherit_layers { INHERIT_SPREAD, INHERIT_MEAN };
int64_t model_inherit(struct model *m, const struct model *from, enum inherit_layers layers);
int64_t inherit_layer(int64_t layer, int64_t n_layer, int64_t of); // of `of`, the first that a layer of n_layer takes
// Elements of the parameters that are not frozen: of m->grad and of all arrays of what is trained, which lie one behind the other there.
int64_t model_trained(const struct model *m);
void model_want_gradients(struct model *m); // allocates and attaches m->grad [model_trained]; the frozen ones get none
void model_drop_gradients(struct model *m);
int parameter_is_norm(const struct parameter *p); // the factors of a norm, 1 at first
struct parameter *model_find(struct model *m, const char *name); // NULL: none
// The weight of a spec (index into the arch's table) in a layer (-1 for the global ones); NULL when absent.
struct tensor *model_weight(struct model *m, int spec, int layer);
struct tensor *model_head(struct model *m); // output head [V, D]: lm_head, or the embedding when tied
struct tensor *model_head_bias(struct model *m); // [V] or NULL
// Logits [N, V] of final hidden states, soft cap and all: for few rows. The losses are op_head_loss's and op_head_eval's.
struct tensor *model_logits(struct model *m, struct tape *tape, struct tensor *x);
int64_t axis_size(const struct config *c, enum axis axis, int layer);
int64_t axis_unit(const struct config *c, enum axis axis); // elements in one unit: head_dim or 1

// Does it predict the next token?
int model_is_causal(const struct config *c);
// Positions that it has learned and cannot go beyond; 0: any number.
int64_t model_positions(const struct config *c);
// Does it have attention and feed-forward blocks, which taps show and pruning cuts?
int model_has_blocks(const struct config *c);
// Does it read tokens (and not, say, images)?
int model_is_language(const struct config *c);
// Final, normalised (and scaled) hidden states [B*T, D] (of a head for classes [B, D], for masked words [n_rows, D]), to be given to
// op_head_loss or op_head_eval with model_head, model_head_bias and config.logit_cap.
struct tensor *model_forward(struct model *m, struct tape *tape, const struct forward *f);
// The loss that the model's head is for, on model_forward's x: op_head_loss; on answers' spans op_span_loss, whose targets are [B, 2].
struct tensor *model_head_loss(struct model *m, struct tape *tape, const struct forward *f, struct tensor *x, const struct head_spec *spec,
                               struct head_result *result);
// Gates of ones for every layer, with gradients where wanted; drop frees them.
void model_add_gates(struct model *m, int with_gradients);
void model_drop_gates(struct model *m);

void kv_cache_init(struct kv_cache *c, const struct model *m, int64_t capacity); // of one sequence
void kv_cache_init_batch(struct kv_cache *c, const struct model *m, int64_t sequences, int64_t capacity);
void kv_cache_release(struct kv_cache *c);

// FLOPs of the products for one token: forward, at a context of T positions (attention counted at the mean context T/2).
double model_flops_per_token(const struct config *c, int64_t T);

#endif
