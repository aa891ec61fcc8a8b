// config.h: the shape of a model, with widths per layer from day one, read from and written to config.json.
#ifndef PDQ_CONFIG_H
#define PDQ_CONFIG_H

#include <stdint.h>

#include "common/base/error.h"
#include "common/base/json.h"

struct layer_shape {
    int64_t n_head, n_kv_head, n_ff; // query heads, key/value heads (groups), feed-forward width; 0: no such block
};

enum model_head_kind { HEAD_NEXT, HEAD_CLASSES, HEAD_MASKED, HEAD_SPANS, HEAD_NONE };
// Does it learn from examples with labels or spans?
static inline int head_is_labelled(enum model_head_kind h) { return h == HEAD_CLASSES || h == HEAD_SPANS; }
enum activation { ACTIVATION_SILU, ACTIVATION_GELU_TANH, ACTIVATION_GELU_ERF, ACTIVATION_RELU };

enum rope_scaling_type { ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3 };

struct rope_scaling {
    enum rope_scaling_type type;
    double factor, low_freq_factor, high_freq_factor;
    int64_t original_context;
};

struct config {
    char model_type[32]; // "llama", "gpt2", ...: as in config.json
    int64_t n_layer, hidden, head_dim, vocab, context;
    struct layer_shape *layer; // [n_layer], owned
    double norm_eps, rope_theta; // rope_theta 0: no rotary embedding
    struct rope_scaling rope;
    int tie_embeddings; // the output head is the embedding table
    int qkv_bias;       // q, k, v have biases (qwen2; llama's attention_bias)
    int out_bias;       // o has one (llama's attention_bias)
    int mlp_bias;
    enum activation activation; // of the feed-forward blocks
    int qk_norm;    // q and k are normalised over each head before they are rotated (Qwen3)
    int post_norms; // what a block adds is normalised, too (Gemma 2)
    int norm_shift; // norms multiply by norm_shift + weight: 1 in Gemma, whose weights are distances from it
    double embed_scale, residual_scale, logit_scale; // factors of the embeddings, of what a block adds, of the logits; 0: none
    double attention_scale; // of q k^T; 0: 1 / sqrt(head_dim)
    double attention_cap, logit_cap; // soft caps of scores and of logits (op_softcap); 0: none
    int64_t window;         // positions that the layers in `sliding` see; 0: all
    uint64_t sliding[16];   // a bit for each layer: see config_slides
    enum model_head_kind head;  // what it predicts: the next token, a sequence's class, masked tokens, an answer's two ends, nothing
    int64_t n_label, n_type;    // classes of a head, token types
    int64_t n_embedding, n_cell; // bilstm: inputs of the LSTM, its cells in each direction; hidden is what the head reads
    int has_pooler;             // BERT's: what reads the first position
    int has_next;               // BERT's: a masked-word model with a head that tells whether two sentences follow each other
    int64_t position_offset;    // rows of the table of positions in front of the first one's (RoBERTa)
    int bare_names;             // the checkpoint's tensors have no prefix of the base model (stored.h)
    double image_mean, image_std; // lenet: inputs are (pixel / 255 - image_mean) / image_std
    int lecun_init;               // lenet: fresh weights by LeCun's rule instead of Glorot's
    int64_t bos_id, eos_id;  // -1: not given
    struct json *source;     // config.json as read (owned; NULL when the model did not come from one)
};

// Reads folder/config.json. An unsupported model_type, activation, sliding window or rope scaling is refused by name.
int config_read(struct config *c, const char *folder, struct error *err);
// The same from an object already parsed (where: for messages); c->source becomes a copy.
int config_from_json(struct config *c, const struct json *o, const char *where, struct error *err);
// config.json for transformers: the source's keys carried over, the shape's keys from c, head_dim always written, torch_dtype
// as given ("float32", ...). Layers that differ are written as config_layers.c says. The caller frees.
struct json *config_to_json(const struct config *c, const char *torch_dtype);
void config_copy(struct config *to, const struct config *from); // deep
void config_release(struct config *c);

// Do all readers take the heads' number as hidden / head_dim (GPT-2)? Missing heads are then zeros, or transformers 4's pruned_heads.
int config_has_full_heads(const struct config *c);
// A layer sees only the last c->window positions.
int config_slides(const struct config *c, int64_t layer);
void config_set_sliding(struct config *c, int64_t layer, int slides);
int config_windows_matter(const struct config *c);  // some layer does, and the context is longer
int config_slides_as_usual(const struct config *c); // the layers that do are those that its family says without layer_types
const char *config_hidden_refusal(const struct config *c); // why no hidden channel can be cut; NULL: some can
int config_uniform(const struct config *c);        // all layers have the same shape
struct layer_shape config_widest(const struct config *c); // the most heads, with their groups, and the most channels of any layer
// Layers of their own widths (config_layers.c): read into c->layer over the global values; written with these.
int config_layers_read(struct config *c, const struct json *o, const char *where, struct error *err);
void config_layers_write(const struct config *c, struct json *o);
// Makes it a nemotron-nas config, whose block_configs say each layer's widths: for layers with the same number of query heads.
int config_to_block_configs(struct config *c, struct error *err);
int config_is_block_configs(const struct config *c);
// A multi-layer perceptron's config.json (config_lenet.c): {"model_type": "lenet", "layer_sizes": [784, 300, 100, 10],
// "hidden_act": "relu", "image_mean": 0, "image_std": 1, "initializer": "glorot_normal" | "lecun_normal"}; the last three may be
// absent. Inputs are c->hidden, hidden units layer[].n_ff, classes c->vocab.
int config_is_lenet(const struct config *c);
int config_lenet_read(struct config *c, const struct json *o, const char *where, struct error *err);
struct json *config_lenet_json(const struct config *c);
// GPT-2's config.json (config_gpt2.c), whose keys have names of their own. Heads that are missing are written as transformers 4's
// pruned_heads.
int config_gpt2_read(struct config *c, const struct json *o, const char *where, struct error *err);
struct json *config_gpt2_json(const struct config *c);
// BERT's, DistilBERT's and RoBERTa's (config_bert.c).
int config_bert_read(struct config *c, const struct json *o, const char *where, struct error *err);
struct json *config_bert_json(const struct config *c);
// config_bilstm.c: {"model_type": "bilstm", "vocab_size", "embedding_size", "hidden_size" (cells in each direction), "classifier_size" (rectified
// units), "num_labels" or "id2label"}. Nothing in it depends on positions; "max_position_embeddings" (512) is where longer texts are cut.
int config_bilstm_read(struct config *c, const struct json *o, const char *where, struct error *err);
struct json *config_bilstm_json(const struct config *c);
int64_t config_parameters(const struct config *c); // tied head counted once (model.c: it asks the architecture's table)
// Inverse rope frequencies [head_dim / 2], scaled as config.rope says (Llama 3: its piecewise rule).
void config_rope_frequencies(const struct config *c, double *inverse_frequency);

#endif
