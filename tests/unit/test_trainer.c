// A training run ends with the same bytes at any number of threads, and after being interrupted or killed and run
// again.
#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/base/threads.h"
#include "common/train/trainer.h"
#include "tests/unit/tiny.h"
#include "tests/unit/tolerance.h"

#define STEPS 10

struct job { // what one run needs, and where it is to be hit
    struct trainer trainer;
    struct dataset data;
    struct model *model;
    int64_t signal_step; // -1: never
    int signal;
    int64_t held_out_calls;
};

static struct tensor *loss_with_accident(void *context, struct tape *tape, const struct forward *forward,
                                         const int32_t *targets, double weight, int64_t step,
                                         struct loss_parts *parts)
{
    struct job *job = context;
    if (step == job->signal_step) {
        job->signal_step = -1; // once: a second signal would end the program without a snapshot
        raise(job->signal);
    }
    return train_cross_entropy(job->model, tape, forward, targets, weight, step, parts);
}

// A held-out loss that is best after six steps, whatever the weights are.
static int made_up_held_out(void *context, double best, double *loss, char note[HELD_OUT_NOTE], struct error *err)
{
    struct job *job = context;
    (void)best;
    (void)note;
    (void)err;
    job->held_out_calls++;
    *loss = fabs((double)job->held_out_calls - 3) + 1;
    return 0;
}

static void job_init(struct job *job, const char *folder)
{
    log_level = LOG_QUIET;
    *job = (struct job){.data = tiny_data(400), .model = tiny_model(2, 32, 5), .signal_step = -1};
    struct train_options o;
    options_init(train_option_table, &o);
    o.steps = STEPS;
    o.batch = 3;
    o.accumulate = 2;
    o.snapshot_every = 3;
    o.learning_rate = 3e-3;
    job->trainer = (struct trainer){.model = job->model,
                                    .data = &job->data,
                                    .seq_len = 24,
                                    .seed = 11,
                                    .options = o,
                                    .title = "train",
                                    .folder = folder,
                                    .loss = loss_with_accident,
                                    .context = job};
}

static void job_release(struct job *job)
{
    options_release(train_option_table, &job->trainer.options);
    dataset_release(&job->data);
    model_free(job->model);
}

// Further options, as a recipe writes them.
static void set_options(struct job *job, const char *text)
{
    struct error err;
    struct json *o = json_parse(text, strlen(text), "test", 0, &err);
    cr_assert(o && options_read_json(train_option_table, &job->trainer.options, o, "test", &err) == 0, "%s", err.text);
    json_free(o);
}

static void run_whole(struct job *job, struct train_result *result)
{
    struct error err;
    cr_assert_eq(trainer_run(&job->trainer, result, &err), 0, "%s", err.text);
}

static void same_weights(const struct job *a, const struct job *b)
{
    cr_assert_arr_eq(a->model->data, b->model->data, (size_t)a->model->n_element * sizeof(float));
}

static void same_log(const char *folder_a, const char *folder_b)
{
    char *path[2] = {path_join(folder_a, "run.jsonl"), path_join(folder_b, "run.jsonl")}, *text[2];
    size_t len[2];
    struct error err;
    for (int i = 0; i < 2; i++)
        cr_assert_eq(file_read(path[i], &text[i], &len[i], &err), 0, "%s", err.text);
    cr_assert_str_eq(text[0], text[1]);
    for (int i = 0; i < 2; i++) {
        free(path[i]);
        free(text[i]);
    }
}

Test(trainer, learns_and_is_the_same_at_any_number_of_threads)
{
    struct job job[2];
    struct train_result result[2];
    for (int precision = PRECISION_F32; precision <= PRECISION_BF16; precision++) {
        for (int i = 0; i < 2; i++) {
            threads_set(i + 1);
            job_init(&job[i], NULL);
            job[i].trainer.precision = (enum precision)precision;
            run_whole(&job[i], &result[i]);
        }
        same_weights(&job[0], &job[1]);
        cr_assert_eq(result[0].first_loss, result[1].first_loss);
        cr_assert_eq(result[0].steps, STEPS);
        cr_assert_eq(result[0].tokens, STEPS * 6 * 24);
        job_release(&job[0]);
        job_release(&job[1]);
    }
    job_init(&job[0], NULL);
    job[0].trainer.options.steps = 60;
    run_whole(&job[0], &result[0]);
    cr_assert_lt(result[0].last_loss, 0.8 * result[0].first_loss, "%g after %g", result[0].last_loss,
                 result[0].first_loss);
    job_release(&job[0]);
}

