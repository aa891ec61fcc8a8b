// gguf_plan.c: which tensors a GGUF file gets, as which type, in which shape, and its metadata; no weight is read
// here.
//
// The order is that of llama-quantize (global tensors, then layer by layer, each by name), so that files can be
// compared as a whole.
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/base/log.h"
#include "common/model/pad.h"
#include "quant/bit_plan.h"
#include "quant/gguf_mix.h"
#include "quant/importance.h"

#define QUANTIZATION_VERSION 2

// The type that a matrix should have, whatever its rows.
static const struct block_format *wanted_format(const struct gguf_mix *mix, int pure, const struct gguf_plan_tensor *t,
                                                const struct gguf_place *place)
{
    if (t->n_dim == 1 || strcmp(t->name, "position_embd.weight") == 0 || strcmp(t->name, "token_types.weight") == 0) // llama.cpp adds these as F32
        return block_format_find("F32");
    return pure ? block_format_find(mix->base) : gguf_mix_format(mix, place);
}

// Does the reader insist on n_head * head_dim = hidden? llama.cpp gives llama's q bias the length of the embedding.
static int needs_square(const struct config *c, const char *architecture)
{
    return strcmp(architecture, "qwen2") == 0 || strcmp(architecture, "gpt2") == 0 || c->qkv_bias;
}

// The shape that the padded layers get: the widest groups and channels, and so many heads as the reader insists on.
static int padded_shape(const struct config *c, const char *architecture, struct layer_shape *to, struct error *err)
{
    *to = pad_shape(c);
    const int64_t ratio = to->n_kv_head ? to->n_head / to->n_kv_head : 0;
    if (!needs_square(c, architecture) || to->n_head * c->head_dim == c->hidden)
        return 0;
    const int64_t heads = c->hidden / c->head_dim;
    for (int64_t groups = to->n_kv_head; groups <= heads && c->hidden % c->head_dim == 0; groups++)
        if (heads % groups == 0 && heads / groups >= ratio) {
            to->n_kv_head = groups;
            to->n_head = heads;
            return 0;
        }
    return error_set(err,
                     "GGUF: %" PRId64 " key/value heads of %" PRId64
                     " query heads each cannot be padded to %s's fixed "
                     "%" PRId64 " / %" PRId64 " heads; write a Hugging Face directory instead",
                     to->n_kv_head, ratio, architecture, c->hidden, c->head_dim);
}

// Layers of different shapes: architecture deci gives each layer its own. llama.cpp leaves the attention out, too, of a deci
// layer without channels: such a layer gets one block of zeros. It reads the heads' width only where the first layer has heads: zero
// ones if need be.
static int shape_as_deci(struct gguf_plan *plan, const struct config *c, int64_t block, struct error *err)
{
    if (strcmp(plan->architecture, "llama") != 0 || c->qkv_bias || c->out_bias || c->mlp_bias)
        return error_set(err,
                         "GGUF: the layers differ in heads or FFN width, and llama.cpp loads that only of Llama's family, without "
                         "biases (this is %s%s); prune the same count in every layer, or export with padding",
                         c->model_type, c->qkv_bias || c->out_bias || c->mlp_bias ? ", with biases" : "");
    plan->architecture = "deci";
    if (!c->layer[0].n_head) {
        plan->layer[0].n_head = config_widest(c).n_head;
        plan->layer[0].n_kv_head = config_widest(c).n_kv_head;
    }
    for (int64_t l = 0; l < c->n_layer; l++)
        if (!plan->layer[l].n_ff)
            plan->layer[l].n_ff = block;
    return 0;
}

