// config_limits.h: what the readers of config.json share. Internal to common/model.
#ifndef PDQ_CONFIG_LIMITS_H
#define PDQ_CONFIG_LIMITS_H

#include "common/model/config.h"

// Far above any model of these families, and small enough for bytes of the whole model to fit 2^60.
#define MAX_LAYERS 1024
#define MAX_WIDTH ((int64_t)1 << 20) // hidden, heads * head_dim
#define MAX_FF ((int64_t)1 << 22)
#define MAX_VOCAB ((int64_t)1 << 24)
#define MAX_CONTEXT ((int64_t)1 << 30)

int config_read_size(const struct json *o, const char *where, const char *key, int64_t max, int64_t *out, struct error *err);
// A number, a list (the first counts), null or absent. An id outside the vocabulary cannot be embedded: as if not given.
int config_token_id(const struct config *c, const struct json *o, const char *where, const char *key, int64_t *id, struct error *err);
int config_activation_read(struct config *c, const struct json *o, const char *where, const char *key, const char *absent,
                           struct error *err);
// Classes of a head: the number of labels, or as many as id2label names, or two.
int config_labels_read(struct config *c, const struct json *o, const char *where, struct error *err);
// The name of c's activation: the given one where it means the same.
const char *config_activation_name(const struct config *c, const struct json *given);
// Gives every layer the shape s, then those of pruned_heads and per_layer_config theirs.
int config_layers_fill(struct config *c, const struct layer_shape *s, const struct json *o, const char *where, struct error *err);
// For families whose config.json says the full number of heads, hidden / head_dim: pruned_heads for what is missing, per_layer_config for
// channels that differ. transformers 4 takes out as many heads as pruned_heads lists before it loads the weights.
void config_pruned_heads_write(const struct config *c, struct json *o);

#endif
