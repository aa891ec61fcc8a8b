// Learning rates, by hand.
#include <criterion/criterion.h>
#include <math.h>

#include "common/train/trainer.h"
#include "tests/unit/tolerance.h"

static double rate(enum schedule_kind kind, double peak, double floor, int64_t warmup, int64_t steps, int64_t step)
{
    const struct schedule s = {.kind = kind, .peak = peak, .floor = floor, .warmup = warmup, .decay = 0.1, .decay_every = 3};
    return schedule_rate(&s, steps, step);
}

Test(schedule, cosine)
{
    // 4 steps of warm-up, then 9 from the peak down to a tenth: the fifth of them is half way.
    cr_assert_float_eq(rate(SCHEDULE_COSINE, 2, 0.1, 4, 13, 0), 0.5, DOUBLE_FEW);
    cr_assert_float_eq(rate(SCHEDULE_COSINE, 2, 0.1, 4, 13, 3), 2, DOUBLE_FEW);
    cr_assert_float_eq(rate(SCHEDULE_COSINE, 2, 0.1, 4, 13, 4), 2, DOUBLE_FEW);
    cr_assert_float_eq(rate(SCHEDULE_COSINE, 2, 0.1, 4, 13, 8), 1.1, DOUBLE_FEW);
    cr_assert_float_eq(rate(SCHEDULE_COSINE, 2, 0.1, 4, 13, 10), 2 * (0.1 + 0.45 * (1 + cos(0.75 * M_PI))),
                       DOUBLE_FEW);
    cr_assert_float_eq(rate(SCHEDULE_COSINE, 2, 0.1, 4, 13, 12), 0.2, DOUBLE_FEW);
}

Test(schedule, linear_and_constant)
{
    cr_assert_float_eq(rate(SCHEDULE_LINEAR, 1, 0, 0, 5, 0), 1, DOUBLE_FEW);
    cr_assert_float_eq(rate(SCHEDULE_LINEAR, 1, 0, 0, 5, 1), 0.75, DOUBLE_FEW);
    cr_assert_float_eq(rate(SCHEDULE_LINEAR, 1, 0, 0, 5, 4), 0, DOUBLE_FEW);
    cr_assert_float_eq(rate(SCHEDULE_CONSTANT, 3, 0.1, 2, 5, 0), 1.5, DOUBLE_FEW);
    cr_assert_float_eq(rate(SCHEDULE_CONSTANT, 3, 0.1, 2, 5, 4), 3, DOUBLE_FEW);
    cr_assert_float_eq(rate(SCHEDULE_COSINE, 3, 0.1, 0, 1, 0), 3, DOUBLE_FEW); // one step: at the peak
}

Test(schedule, step)
{
    cr_assert_float_eq(rate(SCHEDULE_STEP, 0.1, 1, 0, 10, 2), 0.1, DOUBLE_FEW);
    cr_assert_float_eq(rate(SCHEDULE_STEP, 0.1, 1, 0, 10, 3), 0.01, DOUBLE_FEW);
    cr_assert_float_eq(rate(SCHEDULE_STEP, 0.1, 1, 0, 10, 9), 1e-4, DOUBLE_FEW);
}

Test(schedule, steps_from_tokens)
{
    struct train_options o;
    struct error err;
    options_init(train_option_table, &o);
    cr_assert_eq(o.batch, 8);
    cr_assert_eq(o.schedule, SCHEDULE_COSINE);
    cr_assert_eq(train_check(&o, "train", &err), -1);
    cr_assert_not_null(strstr(err.text, "neither"), "%s", err.text);
    o.tokens = 1000;
    o.accumulate = 2;
    cr_assert_eq(train_check(&o, "train", &err), 0);
    cr_assert_eq(train_steps(&o, 16), 4); // 256 a step
    o.steps = 3;
    cr_assert_eq(train_check(&o, "train", &err), -1);
    cr_assert_not_null(strstr(err.text, "both"), "%s", err.text);
    cr_assert_eq(train_steps(&o, 16), 3);
    o.tokens = 0;
    o.keep_best = 1;
    cr_assert_eq(train_check(&o, "train", &err), -1);
    cr_assert_not_null(strstr(err.text, "eval_every"), "%s", err.text);
    options_release(train_option_table, &o);
}
