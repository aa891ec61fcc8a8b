// gptq_model.c: see gptq_model.h.
//
// Within a layer the matrices are taken in the order of the data: q, k and v; o; gate and up; down. What each group reads is looked
// at again with the group before it rounded; learned rounding comes when all are.
// The embedding and the head are not of a layer: they are encoded row by row.
#include "quant/gptq_model.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/threads.h"
#include "quant/block_choices.h"
#include "quant/block_codes.h"

// Can the tensor be rounded in this way? A matrix of a layer that the model has, into blocks.
static int is_rounded(const struct gguf_plan_tensor *t, int layer)
{
    struct block_coder coder;
    return t->written && t->written->layer >= 0 && (layer < 0 || t->written->layer == layer) && t->n_dim == 2 && t->source[0] &&
           block_coder_init(&coder, t->format) == 0;
}

static void see(void *context, enum layer_input kind, const struct tensor *x)
{
    (void)kind;
    moments_add(context, x);
}

// The moments by column of the file.
static double *spread(const struct moments *s, const struct gguf_rows *rows)
{
    const int64_t C = rows->tensor->dim[1];
    double *H = xcalloc((size_t)(C * C), sizeof *H, "second moments");
    for (int64_t i = 0; i < C; i++)
        for (int64_t k = 0; k < C; k++) {
            const int64_t a = rows->column ? rows->column[i] : i, b = rows->column ? rows->column[k] : k;
            H[i * C + k] = a < 0 || b < 0 ? 0 : s->gram[a * s->C + b];
        }
    return H;
}

static int read_matrix(const struct gguf_rows *rows, float *W, struct error *err)
{
    const int64_t D = rows->tensor->dim[0], C = rows->tensor->dim[1];
    struct gguf_bad_value bad = {.row = -1};
#pragma omp parallel
    {
        float *scratch = xmalloc((size_t)rows->own_columns * sizeof *scratch, "row");
#pragma omp for schedule(static)
        for (int64_t d = 0; d < D; d++) {
            gguf_rows_read(rows, d, W + d * C, scratch);
            gguf_rows_check(rows, d, W + d * C, &bad);
        }
        free(scratch);
    }
    return bad.row < 0 ? 0 : gguf_rows_refuse(rows, &bad, err);
}

#define PARTS_MAX 3 // of a tensor

static void find_choices(struct gptq_model *g, const struct gguf_plan_tensor *t, struct rounding_choice *choice[PARTS_MAX])
{
    for (int again = 0; again < 2; again++) // the first time adds them, which may move the others
        for (int k = 0; k < PARTS_MAX; k++) {
            const struct parameter *p = k < t->n_part ? t->source[k] : NULL;
            choice[k] = p ? layer_rounding_choice(&g->rounding, &g->overlay->parameter[p - g->plan->model->parameter].t) : NULL;
        }
}

// W: the values that GPTQ had at their turns.
static void offer(struct gptq_model *g, const struct gguf_plan_tensor *t, const struct gguf_rows *rows, const float *W)
{
    const int64_t i = t - g->plan->tensor;
    struct rounding_choice *choice[PARTS_MAX];
    find_choices(g, t, choice);
    g->low_code[i] = xmalloc((size_t)(t->dim[0] * t->dim[1]), "codes of a matrix");
    block_choices_find(rows, W, g->blocks[i], choice, g->low_code[i]);
}

// The layer's matrices, all rounded: their choices, learned together. What the overlay shows is what the blocks decode to.
static int learn_layer(struct gptq_model *g, struct error *err)
{
    TRY(layer_rounding_learn(&g->rounding, &g->walk, g->layer, err));
    for (int64_t i = 0; i < g->plan->n_tensor; i++) {
        const struct gguf_plan_tensor *t = &g->plan->tensor[i];
        struct rounding_choice *choice[PARTS_MAX];
        struct gguf_rows rows;
        if (!g->low_code[i])
            continue;
        gguf_rows_init(&rows, g->plan, t);
        find_choices(g, t, choice);
        block_choices_put(&rows, choice, g->low_code[i], g->blocks[i]);
        gguf_rows_release(&rows);
        free(g->low_code[i]);
        g->low_code[i] = NULL;
    }
    learned_rounding_release(&g->rounding.choices);
    return 0;
}

static int round_tensor(struct gptq_model *g, const struct gguf_plan_tensor *t, const struct moments *s, struct gptq_factor *factor,
                        struct error *err)
{
    const int64_t D = t->dim[0], C = t->dim[1];
    struct gguf_rows rows;
    gguf_rows_init(&rows, g->plan, t);
    float *W = xmalloc((size_t)(D * C) * sizeof *W, "a matrix being rounded");
    unsigned char *blocks = xmalloc((size_t)t->bytes, "quantized rows");
    int rc = read_matrix(&rows, W, err);
    if (rc == 0 && (factor->C != C || factor->elements != t->format->elements)) {
        gptq_factor_release(factor);
        double *H = spread(s, &rows);
        rc = gptq_factor_make(factor, H, C, t->format->elements, &g->options, t->name, err);
        free(H);
    }
    if (rc == 0) {
        gptq_round(factor, t->format, &g->options, W, D, blocks);
        overlay_replace(g->overlay, g->plan, t, blocks);
        g->blocks[t - g->plan->tensor] = blocks;
        if (g->learned)
            offer(g, t, &rows, W);
    } else {
        free(blocks);
    }
    free(W);
    gguf_rows_release(&rows);
    return rc;
}

