// trainer.c: see trainer.h. The loop: steps, held-out evaluations, snapshots, progress, and the end.
//
// What makes a run repeatable: batch k is a pure function of (data, seed, k), everything computed is independent of
// the number of threads, and the state that a step leaves (weights, moments, best weights, log) is exactly what a
// snapshot holds. When snapshots are taken may depend on the clock; nothing that they hold does.
#include "common/train/trainer.h"

#include <stdlib.h>
#include <unistd.h>

#include "common/base/file.h"
#include "common/base/progress.h"
#include "common/base/threads.h"
#include "common/base/timer.h"
#include "common/train/held_out.h"
#include "common/train/kept_zeros.h"
#include "common/train/reweight.h"
#include "common/train/trained.h"
#include "common/train/trainer_inputs.h"
#include "common/train/training_log.h"
#include "common/train/training_step.h"

#define SNAPSHOT_SECONDS 120

static int write_log(const struct training_run *r, struct error *err)
{
    return r->log_path ? file_write(r->log_path, r->state.log, r->state.log_bytes, err) : 0;
}

static int take_snapshot(struct training_run *r, struct error *err)
{
    if (!r->snapshot_path)
        return 0;
    TRY(snapshot_write(r->snapshot_path, r->identity, r->trained, &r->optimizer, &r->state, err));
    r->snapshot_time = timer_now();
    return write_log(r, err);
}

static int snapshot_is_due(const struct training_run *r)
{
    int64_t every = r->trainer->options.snapshot_every;
    if (every > 0)
        return r->state.step > 0 && r->state.step % every == 0;
    return timer_now() - r->snapshot_time >= SNAPSHOT_SECONDS;
}

static int out_of_patience(const struct training_run *r) { return training_log_out_of_patience(&r->state, r->trainer->options.patience); }

static int train_to_end(struct training_run *r, struct error *err)
{
    struct progress progress;
    const int quiet = r->trainer->quiet;
    if (!quiet)
        progress_begin(&progress, r->trainer->title, r->trainer->images ? "images" : r->trainer->examples ? "examples" : "tokens", r->steps * r->step_tokens,
                       r->state.step * r->step_tokens);
    r->snapshot_time = timer_now();
    for (;;) {
        TRY(held_out_evaluate(r, err));
        if (!out_of_patience(r))
            TRY(held_out_reweight(r, err));
        if (interrupted()) {
            TRY(take_snapshot(r, err));
            return error_set(err, "%s: interrupted after step %lld of %lld%s", r->trainer->title,
                             (long long)r->state.step, (long long)r->steps,
                             r->snapshot_path ? "; run the same command again to go on" : "");
        }
        if (r->state.step == training_run_last_step(r) || out_of_patience(r))
            break;
        if (snapshot_is_due(r))
            TRY(take_snapshot(r, err));
        TRY(training_step(r, err));
        if (!quiet)
            progress_update(&progress, r->state.step * r->step_tokens, "loss %.4f", r->recent_loss);
    }
    if (!quiet)
        progress_end(&progress, "loss %.4f", r->recent_loss);
    if (r->state.best || r->state.average)
        trained_put(r->trained, r->state.best ? r->state.best : r->state.average);
    lora_merge(&r->lora);
    return write_log(r, err);
}

int trainer_run(struct trainer *t, struct train_result *result, struct error *err)
{
    *result = (struct train_result){0};
    TRY(trainer_inputs_check(t, err));
    if (t->folder)
        TRY(directory_make(t->folder, err));
    struct training_run r;
    training_run_init(&r, t);
    int64_t first = r.state.step;
    int status = -1;
    if (r.snapshot_path) {
        if (snapshot_read(r.snapshot_path, r.identity, r.trained, &r.optimizer, &r.state, err) < 0)
            goto out;
        first = r.state.step;
        reweight_again(&r.gradients.batches.text.mixture, r.state.log, training_run_draws(&r));
        if (t->remask)
            kept_zeros_find(r.trained, r.is_zero); // those of now: a weight that has grown is not zero after its first step
    }
    if (train_to_end(&r, err) < 0)
        goto out;
    r.steps = r.state.step; // fewer where patience or last_step ended
    result->steps = r.steps;
    result->tokens = r.steps * r.step_tokens;
    result->best_held_out = r.state.best_held_out;
    result->seconds = r.train_seconds;
    if (r.train_seconds > 0)
        result->tokens_per_second = (double)((r.steps - first) * r.step_tokens) / r.train_seconds;
    training_log_curve(&r.state, result);
    training_run_give_moments(&r);
    status = 0;
out:
    training_run_release(&r);
    return status;
}

void trainer_drop_snapshot(const char *folder)
{
    char *path = path_join(folder, "snapshot");
    unlink(path); // it need not be there
    free(path);
}