static int choose_shape(struct gguf_plan *plan, const struct config *c, int padded, int64_t block, struct error *err)
{
    const int64_t heads = c->layer[0].n_head;
    plan->layer = xmalloc((size_t)c->n_layer * sizeof *plan->layer, "layer shapes");
    memcpy(plan->layer, c->layer, (size_t)c->n_layer * sizeof *plan->layer);
    if (padded) {
        struct layer_shape shape;
        TRY(padded_shape(c, plan->architecture, &shape, err));
        for (int64_t l = 0; l < c->n_layer; l++)
            plan->layer[l] = shape;
        return 0;
    }
    if (!config_uniform(c) || !heads || !c->layer[0].n_ff)
        return shape_as_deci(plan, c, block, err);
    if (needs_square(c, plan->architecture) && heads * c->head_dim != c->hidden)
        return error_set(err,
                         "GGUF: %" PRId64 " heads of width %" PRId64 " make %" PRId64
                         ", and llama.cpp wants the hidden size, %" PRId64
                         ", for %s; export with padding, or prune no heads of this family",
                         heads, c->head_dim, heads * c->head_dim, c->hidden,
                         strcmp(plan->architecture, "llama") == 0 ? "llama with attention biases" : plan->architecture);
    return 0;
}

static int is_bert(const struct gguf_plan *plan) { return strcmp(plan->architecture, "bert") == 0; }

static void make_shape(struct gguf_plan *plan)
{
    struct config c;
    config_copy(&c, &plan->model->config);
    memcpy(c.layer, plan->layer, (size_t)c.n_layer * sizeof *c.layer);
    if (strcmp(plan->architecture, "gpt2") == 0) { // llama.cpp insists on what may be missing in a checkpoint
        c.qkv_bias = 1;
        c.tie_embeddings = 0;
    }
    if (is_bert(plan)) { // an encoder alone, in BERT's words; the table of words is what llama-quantize takes for the output
        strcpy(c.model_type, plan->architecture);
        c.head = HEAD_NONE;
        c.has_pooler = 0;
        c.tie_embeddings = 1;
        c.position_offset = 0;
        c.n_type = c.n_type ? c.n_type : 1;
    }
    plan->shape = model_new(&c, 0);
    config_release(&c);
}

static int by_layer_and_name(const void *a, const void *b)
{
    const struct gguf_plan_tensor *p = a, *q = b;
    const int lp = p->written ? p->written->layer : -1, lq = q->written ? q->written->layer : -1;
    return lp != lq ? lp - lq : strcmp(p->name, q->name);
}

// Factors by which the reader divides its own frequencies (those of rope_theta, and the linear factor) to get the
// model's.
static void find_rope_factors(struct gguf_plan *plan)
{
    const struct model *m = plan->model;
    const int64_t n = m->config.head_dim / 2;
    struct config plain = m->config;
    if (plain.rope.type == ROPE_LLAMA3)
        plain.rope.type = ROPE_PLAIN;
    double *own = xmalloc((size_t)n * sizeof *own, "rope");
    config_rope_frequencies(&plain, own);
    int differ = 0;
    plan->rope_factor = xmalloc((size_t)n * sizeof *plan->rope_factor, "rope");
    for (int64_t i = 0; i < n; i++) {
        plan->rope_factor[i] = (float)(own[i] / m->rope[i]);
        differ |= fabs(own[i] / m->rope[i] - 1) > 1e-6;
    }
    free(own);
    if (!differ) {
        free(plan->rope_factor);
        plan->rope_factor = NULL;
    }
}

// The model's weight in a place of the architecture's table (BERT, DistilBERT and RoBERTa have the same places); NULL: none.
static const struct parameter *own_parameter(const struct model *m, int64_t spec, int layer)
{
    return m->slot[(layer + 1) * m->arch->n_specs + spec];
}

// A parameter of the file's model: a tensor, or a further part of one.
static void add_parameter(struct gguf_plan *plan, const struct parameter *p)
{
    struct gguf_name name;
    struct gguf_plan_tensor *t = plan->tensor;
    if (!gguf_parameter_name(&plan->model->config, p, &name))
        BUG("gguf_plan: no GGUF name for %s", p->name);
    while (name.part && strcmp(t->name, name.text) != 0)
        t++;
    if (!name.part) {
        t = &plan->tensor[plan->n_tensor++];
        t->written = p;
        t->rotated = name.rotated && strcmp(plan->architecture, "qwen2") != 0 && strcmp(plan->architecture, "gemma2") != 0;
        t->n_dim = p->t.n_dim;
        memcpy(t->name, name.text, sizeof t->name);
        memcpy(t->dim, p->t.dim, sizeof t->dim);
        t->dim[0] *= name.parts;
    }
    const struct model *m = plan->model;
    const int64_t spec = p->spec - plan->shape->arch->specs;
    const int tied = m->config.tie_embeddings && spec == m->arch->head[0]; // the table once more
    t->source[t->n_part++] = own_parameter(m, tied ? m->arch->embed : spec, p->layer);
}

