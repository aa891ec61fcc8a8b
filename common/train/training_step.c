// training_step.c: see training_step.h.
#include "common/train/training_step.h"

#include <math.h>

#include "common/base/timer.h"
#include "common/train/kept_zeros.h"
#include "common/train/trained.h"
#include "common/train/training_log.h"

static double norm_of_all(const struct training_run *r)
{
    const double norm = gradient_norm(r->trained);
    return r->trainer->beside ? hypot(norm, gradient_norm(r->trainer->beside)) : norm;
}

static int diverged(const struct training_run *r, double loss, double norm, struct error *err)
{
    if (r->state.step == 0) // nothing was learned yet
        return error_set(err, "%s: the loss of the first step is %g, its gradient's norm %g: the model that it begins with is broken, or its teacher, or their "
                         "numbers are too large for f32; look at both with pdq eval", r->trainer->title, loss, norm);
    return error_set(
        err,
        "%s: the run diverged at step %lld (loss %g, gradient norm %g); give a smaller learning_rate "
        "than %g or a longer warmup",
        r->trainer->title, (long long)r->state.step + 1, loss, norm, r->trainer->options.learning_rate);
}

static double clip_scale(const struct train_options *o, double norm) { return o->clip > 0 && norm > o->clip ? o->clip / norm : 1; }

static int step_peers(struct training_run *r, double loss, double rate, struct error *err)
{
    const struct trainer *t = r->trainer;
    for (int k = 0; k < t->n_peer; k++) {
        const double norm = gradient_norm(t->peer[k]);
        if (!isfinite(norm))
            return diverged(r, loss, norm, err);
        optimizer_step(&r->peer[k], t->peer[k], rate, clip_scale(&t->options, norm));
    }
    return 0;
}

int training_step(struct training_run *r, struct error *err)
{
    const struct trainer *t = r->trainer;
    const struct train_options *o = &t->options;
    double started = timer_now();
    struct loss_parts parts;
    if (t->refresh)
        TRY(t->refresh(t->refresh_context, err));
    gradients_accumulate(&r->gradients, r->state.step, &parts);
    if (t->remask)
        t->remask(t->remask_context, r->state.step, t->model, r->is_zero, r->optimizer.m, r->optimizer.v);
    kept_zeros_drop_gradients(r->trained, r->is_zero);
    const int logged = (r->state.step + 1) % o->log_every == 0;
    double norm = o->clip > 0 || logged ? norm_of_all(r) : 0;
    if (!isfinite(parts.loss) || !isfinite(norm))
        return diverged(r, parts.loss, norm, err);
    int64_t warmup = o->warmup < 0 ? r->steps / 20 : o->warmup;
    const struct schedule schedule = {.kind = o->schedule, .peak = o->learning_rate, .floor = o->floor, .warmup = warmup,
                                      .decay = o->decay, .decay_every = o->decay_every};
    double rate = schedule_rate(&schedule, r->steps, r->state.step);
    double scale = clip_scale(o, norm);
    optimizer_step(&r->optimizer, r->trained, rate, scale);
    if (t->beside)
        optimizer_step(&r->beside, t->beside, rate, scale);
    TRY(step_peers(r, parts.loss, rate, err));
    if (r->state.average)
        average_add(r->state.average, r->trained, average_decay(o->ema, r->state.step));
    r->state.step++;
    if (logged)
        training_log_step(&r->state, r->state.step * r->step_tokens, &parts, rate, norm);
    r->recent_loss = r->recent_loss == 0 ? parts.loss : 0.9 * r->recent_loss + 0.1 * parts.loss;
    r->train_seconds += timer_now() - started;
    return 0;
}
