// held_out.c: see held_out.h.
#include "common/train/held_out.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/threads.h"
#include "common/train/reweight.h"
#include "common/train/trained.h"
#include "common/train/training_log.h"

// What measures the weights that the run is to end with.
static int look_at_average(struct training_run *r, int (*look)(struct training_run *r, void *found, struct error *err), void *found, struct error *err)
{
    const struct trainer *t = r->trainer;
    if (r->state.average)
        trained_swap(r->trained, r->state.average);
    int status = t->refresh ? t->refresh(t->refresh_context, err) : 0;
    if (status == 0)
        status = look(r, found, err);
    if (r->state.average)
        trained_swap(r->trained, r->state.average);
    return status;
}

struct held_out_found {
    double loss;
    char note[HELD_OUT_NOTE];
};

static int look_at_held_out(struct training_run *r, void *found, struct error *err)
{
    struct held_out_found *f = found;
    return r->trainer->held_out(r->trainer->held_out_context, r->state.best_held_out, &f->loss, f->note, err);
}

int held_out_evaluate(struct training_run *r, struct error *err)
{
    const struct trainer *t = r->trainer;
    const struct train_options *o = &t->options;
    struct snapshot *s = &r->state;
    int due = t->held_out && o->eval_every && s->step > s->evaluated &&
              (s->step == training_run_last_step(r) || s->step % o->eval_every == 0);
    if (!due)
        return 0;
    struct held_out_found found = {.note = ""};
    if (look_at_average(r, look_at_held_out, &found, err) < 0)
        return interrupted() ? 0 : -1;
    const double loss = found.loss;
    if (!isfinite(loss))
        return error_set(err, "%s: the held-out loss at step %lld is %g; look at the evaluation text", t->title,
                         (long long)s->step, loss);
    training_log_held_out(s, loss, found.note);
    s->evaluated = s->step;
    if (!isnan(s->best_held_out) && !(loss < s->best_held_out))
        return 0;
    s->best_held_out = loss;
    if (!o->keep_best)
        return 0;
    size_t bytes = (size_t)model_trained(r->trained) * sizeof(float);
    if (!s->best)
        s->best = xmalloc(bytes, "the best weights so far");
    if (s->average)
        memcpy(s->best, s->average, bytes);
    else
        trained_copy(r->trained, s->best);
    return 0;
}

struct sources_found {
    const double *weight;     // [n_source] as they are
    double *loss, *reference; // [n_source]
};

static int look_at_sources(struct training_run *r, void *found, struct error *err)
{
    const struct sources_found *f = found;
    return r->trainer->source_losses(r->trainer->source_context, f->weight, f->loss, f->reference, err);
}

int held_out_reweight(struct training_run *r, struct error *err)
{
    const struct trainer *t = r->trainer;
    struct mixture *m = &r->gradients.batches.text.mixture;
    const int64_t every = t->options.reweight_every, step = r->state.step, draw = step * training_run_draws(r);
    if (!every || step == 0 || step % every || step == training_run_last_step(r) || m->span[m->n_span - 1].first == draw)
        return 0;
    const size_t bytes = (size_t)m->n * sizeof(double);
    struct sources_found found = {mixture_weights(m), xcalloc(1, bytes, "losses of sources"), xcalloc(1, bytes, "losses of sources")};
    double *weight = xmalloc(bytes, "weights of sources");
    memcpy(weight, mixture_weights(m), bytes);
    int status = look_at_average(r, look_at_sources, &found, err), stopped = status < 0 && interrupted();
    for (int k = 0; k < m->n && status == 0; k++)
        if (weight[k] > 0 && !isfinite(found.loss[k]))
            status = error_set(err, "%s: the held-out loss of source %d at step %lld is %g; look at its evaluation text", t->title, k + 1,
                               (long long)step, found.loss[k]);
    if (status == 0) {
        reweight_update(weight, found.loss, found.reference, m->n);
        mixture_reweight(m, draw, weight);
        char *line = reweight_line(step, weight, found.loss, m->n);
        training_log_text(&r->state, line);
        free(line);
    }
    free(found.loss);
    free(found.reference);
    free(weight);
    return stopped ? 0 : status;
}
