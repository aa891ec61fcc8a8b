// config_family.c: what the Llama family's relatives have in config.json beside Llama's keys: defaults of their own, biases, windows,
// factors and soft caps. See config.h.
//
// To add a relative: one row in `relatives`, its factors in `factors`, its name in arch_llama.c and its row in `families` (config.c).
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "common/model/config_limits.h"

// Which layers have a sliding window where config.json does not list layer_types.
enum slides {
    SLIDES_NEVER,
    SLIDES_ALL,   // wherever sliding_window is given (Mistral)
    SLIDES_UPPER, // with use_sliding_window, those from max_window_layers on (Qwen)
    SLIDES_EVEN   // every other one from the first on (Gemma 2)
};

static const struct relative {
    const char *type;
    enum slides slides;
    int64_t window;                // sliding_window where the key is absent
    int attention_bias, mlp_bias;  // the keys of these names count
    int64_t head_dim;              // where the key is absent; 0: hidden / heads
    int tied;                      // tie_word_embeddings where the key is absent
    const char *activation_key;    // NULL: hidden_act, silu
    int qk_norm, post_norms, norm_shift; // see struct config
    const char *refused[2];        // keys that ask for what is not done: unless absent, null, false or 0
} relatives[] = {
    {.type = "llama", .attention_bias = 1, .mlp_bias = 1},
    {.type = "mistral", .slides = SLIDES_ALL, .window = 4096},
    {.type = "qwen2", .slides = SLIDES_UPPER, .window = 4096},
    {.type = "nemotron-nas"},
    {.type = "qwen3", .slides = SLIDES_UPPER, .window = 4096, .attention_bias = 1, .head_dim = 128, .qk_norm = 1},
    {.type = "gemma2", .slides = SLIDES_EVEN, .window = 4096, .attention_bias = 1, .head_dim = 256, .tied = 1,
     .activation_key = "hidden_activation", .post_norms = 1, .norm_shift = 1, .refused = {"use_bidirectional_attention"}},
    {.type = "minicpm", .attention_bias = 1, .tied = 1, .refused = {"num_experts", "sparse_config"}},
    {.type = "granite", .attention_bias = 1, .mlp_bias = 1},
};

// How a key's number becomes the factor that is used, and back.
enum spelling { AS_IT_IS, INVERSE, INVERSE_ROOT, BY_ROOT_OF_LAYERS, BY_HIDDEN };

static const struct factor {
    const char *type, *key;
    double absent;
    enum spelling spelling;
    size_t offset; // in struct config, a double
    int nullable;  // null: none
} factors[] = {
    {"gemma2", "query_pre_attn_scalar", 256, INVERSE_ROOT, offsetof(struct config, attention_scale), 0},
    {"gemma2", "attn_logit_softcapping", 50, AS_IT_IS, offsetof(struct config, attention_cap), 1},
    {"gemma2", "final_logit_softcapping", 30, AS_IT_IS, offsetof(struct config, logit_cap), 1},
    {"minicpm", "scale_emb", 1, AS_IT_IS, offsetof(struct config, embed_scale), 0},
    {"minicpm", "scale_depth", 1, BY_ROOT_OF_LAYERS, offsetof(struct config, residual_scale), 0},
    {"minicpm", "dim_model_base", 1, BY_HIDDEN, offsetof(struct config, logit_scale), 0},
    {"granite", "embedding_multiplier", 1, AS_IT_IS, offsetof(struct config, embed_scale), 0},
    {"granite", "residual_multiplier", 1, AS_IT_IS, offsetof(struct config, residual_scale), 0},
    {"granite", "attention_multiplier", 1, AS_IT_IS, offsetof(struct config, attention_scale), 0},
    {"granite", "logits_scaling", 1, INVERSE, offsetof(struct config, logit_scale), 0},
};
#define N_FACTORS (sizeof factors / sizeof *factors)

static const struct relative *relative_of(const struct config *c)
{
    for (size_t i = 0; i < sizeof relatives / sizeof *relatives; i++)
        if (strcmp(relatives[i].type, c->model_type) == 0)
            return &relatives[i];
    BUG("config: model_type \"%s\"", c->model_type);
}

int64_t config_head_dim_absent(const struct config *c) { return relative_of(c)->head_dim; }
int config_tied_absent(const struct config *c) { return relative_of(c)->tied; }

// ---- factors ----

static double *factor_place(struct config *c, const struct factor *f) { return (double *)((char *)c + f->offset); }

static double factor_from(const struct config *c, enum spelling s, double x)
{
    switch (s) {
    case AS_IT_IS: return x;
    case INVERSE: return 1 / x;
    case INVERSE_ROOT: return 1 / sqrt(x);
    case BY_ROOT_OF_LAYERS: return x / sqrt((double)c->n_layer);
    case BY_HIDDEN: return x / (double)c->hidden;
    }
    BUG("config: spelling %d", (int)s);
}