static void list_tensors(struct gguf_plan *plan)
{
    const struct model *m = plan->model, *shape = plan->shape;
    plan->tensor = xcalloc((size_t)shape->n_parameter + 1, sizeof *plan->tensor, "GGUF plan");
    for (int i = 0; i < shape->n_parameter; i++)
        add_parameter(plan, &shape->parameter[i]);
    if (m->config.rope_theta > 0)
        find_rope_factors(plan);
    if (plan->rope_factor) {
        struct gguf_plan_tensor *t = &plan->tensor[plan->n_tensor++];
        snprintf(t->name, sizeof t->name, "rope_freqs.weight");
        t->n_dim = 1;
        t->dim[0] = m->config.head_dim / 2;
        t->dim[1] = 1;
    }
    qsort(plan->tensor, (size_t)plan->n_tensor, sizeof *plan->tensor, by_layer_and_name);
}

static void choose_formats(struct gguf_plan *plan, const struct gguf_mix *mix, int pure, const struct gguf_types *types)
{
    const struct config *c = &plan->model->config;
    const char *head = plan->shape->config.tie_embeddings ? "token_embd.weight" : "output.weight";
    const struct layer_shape *first = &plan->layer[0];
    struct gguf_place place = {.n_layer = c->n_layer, .attention_rank = -1,
                               .queries_per_key = first->n_kv_head ? first->n_head / first->n_kv_head : 0};
    int64_t last = -1; // the last layer with attention
    for (int64_t l = 0; l < c->n_layer; l++)
        place.n_attention += plan->layer[l].n_kv_head > 0;
    for (int64_t i = 0; i < plan->n_tensor; i++) {
        struct gguf_plan_tensor *t = &plan->tensor[i];
        const int64_t columns = t->dim[t->n_dim - 1], rows = t->n_dim == 1 ? 1 : t->dim[0];
        place.name = t->name;
        place.layer = t->written ? t->written->layer : -1;
        place.is_head = strcmp(t->name, head) == 0;
        place.columns = columns;
        if (place.layer > last && plan->layer[place.layer].n_kv_head > 0) { // tensors lie layer by layer
            place.attention_rank++;
            last = place.layer;
        }
        t->wanted = wanted_format(mix, pure, t, &place);
        const struct block_format *own = t->n_dim == 2 ? gguf_types_find(types, t->name) : NULL;
        t->wanted = own ? own : t->wanted;
        t->format = gguf_mix_fitting(t->wanted, columns);
        t->bytes = rows * block_row_bytes(t->format, columns);
        plan->n_fallback += t->format != t->wanted;
        double weights = 0;
        for (int k = 0; k < t->n_part; k++)
            weights += t->source[k] ? (double)tensor_count(&t->source[k]->t) : 0;
        if (t->written && t->written->layer >= 0) // tables may be written in part
            plan->padding_bytes += t->bytes - (int64_t)((double)t->bytes * weights / (double)(rows * columns));
        gguf_put_tensor(&plan->writer, t->name, t->n_dim, t->dim, t->format);
    }
}

static int refuse_fallback(const struct gguf_plan *plan, const char *type, struct error *err)
{
    const struct gguf_plan_tensor *t = plan->tensor;
    while (t->format == t->wanted)
        t++;
    return error_set(err,
                     "GGUF type %s: %s has rows of %" PRId64 " values, no multiple of %s's block of %" PRId64
                     ", so it would become %s (%" PRId64 " of %" PRId64 " tensors fall back so); choose %s, prune to "
                     "a multiple, or allow it with --allow-fallback",
                     type, t->name, t->dim[1], t->wanted->name, t->wanted->elements, t->format->name,
                     plan->n_fallback, plan->n_tensor, t->dim[1] % 32 ? "F16" : "Q8_0, Q5_0 or IQ4_NL");
}

