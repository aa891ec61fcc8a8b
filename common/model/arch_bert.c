// arch_bert.c: BERT (Devlin et al. 2019), DistilBERT (Sanh et al. 2019) and RoBERTa (Liu et al. 2019): attention both ways over padded
// sequences, the norm after each block, and a head for classes of whole sequences, for masked words, or for the ends of answers' spans.
//
// One list of places serves the three, so that a place means the same weight in each of them; a table says what a family calls it, and what
// a family does not have is empty there. DistilBERT has no token types and no pooler; RoBERTa counts its positions from the padding's on.
//
// To add a family of these layers: a table, its ARCH at the end, its keys in config_bert.c.
#include <string.h>

#include "common/base/error.h"
#include "common/model/block.h"

static int has_pooler(const struct config *c, int l) { return l < 0 && c->has_pooler; }
static int has_classes(const struct config *c, int l) { return l < 0 && c->head == HEAD_CLASSES; }
static int has_masked(const struct config *c, int l) { return l < 0 && c->head == HEAD_MASKED; }
static int has_decoder(const struct config *c, int l) { return has_masked(c, l) && !c->tie_embeddings; }
static int has_next(const struct config *c, int l) { return has_masked(c, l) && c->has_next; }
static int has_spans(const struct config *c, int l) { return l < 0 && c->head == HEAD_SPANS; }

#define PAIR(name) name, name##_BIAS // a matrix, or a norm's factors, and the bias behind it
enum {
    EMBED, POSITIONS, TYPES, PAIR(EMBED_NORM), PAIR(POOLER), PAIR(DENSE), PAIR(CLASSES), PAIR(SPANS), PAIR(MASKED), PAIR(MASKED_NORM),
    DECODER, WORDS_BIAS, PAIR(NEXT), PAIR(Q), PAIR(K), PAIR(V), PAIR(O), PAIR(ATTENTION_NORM), PAIR(UP), PAIR(DOWN), PAIR(FF_NORM), N_SPECS
};