static double factor_to(const struct config *c, enum spelling s, double x)
{
    switch (s) {
    case AS_IT_IS: return x;
    case INVERSE: return 1 / x;
    case INVERSE_ROOT: return 1 / (x * x);
    case BY_ROOT_OF_LAYERS: return x * sqrt((double)c->n_layer);
    case BY_HIDDEN: return x * (double)c->hidden;
    }
    BUG("config: spelling %d", (int)s);
}

static int read_factors(struct config *c, const struct json *o, const char *where, struct error *err)
{
    for (const struct factor *f = factors; f < factors + N_FACTORS; f++) {
        const struct json *given = json_get(o, f->key);
        double x;
        if (strcmp(f->type, c->model_type) != 0 || (f->nullable && given && json_kind(given) == JSON_NULL))
            continue;
        TRY(json_get_double(o, where, f->key, f->absent, 1e-9, 1e9, &x, err));
        *factor_place(c, f) = factor_from(c, f->spelling, x);
    }
    if (strcmp(c->model_type, "gemma2") == 0)
        c->embed_scale = sqrt((double)c->hidden); // no key says so
    return 0;
}

// A key that already says what is so stays as it was spelt.
static void write_factors(const struct config *c, struct json *o)
{
    for (const struct factor *f = factors; f < factors + N_FACTORS; f++) {
        const double now = *(const double *)((const char *)c + f->offset);
        const struct json *given = json_get(o, f->key);
        if (strcmp(f->type, c->model_type) != 0)
            continue;
        if (f->nullable && now <= 0)
            json_set(o, f->key, json_null());
        else if (json_kind(given) != JSON_NUMBER || fabs(factor_from(c, f->spelling, json_number(given)) / now - 1) > 1e-12)
            json_set_number(o, f->key, factor_to(c, f->spelling, now > 0 ? now : 1));
    }
}

// ---- windows ----

int config_slides(const struct config *c, int64_t layer) { return c->window && (c->sliding[layer / 64] >> layer % 64 & 1); }

void config_set_sliding(struct config *c, int64_t layer, int slides)
{
    const uint64_t bit = (uint64_t)1 << layer % 64;
    c->sliding[layer / 64] = slides ? c->sliding[layer / 64] | bit : c->sliding[layer / 64] & ~bit;
}

int config_windows_matter(const struct config *c)
{
    for (int64_t l = 0; l < c->n_layer; l++)
        if (config_slides(c, l) && c->window < c->context)
            return 1;
    return 0;
}

int config_slides_as_usual(const struct config *c)
{
    int64_t upper = 0; // of Qwen's, where the windows begin
    while (upper < c->n_layer && !config_slides(c, upper))
        upper++;
    for (int64_t l = 0; l < c->n_layer; l++) {
        const enum slides s = relative_of(c)->slides;
        const int usual = s == SLIDES_ALL || (s == SLIDES_UPPER && l >= upper) || (s == SLIDES_EVEN && l % 2 == 0);
        if (c->window && config_slides(c, l) != usual)
            return 0;
    }
    return 1;
}

static int read_layer_types(struct config *c, const struct json *types, int can_slide, const char *where, struct error *err)
{
    int64_t l = 0;
    for (const struct json *t = json_first(types); t; t = json_next(t), l++) {
        const char *name = json_string(t) ? json_string(t) : json_kind_name(json_kind(t));
        const int slides = strcmp(name, "sliding_attention") == 0;
        if ((slides && !can_slide) || (!slides && strcmp(name, "full_attention") != 0))
            return error_set(err, "%s: layer_types has \"%s\"; expected full_attention%s", where, name,
                             can_slide ? " or sliding_attention" : ", as no window is given for this model_type");
        if (l < c->n_layer && can_slide)
            config_set_sliding(c, l, slides);
    }
    if (can_slide && l != c->n_layer)
        return error_set(err, "%s: layer_types has %lld elements; expected one for each of %lld layers", where, (long long)l,
                         (long long)c->n_layer);
    return 0;
}