static void put_number(struct gguf_writer *w, const char *architecture, const char *name, int64_t v)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", architecture, name);
    gguf_put_u32(w, key, v);
}

static void put_float(struct gguf_writer *w, const char *architecture, const char *name, double v)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", architecture, name);
    gguf_put_f32(w, key, v);
}

// One number where all layers have it, else an array with one for each.
static void put_widths(struct gguf_plan *plan, const char *name, size_t offset)
{
    const int64_t L = plan->model->config.n_layer;
    int32_t *width = xmalloc((size_t)L * sizeof *width, "widths");
    int same = 1;
    for (int64_t l = 0; l < L; l++) {
        width[l] = (int32_t) * (const int64_t *)((const char *)&plan->layer[l] + offset);
        same &= width[l] == width[0];
    }
    char key[96];
    snprintf(key, sizeof key, "%s.%s", plan->architecture, name);
    if (same)
        gguf_put_u32(&plan->writer, key, width[0]);
    else
        gguf_put_i32s(&plan->writer, key, width, L);
    free(width);
}

static void put_model_keys(struct gguf_plan *plan)
{
    const struct config *c = &plan->model->config;
    const char *a = plan->architecture;
    struct gguf_writer *w = &plan->writer;
    put_number(w, a, "block_count", c->n_layer);
    put_number(w, a, "context_length", c->context);
    put_number(w, a, "embedding_length", c->hidden);
    put_widths(plan, "feed_forward_length", offsetof(struct layer_shape, n_ff));
    put_widths(plan, "attention.head_count", offsetof(struct layer_shape, n_head));
    put_widths(plan, "attention.head_count_kv", offsetof(struct layer_shape, n_kv_head));
    put_number(w, a, "attention.key_length", c->head_dim);
    put_number(w, a, "attention.value_length", c->head_dim);
    if (c->rope_theta > 0) {
        put_number(w, a, "rope.dimension_count", c->head_dim);
        put_float(w, a, "rope.freq_base", c->rope_theta);
    }
    put_float(w, a, strcmp(a, "gpt2") == 0 || is_bert(plan) ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", c->norm_eps);
    put_number(w, a, "vocab_size", c->vocab);
    if (c->rope.type == ROPE_LINEAR) {
        char key[96];
        snprintf(key, sizeof key, "%s.rope.scaling.type", a);
        gguf_put_string(w, key, "linear");
        put_float(w, a, "rope.scaling.factor", c->rope.factor);
    }
}

static void put_family_keys(struct gguf_plan *plan)
{
    const struct config *c = &plan->model->config;
    for (const struct gguf_factor *f = gguf_factor_table; f->key; f++) {
        const double x = *(const double *)((const char *)c + f->offset);
        if (strcmp(f->architecture, plan->architecture) == 0)
            put_float(&plan->writer, plan->architecture, f->key, f->inverse ? 1 / x : x);
    }
    if (strcmp(plan->architecture, "gemma2") == 0)
        put_number(&plan->writer, plan->architecture, "attention.sliding_window", c->window ? c->window : c->context);
}

// What llama.cpp makes an embedding of a text by: the first position, where the model's own head reads that; else the reader is left to
// say (--pooling).
static void put_encoder_keys(struct gguf_plan *plan)
{
    struct gguf_writer *w = &plan->writer;
    gguf_put_bool(w, "bert.attention.causal", 0);
    if (plan->model->config.head == HEAD_CLASSES)
        gguf_put_u32(w, "bert.pooling_type", GGUF_POOLING_FIRST);
    gguf_put_u32(w, "tokenizer.ggml.token_type_count", plan->shape->config.n_type);
}

static void put_general_keys(struct gguf_plan *plan, const struct gguf_mix *mix, const struct gguf_export_options *o)
{
    struct gguf_writer *w = &plan->writer;
    gguf_put_string(w, "general.architecture", plan->architecture);
    gguf_put_string(w, "general.type", "model");
    if (o->name)
        gguf_put_string(w, "general.name", o->name);
    gguf_put_u32(w, "general.file_type", mix->file_type);
    if (block_format_find(mix->base)->elements > 1)
        gguf_put_u32(w, "general.quantization_version", QUANTIZATION_VERSION);
    gguf_put_string(w, "pdq.version", PDQ_VERSION);
    if (o->provenance) {
        char *text = json_text(o->provenance, 0);
        gguf_put_string(w, "pdq.provenance", text);
        free(text);
    }
}

static void put_vocab(struct gguf_writer *w, const struct vocab *v)
{
    gguf_put_string(w, "tokenizer.ggml.model", v->model);
    gguf_put_string(w, "tokenizer.ggml.pre", v->pre ? v->pre : "default");
    gguf_put_strings(w, "tokenizer.ggml.tokens", v->token, v->size);
    if (v->score)
        gguf_put_f32s(w, "tokenizer.ggml.scores", v->score, v->size);
    if (v->type)
        gguf_put_i32s(w, "tokenizer.ggml.token_type", v->type, v->size);
    if (v->merge)
        gguf_put_strings(w, "tokenizer.ggml.merges", v->merge, v->n_merges);
    if (v->bos >= 0)
        gguf_put_u32(w, "tokenizer.ggml.bos_token_id", v->bos);
    if (v->eos >= 0)
        gguf_put_u32(w, "tokenizer.ggml.eos_token_id", v->eos);
    if (v->unk >= 0)
        gguf_put_u32(w, "tokenizer.ggml.unknown_token_id", v->unk);
    if (v->pad >= 0)
        gguf_put_u32(w, "tokenizer.ggml.padding_token_id", v->pad);
    if (v->cls >= 0)
        gguf_put_u32(w, "tokenizer.ggml.cls_token_id", v->cls);
    if (v->sep >= 0)
        gguf_put_u32(w, "tokenizer.ggml.seperator_token_id", v->sep); // spelt so there
    if (v->mask >= 0)
        gguf_put_u32(w, "tokenizer.ggml.mask_token_id", v->mask);
    if (v->add_bos >= 0)
        gguf_put_bool(w, "tokenizer.ggml.add_bos_token", v->add_bos);
    if (v->add_eos >= 0)
        gguf_put_bool(w, "tokenizer.ggml.add_eos_token", v->add_eos);
    if (v->add_space_prefix >= 0)
        gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", v->add_space_prefix);
    if (v->chat_template)
        gguf_put_string(w, "tokenizer.chat_template", v->chat_template);
}

static int put_tokenizer_keys(struct gguf_plan *plan, const struct tokenizer *t, struct error *err)
{
    struct vocab v = {0};
    const int64_t rows = plan->model->config.vocab;
    if (t && tokenizer_is_numbers(t))
        log_warn("%s: there is no tokenizer, so the file gets none", tokenizer_source(t));
    if (!t || tokenizer_is_numbers(t)) {
        gguf_put_string(&plan->writer, "tokenizer.ggml.model", "no_vocab");
        return 0;
    }
    if (tokenizer_to_vocab(t, rows, &v, err) < 0)
        return -1;
    int rc = 0;
    if (v.size != rows)
        rc = error_set(
            err, "%s: %" PRId64 " tokens, and the embedding has %" PRId64 " rows; expected no more tokens than rows",
            tokenizer_source(t), v.size, rows);
    else
        put_vocab(&plan->writer, &v);
    vocab_release(&v);
    return rc;
}

static int64_t largest_block(const struct gguf_mix *mix)
{
    const int64_t base = gguf_mix_block(mix);
    return base > 1 ? base : block_format_find("Q8_0")->elements;
}

static int plan_all(struct gguf_plan *plan, const struct gguf_mix *mix, const struct tokenizer *t,
                    const struct gguf_export_options *o, struct error *err)
{
    TRY(choose_shape(plan, &plan->model->config, o->padded, largest_block(mix), err));
    make_shape(plan);
    list_tensors(plan);
    if (o->importance)
        TRY(importance_check(o->importance, plan, err));
    if (o->types)
        TRY(gguf_types_check(o->types, plan, err));
    choose_formats(plan, mix, o->pure, o->types);
    if (plan->n_fallback && !o->allow_fallback)
        return refuse_fallback(plan, mix->name, err);
    put_general_keys(plan, mix, o);
    put_model_keys(plan);
    put_family_keys(plan);
    if (is_bert(plan))
        put_encoder_keys(plan);
    TRY(put_tokenizer_keys(plan, t, err));
    plan->file_bytes = gguf_writer_size(&plan->writer);
    return 0;
}

// What llama.cpp (February 2025) cannot compute as the config says.
static int check_family(const struct config *c, struct error *err)
{
    const int is_gemma = strcmp(c->model_type, "gemma2") == 0;
    const char *why = NULL;
    if (c->qk_norm)
        why = "norms of q and k (qwen3), which pdq does not write as GGUF yet";
    else if (config_windows_matter(c) && (!is_gemma || !config_slides_as_usual(c)))
        why = "sliding windows that llama.cpp knows only of gemma2 with all its layers taking turns";
    else if (is_gemma && (c->attention_cap <= 0 || c->logit_cap <= 0))
        why = "no soft cap, and llama.cpp always has two for gemma2";
    else if (is_gemma && fabs(c->attention_scale / gguf_gemma_scale(c) - 1) > 1e-6)
        why = "a query_pre_attn_scalar that is not the heads' width (with 46 layers hidden_size / heads), and llama.cpp takes that for gemma2";
    else if (is_gemma && (!c->tie_embeddings || c->qkv_bias))
        why = "an output head of its own or biases, and llama.cpp has neither for gemma2";
    else if (is_gemma && c->rope.type == ROPE_LLAMA3)
        why = "rope type llama3, which llama.cpp does not have for gemma2";
    if (why)
        return error_set(err, "GGUF: this %s model has %s; write a Hugging Face directory instead", c->model_type, why);
    if (is_gemma && c->n_layer != 26 && c->n_layer != 42 && c->n_layer != 46)
        log_warn("llama.cpp of February 2025 stops at gemma2 with other than 26, 42 or 46 layers (this has %" PRId64 "); later versions load it",
                 c->n_layer);
    return 0;
}

// The architecture whose words a model is written in: its own model type where no other is named; NULL: none.
static const char *architecture_of(const struct config *c)
{
    static const char *const others[][2] = {{"llama", "llama"}, {"mistral", "llama"}, {"nemotron-nas", "llama"}, {"distilbert", "bert"}, {"roberta", "bert"}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(others[i][0], c->model_type) == 0)
            return others[i][1];
    return model_is_language(c) && model_has_blocks(c) ? c->model_type : NULL;
}

int gguf_plan_make(struct gguf_plan *plan, const struct model *m, const struct tokenizer *t,
                   const struct gguf_export_options *o, struct error *err)
{
    *plan = (struct gguf_plan){.model = m, .importance = o->importance};
    plan->architecture = architecture_of(&m->config);
    if (!plan->architecture)
        return error_set(err, "GGUF: a %s model has no place there; write a Hugging Face directory instead", m->config.model_type);
    if (m->config.activation == ACTIVATION_RELU)
        return error_set(err, "GGUF: %s means GELU there, and this model has ReLU; write a Hugging Face directory instead", plan->architecture);
    TRY(check_family(&m->config, err));
    if (m->config.activation == ACTIVATION_GELU_ERF && strcmp(plan->architecture, "gpt2") == 0)
        log_warn("llama.cpp computes GELU by its tanh form for %s, this model was made with the exact one: expect differences of about 1e-5", plan->architecture);
    const struct gguf_mix *mix = gguf_mix_find(o->type);
    if (!mix)
        return error_set(err, "GGUF type \"%s\" is not known; expected " GGUF_TYPES,
                         o->type);
    if (plan_all(plan, mix, t, o, err) == 0)
        return 0;
    gguf_plan_release(plan);
    return -1;
}

void gguf_plan_release(struct gguf_plan *plan)
{
    gguf_writer_release(&plan->writer);
    model_free(plan->shape);
    free(plan->layer);
    free(plan->tensor);
    free(plan->rope_factor);
    *plan = (struct gguf_plan){0};
}