#define LINEAR(place, name, of_layer, out, in, present) \
    [place] = {name ".weight", of_layer, out, in, present}, [place##_BIAS] = {name ".bias", of_layer, AXIS_ONE, out, present}
#define NORM(place, name, of_layer, present) \
    [place] = {name ".weight", of_layer, AXIS_ONE, AXIS_HIDDEN, present}, [place##_BIAS] = {name ".bias", of_layer, AXIS_ONE, AXIS_HIDDEN, present}

#define EMBEDDINGS(base) \
    [EMBED] = {base "embeddings.word_embeddings.weight", 0, AXIS_VOCAB, AXIS_HIDDEN, NULL}, \
    [POSITIONS] = {base "embeddings.position_embeddings.weight", 0, AXIS_POSITIONS, AXIS_HIDDEN, NULL}, \
    NORM(EMBED_NORM, base "embeddings.LayerNorm", 0, NULL)

#define LAYER(at, q, k, v, o, attention_norm, up, down, ff_norm) \
    LINEAR(Q, at q, 1, AXIS_HEADS, AXIS_HIDDEN, NULL), LINEAR(K, at k, 1, AXIS_GROUPS, AXIS_HIDDEN, NULL), \
    LINEAR(V, at v, 1, AXIS_GROUPS, AXIS_HIDDEN, NULL), LINEAR(O, at o, 1, AXIS_HIDDEN, AXIS_HEADS, layer_has_attention), \
    NORM(ATTENTION_NORM, at attention_norm, 1, NULL), LINEAR(UP, at up, 1, AXIS_FF, AXIS_HIDDEN, NULL), \
    LINEAR(DOWN, at down, 1, AXIS_HIDDEN, AXIS_FF, layer_has_ff), NORM(FF_NORM, at ff_norm, 1, NULL)

// What BERT and RoBERTa call the same.
#define BASE(base) \
    EMBEDDINGS(base), [TYPES] = {base "embeddings.token_type_embeddings.weight", 0, AXIS_TYPES, AXIS_HIDDEN, NULL}, \
    LINEAR(POOLER, base "pooler.dense", 0, AXIS_HIDDEN, AXIS_HIDDEN, has_pooler), \
    LAYER(base "encoder.layer.%d.", "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense", \
          "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm")

#define MASKED_HEAD(dense, norm, decoder, bias) \
    LINEAR(MASKED, dense, 0, AXIS_HIDDEN, AXIS_HIDDEN, has_masked), NORM(MASKED_NORM, norm, 0, has_masked), \
    [DECODER] = {decoder, 0, AXIS_VOCAB, AXIS_HIDDEN, has_decoder}, [WORDS_BIAS] = {bias, 0, AXIS_ONE, AXIS_VOCAB, has_masked}

#define SPANS_HEAD LINEAR(SPANS, "qa_outputs", 0, AXIS_LABELS, AXIS_HIDDEN, has_spans)

static const struct weight_spec bert_specs[N_SPECS] = {
    BASE("bert."), SPANS_HEAD,
    LINEAR(CLASSES, "classifier", 0, AXIS_LABELS, AXIS_HIDDEN, has_classes),
    MASKED_HEAD("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder.weight", "cls.predictions.bias"),
    LINEAR(NEXT, "cls.seq_relationship", 0, AXIS_LABELS, AXIS_HIDDEN, has_next), // carried along: nothing here asks which sentence is next
};

static const struct weight_spec roberta_specs[N_SPECS] = {
    BASE("roberta."), SPANS_HEAD,
    LINEAR(DENSE, "classifier.dense", 0, AXIS_HIDDEN, AXIS_HIDDEN, has_classes),
    LINEAR(CLASSES, "classifier.out_proj", 0, AXIS_LABELS, AXIS_HIDDEN, has_classes),
    MASKED_HEAD("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder.weight", "lm_head.bias"),
};

static const struct weight_spec distilbert_specs[N_SPECS] = {
    EMBEDDINGS("distilbert."), SPANS_HEAD,
    LAYER("distilbert.transformer.layer.%d.", "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "sa_layer_norm",
          "ffn.lin1", "ffn.lin2", "output_layer_norm"),
    LINEAR(DENSE, "pre_classifier", 0, AXIS_HIDDEN, AXIS_HIDDEN, has_classes),
    LINEAR(CLASSES, "classifier", 0, AXIS_LABELS, AXIS_HIDDEN, has_classes),
    MASKED_HEAD("vocab_transform", "vocab_layer_norm", "vocab_projector.weight", "vocab_projector.bias"),
};

static int is_roberta(const struct model *m) { return m->arch == &arch_roberta; }

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

// RoBERTa's rule: what is no padding is counted, from behind the padding's own position on; padding stays there.
static struct tensor *counted_positions(struct model *m, struct tape *tape, const struct forward *f)
{
    const int32_t padding = (int32_t)m->config.position_offset - 1;
    int32_t *position = arena_alloc(&tape->arena, (size_t)(f->B * f->T) * sizeof *position);
    for (int64_t b = 0; b < f->B; b++)
        for (int64_t t = 0, n = 0; t < f->T; t++) {
            const int is_real = f->ids[b * f->T + t] != padding;
            n += is_real;
            position[b * f->T + t] = padding + (is_real ? (int32_t)n : 0);
        }
    if (f->T > m->config.context)
        BUG("%s: %ld positions of %ld", m->config.model_type, (long)f->T, (long)m->config.context);
    return op_embed(tape, model_weight(m, POSITIONS, -1), position, f->B * f->T);
}

static struct tensor *typed(struct model *m, struct tape *tape, const struct forward *f, struct tensor *x)
{
    const int64_t N = f->B * f->T;
    const int32_t *types = f->types;
    if (!model_weight(m, TYPES, -1))
        return x;
    if (!types || m->config.n_type == 1) { // all of the first type
        int32_t *zero = arena_zalloc(&tape->arena, (size_t)N * sizeof *zero);
        types = zero;
    }
    struct tensor *t = op_embed(tape, model_weight(m, TYPES, -1), types, N);
    return op_add(tape, x, t);
}

static struct tensor *embedded(struct model *m, struct tape *tape, const struct forward *f)
{
    struct tensor *x = block_tokens(m, tape, f);
    x = typed(m, tape, f, x);
    struct tensor *p = m->config.position_offset ? counted_positions(m, tape, f) : block_positions(m, tape, f, model_weight(m, POSITIONS, -1));
    x = op_add(tape, x, p);
    x = op_layernorm(tape, x, model_weight(m, EMBED_NORM, -1), model_weight(m, EMBED_NORM_BIAS, -1), m->config.norm_eps);
    return dropped(tape, f, x, model_weight(m, EMBED, -1));
}

// Each sequence's first position, through BERT's pooler or the layer that DistilBERT and RoBERTa have in the head: [B, D].
static struct tensor *pooled(struct model *m, struct tape *tape, const struct forward *f, struct tensor *x)
{
    const int place = model_weight(m, DENSE, -1) ? DENSE : POOLER;
    int32_t *first = arena_alloc(&tape->arena, (size_t)f->B * sizeof *first);
    for (int64_t b = 0; b < f->B; b++)
        first[b] = (int32_t)(b * f->T);
    x = op_rows(tape, x, first, f->B);
    if (is_roberta(m))
        x = dropped(tape, f, x, model_weight(m, DENSE_BIAS, -1));
    x = op_linear(tape, x, model_weight(m, place, -1), model_weight(m, place + 1, -1));
    x = m->arch == &arch_distilbert ? op_relu(tape, x) : op_tanh(tape, x);
    return dropped(tape, f, x, model_weight(m, place, -1));
}

// What the words' table is multiplied with, at the rows that are asked for.
static struct tensor *told(struct model *m, struct tape *tape, const struct forward *f, struct tensor *x)
{
    if (f->rows)
        x = op_rows(tape, x, f->rows, f->n_rows);
    x = op_linear(tape, x, model_weight(m, MASKED, -1), model_weight(m, MASKED_BIAS, -1));
    x = is_roberta(m) ? op_gelu(tape, x, GELU_ERF) : model_activation(m, tape, x); // whatever RoBERTa's layers have
    return op_layernorm(tape, x, model_weight(m, MASKED_NORM, -1), model_weight(m, MASKED_NORM_BIAS, -1), m->config.norm_eps);
}

static struct tensor *bert_forward(struct model *m, struct tape *tape, const struct forward *f)
{
    if (f->cache)
        BUG("bert: a cache of keys is for models that read one way");
    struct tensor *x = f->x ? f->x : embedded(m, tape, f);
    x = blocks_run(m, tape, f, NULL, block, x);
    if (f->last || m->config.head == HEAD_NONE || m->config.head == HEAD_SPANS)
        return x;
    return m->config.head == HEAD_CLASSES ? pooled(m, tape, f, x) : told(m, tape, f, x);
}

static const struct arch *arch_of(const struct config *c)
{
    return strcmp(c->model_type, "bert") == 0 ? &arch_bert : strcmp(c->model_type, "roberta") == 0 ? &arch_roberta : &arch_distilbert;
}

// The head that the files hold, for a config.json that names none.
static enum model_head_kind head_in(const struct arch *arch, int (*has)(const void *files, const char *name), const void *files)
{
    static const struct {
        int place;
        enum model_head_kind head;
    } kinds[] = {{CLASSES, HEAD_CLASSES}, {SPANS, HEAD_SPANS}, {MASKED, HEAD_MASKED}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (has(files, arch->specs[kinds[i].place].name))
            return kinds[i].head;
    return HEAD_NONE;
}

static void look(struct config *c, int (*has)(const void *files, const char *name), const void *files)
{
    const struct arch *arch = arch_of(c);
    const char *embed = arch->specs[EMBED].name, *pooler = arch->specs[POOLER].name, *next = arch->specs[NEXT].name;
    const size_t prefix = strlen(arch->prefix);
    c->bare_names = !has(files, embed) && has(files, embed + prefix);
    if (!json_get(c->source, "architectures")) {
        c->head = head_in(arch, has, files);
        c->tie_embeddings &= c->head == HEAD_MASKED;
    }
    c->has_pooler = pooler && (has(files, pooler + (c->bare_names ? prefix : 0)) || (arch == &arch_bert && c->head == HEAD_CLASSES));
    c->has_next = next && c->head == HEAD_MASKED && has(files, next);
    if (c->has_next)
        c->n_label = 2;
}

static double deviation(const struct config *c, const struct parameter *p)
{
    (void)c;
    (void)p;
    return 0.02;
}

#define ARCH(type, beside) \
    const struct arch arch_##type = {.model_types = #type, \
                                     .prefix = #type ".", \
                                     .specs = type##_specs, \
                                     .n_specs = N_SPECS, \
                                     .embed = EMBED, \
                                     .head = {CLASSES, SPANS, DECODER, -1}, \
                                     .head_bias = {CLASSES_BIAS, SPANS_BIAS, WORDS_BIAS, -1}, \
                                     .spare = beside, \
                                     .reads_both_ways = 1, \
                                     .look = look, \
                                     .deviation = deviation, \
                                     .forward = bert_forward}
ARCH(bert, "cls.predictions.decoder.bias|cls.seq_relationship.");
ARCH(roberta, "lm_head.decoder.bias");
ARCH(distilbert, NULL);
