// config_bert.c: the config.json of BERT and of what has its layers: DistilBERT, whose keys have names of their own, and RoBERTa. See config.h.
#include <stdlib.h>
#include <string.h>

#include "common/base/file.h"
#include "common/model/config.h"
#include "common/model/config_limits.h"

static const struct family {
    const char *model_type, *classname; // architectures: classname, then what of `heads`
    const char *layers, *hidden, *heads, *ff, *activation; // keys
} families[] = {
    {"bert", "Bert", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act"},
    {"roberta", "Roberta", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act"},
    {"distilbert", "DistilBert", "n_layers", "dim", "n_heads", "hidden_dim", "activation"},
};

static const struct {
    const char *suffix;
    enum model_head_kind head;
} heads[] = { // the first of a kind is what is written
    {"ForSequenceClassification", HEAD_CLASSES}, {"ForMaskedLM", HEAD_MASKED},  {"ForPreTraining", HEAD_MASKED},
    {"ForQuestionAnswering", HEAD_SPANS},        {"Model", HEAD_NONE},
};

static const struct family *family_of(const struct config *c) {
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (strcmp(families[i].model_type, c->model_type) == 0)
            return &families[i];
    return NULL;
}

static int is_distilbert(const struct config *c) { return strcmp(c->model_type, "distilbert") == 0; }

// What an architecture's name says; -1: nothing known. Only BERT was trained to tell the next sentence.
static int head_of(const struct config *c, const char *name) {
    const size_t n = strlen(family_of(c)->classname);
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        if (strncmp(name, family_of(c)->classname, n) == 0 && strcmp(name + n, heads[i].suffix) == 0 &&
            (strcmp(name + n, "ForPreTraining") != 0 || strcmp(c->model_type, "bert") == 0))
            return (int)heads[i].head;
    return -1;
}

static int read_head(struct config *c, const struct json *o, const char *where, struct error *err) {
    const char *name = json_string(json_first(json_get(o, "architectures"))), *class = family_of(c)->classname;
    const int head = name ? head_of(c, name) : HEAD_MASKED;
    if (head < 0)
        return error_set(err, "%s: architecture \"%s\" is not supported for %s; expected %sForSequenceClassification, %sForMaskedLM, "
                         "%s%sForQuestionAnswering or %sModel", where, name, c->model_type, class, class,
                         strcmp(class, "Bert") == 0 ? "BertForPreTraining, " : "", class, class);
    c->head = (enum model_head_kind)head;
    TRY(json_get_bool(o, where, "tie_word_embeddings", 1, &c->tie_embeddings, err));
    c->tie_embeddings &= c->head == HEAD_MASKED;
    return config_labels_read(c, o, where, err);
}

int config_labels_read(struct config *c, const struct json *o, const char *where, struct error *err) {
    // transformers writes the labels' names instead of their number where there are names
    const int64_t named = c->head == HEAD_SPANS ? 0 : json_count(json_get(o, "id2label"));
    return json_get_int(o, where, "num_labels", named ? named : 2, 1, MAX_VOCAB, &c->n_label, err);
}

static int refuse_true(const struct json *o, const char *where, const char *key, struct error *err) {
    int value;
    TRY(json_get_bool(o, where, key, 0, &value, err));
    return value ? error_set(err, "%s: %s is true, which is not supported; expected false", where, key) : 0;
}

// The positions, and what of a family is not the others'.
static int read_positions(struct config *c, const struct json *o, const char *where, struct error *err) {
    const char *kind;
    TRY(json_get_int(o, where, "max_position_embeddings", 512, 1, MAX_CONTEXT, &c->context, err));
    TRY(json_get_string(o, where, "position_embedding_type", "absolute", &kind, err));
    if (strcmp(kind, "absolute") != 0)
        return error_set(err, "%s: position_embedding_type \"%s\" is not supported; expected absolute", where, kind);
    TRY(refuse_true(o, where, "sinusoidal_pos_embds", err));
    c->norm_eps = 1e-12; // DistilBERT's, whatever config.json says
    if (is_distilbert(c))
        return 0;
    TRY(json_get_int(o, where, "type_vocab_size", 2, 1, 1024, &c->n_type, err));
    TRY(json_get_double(o, where, "layer_norm_eps", 1e-12, 0, 1, &c->norm_eps, err));
    if (strcmp(c->model_type, "roberta") != 0)
        return 0;
    TRY(json_get_int(o, where, "pad_token_id", 1, 0, c->vocab - 1, &c->position_offset, err));
    c->position_offset++; // the first position stands behind the padding's
    c->context -= c->position_offset;
    if (c->context < 1)
        return error_set(err, "%s: max_position_embeddings is %lld; expected more than pad_token_id + 1, which is %lld (positions begin there)",
                         where, (long long)(c->context + c->position_offset), (long long)c->position_offset);
    return 0;
}

int config_bert_read(struct config *c, const struct json *o, const char *where, struct error *err) {
    const struct family *f = family_of(c);
    struct layer_shape s = {0};
    TRY(config_read_size(o, where, f->layers, MAX_LAYERS, &c->n_layer, err));
    TRY(config_read_size(o, where, f->hidden, MAX_WIDTH, &c->hidden, err));
    TRY(config_read_size(o, where, f->heads, MAX_WIDTH, &s.n_head, err));
    TRY(config_read_size(o, where, f->ff, MAX_FF, &s.n_ff, err));
    TRY(config_read_size(o, where, "vocab_size", MAX_VOCAB, &c->vocab, err));
    TRY(config_activation_read(c, o, where, f->activation, "gelu", err));
    if (c->activation == ACTIVATION_SILU)
        return error_set(err, "%s: %s \"%s\" is not supported for %s; expected gelu, gelu_new or relu", where, f->activation,
                         json_string(json_get(o, f->activation)), c->model_type);
    TRY(read_positions(c, o, where, err));
    TRY(refuse_true(o, where, "is_decoder", err));
    TRY(refuse_true(o, where, "add_cross_attention", err));
    if (c->hidden % s.n_head)
        return error_set(err, "%s: %s is %lld and %s %lld; expected a multiple", where, f->hidden, (long long)c->hidden, f->heads,
                         (long long)s.n_head);
    c->qkv_bias = c->out_bias = c->mlp_bias = 1;
    c->head_dim = c->hidden / s.n_head;
    s.n_kv_head = s.n_head;
    c->bos_id = c->eos_id = -1;
    TRY(read_head(c, o, where, err));
    c->has_pooler = !is_distilbert(c) && (c->head == HEAD_NONE || (c->head == HEAD_CLASSES && strcmp(c->model_type, "bert") == 0));
    return config_layers_fill(c, &s, o, where, err);
}

// The source's word for the head where it is true of the weights, else our own.
static void write_architecture(const struct config *c, struct json *o) {
    const char *given = json_string(json_first(json_get(o, "architectures")));
    const int is_next = given && path_ends_with(given, "ForPreTraining");
    if (given && head_of(c, given) == (int)c->head && is_next == c->has_next)
        return;
    size_t i = 0;
    while (heads[i].head != c->head)
        i++;
    i += c->has_next; // the row behind
    char *name = xasprintf("%s%s", family_of(c)->classname, heads[i].suffix);
    struct json *names = json_array();
    json_push(names, json_from_string(name));
    json_set(o, "architectures", names);
    free(name);
}

struct json *config_bert_json(const struct config *c) {
    const struct family *f = family_of(c);
    struct json *o = c->source ? json_copy(c->source) : json_object();
    write_architecture(c, o);
    json_set_string(o, "model_type", c->model_type);
    json_set_number(o, f->layers, (double)c->n_layer);
    json_set_number(o, f->hidden, (double)c->hidden);
    json_set_number(o, f->heads, (double)(c->hidden / c->head_dim));
    json_set_number(o, f->ff, (double)config_widest(c).n_ff);
    json_set_number(o, "vocab_size", (double)c->vocab);
    json_set_number(o, "max_position_embeddings", (double)(c->context + c->position_offset));
    if (!is_distilbert(c)) {
        json_set_number(o, "type_vocab_size", (double)c->n_type);
        json_set_number(o, "layer_norm_eps", c->norm_eps);
    }
    if (c->position_offset)
        json_set_number(o, "pad_token_id", (double)(c->position_offset - 1));
    if (c->head == HEAD_MASKED && (json_get(o, "tie_word_embeddings") || !c->tie_embeddings))
        json_set_bool(o, "tie_word_embeddings", c->tie_embeddings);
    json_set_string(o, f->activation, config_activation_name(c, json_get(o, f->activation)));
    config_pruned_heads_write(c, o);
    return o;
}
