// Distillation: the loss and its gradient, what its rules do, and the same bits however it runs.
#include <criterion/criterion.h>
#include <math.h>

#include "common/base/log.h"
#include "common/base/threads.h"
#include "distill/distill.h"
#include "tests/unit/tiny.h"
#include "tests/unit/tolerance.h"

#define LOGGED 1e-8 // numbers of the log have nine digits: off by at most 5e-9 of themselves, sums of two kinds by little more

struct job {
    struct dataset data;
    struct model *student, *teacher;
    struct distill_options options;
    struct trainer trainer;
    char *folder; // for run.jsonl
};

static void job_init(struct job *job)
{
    log_level = LOG_QUIET;
    *job = (struct job){.data = tiny_data(400), .student = tiny_model(2, 32, 5), .teacher = tiny_model(3, 32, 6)};
    options_init(distill_option_table, &job->options);
    job->options.train.steps = 6;
    job->options.train.batch = 2;
    job->options.train.accumulate = 2;
    job->options.train.learning_rate = 2e-3;
    job->folder = tiny_folder();
    job->trainer = (struct trainer){.model = job->student,
                                    .data = &job->data,
                                    .seq_len = 20,
                                    .seed = 3,
                                    .title = "distill",
                                    .folder = job->folder};
}

static void job_release(struct job *job)
{
    options_release(distill_option_table, &job->options);
    dataset_release(&job->data);
    model_free(job->student);
    model_free(job->teacher);
    tiny_remove(job->folder);
}

static void run(struct job *job)
{
    struct train_result result;
    struct error err;
    cr_assert_eq(distill_run(&job->trainer, &job->teacher, 1, &job->options, &result, &err), 0, "%s", err.text);
}

// One number of the line of `step` (from 1).
static double logged(const struct job *job, int64_t step, const char *key)
{
    char *path = path_join(job->folder, "run.jsonl"), *text;
    size_t len;
    struct error err;
    cr_assert_eq(file_read(path, &text, &len, &err), 0, "%s", err.text);
    const char *line = text;
    for (int64_t i = 1; i < step; i++)
        line = strchr(line, '\n') + 1;
    struct json *o = json_parse(line, strcspn(line, "\n"), "run.jsonl", 0, &err);
    cr_assert_not_null(o, "%s", err.text);
    double v = json_number(json_get(o, key));
    json_free(o);
    free(text);
    free(path);
    return v;
}

Test(distill, same_bits_at_any_number_of_threads_and_with_checkpoints)
{
    struct job job[3];
    for (int i = 0; i < 3; i++) {
        threads_set(1 + i % 2);
        job_init(&job[i]);
        job[i].options.hidden = 0.5;
        job[i].options.train.checkpoint = i == 2;
        run(&job[i]);
    }
    for (int i = 1; i < 3; i++)
        cr_assert_arr_eq(job[0].student->data, job[i].student->data,
                         (size_t)job[0].student->n_element * sizeof(float));
    for (int i = 0; i < 3; i++)
        job_release(&job[i]);
}

Test(distill, a_student_that_is_its_teacher_has_nothing_to_learn)
{
    struct job job;
    job_init(&job);
    model_free(job.teacher);
    job.teacher = tiny_model(2, 32, 5);
    job.options.alpha = 1;
    job.options.hidden = 1;
    run(&job);
    cr_assert_lt(fabs(logged(&job, 1, "kl")), FLOAT_FEW);
    cr_assert_eq(logged(&job, 1, "mse"), 0);
    cr_assert_lt(logged(&job, 1, "norm"), FLOAT_FEW);
    job_release(&job);
}

Test(distill, loss_is_made_of_its_parts)
{
    struct job job;
    job_init(&job);
    job.options.alpha = 0.6;
    job.options.temperature = 3;
    job.options.hidden = 0.25;
    run(&job);
    for (int64_t step = 1; step <= 6; step++) {
        const double loss =
            0.6 * 9 * logged(&job, step, "kl") + 0.4 * logged(&job, step, "ce") + 0.25 * logged(&job, step, "mse");
        cr_assert_gt(logged(&job, step, "kl"), 0);
        cr_assert_gt(logged(&job, step, "mse"), 0);
        cr_assert_float_eq(logged(&job, step, "loss"), loss, LOGGED * loss);
    }
    job_release(&job);
}

Test(distill, learns_from_the_teacher)
{
    struct job job;
    job_init(&job);
    job.options.alpha = 1;
    job.options.temperature = 1;
    job.options.train.steps = 80;
    job.options.train.learning_rate = 5e-3;
    run(&job);
    cr_assert_lt(logged(&job, 80, "kl"), 0.7 * logged(&job, 1, "kl"));
    job_release(&job);
}

