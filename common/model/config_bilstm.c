// config_bilstm.c: the config.json of a bidirectional LSTM with a classifier: see config.h.
#include "common/model/config.h"
#include "common/model/config_limits.h"

#define DEFAULT_LENGTH 512

int config_bilstm_read(struct config *c, const struct json *o, const char *where, struct error *err)
{
    TRY(config_read_size(o, where, "vocab_size", MAX_VOCAB, &c->vocab, err));
    TRY(config_read_size(o, where, "embedding_size", MAX_WIDTH, &c->n_embedding, err));
    TRY(config_read_size(o, where, "hidden_size", MAX_WIDTH, &c->n_cell, err));
    TRY(config_read_size(o, where, "classifier_size", MAX_WIDTH, &c->hidden, err));
    TRY(json_get_int(o, where, "max_position_embeddings", DEFAULT_LENGTH, 4, MAX_CONTEXT, &c->context, err));
    TRY(config_labels_read(c, o, where, err));
    c->head = HEAD_CLASSES;
    c->bos_id = c->eos_id = -1;
    c->n_layer = 1;
    c->layer = xcalloc(1, sizeof *c->layer, "layer shapes"); // neither attention nor a feed-forward block
    return 0;
}

struct json *config_bilstm_json(const struct config *c)
{
    struct json *o = c->source ? json_copy(c->source) : json_object();
    json_set_string(o, "model_type", c->model_type);
    json_set_number(o, "vocab_size", (double)c->vocab);
    json_set_number(o, "embedding_size", (double)c->n_embedding);
    json_set_number(o, "hidden_size", (double)c->n_cell);
    json_set_number(o, "classifier_size", (double)c->hidden);
    json_set_number(o, "max_position_embeddings", (double)c->context);
    if (!json_get(o, "id2label"))
        json_set_number(o, "num_labels", (double)c->n_label);
    return o;
}