Test(trainer, options_are_the_same_at_any_number_of_threads)
{
    static const char *const options[] = {"{\"ema\": 0.9}", "{\"freeze\": \"*embed*\", \"rates\": {\"*norm*\": 0.5}}", "{\"fgm\": 0.3}",
                                          "{\"lora\": {\"rank\": 2}}", "{\"lora\": {\"rank\": 2}, \"keep_zeros\": true, \"checkpoint\": true}"};
    static struct job job[2];
    struct train_result result;
    for (size_t k = 0; k < sizeof options / sizeof *options; k++) {
        for (int i = 0; i < 2; i++) {
            threads_set(i + 1);
            job_init(&job[i], NULL);
            set_options(&job[i], options[k]);
            run_whole(&job[i], &result);
        }
        same_weights(&job[0], &job[1]);
        job_release(&job[0]);
        job_release(&job[1]);
    }
}

Test(trainer, recomputing_layers_changes_no_bit)
{
    struct job job[2];
    struct train_result result;
    for (int i = 0; i < 2; i++) {
        job_init(&job[i], NULL);
        job[i].trainer.options.checkpoint = i;
        run_whole(&job[i], &result);
    }
    same_weights(&job[0], &job[1]);
    job_release(&job[0]);
    job_release(&job[1]);
}

