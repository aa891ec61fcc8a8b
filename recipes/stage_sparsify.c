// stage_sparsify.c: single weights set to zero, anywhere or as N:M; a training stage after it keeps them zero.
#include <stdio.h>
#include <string.h>

#include "prune/sparse.h"
#include "recipes/inputs.h"
#include "recipes/stage.h"

static int needs_text(const struct stage *s) {
    return sparse_score_table[((const struct sparse_options *)s->options)->score].needs != NEEDS_NOTHING;
}

static int validate(struct recipe *r, int index, const char *where, struct error *err) {
    return sparse_check(r->stage[index].options, where, err);
}

static int forecast(struct forecast *f, struct error *err) {
    (void)err;
    const struct sparse_options *o = f->recipe->stage[f->index].options;
    const struct sparse_score *score = &sparse_score_table[o->score];
    int64_t seq_len = f->recipe->data.seq_len, rows = o->calibration_batch * seq_len;
    double tokens = (double)o->calibration_tokens, one = model_flops_per_token(&f->in, seq_len), moments = 0;
    int64_t largest = 0;
    for (int64_t l = 0; l < f->in.n_layer; l++) {
        double C[3] = {(double)f->in.hidden, (double)(f->in.layer[l].n_head * f->in.head_dim), (double)f->in.layer[l].n_ff};
        moments += 2 * (2 * C[0] * C[0] + C[1] * C[1] + C[2] * C[2]);
        int64_t bytes = (int64_t)(4 * (2 * C[0] * C[0] + C[1] * C[1] + C[2] * C[2]) + 24 * (C[2] > C[0] ? C[2] * C[2] : C[0] * C[0]));
        largest = bytes > largest ? bytes : largest;
    }
    f->flops = score->needs == NEEDS_GRADIENTS ? 3 * tokens * one : score->needs != NEEDS_NOTHING ? 2 * tokens * one : 0;
    f->flops += score->needs == NEEDS_MOMENTS ? tokens * moments : 0;
    f->memory = 4 * config_parameters(&f->in); // the model; scores or gradients as large at most
    f->memory += score->needs == NEEDS_GRADIENTS ? 4 * config_parameters(&f->in) + score_memory(&f->in, rows, 1)
                 : score->needs != NEEDS_NOTHING ? 4 * f->in.hidden * o->calibration_tokens + score_memory(&f->in, rows, 0) / f->in.n_layer
                                                 : 0;
    f->memory += score->needs == NEEDS_MOMENTS ? largest : 0;
    f->disk = 4 * config_parameters(&f->out);
    snprintf(f->what, sizeof f->what, "%g of the weights in the layers' matrices to zero (%s), by %s%s", o->sparsity, o->pattern,
             score->name, o->scope == SCOPE_GLOBAL ? " over all layers" : "");
    return 0;
}

static int run(struct stage_run *s, struct error *err) {
    const struct sparse_options *o = s->stage->options;
    const struct recipe *r = s->recipe;
    const struct dataset *text = &s->train->data;
    struct opened in;
    struct calibration calibration = {.data = text->n_token ? text : NULL,
                                      .seq_len = r->data.seq_len,
                                      .tokens = o->calibration_tokens,
                                      .batch = o->calibration_batch,
                                      .seed = (uint64_t)r->seed,
                                      .precision = (enum precision)r->precision};
    TRY(stage_open_input(s, &in, err));
    int status = in.model->data ? 0 : opened_widen(&in, err);
    if (status == 0)
        status = sparsify(in.model, o, &calibration, err);
    if (status == 0)
        status = stage_save(s, in.model, s->folder, DTYPE_F32, 0, err);
    if (status == 0) {
        double of_matrices, of_all;
        sparse_shares(in.model, &of_matrices, &of_all);
        json_set_number(s->facts, "zeros_of_matrices", of_matrices);
        json_set_number(s->facts, "zeros_of_all", of_all);
        json_set_number(s->facts, "remaining_of_matrices", 1 - of_matrices);
        stage_add_product(s, "sparse", ".");
    }
    opened_release(&in);
    return status;
}

const struct stage_type stage_sparsify = {.name = "sparsify",
                                          .table = sparse_option_table,
                                          .size = sizeof(struct sparse_options),
                                          .needs_blocks = 1,
                                          .needs_text = needs_text,
                                          .validate = validate,
                                          .forecast = forecast,
                                          .run = run};