static int read_windows(struct config *c, const struct json *o, const char *where, struct error *err)
{
    const struct relative *r = relative_of(c);
    const struct json *given = json_get(o, "sliding_window"), *types = json_get(o, "layer_types");
    int64_t upper = 0;
    int used;
    TRY(json_get_bool(o, where, "use_sliding_window", 0, &used, err));
    if (used && r->slides != SLIDES_UPPER)
        return error_set(err, "%s: use_sliding_window is true, which a %s model does not know; expected false", where, c->model_type);
    if ((r->slides == SLIDES_UPPER && !used) || r->slides == SLIDES_NEVER || (given && json_kind(given) == JSON_NULL))
        return read_layer_types(c, types, 0, where, err);
    TRY(json_get_int(o, where, "sliding_window", r->window, 1, MAX_CONTEXT, &c->window, err));
    if (r->slides == SLIDES_UPPER)
        TRY(json_get_int(o, where, "max_window_layers", 28, 0, MAX_LAYERS, &upper, err));
    for (int64_t l = upper; l < c->n_layer; l++)
        config_set_sliding(c, l, r->slides != SLIDES_EVEN || l % 2 == 0);
    return types && json_kind(types) != JSON_NULL ? read_layer_types(c, types, r->slides != SLIDES_ALL, where, err) : 0;
}

static void write_windows(const struct config *c, struct json *o)
{
    const struct relative *r = relative_of(c);
    json_remove(o, "layer_types"); // where it is absent, the layers are as usual
    if (r->slides == SLIDES_NEVER)
        return;
    if (c->window)
        json_set_number(o, "sliding_window", (double)c->window);
    else if (r->slides != SLIDES_UPPER || !json_get(o, "sliding_window"))
        json_set(o, "sliding_window", json_null());
    if (r->slides == SLIDES_UPPER) {
        int64_t upper = 0;
        while (upper < c->n_layer && !config_slides(c, upper))
            upper++;
        json_set_bool(o, "use_sliding_window", c->window > 0);
        if (c->window)
            json_set_number(o, "max_window_layers", (double)upper);
    }
    if (config_slides_as_usual(c))
        return;
    struct json *types = json_array();
    for (int64_t l = 0; l < c->n_layer; l++)
        json_push(types, json_from_string(config_slides(c, l) ? "sliding_attention" : "full_attention"));
    json_set(o, "layer_types", types);
}

// ---- all of it ----

static const char *activation_key(const struct relative *r) { return r->activation_key ? r->activation_key : "hidden_act"; }
static const char *activation_name(const struct relative *r) { return r->activation_key ? "gelu_pytorch_tanh" : "silu"; }

static int read_activation(struct config *c, const struct relative *r, const struct json *o, const char *where, struct error *err)
{
    const char *key = activation_key(r), *absent = activation_name(r);
    const enum activation wanted = r->activation_key ? ACTIVATION_GELU_TANH : ACTIVATION_SILU;
    TRY(config_activation_read(c, o, where, key, absent, err));
    if (c->activation != wanted)
        return error_set(err, "%s: %s \"%s\" is not supported for %s; expected %s", where, key, json_string(json_get(o, key)),
                         c->model_type, absent);
    return 0;
}

static int refuse(const struct relative *r, const struct json *o, const char *where, struct error *err)
{
    for (int i = 0; i < 2 && r->refused[i]; i++) {
        const struct json *v = json_get(o, r->refused[i]);
        const int is_off = json_kind(v) == JSON_NULL || (json_kind(v) == JSON_BOOL && !json_bool(v)) ||
                           (json_kind(v) == JSON_NUMBER && json_number(v) == 0);
        if (!is_off)
            return error_set(err, "%s: %s is set, and what it asks for is not supported for %s; expected it to be absent", where,
                             r->refused[i], r->type);
    }
    return 0;
}

int config_family_read(struct config *c, const struct json *o, const char *where, struct error *err)
{
    const struct relative *r = relative_of(c);
    TRY(read_activation(c, r, o, where, err));
    TRY(refuse(r, o, where, err));
    if (r->attention_bias)
        TRY(json_get_bool(o, where, "attention_bias", 0, &c->out_bias, err));
    if (r->mlp_bias)
        TRY(json_get_bool(o, where, "mlp_bias", 0, &c->mlp_bias, err));
    c->qkv_bias = c->out_bias || strcmp(c->model_type, "qwen2") == 0;
    c->qk_norm = r->qk_norm;
    c->post_norms = r->post_norms;
    c->norm_shift = r->norm_shift;
    TRY(read_factors(c, o, where, err));
    return read_windows(c, o, where, err);
}

void config_family_write(const struct config *c, struct json *o)
{
    const struct relative *r = relative_of(c);
    if (!c->source) {
        json_set_string(o, activation_key(r), activation_name(r));
        if (r->attention_bias)
            json_set_bool(o, "attention_bias", c->out_bias);
    }
    if (r->mlp_bias)
        json_set_bool(o, "mlp_bias", c->mlp_bias); // pruning may have added some
    write_factors(c, o);
    write_windows(c, o);
}

const char *config_hidden_refusal(const struct config *c)
{
    if (config_has_full_heads(c))
        return "layer norms subtract the mean of all channels, so none can be cut alone";
    if (strcmp(c->model_type, "gemma2") == 0)
        return "embeddings are multiplied by the root of the hidden size, so that it cannot change";
    return NULL;
}