// loss = a(step) T(step)^2 kl + (1 - a) ce, solved for what the rule says.
Test(distill, rules)
{
    struct job job;
    job_init(&job);
    job.options.order = TARGETS_HARD_FIRST;
    job.options.alpha = 0.8;
    job.options.temperature = 1;
    run(&job);
    const double alpha[] = {0, 0.8 / 3, 1.6 / 3, 0.8, 0.8, 0.8};
    for (int i = 0; i < 6; i++) {
        const double loss = alpha[i] * logged(&job, i + 1, "kl") + (1 - alpha[i]) * logged(&job, i + 1, "ce");
        cr_assert_float_eq(logged(&job, i + 1, "loss"), loss, LOGGED * loss);
    }
    job_release(&job);
    for (int rule = TEMPERATURE_FALLING; rule <= TEMPERATURE_RISING; rule++) {
        job_init(&job);
        job.options.alpha = 1;
        job.options.temperature = 6;
        job.options.temperature_rule = rule;
        run(&job);
        for (int i = 0; i < 6; i++) {
            const double T = rule == TEMPERATURE_RISING ? 1 + i : 3 * pow(0.9, i / 1000.0);
            cr_assert_float_eq(logged(&job, i + 1, "loss") / logged(&job, i + 1, "kl"), T * T, FLOAT_FEW);
        }
        job_release(&job);
    }
}

// Which bits come out of so many teachers, the first ones of a, b, a.
static void run_several(struct job *job, int n, const char *weights)
{
    struct error err;
    struct train_result result;
    struct model *other = tiny_model(2, 48, 9), *const teacher[] = {job->teacher, other, job->teacher};
    json_free(job->options.teacher_weights);
    job->options.teacher_weights = weights ? json_parse(weights, strlen(weights), "test", 0, &err) : NULL;
    cr_assert_eq(distill_run(&job->trainer, teacher, n, &job->options, &result, &err), 0, "%s", err.text);
    model_free(other);
}

// Two teachers of different widths and layers, answers and features of each; and the same in three, where one is there twice.
Test(distill, several_teachers)
{
    static const char features[] = "[{\"loss\": \"hidden_mse\"}, {\"loss\": \"hidden_mse\", \"teacher\": 1}, {\"loss\": \"value_relation\", "
                                   "\"teacher\": 1, \"weight\": 0.5}]";
    struct job job[4];
    struct error err;
    for (int i = 0; i < 4; i++) {
        threads_set(1 + i % 2);
        job_init(&job[i]);
        job[i].options.alpha = 0.6;
        job[i].options.features = i < 2 ? json_parse(features, strlen(features), "test", 0, &err) : NULL;
        run_several(&job[i], i == 3 ? 3 : 2, i == 3 ? "[1, 2, 1]" : i == 2 ? NULL : "[3, 1]");
    }
    cr_assert_arr_eq(job[0].student->data, job[1].student->data, (size_t)job[0].student->n_element * sizeof(float));
    const double loss = 0.6 * 4 * logged(&job[0], 3, "kl") + 0.4 * logged(&job[0], 3, "ce") + logged(&job[0], 3, "hidden_mse") +
                        logged(&job[0], 3, "hidden_mse_2") + 0.5 * logged(&job[0], 3, "value_relation");
    cr_assert_gt(logged(&job[0], 3, "hidden_mse_2"), 0);
    cr_assert_float_eq(logged(&job[0], 3, "loss"), loss, LOGGED * loss);
    cr_assert_float_eq(logged(&job[2], 1, "kl"), logged(&job[3], 1, "kl"), LOGGED);
    for (int i = 0; i < 4; i++)
        job_release(&job[i]);
}

static int check(const struct job *job, struct error *err)
{
    return distill_check(&job->options, &job->student->config, (const struct config *[]){&job->teacher->config}, 1, "distill", err);
}

static void refused(struct job *job, const char *says)
{
    struct error err;
    cr_assert_eq(check(job, &err), -1);
    cr_assert_not_null(strstr(err.text, says), "%s", err.text);
}

static void set_map(struct job *job, const char *text)
{
    struct error err;
    json_free(job->options.layer_map);
    job->options.layer_map = json_parse(text, strlen(text), "test", 0, &err);
}

Test(distill, refuses_what_does_not_fit)
{
    struct job job;
    struct error err;
    job_init(&job);
    set_map(&job, "[[0, 0], [1, 2]]");
    cr_assert_eq(check(&job, &err), 0, "%s", err.text);
    set_map(&job, "[[0, 3]]");
    refused(&job, "teacher layer from 0 to 2");
    set_map(&job, "[[2, 0]]");
    refused(&job, "layer_map[0]: expected a student layer from 0 to 1");
    set_map(&job, "[[0, 0], [1]]");
    refused(&job, "layer_map[1]");
    set_map(&job, "[[0, 0.5]]");
    refused(&job, "layer_map[0]");
    set_map(&job, "{}");
    refused(&job, "a list of");
    set_map(&job, "[[0, 0]]");
    job.teacher->config.vocab = 300;
    refused(&job, "300 entries");
    job.teacher->config.vocab = TINY_VOCAB;
    job.options.teacher_weights = json_parse("[0]", 3, "test", 0, &err);
    refused(&job, "teacher_weights[0]: expected a number above 0");
    json_free(job.options.teacher_weights);
    job.options.teacher_weights = json_parse("[1, 1]", 6, "test", 0, &err);
    refused(&job, "teacher_weights: expected a list of 1 numbers, one for each teacher");
    json_free(job.options.teacher_weights);
    job.options.teacher_weights = NULL;
    job.options.train.steps = 0;
    refused(&job, "steps");
    job_release(&job);
}
