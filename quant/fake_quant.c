// fake_quant.c: see fake_quant.h.
//
// The plan is made of a second model over the same weights, because encoding must see them as they are and not through the hooks.
#include "quant/fake_quant.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "quant/block_codes.h"
#include "quant/blocks_grid.h"
#include "quant/blocks_simd.h"
#include "quant/gguf_rows.h"
#include "quant/overlay.h"

#define BLOCK_BYTES_MAX 512
#define SCALE_ARRAYS 5 // of learned scales: at first; logarithms, their gradients and two moments

struct fake_weight { // of one parameter
    struct weight_hook hook; // its context is this struct
    float *value;            // [rows, columns] what the file would hold; NULL: no hook
    unsigned char *clipped;  // [rows, columns] 1: beyond the levels; NULL: a format of floats, which has none
    const struct grid_format *grid; // of learned scales; NULL: the encoder chooses them
    float *start;            // [rows, columns / 32] the learned ones at first
    struct parameter *log;   // [rows, columns / 32] logarithms of what they were multiplied by since
};

// The two ends of what each value of a block can be.
struct range_ends {
    const struct block_format *format;
    int has_codes;
    int64_t steps;                                          // between the ends
    uint8_t first[BLOCK_BYTES_MAX], last[BLOCK_BYTES_MAX]; // codes all 0, all of the highest; zero elsewhere
};

static void range_ends_init(struct range_ends *e, const struct block_format *f)
{
    struct block_coder coder;
    uint8_t code[CODE_ELEMENTS_MAX];
    *e = (struct range_ends){.format = f};
    if (block_coder_init(&coder, f) < 0)
        return;
    e->has_codes = 1;
    e->steps = (1 << coder.bits) - 1;
    memset(code, 0, sizeof code);
    block_put_codes(&coder, e->first, code);
    memset(code, (int)e->steps, sizeof code);
    block_put_codes(&coder, e->last, code);
}

// A block's scales and minima with the codes of `end`. Every bit of a code differs between the two ends, no other bit does.
static void put_end(const struct range_ends *e, const uint8_t *end, const uint8_t *block, uint8_t *to)
{
    for (int64_t i = 0; i < e->format->bytes; i++) {
        const uint8_t codes = e->first[i] ^ e->last[i];
        to[i] = (uint8_t)((block[i] & ~codes) | (end[i] & codes));
    }
}

// Which of a row's n values lie beyond their ends by more than half a (mean) step: rounding did not take them to what is nearest of an endless
// grid. out: 0 and 1.
static void find_clipped(const struct range_ends *e, const uint8_t *blocks, const float *row, int64_t n, float *out)
{
    uint8_t block[BLOCK_BYTES_MAX];
    float first[CODE_ELEMENTS_MAX], last[CODE_ELEMENTS_MAX];
    const int64_t elements = e->format->elements;
    for (int64_t at = 0; at < n; at += elements, blocks += e->format->bytes) {
        put_end(e, e->first, blocks, block);
        e->format->decode(block, first, elements);
        put_end(e, e->last, blocks, block);
        e->format->decode(block, last, elements);
        for (int64_t i = 0; i < elements; i++) {
            const float low = fminf(first[i], last[i]), high = fmaxf(first[i], last[i]), half = 0.5f * (high - low) / (float)e->steps;
            out[at + i] = row[at + i] < low - half || row[at + i] > high + half ? 1.0f : 0.0f;
        }
    }
}

static void rows(void *context, const struct tensor *w, int64_t row0, int64_t n, float *to)
{
    const struct fake_weight *f = context;
    const int64_t columns = tensor_columns(w);
    memcpy(to, f->value + row0 * columns, (size_t)(n * columns) * sizeof *to);
}

static void backward(void *context, const struct tensor *w, int64_t row0, int64_t n, float *gradient)
{
    const struct fake_weight *f = context;
    const int64_t columns = tensor_columns(w);
    const unsigned char *clipped = f->clipped + row0 * columns;
    for (int64_t i = 0; i < n * columns; i++)
        gradient[i] = clipped[i] ? 0.0f : gradient[i];
}

