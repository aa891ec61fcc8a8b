// arch_bert.c: BERT (Devlin et al. 2019): attention both ways over padded sequences, the norm after each block, and a head for classes of
// whole sequences, for masked words, or for the ends of answers' spans.
#include "common/base/error.h"
#include "common/model/block.h"

static int has_pooler(const struct config *c, int l) { return l < 0 && c->has_pooler; }
static int has_classes(const struct config *c, int l) { return l < 0 && c->head == HEAD_CLASSES; }
static int has_masked(const struct config *c, int l) { return l < 0 && c->head == HEAD_MASKED; }
static int has_spans(const struct config *c, int l) { return l < 0 && c->head == HEAD_SPANS; }

enum {
    EMBED, POSITIONS, TYPES, EMBED_NORM, EMBED_NORM_BIAS, POOLER, POOLER_BIAS, CLASSES, CLASSES_BIAS, SPANS, SPANS_BIAS, MASKED, MASKED_BIAS,
    MASKED_NORM, MASKED_NORM_BIAS, WORDS_BIAS, Q, Q_BIAS, K, K_BIAS, V, V_BIAS, O, O_BIAS, ATTENTION_NORM, ATTENTION_NORM_BIAS, UP, UP_BIAS,
    DOWN, DOWN_BIAS, FF_NORM, FF_NORM_BIAS, N_SPECS
};

#define LAYER(name) "bert.encoder.layer.%d." name
#define TRANSFORM(name) "cls.predictions.transform." name

static const struct weight_spec specs[N_SPECS] = {
    [EMBED] = {"bert.embeddings.word_embeddings.weight", 0, AXIS_VOCAB, AXIS_HIDDEN, NULL},
    [POSITIONS] = {"bert.embeddings.position_embeddings.weight", 0, AXIS_POSITIONS, AXIS_HIDDEN, NULL},
    [TYPES] = {"bert.embeddings.token_type_embeddings.weight", 0, AXIS_TYPES, AXIS_HIDDEN, NULL},
    [EMBED_NORM] = {"bert.embeddings.LayerNorm.weight", 0, AXIS_ONE, AXIS_HIDDEN, NULL},
    [EMBED_NORM_BIAS] = {"bert.embeddings.LayerNorm.bias", 0, AXIS_ONE, AXIS_HIDDEN, NULL},
    [POOLER] = {"bert.pooler.dense.weight", 0, AXIS_HIDDEN, AXIS_HIDDEN, has_pooler},
    [POOLER_BIAS] = {"bert.pooler.dense.bias", 0, AXIS_ONE, AXIS_HIDDEN, has_pooler},
    [CLASSES] = {"classifier.weight", 0, AXIS_LABELS, AXIS_HIDDEN, has_classes},
    [CLASSES_BIAS] = {"classifier.bias", 0, AXIS_ONE, AXIS_LABELS, has_classes},
    [SPANS] = {"qa_outputs.weight", 0, AXIS_LABELS, AXIS_HIDDEN, has_spans},
    [SPANS_BIAS] = {"qa_outputs.bias", 0, AXIS_ONE, AXIS_LABELS, has_spans},
    [MASKED] = {TRANSFORM("dense.weight"), 0, AXIS_HIDDEN, AXIS_HIDDEN, has_masked},
    [MASKED_BIAS] = {TRANSFORM("dense.bias"), 0, AXIS_ONE, AXIS_HIDDEN, has_masked},
    [MASKED_NORM] = {TRANSFORM("LayerNorm.weight"), 0, AXIS_ONE, AXIS_HIDDEN, has_masked},
    [MASKED_NORM_BIAS] = {TRANSFORM("LayerNorm.bias"), 0, AXIS_ONE, AXIS_HIDDEN, has_masked},
    [WORDS_BIAS] = {"cls.predictions.bias", 0, AXIS_ONE, AXIS_VOCAB, has_masked},
    [Q] = {LAYER("attention.self.query.weight"), 1, AXIS_HEADS, AXIS_HIDDEN, NULL},
    [Q_BIAS] = {LAYER("attention.self.query.bias"), 1, AXIS_ONE, AXIS_HEADS, NULL},
    [K] = {LAYER("attention.self.key.weight"), 1, AXIS_GROUPS, AXIS_HIDDEN, NULL},
    [K_BIAS] = {LAYER("attention.self.key.bias"), 1, AXIS_ONE, AXIS_GROUPS, NULL},
    [V] = {LAYER("attention.self.value.weight"), 1, AXIS_GROUPS, AXIS_HIDDEN, NULL},
    [V_BIAS] = {LAYER("attention.self.value.bias"), 1, AXIS_ONE, AXIS_GROUPS, NULL},
    [O] = {LAYER("attention.output.dense.weight"), 1, AXIS_HIDDEN, AXIS_HEADS, NULL},
    [O_BIAS] = {LAYER("attention.output.dense.bias"), 1, AXIS_ONE, AXIS_HIDDEN, layer_has_attention},
    [ATTENTION_NORM] = {LAYER("attention.output.LayerNorm.weight"), 1, AXIS_ONE, AXIS_HIDDEN, NULL},
    [ATTENTION_NORM_BIAS] = {LAYER("attention.output.LayerNorm.bias"), 1, AXIS_ONE, AXIS_HIDDEN, NULL},
    [UP] = {LAYER("intermediate.dense.weight"), 1, AXIS_FF, AXIS_HIDDEN, NULL},
    [UP_BIAS] = {LAYER("intermediate.dense.bias"), 1, AXIS_ONE, AXIS_FF, NULL},
    [DOWN] = {LAYER("output.dense.weight"), 1, AXIS_HIDDEN, AXIS_FF, NULL},
    [DOWN_BIAS] = {LAYER("output.dense.bias"), 1, AXIS_ONE, AXIS_HIDDEN, layer_has_ff},
    [FF_NORM] = {LAYER("output.LayerNorm.weight"), 1, AXIS_ONE, AXIS_HIDDEN, NULL},
    [FF_NORM_BIAS] = {LAYER("output.LayerNorm.bias"), 1, AXIS_ONE, AXIS_HIDDEN, NULL},
};

