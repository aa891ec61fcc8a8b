// config_bert.c: the config.json of BERT and of what has its layers: see config.h.
#include <stdlib.h>
#include <string.h>

#include "common/model/config.h"
#include "common/model/config_limits.h"

static const struct {
    const char *architecture;
    enum model_head_kind head;
} heads[] = {
    {"BertForSequenceClassification", HEAD_CLASSES},
    {"BertForMaskedLM", HEAD_MASKED},
    {"BertForPreTraining", HEAD_MASKED},
    {"BertForQuestionAnswering", HEAD_SPANS},
    {"BertModel", HEAD_NONE},
};

static int read_head(struct config *c, const struct json *o, const char *where, struct error *err)
{
    const char *name = json_string(json_first(json_get(o, "architectures")));
    c->head = HEAD_MASKED;
    for (size_t i = 0; name && i < sizeof heads / sizeof *heads; i++)
        if (strcmp(heads[i].architecture, name) == 0) {
            c->head = heads[i].head;
            name = NULL;
        }
    if (name)
        return error_set(err, "%s: architecture \"%s\" is not supported for bert; expected BertForSequenceClassification, BertForMaskedLM, "
                         "BertForPreTraining, BertForQuestionAnswering or BertModel", where, name);
    if (c->head != HEAD_CLASSES && c->head != HEAD_SPANS)
        return 0;
    return config_labels_read(c, o, where, err);
}

int config_labels_read(struct config *c, const struct json *o, const char *where, struct error *err)
{
    // transformers writes the labels' names instead of their number where there are names
    const int64_t named = c->head == HEAD_SPANS ? 0 : json_count(json_get(o, "id2label"));
    return json_get_int(o, where, "num_labels", named ? named : 2, 1, MAX_VOCAB, &c->n_label, err);
}

int config_bert_read(struct config *c, const struct json *o, const char *where, struct error *err)
{
    struct layer_shape s = {0};
    const char *positions;
    int decoder;
    TRY(config_read_size(o, where, "num_hidden_layers", MAX_LAYERS, &c->n_layer, err));
    TRY(config_read_size(o, where, "hidden_size", MAX_WIDTH, &c->hidden, err));
    TRY(config_read_size(o, where, "num_attention_heads", MAX_WIDTH, &s.n_head, err));
    TRY(config_read_size(o, where, "intermediate_size", MAX_FF, &s.n_ff, err));
    TRY(config_read_size(o, where, "vocab_size", MAX_VOCAB, &c->vocab, err));
    TRY(json_get_int(o, where, "max_position_embeddings", 512, 1, MAX_CONTEXT, &c->context, err));
    TRY(json_get_int(o, where, "type_vocab_size", 2, 1, 1024, &c->n_type, err));
    TRY(json_get_double(o, where, "layer_norm_eps", 1e-12, 0, 1, &c->norm_eps, err));
    TRY(config_activation_read(c, o, where, "hidden_act", "gelu", err));
    TRY(json_get_string(o, where, "position_embedding_type", "absolute", &positions, err));
    if (strcmp(positions, "absolute") != 0)
        return error_set(err, "%s: position_embedding_type \"%s\" is not supported; expected absolute", where, positions);
    TRY(json_get_bool(o, where, "is_decoder", 0, &decoder, err));
    if (decoder)
        return error_set(err, "%s: is_decoder is true, which is not supported; expected false", where);
    if (c->hidden % s.n_head)
        return error_set(err, "%s: hidden_size is %lld and num_attention_heads %lld; expected a multiple", where, (long long)c->hidden,
                         (long long)s.n_head);
    c->qkv_bias = c->out_bias = c->mlp_bias = 1;
    c->head_dim = c->hidden / s.n_head;
    s.n_kv_head = s.n_head;
    c->bos_id = c->eos_id = -1;
    TRY(read_head(c, o, where, err));
    c->has_pooler = c->head == HEAD_CLASSES || c->head == HEAD_NONE;
    c->tie_embeddings = c->head == HEAD_MASKED;
    return config_layers_fill(c, &s, o, where, err);
}

struct json *config_bert_json(const struct config *c)
{
    struct json *o = c->source ? json_copy(c->source) : json_object();
    if (!json_get(o, "architectures")) {
        struct json *names = json_array();
        json_push(names, json_from_string("BertForMaskedLM"));
        json_set(o, "architectures", names);
    }
    json_set_string(o, "model_type", c->model_type);
    json_set_number(o, "num_hidden_layers", (double)c->n_layer);
    json_set_number(o, "hidden_size", (double)c->hidden);
    json_set_number(o, "num_attention_heads", (double)(c->hidden / c->head_dim));
    json_set_number(o, "intermediate_size", (double)config_widest(c).n_ff);
    json_set_number(o, "vocab_size", (double)c->vocab);
    json_set_number(o, "max_position_embeddings", (double)c->context);
    json_set_number(o, "type_vocab_size", (double)c->n_type);
    json_set_number(o, "layer_norm_eps", c->norm_eps);
    json_set_string(o, "hidden_act", config_activation_name(c, json_get(o, "hidden_act")));
    config_pruned_heads_write(c, o);
    return o;
}
