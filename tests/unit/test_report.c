// Paired comparisons, and the table that a run ends with.
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/eval/report.h"
#include "common/eval/statistics.h"

#define CLOSE 1e-12 // a handful of double operations

Test(report, paired_difference_by_hand) {
    // differences 1, 2, 3, 4: mean 2.5, variance 5/3, standard error sqrt(5/12)
    const double a[] = {2, 4, 6, 8}, b[] = {1, 2, 3, 4};
    struct paired d = paired_compare(a, b, 4);
    double half = 1.959963984540054 * sqrt(5.0 / 12.0);
    cr_assert_float_eq(d.mean, 2.5, CLOSE);
    cr_assert_float_eq(d.low, 2.5 - half, CLOSE);
    cr_assert_float_eq(d.high, 2.5 + half, CLOSE);
}

Test(report, one_pair_says_nothing) {
    const double a[] = {2}, b[] = {1};
    struct paired d = paired_compare(a, b, 1);
    cr_assert(isinf(d.low) && isinf(d.high));
}

Test(report, table_has_a_row_for_each_model_and_dashes_for_what_is_not_known) {
    static const char source[] =
        "{\"rows\": [{\"name\": \"parent\", \"parameters\": 2000000, \"nll\": 1.5, \"kld\": null},"
        " {\"name\": \"Q8_0\", \"parameters\": 1000000, \"nll\": 1.625, \"kld\": 0.25}],"
        " \"measured\": {\"rows\": [{\"decode_tokens_per_second\": 10}, {}]}}";
    struct error err;
    struct json *report = json_parse(source, strlen(source), "test", 0, &err);
    cr_assert(report, "%s", err.text);
    char *text;
    size_t len;
    FILE *to = open_memstream(&text, &len);
    report_print(report, to);
    fclose(to);
    cr_assert(strstr(text, "parent           2.000"), "%s", text);
    cr_assert(strstr(text, "1.6250"), "%s", text);
    cr_assert(strstr(text, "0.2500"), "%s", text);
    cr_assert(strstr(text, "       -"), "%s", text);
    int lines = 0;
    for (const char *p = text; (p = strchr(p, '\n')); p++)
        lines++;
    cr_assert_eq(lines, 3, "%s", text);
    free(text);
    json_free(report);
}