// The same, and before that the gradient of the scales' logarithms. Rows of different threads have different scales.
static void backward_learned(void *context, const struct tensor *w, int64_t row0, int64_t n, float *gradient)
{
    const struct fake_weight *f = context;
    const int64_t columns = tensor_columns(w), first = row0 * columns;
    for (int64_t at = first; at < first + n * columns; at += GRID_ELEMENTS) {
        double sum = 0;
        for (int64_t i = at; i < at + GRID_ELEMENTS; i++) // d times (code - w / d), or times the end's code
            sum += (double)gradient[i - first] * (double)(f->clipped[i] ? f->value[i] : f->value[i] - w->data[i]);
        f->log->t.grad[at / GRID_ELEMENTS] += (float)sum;
    }
    backward(context, w, row0, n, gradient);
}

// Does the file hold the tensor otherwise than as f32 values of the model?
static int is_rounded(const struct gguf_plan_tensor *t)
{
    return t->written && t->n_dim == 2 && strcmp(t->format->name, "F32") != 0;
}

// Can scales of the tensor's blocks be learned? (Its columns must be the model's own, or blocks would not be the model's.)
static const struct grid_format *grid_of(const struct gguf_plan_tensor *t)
{
    const struct parameter *p = t->source[0];
    return is_rounded(t) && p && tensor_columns(&p->t) == t->dim[1] ? grid_format_find(t->format->name) : NULL;
}

int fake_quant_can_learn(const struct gguf_plan *plan)
{
    for (int64_t i = 0; i < plan->n_tensor; i++)
        if (grid_of(&plan->tensor[i]))
            return 1;
    return 0;
}

int64_t fake_quant_bytes(const struct gguf_plan *plan, int learned)
{
    int64_t bytes = 0, largest = 0;
    for (int64_t i = 0; i < plan->n_tensor; i++)
        for (int k = 0; is_rounded(&plan->tensor[i]) && k < plan->tensor[i].n_part; k++) {
            const struct parameter *p = plan->tensor[i].source[k];
            const int64_t n = p ? tensor_count(&p->t) : 0;
            bytes += n * (int64_t)(sizeof(float) + sizeof(unsigned char));
            if (learned && grid_of(&plan->tensor[i]))
                bytes += n / GRID_ELEMENTS * SCALE_ARRAYS * (int64_t)sizeof(float);
            largest = n > largest ? n : largest;
        }
    return bytes + largest * (int64_t)sizeof(float); // a gradient before it goes through
}

static const struct gguf_plan_tensor *other_tensor_of(const struct gguf_plan *plan, const struct parameter *p, const struct gguf_plan_tensor *own)
{
    for (const struct gguf_plan_tensor *t = plan->tensor; t < plan->tensor + plan->n_tensor; t++)
        for (int k = 0; k < t->n_part; k++)
            if (t != own && p && t->source[k] == p)
                return t;
    return NULL;
}

static int check_twice(const struct gguf_plan *plan, const char *type, struct error *err)
{
    for (const struct gguf_plan_tensor *t = plan->tensor; t < plan->tensor + plan->n_tensor; t++)
        for (int k = 0; k < t->n_part; k++) {
            const struct gguf_plan_tensor *other = other_tensor_of(plan, t->source[k], t);
            if (other && other->format != t->format)
                return error_set(err, "GGUF type %s: the file holds %s twice, as %s in %s and as %s in %s, and a training has one rounding of it; "
                                 "take the bare type (quantize_pure)", type, t->source[k]->name, t->name, t->format->name, other->name,
                                 other->format->name);
        }
    return 0;
}

int fake_quant_plan(struct gguf_plan *plan, const struct model *m, const struct gguf_export_options *o, struct error *err)
{
    TRY(gguf_plan_make(plan, m, NULL, o, err));
    if (check_twice(plan, o->type, err) == 0)
        return 0;
    gguf_plan_release(plan);
    return -1;
}

