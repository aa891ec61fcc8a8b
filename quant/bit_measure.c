// bit_measure.c: what each matrix costs in each type (bit_plan.h).
//
// One choice of each matrix is measured, the one nearest to REFERENCE bits; the divergence of the others is its own times the ratio of their
// weighted errors, since small errors make divergences that grow with their squares.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/progress.h"
#include "common/base/threads.h"
#include "quant/bit_plan.h"
#include "quant/importance.h"
#include "quant/overlay.h"

#define REFERENCE 3.5

#define PROVENANCE 2048 // bytes, at most, of the words about its making that the file gets (paths of usual length)

struct measuring { // one call of bit_plan_make
    const struct bit_options *options;
    struct model *base, *overlay;
    const struct tokenizer *tokenizer;
    const struct dataset *stream;
    struct gguf_plan *plan;
    struct eval_states states;
    struct progress progress;
};

static double bits(const struct block_format *f) { return 8 * (double)f->bytes / (double)f->elements; }

static int by_bits(const void *a, const void *b)
{
    const struct bit_choice *x = a, *y = b;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

// Matrices whose type may be chosen: positions stay f32.
static int is_chosen(const struct gguf_plan_tensor *t) { return t->n_dim == 2 && t->wanted->type != 0; }

static int list_choices(struct bit_tensor *to, const struct gguf_plan_tensor *t, const struct bit_options *o, struct error *err)
{
    snprintf(to->name, sizeof to->name, "%s", t->name);
    for (int i = 0; i < o->n_type; i++)
        if (t->dim[1] % o->type[i]->elements == 0)
            to->choice[to->n_choice++] = (struct bit_choice){.format = o->type[i], .bytes = t->dim[0] * block_row_bytes(o->type[i], t->dim[1])};
    if (!to->n_choice)
        return error_set(err, "%s has rows of %ld values, which none of the types that may be used fits; add F16", t->name, (long)t->dim[1]);
    qsort(to->choice, (size_t)to->n_choice, sizeof *to->choice, by_bits);
    return 0;
}

static double weighted_error(const struct gguf_rows *rows, const float *weight, const unsigned char *blocks)
{
    const struct gguf_plan_tensor *t = rows->tensor;
    const int64_t D = t->dim[0], C = t->dim[1], row_bytes = block_row_bytes(t->format, C);
    double *sum = xcalloc((size_t)D, sizeof *sum, "errors"), total = 0;
#pragma omp parallel
    {
        float *row = xmalloc((size_t)(2 * C + rows->own_columns) * sizeof *row, "row");
#pragma omp for schedule(static)
        for (int64_t d = 0; d < D; d++) {
            gguf_rows_read(rows, d, row, row + 2 * C);
            t->format->decode(blocks + d * row_bytes, row + C, C);
            for (int64_t c = 0; c < C; c++) {
                const double e = (double)row[c] - (double)row[C + c];
                sum[d] += (weight ? (double)weight[c] : 1) * e * e;
            }
        }
        free(row);
    }
    for (int64_t d = 0; d < D; d++)
        total += sum[d];
    free(sum);
    return total;
}

static int measure(struct measuring *m, const struct gguf_plan_tensor *t, const unsigned char *blocks, struct bit_choice *c,
                   struct error *err)
{
    struct eval_options options = m->options->eval;
    struct eval_result r;
    options.against_states = &m->states;
    options.quiet = 1;
    overlay_replace(m->overlay, m->plan, t, blocks);
    const int rc = evaluate(&r, m->overlay, m->base, m->stream, m->tokenizer, &options, err);
    overlay_restore(m->overlay, t);
    TRY(rc);
    c->kld = r.kld;
    c->measured = 1;
    eval_result_release(&r);
    return 0;
}

static int reference_of(const struct bit_tensor *t)
{
    int best = 0;
    for (int c = 1; c < t->n_choice; c++)
        if (fabs(bits(t->choice[c].format) - REFERENCE) < fabs(bits(t->choice[best].format) - REFERENCE))
            best = c;
    return best;
}

static int measure_tensor(struct measuring *m, const struct gguf_plan_tensor *planned, struct bit_tensor *to, struct error *err)
{
    const int reference = reference_of(to);
    for (int c = 0; c < to->n_choice; c++) {
        struct gguf_plan_tensor t = *planned;
        struct gguf_rows rows;
        t.format = to->choice[c].format;
        t.bytes = to->choice[c].bytes;
        gguf_rows_init(&rows, m->plan, &t);
        float *weight = gguf_rows_importance(&rows, m->options->importance);
        unsigned char *blocks = gguf_rows_encode(&rows, weight, err);
        int rc = blocks ? 0 : -1;
        if (rc == 0)
            to->choice[c].error = weighted_error(&rows, weight, blocks);
        if (rc == 0 && (m->options->exact || c == reference))
            rc = measure(m, &t, blocks, &to->choice[c], err);
        free(blocks);
        free(weight);
        gguf_rows_release(&rows);
        TRY(rc);
    }
    const struct bit_choice *known = &to->choice[reference];
    for (int c = 0; c < to->n_choice; c++)
        if (!to->choice[c].measured)
            to->choice[c].kld = known->error > 0 ? known->kld * to->choice[c].error / known->error : 0;
    return 0;
}

static int list_all(const struct measuring *m, struct bit_plan *p, struct error *err)
{
    p->tensor = xcalloc((size_t)m->plan->n_tensor, sizeof *p->tensor, "bit plan");
    p->fixed_bytes = m->plan->file_bytes + PROVENANCE;
    for (int64_t i = 0; i < m->plan->n_tensor; i++) {
        const struct gguf_plan_tensor *t = &m->plan->tensor[i];
        if (!is_chosen(t))
            continue;
        p->fixed_bytes -= t->bytes;
        TRY(list_choices(&p->tensor[p->n_tensor++], t, m->options, err));
    }
    return 0;
}

static int measure_all(struct measuring *m, struct bit_plan *p, struct error *err)
{
    int64_t done = 0;
    progress_begin(&m->progress, "sensitivity", "matrices", p->n_tensor, 0);
    for (int64_t i = 0; i < m->plan->n_tensor; i++) {
        const struct gguf_plan_tensor *t = &m->plan->tensor[i];
        if (!is_chosen(t))
            continue;
        TRY(measure_tensor(m, t, &p->tensor[done++], err));
        progress_update(&m->progress, done, "%s", t->name);
    }
    progress_end(&m->progress, "each alone");
    return 0;
}

int bit_plan_make(struct bit_plan *p, struct model *m, const struct tokenizer *t, const struct dataset *stream,
                  const struct bit_options *o, struct error *err)
{
    const struct gguf_export_options as = {.type = "F16", .importance = o->importance};
    struct gguf_plan plan;
    struct measuring measuring = {.options = o, .base = m, .tokenizer = t, .stream = stream, .plan = &plan};
    *p = (struct bit_plan){.tokens = o->eval.tokens};
    TRY(gguf_plan_make(&plan, m, t, &as, err));
    p->weights = config_parameters(&m->config);
    const int64_t bytes = o->bytes ? o->bytes : (int64_t)(o->bits * (double)p->weights / 8);
    int rc = list_all(&measuring, p, err);
    if (rc == 0)
        rc = bit_plan_check(p, bytes, err);
    if (rc == 0) {
        measuring.overlay = overlay_new(m);
        rc = measure_all(&measuring, p, err);
        model_free(measuring.overlay);
    }
    if (rc == 0)
        bit_plan_solve(p, bytes);
    else
        bit_plan_release(p);
    eval_states_release(&measuring.states);
    gguf_plan_release(&plan);
    return rc;
}