// The layer's matrices that read one kind of input.
static int round_group(struct gptq_model *g, enum layer_input kind, struct error *err)
{
    struct moments s = {0};
    struct gptq_factor factor = {0};
    int rc = 0;
    for (int64_t i = 0; i < g->plan->n_tensor && rc == 0; i++) {
        const struct gguf_plan_tensor *t = &g->plan->tensor[i];
        if (!is_rounded(t, g->layer) || layer_input_of(t->written) != kind)
            continue;
        if (!s.C) {
            moments_init(&s, tensor_columns(&t->source[0]->t), 1);
            layer_walk_look(&g->walk, g->layer, 1U << kind, see, &s);
        }
        rc = interrupt_check(err);
        if (rc == 0)
            rc = round_tensor(g, t, &s, &factor, err);
    }
    gptq_factor_release(&factor);
    moments_release(&s);
    return rc;
}

// The layer before is done with: x moves on through it as it is in the file.
static void leave_layer(struct gptq_model *g)
{
    if (g->layer < 0)
        return;
    layer_walk_advance(&g->walk, g->layer);
    overlay_drop_layer(g->overlay, g->layer);
    for (int64_t i = 0; i < g->plan->n_tensor; i++) {
        free(g->blocks[i]);
        g->blocks[i] = NULL;
    }
}

static int enter_layer(struct gptq_model *g, int layer, struct error *err)
{
    leave_layer(g);
    for (int64_t l = g->layer + 1; l < layer; l++) { // layers without a matrix to round
        if (g->learned)
            TRY(layer_rounding_learn(&g->rounding, &g->walk, (int)l, err));
        layer_walk_advance(&g->walk, l);
    }
    g->layer = layer;
    overlay_hold_layer(g->overlay, layer);
    for (int kind = 0; kind < LAYER_INPUTS; kind++)
        TRY(round_group(g, (enum layer_input)kind, err));
    return g->learned ? learn_layer(g, err) : 0;
}

// The table as it is in the file, so that the text's hidden states begin with it.
static int round_embedding(struct gptq_model *g, struct error *err)
{
    const struct gguf_plan_tensor *t = g->plan->tensor;
    while (strcmp(t->name, "token_embd.weight") != 0)
        t++;
    struct gguf_rows rows;
    gguf_rows_init(&rows, g->plan, t);
    float *weight = gguf_rows_importance(&rows, g->plan->importance);
    unsigned char *blocks = gguf_rows_encode(&rows, weight, err);
    gguf_rows_release(&rows);
    free(weight);
    if (!blocks)
        return -1;
    overlay_replace(g->overlay, g->plan, t, blocks);
    layer_walk_begin(&g->walk, g->overlay, &g->text);
    overlay_restore(g->overlay, t);
    free(blocks);
    return 0;
}

static int tensor(void *context, const struct gguf_plan *plan, const struct gguf_plan_tensor *t, const unsigned char **blocks,
                  struct error *err)
{
    struct gptq_model *g = context;
    if (!is_rounded(t, -1))
        return 0;
    if (!g->plan) {
        g->plan = plan;
        g->n_tensor = plan->n_tensor;
        g->blocks = xcalloc((size_t)plan->n_tensor, sizeof *g->blocks, "blocks of a layer");
        g->low_code = xcalloc((size_t)plan->n_tensor, sizeof *g->low_code, "choices of a layer");
        g->overlay = overlay_new(plan->model);
        if (g->learned)
            layer_rounding_begin(&g->rounding, g->learned, plan->model, &g->text);
        TRY(round_embedding(g, err));
    }
    if (t->written->layer != g->layer)
        TRY(enter_layer(g, t->written->layer, err));
    *blocks = g->blocks[t - plan->tensor];
    return 0;
}

struct gguf_encoder gptq_model_begin(struct gptq_model *g, const struct gptq_options *o, const struct rounding_options *learned,
                                     const struct walk_text *text)
{
    *g = (struct gptq_model){.options = *o, .text = *text, .layer = -1, .learned = learned};
    return (struct gguf_encoder){.context = g, .tensor = tensor};
}

void gptq_model_end(struct gptq_model *g)
{
    if (!g->overlay)
        return;
    layer_rounding_end(&g->rounding);
    for (int64_t i = 0; i < g->n_tensor; i++) {
        free(g->blocks[i]);
        free(g->low_code[i]);
    }
    free(g->blocks);
    free(g->low_code);
    if (g->walk.m)
        layer_walk_end(&g->walk);
    model_free(g->overlay);
    *g = (struct gptq_model){0};
}