// The scales that the encoder chooses for the weights at the start.
static void learn_scales(struct fake_weight *f, const struct parameter *source, const struct gguf_plan_tensor *t, struct parameter *log)
{
    const int64_t n = tensor_count(&source->t), C = tensor_columns(&source->t), blocks = C / GRID_ELEMENTS;
    f->grid = grid_of(t);
    f->start = xmalloc((size_t)(n / GRID_ELEMENTS) * sizeof *f->start, "scales");
    f->log = log;
    f->hook.backward = backward_learned;
    uint8_t *row = xmalloc((size_t)block_row_bytes(t->format, C), "blocks of a row");
    for (int64_t r = 0; r < n / C; r++) {
        t->format->encode(source->t.data + r * C, NULL, C, row);
        for (int64_t b = 0; b < blocks; b++)
            f->start[r * blocks + b] = load_f16(row + b * t->format->bytes);
    }
    free(row);
}

// One parameter for each matrix of learned scales, of as many elements as that has blocks.
static void make_scales(struct fake_quant *q)
{
    struct model *m = q->scales = xcalloc(1, sizeof *m, "scales");
    m->parameter = xcalloc((size_t)q->model->n_parameter, sizeof *m->parameter, "scales");
    for (const struct gguf_plan_tensor *t = q->plan.tensor; t < q->plan.tensor + q->plan.n_tensor; t++)
        for (int k = 0; grid_of(t) && k < t->n_part; k++) {
            const struct parameter *source = t->source[k];
            struct fake_weight *f = source ? &q->weight[source - q->master->parameter] : NULL;
            if (!f || f->grid)
                continue;
            struct parameter *p = &m->parameter[m->n_parameter++];
            const int64_t columns = tensor_columns(&source->t) / GRID_ELEMENTS;
            *p = (struct parameter){.layer = -1, .offset = m->n_element, .n_stored = tensor_rows(&source->t) * columns};
            snprintf(p->name, sizeof p->name, "scales.%.80s", source->name);
            p->t = (struct tensor){.name = p->name, .n_dim = 2, .dim = {tensor_rows(&source->t), columns, 1}};
            m->n_element += p->n_stored;
            learn_scales(f, source, t, p);
        }
    m->data = xcalloc((size_t)m->n_element, sizeof *m->data, "scales");
    for (int i = 0; i < m->n_parameter; i++)
        m->parameter[i].t.data = m->data + m->parameter[i].offset;
}

static void attach(struct fake_quant *q, const struct parameter *source, const struct block_format *format)
{
    struct block_coder coder;
    const int64_t i = source - q->master->parameter, n = tensor_count(&source->t);
    struct fake_weight *f = &q->weight[i];
    if (f->value)
        return;
    f->value = xmalloc((size_t)n * sizeof *f->value, "rounded weights");
    memcpy(f->value, source->t.data, (size_t)n * sizeof *f->value); // rows that the file leaves out stay so
    f->hook = (struct weight_hook){.context = f, .rows = rows, .values = f->value};
    if (block_coder_init(&coder, format) == 0) {
        f->clipped = xcalloc((size_t)n, 1, "weights beyond the levels");
        f->hook.backward = backward;
    }
    q->model->parameter[i].t.hook = &f->hook;
}

int fake_quant_begin(struct fake_quant *q, struct model *m, const struct gguf_export_options *o, int learned, struct error *err)
{
    *q = (struct fake_quant){.model = m, .master = overlay_new(m)};
    if (fake_quant_plan(&q->plan, q->master, o, err) < 0) {
        model_free(q->master);
        *q = (struct fake_quant){0};
        return -1;
    }
    q->weight = xcalloc((size_t)m->n_parameter, sizeof *q->weight, "weight hooks");
    for (int64_t i = 0; i < q->plan.n_tensor; i++)
        for (int k = 0; is_rounded(&q->plan.tensor[i]) && k < q->plan.tensor[i].n_part; k++)
            if (q->plan.tensor[i].source[k])
                attach(q, q->plan.tensor[i].source[k], q->plan.tensor[i].format);
    if (learned)
        make_scales(q);
    return 0;
}

struct row_scratch { // of one thread
    float *row, *own, *decoded; // of the file; of the model; of the file, decoded or flags
    unsigned char *blocks;
};

static struct row_scratch row_scratch(const struct gguf_rows *r)
{
    const int64_t C = r->tensor->dim[1];
    struct row_scratch s = {.row = xmalloc((size_t)(2 * C + r->own_columns) * sizeof *s.row, "row"),
                            .blocks = xmalloc((size_t)block_row_bytes(r->tensor->format, C), "blocks of a row")};
    s.decoded = s.row + C;
    s.own = s.decoded + C;
    return s;
}