static struct tensor *dropped(struct tape *tape, const struct forward *f, struct tensor *x, const struct tensor *name)
{
    const struct dropout *d = f->dropout;
    return d && d->hidden > 0 ? op_dropout(tape, x, d->hidden, d->seed, name->name, d->step) : x;
}

// A block that is left out adds nothing; the norms behind it stay.
static struct tensor *block(void *context, struct tape *tape, struct tensor *x)
{
    const struct block *b = context;
    struct model *m = b->model;
    const struct taps *taps = b->forward->taps;
    const double eps = m->config.norm_eps;
    const int l = b->layer;
    block_show(b, TAP_INPUTS, taps ? taps->attention_in : NULL, x);
    if (!block_is_skipped(b, 1)) {
        struct tensor *h = block_attention(b, tape, x, Q);
        h = dropped(tape, b->forward, h, model_weight(m, O, l));
        x = op_add(tape, x, h);
    }
    x = op_layernorm(tape, x, model_weight(m, ATTENTION_NORM, l), model_weight(m, ATTENTION_NORM_BIAS, l), eps);
    block_show(b, TAP_MIDDLE, taps ? taps->middle : NULL, x);
    block_show(b, TAP_INPUTS, taps ? taps->ff_in : NULL, x);
    if (!block_is_skipped(b, 0)) {
        struct tensor *h = block_feed_forward(b, tape, x, UP);
        h = dropped(tape, b->forward, h, model_weight(m, DOWN, l));
        x = op_add(tape, x, h);
    }
    return op_layernorm(tape, x, model_weight(m, FF_NORM, l), model_weight(m, FF_NORM_BIAS, l), eps);
}

static struct tensor *embedded(struct model *m, struct tape *tape, const struct forward *f)
{
    const int64_t N = f->B * f->T;
    const int32_t *types = f->types;
    if (!types) { // all of the first type
        int32_t *zero = arena_zalloc(&tape->arena, (size_t)N * sizeof *zero);
        types = zero;
    }
    struct tensor *x = op_embed(tape, model_weight(m, EMBED, -1), f->ids, N);
    struct tensor *t = op_embed(tape, model_weight(m, TYPES, -1), types, N);
    x = op_add(tape, x, t);
    struct tensor *p = block_positions(m, tape, f, model_weight(m, POSITIONS, -1));
    x = op_add(tape, x, p);
    x = op_layernorm(tape, x, model_weight(m, EMBED_NORM, -1), model_weight(m, EMBED_NORM_BIAS, -1), m->config.norm_eps);
    return dropped(tape, f, x, model_weight(m, EMBED, -1));
}

// Each sequence's first position, through the pooler: [B, D].
static struct tensor *pooled(struct model *m, struct tape *tape, const struct forward *f, struct tensor *x)
{
    int32_t *first = arena_alloc(&tape->arena, (size_t)f->B * sizeof *first);
    for (int64_t b = 0; b < f->B; b++)
        first[b] = (int32_t)(b * f->T);
    x = op_rows(tape, x, first, f->B);
    x = op_linear(tape, x, model_weight(m, POOLER, -1), model_weight(m, POOLER_BIAS, -1));
    x = op_tanh(tape, x);
    return dropped(tape, f, x, model_weight(m, POOLER, -1));
}

static struct tensor *bert_forward(struct model *m, struct tape *tape, const struct forward *f)
{
    if (f->cache)
        BUG("bert: a cache of keys is for models that read one way");
    struct tensor *x = f->x ? f->x : embedded(m, tape, f);
    x = blocks_run(m, tape, f, NULL, block, x);
    if (f->last || m->config.head == HEAD_NONE || m->config.head == HEAD_SPANS)
        return x;
    if (m->config.head == HEAD_CLASSES)
        return pooled(m, tape, f, x);
    if (f->rows)
        x = op_rows(tape, x, f->rows, f->n_rows);
    x = op_linear(tape, x, model_weight(m, MASKED, -1), model_weight(m, MASKED_BIAS, -1));
    x = model_activation(m, tape, x);
    return op_layernorm(tape, x, model_weight(m, MASKED_NORM, -1), model_weight(m, MASKED_NORM_BIAS, -1), m->config.norm_eps);
}

static void look(struct config *c, int (*has)(const void *files, const char *name), const void *files)
{
    c->bare_names = !has(files, "bert.embeddings.word_embeddings.weight") && has(files, "embeddings.word_embeddings.weight");
    c->has_pooler = has(files, c->bare_names ? "pooler.dense.weight" : "bert.pooler.dense.weight") || c->head == HEAD_CLASSES;
}

static double deviation(const struct config *c, const struct parameter *p)
{
    (void)c;
    (void)p;
    return 0.02;
}

const struct arch arch_bert = {.model_types = "bert",
                               .prefix = "bert.",
                               .specs = specs,
                               .n_specs = N_SPECS,
                               .embed = EMBED,
                               .head = {CLASSES, SPANS, -1},
                               .head_bias = {CLASSES_BIAS, SPANS_BIAS, WORDS_BIAS, -1},
                               .spare = "cls.predictions.decoder.|cls.seq_relationship.",
                               .reads_both_ways = 1,
                               .look = look,
                               .deviation = deviation,
                               .forward = bert_forward};
