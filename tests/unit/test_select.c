// test_select.c: windows chosen from a text, and how much more likely one model finds them than another.
#include <math.h>

#include "common/eval/difference.h"
#include "tests/unit/tiny.h"
#include "tests/unit/tolerance.h"

#define SEQ_LEN 20

Test(select, chosen_windows_are_the_text_s)
{
    struct dataset data = tiny_data(90), chosen, again; // five windows, the last one short
    const int64_t window[] = {1, 4}, second[] = {0};
    int32_t inputs[2][SEQ_LEN], targets[2][SEQ_LEN];
    cr_assert_eq(dataset_windows(&data, SEQ_LEN), 5);
    dataset_choose(&chosen, &data, SEQ_LEN, window, 2);
    cr_assert_eq(dataset_windows(&chosen, SEQ_LEN), 2);
    for (int64_t i = 0; i < 2; i++) {
        dataset_read_window(&data, SEQ_LEN, window[i], inputs[0], targets[0]);
        dataset_read_window(&chosen, SEQ_LEN, i, inputs[1], targets[1]);
        cr_assert_arr_eq(targets[0], targets[1], sizeof targets[0]);
        for (int64_t t = 0; t < SEQ_LEN && targets[0][t] >= 0; t++)
            cr_assert_eq(inputs[0][t], inputs[1][t]);
    }
    dataset_choose(&again, &chosen, SEQ_LEN, second, 1); // of chosen windows, too
    dataset_read_window(&chosen, SEQ_LEN, 0, inputs[0], targets[0]);
    dataset_read_window(&again, SEQ_LEN, 0, inputs[1], targets[1]);
    cr_assert_arr_eq(inputs[0], inputs[1], sizeof inputs[0]);
    cr_assert_arr_eq(targets[0], targets[1], sizeof targets[0]);
    dataset_release(&again);
    dataset_release(&chosen);
    dataset_release(&data);
}

// The mean loss of a window, by the loss that is trained by.
static double loss(struct model *m, const struct dataset *d, int64_t w)
{
    int32_t inputs[SEQ_LEN], targets[SEQ_LEN];
    struct tape tape;
    struct head_result head;
    dataset_read_window(d, SEQ_LEN, w, inputs, targets);
    tape_init(&tape, PRECISION_F32);
    const struct forward forward = {.ids = inputs, .B = 1, .T = SEQ_LEN};
    const struct head_spec spec = {.targets = targets, .temperature = 1, .weight = 1};
    op_head_loss(&tape, model_forward(m, &tape, &forward), model_head(m), &spec, &head);
    tape_release(&tape);
    return head.ce;
}

Test(select, difference_is_that_of_the_losses)
{
    struct dataset data = tiny_data(90);
    struct model *large = tiny_model(3, 32, 1), *small = tiny_model(1, 48, 2);
    double score[5];
    window_differences(large, small, &data, SEQ_LEN, PRECISION_F32, 0, 3, score);
    window_differences(large, small, &data, SEQ_LEN, PRECISION_F32, 3, 2, score + 3);
    for (int64_t w = 0; w < 5; w++)
        cr_assert_float_eq(score[w], loss(small, &data, w) - loss(large, &data, w), FLOAT_FEW, "window %ld: %g", (long)w, score[w]);
    window_differences(large, large, &data, SEQ_LEN, PRECISION_F32, 0, 5, score);
    for (int64_t w = 0; w < 5; w++)
        cr_assert_eq(score[w], 0);
    model_free(large);
    model_free(small);
    dataset_release(&data);
}