// Row `own` of a parameter with learned scales.
static void round_learned(struct fake_weight *f, const float *row, int64_t own, int64_t C)
{
    const float low = (float)f->grid->low, high = (float)f->grid->high;
    for (int64_t b = own * C / GRID_ELEMENTS; b < (own + 1) * C / GRID_ELEMENTS; b++) {
        const float d = round_f16(f->start[b] * expf(f->log->t.data[b]));
        for (int64_t i = b * GRID_ELEMENTS; i < (b + 1) * GRID_ELEMENTS; i++) {
            const float v = d != 0 ? row[i - own * C] / d : 0, q = fminf(fmaxf(rintf(v), low), high) + 0.0f; // no code is -0
            f->value[i] = q * d;
            f->clipped[i] = v < low - 0.5f || v > high + 0.5f;
        }
    }
}

// Row d of the file, from the master weight to what its parameter's hook shows.
static void round_row(struct fake_quant *q, const struct gguf_rows *r, const struct range_ends *ends, int64_t d, struct row_scratch *s,
                      struct gguf_bad_value *bad)
{
    const int64_t C = r->tensor->dim[1], D = r->own_columns;
    int64_t own;
    const struct parameter *p = gguf_rows_source(r, d, &own);
    if (!p)
        return;
    struct fake_weight *f = &q->weight[p - q->master->parameter];
    gguf_rows_read(r, d, s->row, s->own);
    if (!gguf_rows_check(r, d, s->row, bad))
        return;
    if (f->grid) {
        round_learned(f, s->row, own, C);
        return;
    }
    r->tensor->format->encode(s->row, NULL, C, s->blocks);
    r->tensor->format->decode(s->blocks, s->decoded, C);
    gguf_rows_to_own(r, s->decoded, f->value + own * D);
    if (!f->clipped)
        return;
    find_clipped(ends, s->blocks, s->row, C, s->decoded);
    gguf_rows_to_own(r, s->decoded, s->own);
    for (int64_t i = 0; i < D; i++)
        f->clipped[own * D + i] = s->own[i] > 0;
}

static int round_tensor(struct fake_quant *q, const struct gguf_plan_tensor *t, struct error *err)
{
    struct gguf_rows r;
    struct range_ends ends;
    struct gguf_bad_value bad = {.row = -1};
    gguf_rows_init(&r, &q->plan, t);
    range_ends_init(&ends, t->format);
#pragma omp parallel
    {
        struct row_scratch s = row_scratch(&r);
#pragma omp for schedule(static)
        for (int64_t d = 0; d < t->dim[0]; d++)
            round_row(q, &r, &ends, d, &s, &bad);
        free(s.row);
        free(s.blocks);
    }
    const int rc = bad.row < 0 ? 0 : gguf_rows_refuse(&r, &bad, err);
    gguf_rows_release(&r);
    return rc;
}

int fake_quant_refresh(void *fake_quant, struct error *err)
{
    struct fake_quant *q = fake_quant;
    for (int64_t i = 0; i < q->plan.n_tensor; i++)
        if (is_rounded(&q->plan.tensor[i]) && q->plan.tensor[i].source[0])
            TRY(round_tensor(q, &q->plan.tensor[i], err));
    return 0;
}

int fake_quant_settle(struct fake_quant *q, struct error *err)
{
    if (!q->scales)
        return 0;
    TRY(fake_quant_refresh(q, err));
    for (int i = 0; i < q->model->n_parameter; i++) {
        const struct tensor *t = &q->model->parameter[i].t;
        if (q->weight[i].grid)
            memcpy(t->data, q->weight[i].value, (size_t)tensor_count(t) * sizeof *t->data);
    }
    return 0;
}

void fake_quant_end(struct fake_quant *q)
{
    if (!q->model)
        return;
    for (int i = 0; i < q->model->n_parameter; i++) {
        if (q->weight[i].value)
            q->model->parameter[i].t.hook = NULL;
        free(q->weight[i].value);
        free(q->weight[i].clipped);
        free(q->weight[i].start);
    }
    model_free(q->scales);
    free(q->weight);
    gguf_plan_release(&q->plan);
    model_free(q->master);
    *q = (struct fake_quant){0};
}