// Runs in a child until the signal, then goes on here, and compares with a run that nothing happened to.
static void hit_and_resume(int signal, int64_t step, int keep_best, const char *options)
{
    char *folder = tiny_folder(), *other = tiny_folder();
    struct job job[2];
    struct train_result result[2];
    struct error err;
    for (int i = 0; i < 2; i++) {
        job_init(&job[i], i ? other : folder);
        set_options(&job[i], options);
        if (keep_best) {
            job[i].trainer.options.keep_best = 1;
            job[i].trainer.options.eval_every = 2;
            job[i].trainer.held_out = made_up_held_out;
            job[i].trainer.held_out_context = &job[i];
        }
    }
    pid_t child = fork(); // before any thread exists here
    if (child == 0) {
        interrupt_catch();
        job[0].signal = signal;
        job[0].signal_step = step;
        int failed = trainer_run(&job[0].trainer, &result[0], &err) < 0;
        _exit(failed && strstr(err.text, "run the same command again") ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    if (signal == SIGKILL)
        cr_assert(WIFSIGNALED(status));
    else
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    if (keep_best)
        job[0].held_out_calls = step / 2; // what the child did before its snapshot
    run_whole(&job[0], &result[0]);
    run_whole(&job[1], &result[1]);
    same_weights(&job[0], &job[1]);
    same_log(folder, other);
    cr_assert_eq(result[0].first_loss, result[1].first_loss);
    cr_assert_eq(result[0].last_loss, result[1].last_loss);
    if (keep_best)
        cr_assert_eq(result[0].best_held_out, 1.0);
    trainer_drop_snapshot(folder);
    char *path = path_join(folder, "snapshot");
    cr_assert_not(file_exists(path));
    free(path);
    job_release(&job[0]);
    job_release(&job[1]);
    tiny_remove(folder);
    tiny_remove(other);
}

Test(trainer, interrupted_and_resumed) { hit_and_resume(SIGINT, 4, 0, "{}"); }
Test(trainer, killed_and_resumed) { hit_and_resume(SIGKILL, 7, 0, "{}"); }
Test(trainer, killed_before_the_first_snapshot) { hit_and_resume(SIGKILL, 1, 0, "{}"); }
Test(trainer, best_weights_survive_an_interruption) { hit_and_resume(SIGTERM, 8, 1, "{}"); }

#define GROUPS "\"freeze\": [\"*embed*\", \"layers.0.*\"], \"rates\": {\"*norm*\": 0.5}"
Test(trainer, an_average_survives_being_killed) { hit_and_resume(SIGKILL, 7, 0, "{\"ema\": 0.9}"); }
Test(trainer, the_best_average_survives_an_interruption) { hit_and_resume(SIGTERM, 8, 1, "{\"ema\": 0.9, " GROUPS "}"); }
Test(trainer, groups_survive_being_killed) { hit_and_resume(SIGKILL, 7, 0, "{" GROUPS "}"); }
Test(trainer, factors_survive_being_killed) { hit_and_resume(SIGKILL, 7, 0, "{\"lora\": {\"rank\": 2}, \"ema\": 0.9}"); }
Test(trainer, masked_factors_survive_being_killed) { hit_and_resume(SIGKILL, 7, 0, "{\"lora\": {\"rank\": 2}, \"keep_zeros\": true}"); }
Test(trainer, the_best_factors_survive_an_interruption) { hit_and_resume(SIGTERM, 8, 1, "{\"lora\": {}}"); }
Test(trainer, adversarial_steps_survive_being_killed) { hit_and_resume(SIGKILL, 7, 0, "{\"fgm\": 0.3}"); }

// What is evaluated, and kept as the best, is the average of the weights; the run goes on from the weights themselves.
struct watched {
    struct job job;
    float *seen; // the weights at the third evaluation, the best
};

static int watching_held_out(void *context, double best, double *loss, char note[HELD_OUT_NOTE], struct error *err)
{
    struct watched *w = context;
    if (w->job.held_out_calls == 2)
        memcpy(w->seen, w->job.model->data, (size_t)w->job.model->n_element * sizeof(float));
    return made_up_held_out(&w->job, best, loss, note, err);
}

Test(trainer, the_average_is_what_is_kept)
{
    static struct watched kept, whole;
    struct train_result result;
    struct watched *const both[2] = {&kept, &whole};
    for (int i = 0; i < 2; i++) {
        job_init(&both[i]->job, NULL);
        both[i]->job.trainer.context = &both[i]->job;
        both[i]->seen = xmalloc((size_t)both[i]->job.model->n_element * sizeof(float), "test");
        set_options(&both[i]->job, "{\"ema\": 0.9, \"eval_every\": 2}");
        both[i]->job.trainer.options.keep_best = i == 0;
        both[i]->job.trainer.held_out = watching_held_out;
        both[i]->job.trainer.held_out_context = both[i];
        run_whole(&both[i]->job, &result);
    }
    const size_t bytes = (size_t)kept.job.model->n_element * sizeof(float);
    cr_expect_arr_eq(kept.seen, whole.seen, bytes);
    cr_expect_arr_eq(kept.job.model->data, kept.seen, bytes);
    cr_expect(memcmp(whole.job.model->data, whole.seen, bytes) != 0);
    for (int i = 0; i < 2; i++) {
        free(both[i]->seen);
        job_release(&both[i]->job);
    }
}

// Frozen tensors have neither gradients nor moments in a snapshot.
Test(trainer, snapshots_are_smaller_where_tensors_are_frozen)
{
    static struct job job[3];
    static const char *const options[3] = {"{}", "{" GROUPS "}", "{\"lora\": {\"rank\": 2}}"};
    struct train_result result;
    int64_t size[3];
    for (int i = 0; i < 3; i++) {
        char *folder = tiny_folder(), *path = path_join(folder, "snapshot");
        job_init(&job[i], folder);
        set_options(&job[i], options[i]);
        run_whole(&job[i], &result);
        size[i] = file_size(path);
        free(path);
        job_release(&job[i]);
        tiny_remove(folder);
    }
    cr_expect(size[1] < size[0] * 2 / 3 && size[2] < size[0] / 4, "%ld, %ld, %ld bytes", (long)size[0], (long)size[1], (long)size[2]);
}

Test(trainer, ends_with_the_best_weights)
{
    struct job best, six;
    struct train_result result;
    job_init(&best, NULL);
    best.trainer.options.keep_best = 1;
    best.trainer.options.eval_every = 2;
    best.trainer.options.schedule = SCHEDULE_CONSTANT; // else a run of six steps has other learning rates
    best.trainer.options.warmup = 0;
    best.trainer.held_out = made_up_held_out;
    best.trainer.held_out_context = &best;
    run_whole(&best, &result);
    cr_assert_eq(best.held_out_calls, 5);
    cr_assert_eq(result.best_held_out, 1.0);
    job_init(&six, NULL);
    six.trainer.options.steps = 6;
    six.trainer.options.schedule = SCHEDULE_CONSTANT;
    six.trainer.options.warmup = 0;
    run_whole(&six, &result);
    cr_assert(isnan(result.best_held_out));
    same_weights(&best, &six);
    job_release(&best);
    job_release(&six);
}

// Losses 3 2 1 2 3 4 at steps 2 4 6 8 10 12: the second in a row without a better one ends it, resumed or not.
Test(trainer, patience_ends_a_training)
{
    char *folder[2] = {tiny_folder(), tiny_folder()};
    static struct job job[2];
    struct train_result result;
    for (int i = 0; i < 2; i++) {
        job_init(&job[i], folder[i]);
        job[i].trainer.options.steps = 40;
        job[i].trainer.options.eval_every = 2;
        job[i].trainer.options.patience = 2;
        job[i].trainer.held_out = made_up_held_out;
        job[i].trainer.held_out_context = &job[i];
        run_whole(&job[i], &result);
        cr_expect_eq(result.steps, 10);
        cr_expect_eq(result.tokens, 10 * 3 * 2 * 24);
        cr_expect_eq(result.best_held_out, 1.0);
        cr_expect(result.last_loss > 0);
    }
    same_weights(&job[0], &job[1]);
    for (int i = 0; i < 2; i++) {
        job_release(&job[i]);
        tiny_remove(folder[i]);
    }
}

// Weights of matrices that are zero at the start are zero at the end, the others are not, and nothing else is held.
Test(trainer, zeros_are_kept)
{
    static struct job job;
    struct train_result result;
    char *folder = tiny_folder();
    job_init(&job, folder);
    job.trainer.options.keep_zeros = 1;
    job.trainer.options.steps = 30;
    for (int i = 0; i < job.model->n_parameter; i++)
        for (int64_t k = 0; k < tensor_count(&job.model->parameter[i].t); k += 3)
            job.model->parameter[i].t.data[k] = 0;
    run_whole(&job, &result);
    for (int i = 0; i < job.model->n_parameter; i++) {
        const struct parameter *p = &job.model->parameter[i];
        for (int64_t k = 0; k < tensor_count(&p->t) && p->decay; k++)
            cr_assert_eq(p->t.data[k] == 0, k % 3 == 0, "%s, %ld", p->name, (long)k);
        cr_expect(p->decay || p->t.data[0] != 0, "%s", p->name);
    }
    cr_expect_lt(result.last_loss, result.first_loss);
    job_release(&job);
    tiny_remove(folder);
}

Test(trainer, accumulation_is_a_larger_batch)
{
    struct job job[2];
    struct train_result result[2];
    for (int i = 0; i < 2; i++) {
        job_init(&job[i], NULL);
        job[i].trainer.options.optimizer = OPTIMIZER_SGD; // AdamW would turn roundings of zero into whole steps
        job[i].trainer.options.batch = i ? 2 : 4;
        job[i].trainer.options.accumulate = i ? 2 : 1;
        job[i].trainer.seq_len = 21; // 399 predictions: all windows are full, so that both means weigh tokens alike
        run_whole(&job[i], &result[i]);
    }
    cr_assert_float_eq(result[0].last_loss, result[1].last_loss, FLOAT_FEW * result[0].last_loss);
    job_release(&job[0]);
    job_release(&job[1]);
}

// The same of one step's gradient, to the rounding of sums in another order; also of moved embeddings, which are moved sequence by sequence.
Test(trainer, accumulated_gradients_are_those_of_a_larger_batch)
{
    static const char *const options[] = {"{}", "{\"fgm\": 0.3}"};
    for (size_t k = 0; k < sizeof options / sizeof *options; k++) {
        struct job job[2];
        double largest = 0, worst = 0;
        for (int i = 0; i < 2; i++) {
            job_init(&job[i], NULL);
            set_options(&job[i], options[k]);
            job[i].trainer.options.batch = i ? 1 : 4;
            job[i].trainer.seq_len = 21;
            model_want_gradients(job[i].model);
            trainer_gradient(&job[i].trainer, 0, i ? 4 : 1);
        }
        for (int64_t e = 0; e < job[0].model->n_element; e++) {
            largest = fmax(largest, fabs((double)job[0].model->grad[e]));
            worst = fmax(worst, fabs((double)job[0].model->grad[e] - (double)job[1].model->grad[e]));
        }
        cr_expect(worst < (k ? FLOAT_SUM : 2 * FLOAT_FEW) * largest, "%s: %g of %g", options[k], worst, largest); // the move itself is rounded, too
        job_release(&job[0]);
        job_release(&job[1]);
    }
}

Test(trainer, refuses)
{
    struct job job;
    struct train_result result;
    struct error err;
    job_init(&job, NULL);
    job.trainer.options.learning_rate = 1e30;
    job.trainer.options.optimizer = OPTIMIZER_SGD;
    job.trainer.options.clip = 0;
    cr_assert_eq(trainer_run(&job.trainer, &result, &err), -1);
    cr_assert_not_null(strstr(err.text, "smaller learning_rate"), "%s", err.text);
    job.data.token[17] = TINY_VOCAB;
    cr_assert_eq(trainer_run(&job.trainer, &result, &err), -1);
    cr_assert_not_null(strstr(err.text, "token 17"), "%s", err.text);
    job_release(&job);
}
